"""What a flow carries along: values, densities, and integrals beside the states.

The velocity field v(x, t) of a layer has the characteristics x' = v(x, t). The transport equation
carries values, which are constant along the characteristics. The continuity equation carries
densities, whose logarithms change by -div v along the characteristics. `along` integrates rates
beside the states. Rates that serve as penalties stand in `neuralflow.regularisers`.

Axis 0 of x counts the samples. The other axes of x make up one point of d coordinates.
"""

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
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import FlatField, raw
from neuralflow.fields import evaluate, takes_time
from neuralflow.fields.functions import check_context
from neuralflow.layers import NeuralODE
from neuralflow.schemes.network import traits
from neuralflow.solve.system import check_single, time_dtype

__docformat__ = "google"

KnownAt = Literal["start", "end"]
"""The end of a layer's interval at which a function is known."""
MOST_DERIVATIVES = 12
"""The highest order of a derivative along a path. The work of tracing doubles with every order."""
Push = Callable[[Array], Array]
"""The type of a function from directions (directions, batch, d) to the products of J with them."""


class Jacobian(NamedTuple):
    """Two sums over the Jacobian J of the velocity at every sample.

    The numbers are exact, or estimates without bias.

    Attributes:
        trace: The trace of J, shape `(batch,)`. The trace is the divergence of the velocity.
        square: The squared Frobenius norm of J, shape `(batch,)`.
    """

    trace: Array
    square: Array


@dataclass(frozen=True)
class Exact:
    """The divergence without noise, by one derivative for each coordinate of a point.

    This way is for points of few coordinates. The derivatives are taken for all samples at once, so
    the field must treat every entry of axis 0 as a sample of its own.
    """

    def draw(self, key: Array, points: Array) -> Array | None:
        """Return None, since the exact divergence needs no probes.

        Args:
            key: Not used.
            points: Not used.

        Returns:
            None.
        """
        return None

    def jacobian(self, push: Push, points: Array, probes: None) -> Jacobian:
        """Compute the sums over the Jacobian.

        Args:
            push: A function that multiplies the Jacobian with directions, shape
                `(directions, batch, d)`.
            points: The samples, shape `(batch, d)`.
            probes: Not used.

        Returns:
            The exact sums.

        Raises:
            InputError: `points` has another shape.
            InputTypeError: `push` is no function, or `points` is no array of real numbers.
        """
        checks.function("push", push, 1)
        _check_points(points)
        units = jnp.eye(points.shape[1], dtype=points.dtype)[:, None, :]
        return _sums(jnp.broadcast_to(units, (points.shape[1], *points.shape)), push, 1)


@dataclass(frozen=True)
class Hutchinson:
    """An estimate of the divergence: the mean of e . J e over random signs e.

    J is the Jacobian of the velocity. The signs are drawn once for each solve, and independently
    for every sample. One probe costs one derivative.

    The estimate has no bias, and its gradients have no bias. Its variance is 2 q / probes. Here q
    is the sum of squares off the diagonal of the symmetric part of J.

    Args:
        probes: The number of random sign vectors for each sample.

    Raises:
        InputError: `probes` is less than 1 or greater than 2^20.
        InputTypeError: `probes` is not a whole number.

    Source:
        Grathwohl et al., FFJORD, arXiv 1810.01367, stated there.
    """

    probes: int = 1

    def __post_init__(self):
        checks.whole("probes", self.probes, most=2**20)

    def draw(self, key: Array, points: Array) -> Array:
        """Draw the random signs of a solve.

        Args:
            key: The random key.
            points: The samples, shape `(batch, d)`.

        Returns:
            Signs of shape `(probes, batch, d)`.

        Raises:
            InputError: `points` has another shape.
            InputTypeError: `key` is not one random key, or `points` is no array of real numbers.
        """
        checks.key(key)
        _check_points(points)
        return jax.random.rademacher(key, (self.probes, *points.shape), points.dtype)

    def jacobian(self, push: Push, points: Array, probes: Array) -> Jacobian:
        """Estimate the sums over the Jacobian.

        Args:
            push: A function that multiplies the Jacobian with directions, shape
                `(directions, batch, d)`.
            points: Not used.
            probes: The signs that `draw` returned.

        Returns:
            The estimates of the sums.

        Raises:
            InputError: `probes` has another shape.
            InputTypeError: `push` is no function, or `probes` is no array of real numbers.
        """
        checks.function("push", push, 1)
        checks.array("probes", probes, self.probes, "batch", "coordinates")
        return _sums(probes, push, self.probes)


@dataclass(frozen=True)
class HutchPlusPlus:
    """An estimate of the divergence that is exact on a random subspace.

    J is the Jacobian of the velocity. The subspace is the span of `probes` products J e with random
    signs e. Hutchinson's estimator covers the rest of the space. One probe costs three derivatives.
    If J is close to a matrix of low rank, the noise is far less than that of three probes of
    `Hutchinson`.

    The estimate has no bias. Derivatives hold the span fixed. Every span gives the right mean, so
    the gradients have no bias either.

    Args:
        probes: The number of dimensions of the subspace, and of random sign vectors for the rest.

    Raises:
        InputError: `probes` is less than 1 or greater than 2^20.
        InputTypeError: `probes` is not a whole number.

    Source:
        Meyer, Musco, Musco & Woodruff, Hutch++, arXiv 2010.09649, stated there for one matrix. The
        fixed span in derivatives is our formulation.
    """

    probes: int = 1

    def __post_init__(self):
        checks.whole("probes", self.probes, most=2**20)

    def draw(self, key: Array, points: Array) -> Array:
        """Draw the random signs of a solve.

        Args:
            key: The random key.
            points: The samples, shape `(batch, d)`.

        Returns:
            Signs of shape `(2 probes, batch, d)`. The first half is for the span, the second half
            for the rest of the space.

        Raises:
            InputError: `points` has another shape.
            InputTypeError: `key` is not one random key, or `points` is no array of real numbers.
        """
        checks.key(key)
        _check_points(points)
        return jax.random.rademacher(key, (2 * self.probes, *points.shape), points.dtype)

    def jacobian(self, push: Push, points: Array, probes: Array) -> Jacobian:
        """Estimate the sums over the Jacobian.

        Args:
            push: A function that multiplies the Jacobian with directions, shape
                `(directions, batch, d)`.
            points: Not used.
            probes: The signs that `draw` returned.

        Returns:
            The estimates of the sums.

        Raises:
            InputError: `probes` has another shape.
            InputTypeError: `push` is no function, or `probes` is no array of real numbers.
        """
        checks.function("push", push, 1)
        checks.array("probes", probes, 2 * self.probes, "batch", "coordinates")
        seen, rest = probes[: self.probes], probes[self.probes :]
        sketch = jnp.moveaxis(jax.lax.stop_gradient(push(seen)), 0, -1)
        span = jnp.moveaxis(jnp.linalg.qr(sketch)[0], -1, 0)
        inside = jnp.einsum("kbd,pbd->pkb", span, rest)
        known = _sums(span, push, 1)
        noisy = _sums(rest - jnp.einsum("pkb,kbd->pbd", inside, span), push, self.probes)
        return Jacobian(known.trace + noisy.trace, known.square + noisy.square)


def _check_points(points: Any) -> None:
    """Refuse anything but points `(batch, d)`."""
    checks.array("points", points, "batch", "d")


def _sums(directions: Array, push: Push, count: int) -> Jacobian:
    """Return the sums of e . J e and of |J e|^2 over directions e, divided by a count."""
    products = push(directions)
    return Jacobian(
        jnp.sum(directions * products, (0, 2)) / count, jnp.sum(products**2, (0, 2)) / count
    )


Divergence = Exact | Hutchinson | HutchPlusPlus
"""The type of the ways to compute a divergence."""


class Motion:
    """What a velocity field does at given points and at one depth time.

    The velocity, its derivatives and the sums over its Jacobian are computed when somebody asks for
    them.

    Args:
        velocity: The velocity, a function of samples `(batch, d)` and depth time, to `(batch, d)`.
            Weights that vary with depth have their values at `time`.
        points: The samples, shape `(batch, d)`.
        time: The depth time.
        estimator: The way to compute the divergence.
        probes: The random probes that the estimator drew, or None.

    Attributes:
        points: The samples, shape `(batch, d)`.

    Raises:
        InputError: `points` has another shape, or `time` is not finite.
        InputTypeError: `velocity` is no function, `points` or `probes` is no array of real numbers,
            `time` is no number, or `estimator` is none of the three.
    """

    def __init__(
        self,
        velocity: Callable[[Array, Array], Array],
        points: Array,
        time: Real,
        estimator: Divergence,
        probes: Any,
    ):
        checks.function("velocity", velocity, 2)
        _check_points(points)
        checks.number("time", time)
        _check_divergence(estimator, "estimator")
        if probes is not None:
            checks.array("probes", probes, "probes", *points.shape)
        self._function, self.points = velocity, points
        self._time = jnp.asarray(time, points.dtype)
        self._estimator = estimator
        self._probes: Any = probes

    @functools.cached_property
    def velocity(self) -> Array:
        """The velocity of every sample, shape `(batch, d)`, per unit of depth time."""
        return self._function(self.points, self._time)

    def derivative(self, order: int) -> Array:
        """Return the total derivative d^order x / dt^order along the path of every sample.

        The first derivative is the velocity v. The derivative of a function g(x, t) along the path
        is (grad g) v + dg/dt. Weights that vary with depth are held at their values at this depth.

        Args:
            order: The order of the derivative, from 1 to 12.

        Returns:
            The derivatives, shape `(batch, d)`.

        Raises:
            InputError: `order` is less than 1 or greater than 12.
            InputTypeError: `order` is not a whole number.
        """
        checks.whole("order", order, most=MOST_DERIVATIVES)

        def along_path(g):
            def moved(p, t):
                return jax.jvp(g, (p, t), (self._function(p, t), jnp.ones_like(t)))[1]

            return moved

        g = self._function
        for _ in range(order - 1):
            g = along_path(g)
        return g(self.points, self._time)

    @functools.cached_property
    def _jacobian(self) -> Jacobian:
        """The sums over the Jacobian of every sample."""

        def direction(e):
            return jax.jvp(lambda p: self._function(p, self._time), (self.points,), (e,))[1]

        return self._estimator.jacobian(jax.vmap(direction), self.points, self._probes)

    @property
    def divergence(self) -> Array:
        """The divergence of the velocity at every sample, shape `(batch,)`."""
        return self._jacobian.trace

    @property
    def frobenius(self) -> Array:
        """The squared Frobenius norm of every sample's Jacobian, shape `(batch,)`."""
        return self._jacobian.square


Rate = Callable[[Motion], Array]
"""The type of a rate: a function from a motion to one number for each sample, shape `(batch,)`."""


class _Accompanied(nnx.Module):
    """The field x' = f(x, t), with one more number q for each sample and each rate: q' = rate."""

    def __init__(
        self, field: Any, rates: tuple[Rate, ...], estimator: Divergence, probes: Array | None
    ):
        takes_time(field)  # This call refuses a field that is called in another way.
        self.field, self.rates, self.estimator, self.probes = field, rates, estimator, probes

    def __call__(self, state: PyTree, t: Real, context: PyTree = None) -> Any:
        x, sums = state
        points, back = flat(x)
        probes = None if self.probes is None else self.probes[...]
        if probes is not None and probes.shape[1:] != points.shape:
            raise InputError(
                "random probes belong to samples that are solved together, got probes for "
                f"{probes.shape[1]} and {points.shape[0]} samples; "
                "with per_sample=True take Exact()"
            )

        def velocity(p, t):
            return flat(evaluate(self.field, back(p), t, context))[0]

        motion = Motion(velocity, points, t, self.estimator, probes)
        try:
            moved = tuple(_rated(rate(motion), q) for rate, q in zip(self.rates, sums, strict=True))
        except TraceContextError:
            raise InputError(
                f"{type(self.field).__name__} changes its state where its Jacobian is taken, and "
                "couples or blurs the samples; call model.eval(), or take a field without batch "
                "statistics and Dropout"
            ) from None
        return back(motion.velocity), moved


def _rated(value: Any, like: Array) -> Array:
    """Return the value of a rate in the dtype of its integral, and refuse other values."""
    checks.array("the value of a rate", value, *like.shape)
    return value.astype(like.dtype)


def along(
    layer: NeuralODE,
    x: PyTree,
    *rates: Rate,
    divergence: Divergence = Exact(),
    key: Array | None = None,
    context: PyTree = None,
) -> tuple[Any, tuple[Array, ...]]:
    """Walk with a layer, and integrate rates over depth time along the walk.

    One solve carries the states and all integrals. A layer that walks backward integrates backward.
    An adaptive solve controls the error of the integrals too.

    Sums over a Jacobian are those of every sample alone. A field that couples the entries of axis
    0, such as a graph network on nodes, needs an axis of samples before that axis: `x[None]`.

    Args:
        layer: The layer that walks.
        x: The samples where the walk starts, `(batch, ...)` or a pytree of such arrays.
        *rates: Functions from a `Motion` to `(batch,)`. Examples are `divergence` of this module,
            `neuralflow.regularisers.kinetic_energy` and
            `neuralflow.regularisers.jacobian_frobenius`.
        divergence: The way to compute sums over a Jacobian.
        key: The random key that draws the probes of a random divergence. Each solve draws once.
        context: The context of the field, as in a call of the layer.

    Returns:
        The samples at the end of the walk, and a tuple with the integral of each rate, each of
        shape `(batch,)`.

    Raises:
        InputError: `divergence` is random and has no key. Or the field changes its state where its
            Jacobian is taken. Or random probes meet an adaptive solve with `per_sample=True`. Or a
            rate does not give one number for each sample.
        InputTypeError: Axis 0 of x does not count samples, x is not an array of real numbers, or an
            argument has the wrong type. Or the scheme of the layer is a splitting.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=8))
        >>> rates = nf.transport.divergence, nf.regularisers.kinetic_energy
        >>> y, (log_det, energy) = nf.transport.along(layer, jnp.ones((1, 2)), *rates)
        >>> print(y.round(2), log_det.round(2), energy.round(2))
        [[2.72 2.72]] [2.] [6.39]
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    _check_divergence(divergence)
    for rate in rates:
        checks.function("a rate", rate, 1)
    check_context(layer.field, context)
    scheme = layer.discretisation.scheme
    if traits(scheme).parted:
        raise InputTypeError(
            f"a rate belongs to the whole velocity of a layer, and the scheme "
            f"{type(scheme).__name__} walks along its parts one by one; take another scheme, such "
            "as layer.with_solve(nf.FixedGrid(nf.Heun(), steps=...))"
        )
    if key is not None:
        checks.key(key)
    points, _ = flat(samples(x))
    if key is None and not isinstance(divergence, Exact):
        raise InputError(
            f"{divergence} draws random probes; give a key: jax.random.key(0), or take Exact()"
        )
    if not rates:
        return layer(x, context=context), ()  # An adaptive solve carries no empty tuple.
    check_single(x, "divergences and integrals along a flow need")
    probes = None if key is None else divergence.draw(key, points)
    field = _Accompanied(layer.field, rates, divergence, probes)
    sums = tuple(jnp.zeros(points.shape[0], time_dtype(x)) for _ in rates)
    return layer.with_field(field)((x, sums), context=context)


def samples(x: PyTree) -> Any:
    """Return x with JAX arrays for leaves, and refuse x that holds no samples.

    Args:
        x: An array or a pytree of arrays. Axis 0 of every array counts the samples.

    Returns:
        The same pytree, with JAX arrays.

    Raises:
        InputTypeError: A leaf is no array of floating-point numbers, or there is none. Or an array
            has fewer than two axes. Or the arrays have different numbers of samples.
    """
    _check_samples(x)
    x = jax.tree.map(jnp.asarray, x)
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(x)):
        raise InputTypeError(
            "x holds complex points, and densities and integrals are those of real points; give "
            "real and imaginary parts as a pair"
        )
    time_dtype(x)  # This call refuses whole numbers.
    return x


def _check_samples(x: PyTree) -> None:
    """Refuse what is not made of arrays of samples."""
    checks.states("x", x)
    shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
    if any(len(shape) < 2 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise InputTypeError(
            "x has one leading axis of samples and at least one axis of coordinates, got shapes "
            f"{shapes}; try x[None]"
        )


def flat(x: PyTree) -> tuple[Array, Callable[[Array], Any]]:
    """Flatten samples to rows.

    Args:
        x: The samples, a pytree of arrays `(batch, ...)`.

    Returns:
        The rows, shape `(batch, d)`, and the function that turns rows back into the form of x.

    Raises:
        InputTypeError: x is not made of arrays of numbers with axis 0 for the samples.
    """
    _check_samples(x)
    if isinstance(x, jax.Array) and x.ndim == 2:
        return x, lambda rows: rows
    back = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], x))[1]
    return jax.vmap(lambda one: ravel_pytree(one)[0])(x), jax.vmap(back)


class Carried(nnx.Module, abc.ABC):
    """A function of x and t that a flow carries, and that is known at one end of an interval."""

    def __init__(self, layer: NeuralODE, function: Any, given: KnownAt):
        checks.instance("layer", layer, NeuralODE, "a NeuralODE")
        checks.function("the function that is carried", function, 1)
        checks.choice("given", given, ("start", "end"))
        if layer.backward:
            raise InputTypeError(
                "give the forward layer, and say by given='start' or 'end' where the function is "
                "known"
            )
        self.layer, self.function, self.given = layer, function, given

    @abc.abstractmethod
    def __call__(self, x: PyTree, t: Real, *, context: PyTree = None) -> Array:
        """Return the value of the function at every sample."""

    def _walk(self, t: Real) -> NeuralODE | None:
        """Return the part of the layer from depth time t to where the function is known.

        The result is None if the function is known at t itself.
        """
        layer, (start, stop), t = self.layer, self.layer.ends, checks.known(t)
        edge = stop if self.given == "end" else start
        if not any(isinstance(time, core.Tracer) for time in (t, start, stop)):
            if not layer.covers(t):
                t0, t1 = float(start), float(stop)
                raise InputError(
                    f"t must be one depth time between {t0:g} and {t1:g}, where the flow is "
                    f"defined, got {t!r}"
                )
            if float(t) == float(edge):
                return None
        return layer.between(t, stop) if self.given == "end" else layer.between(start, t).reverse()

    def gradient(self, x: PyTree, t: Real, *, context: PyTree = None) -> Any:
        """Compute the gradient of the carried function with respect to x.

        Args:
            x: The samples, `(batch, ...)` or a pytree of such arrays.
            t: The depth time.
            context: The context of the field, as in a call of the layer.

        Returns:
            The gradient. The gradient has the form of x for one number per sample, and shape
            `(batch, k, ...)` for k numbers per sample.

        Raises:
            InputError: The function does not give one row per sample, or t lies outside the
                interval.
            InputTypeError: Axis 0 of x does not count samples.
        """
        x = samples(x)
        values, pull = jax.vjp(lambda x: self(x, t, context=context), x)
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

    def _material(self, x: PyTree, t: float, step: float, context: PyTree) -> Array:
        """Compute the derivative w_t + v . grad w of the carried function w along the flow.

        Differences of fourth order give w_t. Their points lie in the cell of depth that holds t.
        """
        checks.number("step", step, above=0, most=0.25)
        self._walk(t)  # This call refuses a depth time outside of the interval.
        x, step = samples(x), float(step)
        times, weights = _stencil(self.layer, t, step)
        total = sum(
            (
                w * self(x, np.asarray(s), context=context)
                for w, s in zip(weights, times, strict=True)
            ),
            jnp.zeros(()),
        )
        slope = self.gradient(x, t, context=context)
        velocity = self.layer.velocity(x, t, context=context)

        def advected(g: Array, v: Array) -> Array:
            lead = total.ndim
            v = v.reshape(len(v), *[1] * (lead - 1), *v.shape[1:])
            return jnp.sum(g * v, axis=tuple(range(lead, g.ndim)))

        return sum(jax.tree.leaves(jax.tree.map(advected, slope, velocity)), total)


class Transport(Carried):
    """The solution u(x, t) of the transport equation u_t + v . grad u = 0 along a layer's flow.

    v is the velocity field of the layer. u is constant on the characteristics x' = v(x, t).

    With `given="end"`, u solves the terminal value problem u(x, t1) = values(x). If `values` is the
    readout of a classifier, u(., t0) is the classifier. On a fixed grid with edges t_k,
    u(., t_k) is then what the blocks from the k-th on make of x. With `given="start"`, u carries
    the initial values u(x, t0) = values(x) along.

    Call the object as u(x, t).

    Args:
        layer: The layer whose flow carries the values. The layer walks forward.
        values: The function u at one end: a function or module from x, `(batch, ...)`, to
            `(batch,)` or `(batch, k)`.
        given: The end of the interval at which `values` is known, "start" or "end".

    Raises:
        InputError: `given` is neither "start" nor "end".
        InputTypeError: `layer` is no `neuralflow.NeuralODE` or walks backward, or `values` cannot
            be called.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=8))
        >>> u = nf.transport.Transport(layer, lambda x: x.sum(axis=1))
        >>> x = jnp.ones((1, 2))
        >>> print(u(x, 1.0).round(2), u(x, 0.0).round(2))
        [2.] [5.44]

    Source:
        Li & Shi, arXiv 1708.06257, stated there: the terminal value problem.
    """

    def __init__(self, layer: NeuralODE, values: PyTree, given: KnownAt = "end"):
        super().__init__(layer, values, given)

    def __call__(self, x: PyTree, t: Real, *, context: PyTree = None) -> Array:
        """Return u(x, t).

        Args:
            x: The samples, `(batch, ...)` or a pytree of such arrays.
            t: The depth time, between t0 and t1. For an adaptive layer, t may be an array in any
                trace.
            context: The context of the field, as in a call of the layer.

        Returns:
            The values, of the shape that `values` gives.

        Raises:
            InputError: t is known and lies outside the interval.

        @public
        """
        x = samples(x)
        check_context(self.layer.field, context)
        walk, values = self._walk(t), self.function
        return values(x if walk is None else walk(x, context=context))

    def residual(
        self, x: PyTree, t: float, step: float = 0.002, *, context: PyTree = None
    ) -> Array:
        """Compute the residual u_t + v . grad u of the transport equation.

        The residual is zero up to the error of the solve and the error of u_t. Differences between
        five depth times give u_t. On a fixed grid, what is left is the scheme's own error.

        Args:
            x: The samples, `(batch, ...)` or a pytree of such arrays.
            t: The depth time, a number.
            step: The distance of the five depth times, as a share of the interval in (0, 1/4]. The
                five depth times stay in the cell of depth that holds t. The errors of the solve and
                of rounding are divided by the distance. The default suits tight solves in float64.
                In float32 take about 0.05.
            context: The context of the field, as in a call of the layer.

        Returns:
            The residual, of the shape that `values` gives.

        Raises:
            InputError: `step` lies outside (0, 1/4], or t lies outside the interval.
            InputTypeError: Axis 0 of x does not count samples.
        """
        return self._material(x, t, step, context)


class Continuity(Carried):
    """The log-density log rho(x, t) that a layer's flow carries.

    rho solves the continuity equation rho_t + div(rho v) = 0, where v is the velocity field of the
    layer. On the characteristics x' = v(x, t), log rho changes at the rate -div v.

    Call the object as log_rho(x, t).

    Args:
        layer: The layer whose flow carries the density, a layer that walks forward.
        log_density: The function log rho at one end, from x, `(batch, ...)`, to `(batch,)`.
        given: The end of the interval at which `log_density` is known. "start" means a density that
            the flow moves. "end" means a density at which the flow arrives, as in a normalising
            flow.
        divergence: The way to compute div v: `Exact()`, `Hutchinson()` or `HutchPlusPlus()`. The
            two random ways need a key in each call.

    Raises:
        InputError: `given` is neither "start" nor "end".
        InputTypeError: `layer` is no `neuralflow.NeuralODE` or walks backward, `log_density` cannot
            be called, or `divergence` is none of the three.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=8))
        >>> log_rho = nf.transport.Continuity(layer, lambda x: -jnp.sum(x**2, axis=1) / 2)
        >>> x = jnp.zeros((1, 2))
        >>> print(log_rho(x, 1.0).round(2))
        [-2.]
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

    def __call__(
        self, x: PyTree, t: Real, key: Array | None = None, *, context: PyTree = None
    ) -> Float[Array, "batch"]:
        """Return log rho(x, t).

        Args:
            x: The positions at depth time t, `(batch, ...)` or a pytree of such arrays.
            t: The depth time, between t0 and t1. In a trace, the result is NaN for a depth time
                outside.
            key: The random key of the probes, for a random divergence.
            context: The context of the field, as in a call of the layer.

        Returns:
            The log-densities, shape `(batch,)`.

        Raises:
            InputError: t is known and lies outside the interval, or a random divergence has no key.
            InputTypeError: Axis 0 of x does not count samples.

        @public
        """
        return self.accompanied(x, t, key=key, context=context)[0]

    def accompanied(
        self,
        x: PyTree,
        t: Real,
        *rates: Rate,
        key: Array | None = None,
        context: PyTree = None,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return log rho(x, t), and integrals of rates from the same solve.

        The solve runs from t to the end of the interval at which the density is known. The
        integrals are those of rate dt in this direction. For `given="end"`, a positive rate has a
        positive integral. For `given="start"` the solve runs backward, and the integral is
        negative.

        Args:
            x: The samples, `(batch, ...)` or a pytree of such arrays.
            t: The depth time, between t0 and t1.
            *rates: Functions from a `Motion` to `(batch,)`, as for `along`.
            key: The random key of the probes, for a random divergence.
            context: The context of the field, as in a call of the layer.

        Returns:
            The log-densities, shape `(batch,)`, and a tuple with the integral of each rate, each of
            shape `(batch,)`.

        Raises:
            InputError: t is known and lies outside the interval, or a random divergence has no key.
            InputTypeError: Axis 0 of x does not count samples.
        """
        walk = self._walk(t)
        for rate in rates:
            checks.function("a rate", rate, 1)
        if key is not None:
            checks.key(key)
        check_context(self.layer.field, context)
        if walk is None:
            count = len(jax.tree.leaves(samples(x))[0])
            return _each(self.function(x), count), tuple(
                jnp.zeros(count, time_dtype(x)) for _ in rates
            )
        y, (gained, *others) = along(
            walk, x, divergence, *rates, divergence=self.divergence, key=key, context=context
        )
        return _each(self.function(y), gained.shape[0]) + gained, tuple(others)

    def residual(
        self, x: PyTree, t: float, step: float = 0.002, *, context: PyTree = None
    ) -> Array:
        """Compute the residual (log rho)_t + v . grad log rho + div v of the continuity equation.

        The residual is zero up to the errors of the solve and of the differences in t.

        Args:
            x: The samples, `(batch, ...)` or a pytree of such arrays.
            t: The depth time, a number.
            step: The distance of the five depth times of the differences, as a share of the
                interval in (0, 1/4]; see `Transport.residual`.
            context: The context of the field, as in a call of the layer.

        Returns:
            The residual, shape `(batch,)`.

        Raises:
            InputError: The divergence is random, `step` lies outside (0, 1/4], or t lies outside
                the interval.
            InputTypeError: Axis 0 of x does not count samples.
        """
        if not isinstance(self.divergence, Exact):
            raise InputError(
                "the residual of the equation needs the divergence without noise, got "
                f"{self.divergence}; take Exact()"
            )
        material = self._material(x, t, step, context)
        points, back = flat(samples(x))

        # The layer gets t as it was given: rounded, t could lie outside of the interval.
        def velocity(p, _):
            return flat(self.layer.velocity(back(p), t, context=context))[0]

        motion = Motion(velocity, points, t, Exact(), None)
        return material + motion.divergence


def _each(value: Any, count: int) -> Array:
    """Return the values of a log-density, and refuse anything but one number per sample."""
    if np.shape(value) != (count,):
        raise InputError(
            f"a log-density gives one number a sample, ({count},), got {np.shape(value)}; a "
            "distribution over single coordinates becomes one over points by numpyro's "
            ".to_event(1)"
        )
    return value


def _check_divergence(divergence: Any, name: str = "divergence") -> None:
    """Refuse anything but one of the three ways to compute a divergence."""
    checks.instance(
        name,
        divergence,
        Exact | Hutchinson | HutchPlusPlus,
        "Exact(), Hutchinson() or HutchPlusPlus()",
    )


def divergence(motion: Motion) -> Float[Array, "batch"]:
    """Return the divergence div v of the velocity at every sample.

    The divergence is a rate for `along`. Its integral is the log-determinant of the flow.

    Args:
        motion: The motion of the samples.

    Returns:
        The divergence, shape `(batch,)`, per unit of depth time.

    Raises:
        InputTypeError: `motion` is no `Motion`.
    """
    checks.instance("motion", motion, Motion, "a Motion, which along hands over")
    return motion.divergence


class SlogDet(NamedTuple):
    """Determinants as signs and logarithms.

    Attributes:
        sign: The signs of the determinants: 1, 0 or -1.
        log: The logarithms of the absolute values of the determinants.
    """

    sign: Array
    log: Array


def block_determinants(layer: NeuralODE, x: PyTree, *, context: PyTree = None) -> SlogDet:
    """Compute the determinant of the Jacobian of every step at every sample.

    A block is one step of a fixed grid. A block whose determinant has the sign -1 or 0 folds space
    at the sample.

    Args:
        layer: A layer on a fixed grid.
        x: The samples where the walk starts, `(batch, ...)` or a pytree of such arrays.
        context: The context of the field, as in a call of the layer.

    Returns:
        The signs and the logarithms, each of shape `(steps, batch)`.

    Raises:
        InputTypeError: The layer is adaptive, its scheme carries more than the state from step to
            step, or axis 0 of x does not count samples.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    return layer.per_step(samples(x), _determinant, context=context)


def _determinant(block: Callable[[Any], Any], x: PyTree) -> SlogDet:
    """Return the determinant of the Jacobian of a block at every sample."""
    points, back = flat(x)

    def push(unit):
        return jax.jvp(
            lambda p: flat(block(back(p)))[0], (points,), (jnp.broadcast_to(unit, points.shape),)
        )[1]

    columns = jax.vmap(push)(jnp.eye(points.shape[1], dtype=points.dtype))
    return SlogDet(*jnp.linalg.slogdet(jnp.moveaxis(columns, 0, -1)))


def log_determinant(layer: NeuralODE, x: PyTree, *, context: PyTree = None) -> SlogDet:
    """Compute the determinant of the layer's Jacobian at every sample.

    On a fixed grid, the determinant is that of the map as computed. Its logarithm is the sum of
    log |det (I + h DV)| over the blocks. Here h is the length of a step, and I + h DV is the
    Jacobian of a block. Its sign is the product of the signs of the blocks.

    For an adaptive layer, the logarithm is the integral of the divergence, and the sign is 1. The
    sum of a fixed grid differs from this integral by O(h). `along(layer, x, divergence)` gives the
    integral for any layer. A field that couples the entries of axis 0, such as a graph network on
    nodes, needs an axis of samples before that axis: `x[None]`.

    Args:
        layer: The layer.
        x: The samples where the walk starts, `(batch, ...)` or a pytree of such arrays.
        context: The context of the field, as in a call of the layer.

    Returns:
        The sign and the logarithm, each of shape `(batch,)`.

    Raises:
        InputTypeError: `layer` is no `neuralflow.NeuralODE`, axis 0 of x does not count samples, or
            the scheme of a fixed grid carries more than the state from step to step.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    if not layer.discretisation.planned:
        total = along(layer, x, divergence, context=context)[1][0]
        return SlogDet(jnp.ones_like(total), total)
    sign, log = block_determinants(layer, x, context=context)
    return SlogDet(jnp.prod(sign, axis=0), jnp.sum(log, axis=0))


class Distribution(Protocol):
    """What a base distribution must be able to do.

    numpyro's distributions meet this protocol.
    """

    def sample(self, key: Array, sample_shape: tuple[int, ...] = (), /) -> Array:
        """Draw points.

        Args:
            key: The random key.
            sample_shape: The leading axes of the result. A flow asks for `(count,)`.

        Returns:
            The points, shape `(*sample_shape, ...)`.
        """
        ...

    def log_prob(self, value: Any, /) -> Any:
        """Return the log-density at points.

        Args:
            value: The points, shape `(batch, ...)`.

        Returns:
            The log-densities, shape `(batch,)`.
        """
        ...


class _Fixed:
    """A distribution that is no part of a model's state.

    NNX sees the wrapper as one static value. So the distribution may keep its parameters in any
    order of its own.
    """

    def __init__(self, distribution: Distribution):
        self.distribution = distribution


class NormalisingFlow(nnx.Module):
    """A density whose samples a layer turns into samples of a base distribution.

    The data live at depth time t0, and the base distribution lives at t1. The log-density is
    log p(x) = log p_base(y) + int div v dt, where y = layer(x) and v is the velocity field of the
    layer. Gradients work in reverse mode, as those of the layer.

    A random divergence draws its probes from the stream `rngs.probes` of this module. Call such a
    flow under `nnx.jit`. Plain `jax.jit` draws the same probes in every call.

    Args:
        layer: The layer from data to base, which walks forward.
        base: The base distribution: a distribution of numpyro over one point, or any object with
            `log_prob(y)` of shape `(batch,)` and `sample(key, (count,))`. A base that is an
            `nnx.Module` is trained and saved with the field. Any other base stays as given, and is
            no part of the model's state.
        divergence: The way to compute div v: `Exact()`, `Hutchinson()` or `HutchPlusPlus()`.
        rngs: The random streams from which a random divergence takes its stream of probes.

    Raises:
        InputTypeError: `base` lacks one of its two methods. Or `layer` is no `neuralflow.NeuralODE`
            or walks backward. Or `divergence` is none of the three. Or `divergence` is random, and
            `rngs` is missing.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> class Normal:
        ...     def log_prob(self, y):
        ...         return -jnp.sum(y**2 + jnp.log(2 * jnp.pi), axis=1) / 2
        ...     def sample(self, key, shape):
        ...         return jax.random.normal(key, (*shape, 2))
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=8))
        >>> flow = nf.transport.NormalisingFlow(layer, Normal())
        >>> print(flow.log_prob(jnp.zeros((1, 2))).round(2))
        [0.16]

    Source:
        Chen et al., arXiv 1806.07366, stated there.
    """

    def __init__(
        self,
        layer: NeuralODE,
        base: Distribution,
        divergence: Divergence = Exact(),
        *,
        rngs: nnx.Rngs | None = None,
    ):
        checks.instance("layer", layer, NeuralODE, "a NeuralODE")
        for name, arguments in (("log_prob", 1), ("sample", 2)):
            method = getattr(base, name, None)
            checks.function(f"{name} of the base distribution", method, arguments)
        _check_divergence(divergence)
        if not isinstance(divergence, Exact):
            checks.instance(
                "rngs", rngs, nnx.Rngs, f"nnx.Rngs(seed), from which {divergence} draws its probes"
            )
        if rngs is not None:
            checks.rngs(rngs, "probes")
        if layer.backward:
            raise InputTypeError(
                "a normalising flow takes the layer that walks forward, from data to base; give "
                "it without reverse()"
            )
        self.layer, self.divergence = layer, divergence
        self._base = base if isinstance(base, nnx.Module) else nnx.static(_Fixed(base))
        self.probes = None if rngs is None else rngs.probes.fork()

    @property
    def base(self) -> Distribution:
        """The base distribution, as the constructor received it."""
        base: Any = self._base
        return base.distribution if isinstance(base, _Fixed) else base

    def log_prob(self, x: PyTree, *, context: PyTree = None) -> Float[Array, "batch"]:
        """Return the log-density at samples.

        Args:
            x: The samples, `(batch, ...)` or a pytree of such arrays.
            context: The conditions of a conditional density: the context of the field, as in a call
                of the layer.

        Returns:
            The log-densities, shape `(batch,)`.

        Raises:
            InputError: The base distribution does not give one number per sample.
            InputTypeError: Axis 0 of x does not count samples.
        """
        return self.accompanied(x, context=context)[0]

    def accompanied(
        self, x: PyTree, *rates: Rate, context: PyTree = None
    ) -> tuple[Float[Array, "batch"], tuple[Array, ...]]:
        """Return the log-density at samples, and integrals of rates from the same solve.

        Args:
            x: The samples, `(batch, ...)` or a pytree of such arrays.
            *rates: Functions from a `Motion` to `(batch,)`, as for `along`.
            context: The context of the field, as for `log_prob`.

        Returns:
            The log-densities, shape `(batch,)`, and a tuple with the integral of each rate, each of
            shape `(batch,)`.

        Raises:
            InputError: The base distribution does not give one number per sample.
            InputTypeError: Axis 0 of x does not count samples.
        """
        carried = Continuity(self.layer, self.base.log_prob, "end", self.divergence)
        key = None if isinstance(self.divergence, Exact) or self.probes is None else self.probes()
        return carried.accompanied(x, self.layer.ends[0], *rates, key=key, context=context)

    def sample(self, key: Array, count: int, *, context: PyTree = None) -> Any:
        """Draw points from the flow's density.

        The layer walks points of the base distribution back. The points are exact up to the error
        of the solve.

        Args:
            key: The random key.
            count: The number of points.
            context: The context of the field. Axis 0 of conditions of its own for every point has
                `count` entries.

        Returns:
            The points, shape `(count, ...)`.

        Raises:
            InputError: `count` is less than 1 or greater than 2^30, or the base distribution does
                not give `count` points.
            InputTypeError: `key` is not one random key, or `count` is not a whole number.
        """
        return self.layer.reverse()(self._drawn(key, count), context=context)

    def _drawn(self, key: Array, count: int) -> Any:
        """Draw points of the base distribution, and refuse what is no such row of points."""
        checks.key(key)
        checks.whole("count", count, most=2**30)
        y = self.base.sample(key, (count,))
        leaves = jax.tree.leaves(y) or [None]
        if not all(
            checks.holds_numbers(leaf) and leaf.ndim > 1 and len(leaf) == count for leaf in leaves
        ):
            shown = [np.shape(leaf) for leaf in leaves]
            raise InputError(
                f"sample of the base distribution gives points ({count}, ...), got shapes {shown}; "
                "a distribution over single coordinates becomes one over points by numpyro's "
                ".expand([d]).to_event(1)"
            )
        return y

    def sample_and_log_prob(
        self, key: Array, count: int, *, context: PyTree = None
    ) -> tuple[Any, Float[Array, "count"]]:
        """Draw points, and compute their log-densities in the same solve.

        The log-densities use the exact divergence.

        Args:
            key: The random key.
            count: The number of points.
            context: The context of the field. Axis 0 of conditions of its own for every point has
                `count` entries.

        Returns:
            The points, shape `(count, ...)`, and their log-densities, shape `(count,)`.

        Raises:
            InputError: `count` is less than 1 or greater than 2^30, or the base distribution does
                not give `count` points, and one number per point.
            InputTypeError: `key` is not one random key, or `count` is not a whole number.
        """
        y = self._drawn(key, count)
        x, (lost,) = along(self.layer.reverse(), y, divergence, context=context)
        return x, _each(self.base.log_prob(y), count) - lost


def _stencil(layer: NeuralODE, t: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return five depth times around t in its cell of depth, and their weights in d/dt at t."""
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
