"""Random residual branches: a drift, a diffusion, and the law of what multiplies it.

A step of length h is x + h a + sqrt(h) b z, with z of mean zero and variance one: stochastic depth, shake-shake, dropout and injected
noise are four choices of a, b and z. As h -> 0 it tends in law to dX = a dt + b dB (Lu, Zhong, Li & Dong, arXiv 1710.10121, stated for
stochastic depth and shake-shake; the scaling of stochastic depth with h is our formulation).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, core, lax
from jax.scipy.stats import norm

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.fields import evaluate, takes_time

Per = Literal["sample", "batch"]


class RandomField(nnx.Module, abc.ABC):
    """Drift a(x, t), diffusion b(x, t) and the law of a random branch: on steps of length h the velocity is a + b z / sqrt(h).

    `per`: one draw for every sample (axis 0 of x), or one for the whole batch. Draws come from the field's own stream, folded with the number of
    the step; in evaluation the velocity is a, its expectation, and nothing is drawn. z is a function of normal numbers, which are the same for the
    same keys whatever the law.
    """

    shared: bool
    """Whether one number multiplies all coordinates of a sample: one Brownian motion in the limit, not one for each."""
    additive: bool = False
    """Whether the diffusion is the same everywhere."""

    def __init__(self, per: Per, rngs: nnx.Rngs):
        checks.choice("per", per, ("sample", "batch"))
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if not {"noise", "default"} & set(rngs):
            raise InputError(
                "rngs has no stream to draw noise from; take nnx.Rngs(seed) or nnx.Rngs(noise=seed)"
            )
        self.per, self.deterministic = per, False
        self.rngs = rngs.noise.fork()

    @abc.abstractmethod
    def parts(self, x: Any, t: Any) -> tuple[Any, Any]:
        """Drift a and diffusion b at x and t, each in the form of x."""

    @abc.abstractmethod
    def law(self, normal: Array, t: Any) -> Array:
        """z, of mean zero and variance one, from standard normal numbers."""

    @abc.abstractmethod
    def quadrature(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Values of z and their weights, exact for the means of polynomials up to degree five."""

    def check(self, times: np.ndarray) -> None:
        """ValueError where the law is none at one of these depth times, those at which steps start."""

    @property
    def uses_time(self) -> bool:
        """Whether drift, diffusion or law depend on depth time, weights apart; a field that does not say so is taken to."""
        return True

    def noisy(self, x: Any, t: Any, normal: Any, step: float) -> Any:
        """a + b z / sqrt(h), z by the law from normal numbers."""
        drift, diffusion = self.parts(x, t)

        def scaled(a, b, n):
            return a + b * (self.law(n, t) / step**0.5).astype(a.dtype)

        return jax.tree.map(scaled, drift, diffusion, normal)

    def normals(self, key: Array, x: Any) -> Any:
        """Standard normal numbers for one step, in shapes that broadcast to those of x."""
        leaves, form = jax.tree.flatten(x)
        keys = [key] * len(leaves) if self.shared else list(jax.random.split(key, len(leaves)))
        return jax.tree.unflatten(
            form,
            [
                jax.random.normal(k, self._shape(leaf), leaf.dtype)
                for k, leaf in zip(keys, leaves, strict=True)
            ],
        )

    def _shape(self, leaf: Array) -> tuple[int, ...]:
        rest = (1,) * (leaf.ndim - 1) if self.shared else leaf.shape[1:]
        return (leaf.shape[0] if self.per == "sample" else 1, *rest)


class Stepped(nnx.Module):
    """A random field on steps of one length, as a velocity field for a fixed grid of such steps; `RandomNetwork` builds it."""

    def __init__(self, field: RandomField, step: float = 1.0):
        checks.instance(
            "field",
            field,
            RandomField,
            "a random field such as nf.labs.stochastic.StochasticDepth(...)",
        )
        checks.positive("step", step, "the length of the steps in depth time")
        self.field, self.step = field, float(step)

    def __call__(self, x: Any, t: Any) -> Any:
        """Velocity at x: a draw in training, the expectation in evaluation."""
        if self.field.deterministic:
            return self.field.parts(x, t)[0]
        return self.field.noisy(x, t, self.field.normals(self.field.rngs(), x), self.step)


Probability = float | Callable[[Any], Any]


def linear(last: float, *, length: float = 1.0, step: float = 0.0) -> Callable[[Any], Any]:
    """p(t) = 1 - (t + step) / length (1 - last): survival that falls to `last` at the end of depth.

    With `step` the length of a block, block l of L survives with 1 - l / L (1 - last), the published rule (Huang et al., arXiv 1603.09382).
    """
    _check_probability("last", last)
    checks.positive("length", length, "that of the interval in depth time")
    if step:
        checks.positive("step", step, "the length of a block in depth time, or 0")
    return lambda t: 1 - (t + step) / length * (1 - last)


def _check_field(name: str, field: Any) -> None:
    checks.instance(name, field, nnx.Module, "an nnx.Module such as nf.fields.MLP(...)")
    if isinstance(field, RandomField):
        raise InputTypeError(
            f"{name} must be a plain field: random ones do not nest, got {type(field).__name__}"
        )


def _check_probability(name: str, p: Any) -> None:
    if not isinstance(p, int | float | np.number) or isinstance(p, bool) or not 0 < p <= 1:
        raise InputError(f"{name} is a probability above zero and up to one, got {p!r}")


class _Thinned(RandomField):
    """A field that survives with probability p(t), by Bernoulli draws."""

    def __init__(self, field: nnx.Module, survival: Probability, per: Per, rngs: nnx.Rngs):
        super().__init__(per, rngs)
        _check_field("field", field)
        if not callable(survival):
            _check_probability("survival", survival)
            survival = float(survival)
        takes_time(field)  # refuses what is called in another way
        self.field, self.survival = field, survival

    @property
    def uses_time(self) -> bool:
        """Whether the field or its survival does."""
        return takes_time(self.field) or callable(self.survival)

    def check(self, times: np.ndarray) -> None:
        """ValueError where p(t) is no probability above zero."""
        survival: Any = self.survival
        for t in times if callable(survival) else ():
            p: Any = survival(float(t))
            if isinstance(p, core.Tracer):  # a learned one
                return
            if (
                np.ndim(p)
                or not isinstance(p, int | float | np.number | np.ndarray | Array)
                or not 0 < p <= 1
            ):
                raise InputError(
                    f"survival is a probability above zero and up to one at every depth time, got {p!r} at t = {t:g}; "
                    "nf.labs.stochastic.linear takes the length of the interval"
                )

    def velocity(self, x: Any, t: Any) -> Any:
        return evaluate(self.field, x, t)

    def probability(self, t: Any) -> Any:
        """p(t)."""
        survival: Any = self.survival
        return survival(t) if callable(survival) else survival

    def law(self, normal: Array, t: Any) -> Array:
        p = jnp.asarray(self.probability(t), normal.dtype)
        alive = (norm.cdf(-normal) < p).astype(normal.dtype)  # rises with the normal number
        return (alive - p) / _spread(p)

    def quadrature(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        p = float(self.probability(t))
        return (np.asarray([1 - p, -p]) / float(_spread(jnp.asarray(p)))), np.asarray([p, 1 - p])


def _spread(p: Array) -> Array:
    """sqrt(p (1 - p)); where nothing is random, 1."""
    variance = p * (1 - p)
    return jnp.sqrt(jnp.where(variance > 0, variance, 1))


class StochasticDepth(_Thinned):
    """Blocks that are left out at random: x + h p f + sqrt(h) (eta - p) f, P(eta = 1) = p(t); with h = 1, x + eta f.

    Limit dX = p f dt + sqrt(p (1 - p)) f dB with one scalar Brownian motion. `survival`: p, a number or a function of depth time such as
    `linear(0.5)`. With h = 1 and per="batch" a block that is left out is not computed, nor are its batch statistics updated.
    """

    shared = True

    def __init__(
        self, field: nnx.Module, survival: Probability = 0.8, *, per: Per = "sample", rngs: nnx.Rngs
    ):
        super().__init__(field, survival, per, rngs)

    def noisy(self, x: Any, t: Any, normal: Any, step: float) -> Any:
        """eta f where h = 1 and the batch shares eta; the general form elsewhere."""
        if self.per == "sample" or step != 1:
            return super().noisy(x, t, normal, step)
        alive = norm.cdf(-jax.tree.leaves(normal)[0].ravel()[0]) < self.probability(t)
        graphdef, statistics, rest = nnx.split(self.field, nnx.BatchStat, ...)

        def through(statistics: Any, x: Any) -> Any:
            field = nnx.merge(graphdef, statistics, rest)
            velocity = evaluate(field, x, t)
            return nnx.state(field, nnx.BatchStat), velocity

        def past(statistics, x):
            return (statistics, jax.tree.map(jnp.zeros_like, x))

        statistics, velocity = lax.cond(alive, through, past, statistics, x)
        nnx.update(self.field, statistics)
        return velocity

    def parts(self, x: Any, t: Any) -> tuple[Any, Any]:
        """p f and sqrt(p (1 - p)) f."""
        velocity, p = self.velocity(x, t), jnp.asarray(self.probability(t))

        def scaled(c):
            return jax.tree.map(lambda v: c.astype(v.dtype) * v, velocity)

        return scaled(p), scaled(jnp.sqrt(jnp.maximum(p * (1 - p), 0)))


class Dropout(_Thinned):
    """Coordinates of the branch that are left out at random, the others divided by p: x + h f + sqrt(h) (m / p - 1) f.

    Limit dX = f dt + sqrt((1 - p) / p) f dB with a Brownian motion for every coordinate.
    """

    shared = False

    def __init__(
        self, field: nnx.Module, survival: Probability = 0.9, *, per: Per = "sample", rngs: nnx.Rngs
    ):
        super().__init__(field, survival, per, rngs)

    def parts(self, x: Any, t: Any) -> tuple[Any, Any]:
        """f and sqrt((1 - p) / p) f."""
        velocity, p = self.velocity(x, t), jnp.asarray(self.probability(t))
        return velocity, jax.tree.map(
            lambda v: jnp.sqrt(jnp.maximum(1 - p, 0) / p).astype(v.dtype) * v, velocity
        )


class ShakeShake(RandomField):
    """Two branches in random proportions: x + (h/2 + sqrt(h) (eta - 1/2)) f1 + (h/2 + sqrt(h) (1/2 - eta)) f2, eta ~ U(0, 1).

    Limit dX = (f1 + f2) / 2 dt + (f1 - f2) / sqrt(12) dB with one scalar Brownian motion (Lu et al., stated there).
    """

    shared = True

    def __init__(
        self, first: nnx.Module, second: nnx.Module, *, per: Per = "sample", rngs: nnx.Rngs
    ):
        super().__init__(per, rngs)
        for name, part in (("first", first), ("second", second)):
            _check_field(name, part)
            takes_time(part)  # refuses what is called in another way
        self.first, self.second = first, second

    @property
    def uses_time(self) -> bool:
        """Whether one of the branches does."""
        return takes_time(self.first) or takes_time(self.second)

    def parts(self, x: Any, t: Any) -> tuple[Any, Any]:
        """(f1 + f2) / 2 and (f1 - f2) / sqrt(12)."""
        one, two = (evaluate(branch, x, t) for branch in (self.first, self.second))
        return jax.tree.map(lambda a, b: (a + b) / 2, one, two), jax.tree.map(
            lambda a, b: (a - b) / 12**0.5, one, two
        )

    def law(self, normal: Array, t: Any) -> Array:
        return (norm.cdf(normal) - 0.5) * 12**0.5

    def quadrature(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        nodes, weights = np.polynomial.legendre.leggauss(4)
        return nodes * 3**0.5, weights / 2


class Noise(RandomField):
    """Normal noise added to every coordinate: x + h f + sqrt(h) scale z. Limit dX = f dt + scale dB."""

    shared = False
    additive = True

    def __init__(self, field: nnx.Module, scale: float, *, per: Per = "sample", rngs: nnx.Rngs):
        super().__init__(per, rngs)
        _check_field("field", field)
        checks.positive(
            "scale", scale, "the standard deviation of the noise in one unit of depth time"
        )
        takes_time(field)  # refuses what is called in another way
        self.field, self.scale = field, float(scale)

    @property
    def uses_time(self) -> bool:
        """Whether the field does."""
        return takes_time(self.field)

    def parts(self, x: Any, t: Any) -> tuple[Any, Any]:
        """f and the scale."""
        return evaluate(self.field, x, t), jax.tree.map(
            lambda leaf: jnp.full_like(leaf, self.scale), x
        )

    def law(self, normal: Array, t: Any) -> Array:
        return normal

    def quadrature(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        return _hermite()


class Gaussian(RandomField):
    """A random field with normal numbers in the place of its own law: on steps of length h, Euler and Maruyama's scheme for its limit."""

    def __init__(self, field: RandomField):
        checks.instance(
            "field",
            field,
            RandomField,
            "a random field such as nf.labs.stochastic.StochasticDepth(...)",
        )
        super().__init__(cast(Any, field.per), nnx.Rngs(0))
        # One stream for both, so that one key gives both the same normal numbers.
        self.field, self.shared, self.rngs = field, field.shared, field.rngs

    def parts(self, x: Any, t: Any) -> tuple[Any, Any]:
        """Those of the field."""
        return self.field.parts(x, t)

    def check(self, times: np.ndarray) -> None:
        """That of the field."""
        self.field.check(times)

    @property
    def uses_time(self) -> bool:
        """Whether the field does."""
        return self.field.uses_time

    def law(self, normal: Array, t: Any) -> Array:
        return normal

    def quadrature(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        return _hermite()


def _hermite() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    return nodes, weights / weights.sum()
