"""What a flow carries along: values (the transport equation), densities (the continuity equation), integrals beside them.

The velocity field v(x, t) of a layer has characteristics x' = v(x, t). Values are constant along them, log-densities change
by -div v. Axis 0 of x counts the samples; all that is behind it is one point.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.errors import TraceContextError
from jax import core
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import FlatField, raw
from neuralflow.fields import evaluate, takes_time
from neuralflow.layers import NeuralODE
from neuralflow.solve.system import time_dtype

KnownAt = Literal["start", "end"]
Push = Callable[[Array], Array]


class Jacobian(NamedTuple):
    """Trace and squared Frobenius norm of every sample's Jacobian, (batch,) each; exact, or estimates without bias."""

    trace: Array
    square: Array


@dataclass(frozen=True)
class Exact:
    """The divergence by as many derivatives as a point has coordinates: no noise, for points of few."""

    def draw(self, key: Array, points: Array) -> Array | None:
        """No probes."""
        return None

    def jacobian(self, push: Push, points: Array, probes: Any) -> Jacobian:
        """`push` (directions, batch, d) -> the Jacobian's products with them."""
        units = jnp.eye(points.shape[1], dtype=points.dtype)[:, None, :]
        return _sums(jnp.broadcast_to(units, (points.shape[1], *points.shape)), push, 1)


@dataclass(frozen=True)
class Hutchinson:
    """The divergence as the mean of e . J e over random signs e, drawn once a solve and anew for every sample.

    Unbiased, and so are the gradients (Grathwohl et al., FFJORD, arXiv 1810.01367, stated there). Its variance is twice the
    sum of squares off the diagonal of J's symmetric part, over `probes`; one probe costs one derivative.
    """

    probes: int = 1

    def __post_init__(self):
        checks.whole("probes", self.probes)

    def draw(self, key: Array, points: Array) -> Array:
        """Signs (probes, batch, d)."""
        return jax.random.rademacher(key, (self.probes, *points.shape), points.dtype)

    def jacobian(self, push: Push, points: Array, probes: Array) -> Jacobian:
        """`push` (directions, batch, d) -> the Jacobian's products with them."""
        return _sums(probes, push, self.probes)


@dataclass(frozen=True)
class HutchPlusPlus:
    """The divergence exactly on the span of `probes` products J e, by Hutchinson's estimator on the rest of the space.

    Three derivatives a probe; where J is close to a matrix of low rank the noise is far less than that of three of
    Hutchinson's. Unbiased (Meyer, Musco, Musco & Woodruff, Hutch++, arXiv 2010.09649, stated there for one matrix). The span is
    held fixed in derivatives: any span gives the right mean, so gradients stay without bias (our formulation).
    """

    probes: int = 1

    def __post_init__(self):
        checks.whole("probes", self.probes)

    def draw(self, key: Array, points: Array) -> Array:
        """Signs (2 probes, batch, d): for the span, and for the rest."""
        return jax.random.rademacher(key, (2 * self.probes, *points.shape), points.dtype)

    def jacobian(self, push: Push, points: Array, probes: Array) -> Jacobian:
        """`push` (directions, batch, d) -> the Jacobian's products with them."""
        seen, rest = probes[: self.probes], probes[self.probes :]
        sketch = jnp.moveaxis(jax.lax.stop_gradient(push(seen)), 0, -1)
        span = jnp.moveaxis(jnp.linalg.qr(sketch)[0], -1, 0)
        inside = jnp.einsum("kbd,pbd->pkb", span, rest)
        known = _sums(span, push, 1)
        noisy = _sums(rest - jnp.einsum("pkb,kbd->pbd", inside, span), push, self.probes)
        return Jacobian(known.trace + noisy.trace, known.square + noisy.square)


def _sums(directions: Array, push: Push, count: int) -> Jacobian:
    """Sums of e . J e and |J e|^2 over directions, divided by a count."""
    products = push(directions)
    return Jacobian(
        jnp.sum(directions * products, (0, 2)) / count, jnp.sum(products**2, (0, 2)) / count
    )


Divergence = Exact | Hutchinson | HutchPlusPlus


class Motion:
    """What happens at `points` (batch, d) of a field: `velocity` (batch, d), and each sample's `divergence` and squared
    Frobenius norm of the Jacobian, `frobenius` (batch,). Each is computed when it is asked for."""

    def __init__(
        self, velocity: Callable[[Array], Array], points: Array, estimator: Divergence, probes: Any
    ):
        self._function, self.points, self._estimator, self._probes = (
            velocity,
            points,
            estimator,
            probes,
        )

    @functools.cached_property
    def velocity(self) -> Array:
        return self._function(self.points)

    @functools.cached_property
    def _jacobian(self) -> Jacobian:
        def direction(e):
            return jax.jvp(self._function, (self.points,), (e,))[1]

        return self._estimator.jacobian(jax.vmap(direction), self.points, self._probes)

    @property
    def divergence(self) -> Array:
        return self._jacobian.trace

    @property
    def frobenius(self) -> Array:
        return self._jacobian.square


Rate = Callable[[Motion], Array]


class _Accompanied(nnx.Module):
    """x' = f(x, t), and beside it one number a sample for every rate, q' = rate."""

    def __init__(
        self, field: Any, rates: tuple[Rate, ...], estimator: Divergence, probes: Array | None
    ):
        takes_time(field)  # refuses what is called in another way
        self.field, self.rates, self.estimator, self.probes = field, rates, estimator, probes

    def __call__(self, state: Any, t: Any) -> Any:
        x, sums = state
        points, back = flat(x)
        probes = None if self.probes is None else self.probes[...]
        if probes is not None and probes.shape[1:] != points.shape:
            raise InputError(
                f"random probes belong to samples that are solved together, got probes for {probes.shape[1]} and {len(points)} samples; "
                "with per_sample=True take Exact()"
            )

        def velocity(p):
            return flat(evaluate(self.field, back(p), t))[0]

        motion = Motion(velocity, points, self.estimator, probes)
        try:
            moved = tuple(
                rate(motion).astype(q.dtype) for rate, q in zip(self.rates, sums, strict=True)
            )
        except TraceContextError:
            raise InputError(
                f"{type(self.field).__name__} changes its state where its Jacobian is taken, and couples or blurs the samples; call "
                "model.eval(), or take a field without batch statistics and Dropout"
            ) from None
        return back(motion.velocity), moved


def along(
    layer: NeuralODE,
    x: Any,
    *rates: Rate,
    divergence: Divergence = Exact(),
    key: Array | None = None,
) -> tuple[Any, tuple[Array, ...]]:
    """x at the end of the layer's walk, and the integral of each rate over depth time along it, (batch,) each.

    `rates`: functions of a `Motion`, such as those of `nf.regularisers` (kinetic_energy, jacobian_frobenius), or
    `divergence`. One solve carries all; a layer that walks backward integrates backward. `divergence`
    says how a Jacobian is summed up; `key` draws its probes where it is random. An adaptive solve controls the error of the
    integrals too. TypeError where axis 0 of x does not count samples.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    _check_divergence(divergence)
    for rate in rates:
        checks.function("a rate", rate)
    points, _ = flat(samples(x))
    if key is None and not isinstance(divergence, Exact):
        raise InputError(
            f"{divergence} draws random probes; give a key: jax.random.key(0), or take Exact()"
        )
    probes = None if key is None else divergence.draw(key, points)
    field = _Accompanied(layer.field, rates, divergence, probes)
    return layer.with_field(field)((x, tuple(jnp.zeros(len(points), time_dtype(x)) for _ in rates)))


def samples(x: Any) -> Any:
    """x with arrays for leaves; TypeError where they have no axis of samples in common."""
    if any(not hasattr(leaf, "dtype") for leaf in jax.tree.leaves(x)):
        raise InputTypeError(
            f"x must be an array or a pytree of arrays, got {type(x).__name__}; write jnp.asarray(x)"
        )
    x = jax.tree.map(jnp.asarray, x)
    shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
    if (
        not shapes
        or any(len(shape) < 2 for shape in shapes)
        or len({shape[0] for shape in shapes}) != 1
    ):
        raise InputTypeError(
            f"x has one leading axis of samples and at least one axis of coordinates, got shapes {shapes}; try x[None]"
        )
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(x)):
        raise InputTypeError(
            "densities and integrals are those of real points, got complex ones; give real and imaginary parts as a pair"
        )
    return x


def flat(x: Any) -> tuple[Array, Callable[[Array], Any]]:
    """Samples as rows (batch, d), and the way back."""
    if isinstance(x, jax.Array) and x.ndim == 2:
        return x, lambda rows: rows
    back = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], x))[1]
    return jax.vmap(lambda one: ravel_pytree(one)[0])(x), jax.vmap(back)


class _Carried(nnx.Module, abc.ABC):
    """A function of x and t that is known at one end of a layer's interval."""

    def __init__(self, layer: NeuralODE, function: Any, given: KnownAt):
        checks.instance("layer", layer, NeuralODE, "a NeuralODE")
        checks.function("the function that is carried", function)
        checks.choice("given", given, ("start", "end"))
        if layer.backward:
            raise InputTypeError(
                "give the forward layer, and say by given='start' or 'end' where the function is known"
            )
        self.layer, self.function, self.given = layer, function, given

    @abc.abstractmethod
    def __call__(self, x: Any, t: Any) -> Array: ...

    def _walk(self, t: Any) -> NeuralODE | None:
        """The part of the layer from depth time t to where the function is known; None where that is t itself."""
        layer, (start, stop) = self.layer, self.layer.ends
        edge = stop if self.given == "end" else start
        if not any(isinstance(time, core.Tracer) for time in (t, start, stop)):
            if not layer.covers(t):
                t0, t1 = float(start), float(stop)
                raise InputError(
                    f"t must be one depth time between {t0:g} and {t1:g}, where the flow is defined, got {t!r}"
                )
            if float(t) == float(edge):
                return None
        return layer.between(t, stop) if self.given == "end" else layer.between(start, t).reverse()

    def gradient(self, x: Any, t: Any) -> Any:
        """The gradient with respect to x: of the form of x for one number a sample, (batch, k, ...) for k of them."""
        x = samples(x)
        values, pull = jax.vjp(lambda x: self(x, t), x)
        if not values.ndim or len(values) != len(jax.tree.leaves(x)[0]):
            raise InputError(
                f"the function that is carried gives a row a sample, got shape {values.shape} for x"
            )
        if values.ndim == 1:
            return pull(jnp.ones_like(values))[0]
        units = jnp.eye(values[0].size, dtype=values.dtype).reshape(-1, 1, *values.shape[1:])
        slopes = jax.vmap(lambda unit: pull(jnp.broadcast_to(unit, values.shape))[0])(units)
        return jax.tree.map(
            lambda a: jnp.moveaxis(a, 0, 1).reshape(*values.shape, *a.shape[2:]), slopes
        )

    def _material(self, x: Any, t: float, step: float) -> Array:
        """The derivative along the flow, w_t + v . grad w: w_t by differences of fourth order inside t's cell of depth."""
        if not isinstance(step, int | float) or not 0 < step <= 0.25:
            raise InputError(
                f"step is a share of the interval in (0, 1/4], got {step!r}; for example 0.002"
            )
        x = samples(x)
        times, weights = _stencil(self.layer, t, step)
        total = sum(
            (w * self(x, jnp.asarray(s)) for w, s in zip(weights, times, strict=True)),
            jnp.zeros(()),
        )
        slope, velocity = self.gradient(x, t), self.layer.velocity(x, t)

        def advected(g: Array, v: Array) -> Array:
            lead = total.ndim
            v = v.reshape(len(v), *[1] * (lead - 1), *v.shape[1:])
            return jnp.sum(g * v, axis=tuple(range(lead, g.ndim)))

        return sum(jax.tree.leaves(jax.tree.map(advected, slope, velocity)), total)


class Transport(_Carried):
    """u(x, t) with u_t + v . grad u = 0 along a layer's flow: constant on the characteristics x' = v(x, t).

    `values`: u at one end, a function or module from x (batch, ...) to (batch,) or (batch, k). given="end" is the terminal
    value problem u(x, t1) = values(x) of Li & Shi (arXiv 1708.06257, stated there): with a classifier's readout for values,
    u(., t0) is the classifier, and on a fixed grid u(., t_k) is what its blocks from the k-th on make of x. given="start"
    carries initial values along. Call it as u(x, t); t between t0 and t1, an array in any trace for an adaptive layer.
    """

    def __init__(self, layer: NeuralODE, values: Any, given: KnownAt = "end"):
        super().__init__(layer, values, given)

    def __call__(self, x: Any, t: Any) -> Array:
        """u(x, t), of the shape that `values` gives; ValueError for a t outside the interval."""
        walk, values = self._walk(t), self.function
        return values(x if walk is None else walk(x))

    def residual(self, x: Any, t: float, step: float = 0.002) -> Array:
        """u_t + v . grad u, zero up to the error of the solve, and of u_t, which is taken by differences.

        `step`: the distance of its five points in depth time, as a share of the interval; they stay in t's cell of depth. Errors
        of the solve and of rounding are divided by it: it suits tight solves in float64; in float32 take 0.05 or so. On a fixed
        grid what is left is the scheme's own error.
        """
        return self._material(x, t, step)


class Continuity(_Carried):
    """log rho(x, t) with rho_t + div(rho v) = 0 along a layer's flow: on x' = v(x, t) it changes by -div v.

    `log_density`: log rho at one end, from x (batch, ...) to (batch,). given="start": a density that the flow moves;
    given="end": one that it arrives at, as in a normalising flow. `divergence`: Exact(), Hutchinson(), HutchPlusPlus(); random
    ones take a key when called.
    """

    def __init__(
        self,
        layer: NeuralODE,
        log_density: Any,
        given: KnownAt = "start",
        divergence: Divergence = Exact(),
    ):
        super().__init__(layer, log_density, given)
        _check_divergence(divergence)
        self.divergence = divergence

    def __call__(self, x: Any, t: Any, key: Array | None = None) -> Float[Array, "batch"]:
        """log rho(x, t); ValueError for a t outside the interval."""
        return self.accompanied(x, t, key=key)[0]

    def accompanied(
        self, x: Any, t: Any, *rates: Rate, key: Array | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """log rho(x, t), and the integrals of rates along the walk from t to where the density is known, as `along` gives them."""
        walk = self._walk(t)
        if walk is None:
            count = len(jax.tree.leaves(samples(x))[0])
            return _each(self.function(x), count), tuple(
                jnp.zeros(count, time_dtype(x)) for _ in rates
            )
        y, (gained, *others) = along(
            walk, x, divergence, *rates, divergence=self.divergence, key=key
        )
        return _each(self.function(y), len(gained)) + gained, tuple(others)

    def residual(self, x: Any, t: float, step: float = 0.002) -> Array:
        """(log rho)_t + v . grad log rho + div v, zero up to the errors of the solve and of the differences in t."""
        if not isinstance(self.divergence, Exact):
            raise InputError(
                f"the residual of the equation needs the divergence without noise, got {self.divergence}; take Exact()"
            )
        points, back = flat(samples(x))
        motion = Motion(lambda p: flat(self.layer.velocity(back(p), t))[0], points, Exact(), None)
        return self._material(x, t, step) + motion.divergence


def _each(value: Any, count: int) -> Array:
    """A log-density's values; ValueError where they are not one a sample."""
    if jnp.shape(value) != (count,):
        raise InputError(
            f"a log-density gives one number a sample, ({count},), got {jnp.shape(value)}; a distribution over single coordinates "
            "becomes one over points by numpyro's .to_event(1)"
        )
    return value


def _check_divergence(divergence: Any) -> None:
    checks.instance(
        "divergence",
        divergence,
        Exact | Hutchinson | HutchPlusPlus,
        "Exact(), Hutchinson() or HutchPlusPlus()",
    )


def divergence(motion: Motion) -> Float[Array, "batch"]:
    """div v of every sample, a rate for `along`: its integral is the log-determinant of the flow."""
    return motion.divergence


class SlogDet(NamedTuple):
    """Signs (1, 0 or -1) and logarithms of absolute values of determinants."""

    sign: Array
    log: Array


def block_determinants(layer: NeuralODE, x: Any) -> SlogDet:
    """det D block of every step at every sample, (steps, batch) each: a block of sign -1 or 0 folds there. Fixed grids only."""
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    return layer.per_step(samples(x), _determinant)


def _determinant(block: Callable[[Any], Any], x: Any) -> SlogDet:
    points, back = flat(x)

    def push(unit):
        return jax.jvp(
            lambda p: flat(block(back(p)))[0], (points,), (jnp.broadcast_to(unit, points.shape),)
        )[1]

    columns = jax.vmap(push)(jnp.eye(points.shape[1], dtype=points.dtype))
    return SlogDet(*jnp.linalg.slogdet(jnp.moveaxis(columns, 0, -1)))


def log_determinant(layer: NeuralODE, x: Any) -> SlogDet:
    """det D layer at every sample, (batch,) each.

    On a fixed grid it is that of the map as it is computed: the sum of log |det (I + h DV)| over its blocks, with the product of
    their signs. Of an adaptive layer it is the integral of the divergence, to which the sum comes with O(h). On any layer that
    integral is `along(layer, x, divergence)`.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    if not layer.discretisation.planned:
        total = along(layer, x, divergence)[1][0]
        return SlogDet(jnp.ones_like(total), total)
    sign, log = block_determinants(layer, x)
    return SlogDet(jnp.prod(sign, axis=0), jnp.sum(log, axis=0))


class Distribution(Protocol):
    """What a base distribution must do; numpyro's distributions do."""

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any: ...

    def log_prob(self, value: Any) -> Any: ...


class _Fixed:
    """A distribution that is no part of the state: its parameters may come in any order of their own."""

    def __init__(self, distribution: Distribution):
        self.distribution = distribution


class NormalisingFlow(nnx.Module):
    """A density whose samples a layer turns into those of a base distribution (Chen et al., arXiv 1806.07366, stated there).

    log p(x) = log p_base(y) + int div v dt, y = layer(x): data at t0, base at t1. `base`: a distribution of numpyro over one point,
    or anything with log_prob(y) -> (batch,) and sample(key, (count,)). An nnx.Module is trained with the field and saved with it;
    any other stays as it is given, and is no part of the model's state. `divergence`:
    Exact(), or Hutchinson() and HutchPlusPlus(), whose probes come from the stream `rngs.probes` of this module: call it under
    nnx.jit, for plain jax.jit draws the same ones each time. Gradients in reverse mode, as the layer's.
    """

    def __init__(
        self,
        layer: NeuralODE,
        base: Distribution,
        divergence: Divergence = Exact(),
        *,
        rngs: nnx.Rngs | None = None,
    ):
        for name in ("log_prob", "sample"):
            checks.function(f"the base distribution's {name}", getattr(base, name, None))
        if not isinstance(divergence, Exact):
            checks.instance(
                "rngs", rngs, nnx.Rngs, f"nnx.Rngs(seed), from which {divergence} draws its probes"
            )
        checks.instance("layer", layer, NeuralODE, "a NeuralODE")
        _check_divergence(divergence)
        if layer.backward:
            raise InputTypeError(
                "a normalising flow takes the layer that walks forward, from data to base; give it without reverse()"
            )
        self.layer, self.divergence = layer, divergence
        self._base = base if isinstance(base, nnx.Module) else nnx.static(_Fixed(base))
        self.probes = None if rngs is None else rngs.probes.fork()

    @property
    def base(self) -> Distribution:
        """The base distribution."""
        base: Any = self._base
        return base.distribution if isinstance(base, _Fixed) else base

    def log_prob(self, x: Any) -> Float[Array, "batch"]:
        """The log-density at x (batch, ...)."""
        return self.accompanied(x)[0]

    def accompanied(self, x: Any, *rates: Rate) -> tuple[Float[Array, "batch"], tuple[Array, ...]]:
        """The log-density at x (batch, ...), and the integrals of rates along the same solve, (batch,) each."""
        carried = Continuity(self.layer, self.base.log_prob, "end", self.divergence)
        key = None if isinstance(self.divergence, Exact) or self.probes is None else self.probes()
        return carried.accompanied(x, self.layer.ends[0], *rates, key=key)

    def sample(self, key: Array, count: int) -> Any:
        """Points (count, ...): the base's own, walked back; exact up to the errors of the solve."""
        checks.whole("count", count)
        return self.layer.reverse()(self.base.sample(key, (count,)))

    def sample_and_log_prob(self, key: Array, count: int) -> tuple[Any, Float[Array, "count"]]:
        """Points (count, ...), and their log-densities from the same solve, with the exact divergence."""
        checks.whole("count", count)
        y = self.base.sample(key, (count,))
        x, (lost,) = along(self.layer.reverse(), y, divergence)
        return x, _each(self.base.log_prob(y), count) - lost


def _stencil(layer: NeuralODE, t: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Five depth times around t in its cell of depth, and their weights in the derivative at t."""
    t0, t1 = (float(raw(end)) for end in (layer.t0, layer.t1))
    first, last = ((float(end) - t0) / (t1 - t0) for end in layer.ends)
    knots = np.unique(
        np.concatenate([[0.0, 1.0], *(basis.knots for basis in FlatField(layer.field).bases)])
    )
    knots = np.array([first, *knots[(knots > first) & (knots < last)], last])
    share = (float(t) - t0) / (t1 - t0)
    cell = np.clip(np.searchsorted(knots, share, "right") - 1, 0, len(knots) - 2)
    low, high = knots[cell], knots[cell + 1]
    gap = min(step, (high - low) / 4)
    shares = np.clip(share - 2 * gap, low, high - 4 * gap) + gap * np.arange(5)
    offsets = (shares - share) / gap
    weights = np.linalg.solve(np.vander(offsets, increasing=True).T, np.eye(5)[1])
    return t0 + shares * (t1 - t0), weights / (gap * (t1 - t0))
