"""Random residual branches: a drift, a diffusion, and a random factor of the diffusion.

A step of length h is x + h a + sqrt(h) b z, with the drift a, the diffusion b, and a random factor
z of mean zero and variance one. Stochastic depth, shake-shake, dropout and injected noise are four
choices of a, b and z. As h -> 0, the network tends in law to dX = a dt + b dB. A new kind of noise
is a subclass of `RandomField` with `parts`, `law` and `quadrature`. The networks and the SDEs that
are made of random fields stand in `networks`.

Source:
    Lu, Zhong, Li & Dong, arXiv 1710.10121. The limit is stated there for stochastic depth and
    shake-shake. The scaling of stochastic depth with h is our formulation.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, core, lax
from jax.scipy.stats import norm
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.fields import evaluate, takes_time
from neuralflow.fields.functions import evaluate_parts
from neuralflow.refinement import HoldsSteps

Per = Literal["sample", "batch"]
"""Whether a draw is made for every sample (axis 0 of x), or for the whole batch."""
"""Whether a draw is made for every sample (axis 0 of x), or for the whole batch."""


class RandomField(nnx.Module, abc.ABC):
    """A random residual branch: a drift a(x, t), a diffusion b(x, t), and the law of a factor z.

    On steps of length h, the velocity is a + b z / sqrt(h). The factor z has mean zero and variance
    one. In training, the draws come from the field's own random stream. A fixed grid folds the key
    of this stream with the number of the step. In evaluation, after `nnx.Module.eval()`, the
    velocity is its expectation a, and the field draws nothing. The factor z is a function of
    standard normal numbers. Equal keys give equal normal numbers, whatever the law.

    A subclass defines `parts`, `law` and `quadrature`, and sets `shared`.

    Args:
        per: "sample" draws one z for every sample (axis 0 of x). "batch" draws one z for the whole
            batch.
        rngs: The random streams. The field forks a stream of its own from the stream `noise`, or
            from the default stream.

    Raises:
        InputError: `per` is neither name, or `rngs` has no stream to draw noise from.
        InputTypeError: `rngs` is not an `nnx.Rngs`.

    Attributes:
        per: The value of the argument.
        deterministic: Whether the field is in evaluation, which `nnx.Module.eval()` sets.
        rngs: The field's own random stream.
    """

    shared: bool
    """Whether one z multiplies all coordinates of a sample.

    The limit then has one Brownian motion for all coordinates. Otherwise each coordinate has a z
    and a Brownian motion of its own.
    """
    additive: bool = False
    """Whether the diffusion is the same at all states and depth times."""

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
    def parts(self, x: PyTree, t: Real, *, context: PyTree = None) -> tuple[Any, Any]:
        """Return the drift a and the diffusion b.

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            context: The context, for a field that takes one.

        Returns:
            The drift and the diffusion, each in the form of x.
        """

    @abc.abstractmethod
    def law(self, normal: Array, t: Real) -> Array:
        """Turn standard normal numbers into draws of z, which has mean zero and variance one.

        Args:
            normal: Standard normal numbers, of any shape.
            t: The depth time.

        Returns:
            The draws of z, of the shape of `normal`.
        """

    @abc.abstractmethod
    def quadrature(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Return a quadrature over the law of z.

        The quadrature is exact for the means of polynomials in z up to degree five.

        Args:
            t: The depth time.

        Returns:
            Values of z and their weights, two arrays of one shape `(nodes,)`.
        """

    def check(self, times: np.ndarray) -> None:
        """Refuse depth times at which the law of z does not exist.

        Args:
            times: The depth times at which steps start, `(steps,)`.

        Raises:
            InputError: The law of z does not exist at one of the depth times.
        """

    @property
    def uses_time(self) -> bool:
        """Whether drift, diffusion or law depend on depth time.

        Weights that vary with depth do not count here. A field that does not override this property
        counts as one that depends on depth time.
        """
        return True

    def noisy(
        self, x: PyTree, t: Real, normal: PyTree, step: float, *, context: PyTree = None
    ) -> Any:
        """Return the velocity a + b z / sqrt(h) of one step.

        The law turns the normal numbers into z.

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            normal: Standard normal numbers in the form that `normals` returns.
            step: The length h of the step in depth time.
            context: The context, for a field that takes one.

        Returns:
            The velocity, in the form of x.

        Raises:
            InputTypeError: x is not made of arrays of floating-point numbers, or `normal` has
                another structure.
            InputError: `step` is not a positive number, or an array of x has no axis of samples, or
                a shape of `normal` does not fit.
        """
        _check_draw(x, t, normal, step)
        drift, diffusion = evaluate(self.parts, x, t, context)

        def scaled(a, b, n):
            """Add the scaled noise of one array of the state."""
            return a + b * (self.law(n, t) / step**0.5).astype(a.dtype)

        return jax.tree.map(scaled, drift, diffusion, normal)

    def normals(self, key: Array, x: PyTree) -> Any:
        """Draw the standard normal numbers of one step.

        Args:
            key: The random key of the step.
            x: The states, an array or a pytree of arrays with the samples along axis 0.

        Returns:
            The normal numbers, in the form of x and in shapes that broadcast to the shapes of x.

        Raises:
            InputTypeError: `key` is not one random key, or x is not made of arrays of
                floating-point numbers.
            InputError: The arrays of x have no axis of samples, or different numbers of samples.
        """
        checks.key(key)
        check_samples(x)
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
        """Return the shape of the normal numbers for one array of the state."""
        rest = (1,) * (leaf.ndim - 1) if self.shared else leaf.shape[1:]
        return (leaf.shape[0] if self.per == "sample" else 1, *rest)


def check_samples(x: PyTree) -> None:
    """Refuse states that are not floating-point arrays with the same number of samples.

    Args:
        x: The states, an array or a pytree of arrays with the samples along axis 0.

    Raises:
        InputTypeError: A leaf is not an array of real floating-point numbers, or there is none.
        InputError: An array has no axis of samples, or the arrays have different numbers of them.
    """
    checks.states("x", x)
    leaves = jax.tree.leaves(x)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputTypeError(
                f"x must hold real floating-point numbers, got {leaf.dtype}; cast it"
            )
        if not leaf.ndim:
            raise InputError("axis 0 of x counts the samples, but x has no axis; add one")
    counts = [leaf.shape[0] for leaf in leaves]
    if len(set(counts)) > 1:
        raise InputError(f"axis 0 of x counts the samples, but its arrays hold {counts} of them")


def _check_draw(x: PyTree, t: Any, normal: PyTree, step: Any) -> None:
    """Refuse the arguments of one step with given normal numbers."""
    check_samples(x)
    checks.number("t", t)
    checks.positive("step", step, "the length of the step in depth time")
    if jax.tree.structure(normal) != jax.tree.structure(x):
        raise InputTypeError(
            f"normal must have the structure of x, as of normals(key, x), got {type(normal)}"
        )
    for part, leaf in zip(*map(jax.tree.leaves, (normal, x)), strict=True):
        checks.array("normal", part, "...")
        if part.ndim != leaf.ndim or any(
            n not in (1, m) for n, m in zip(part.shape, leaf.shape, strict=True)
        ):
            raise InputError(
                f"normal must have a shape that broadcasts to that of x, {leaf.shape}, got "
                f"{part.shape}; normals(key, x) draws it"
            )


class Stepped(HoldsSteps):
    """A random field on steps of one length, as a velocity field for a fixed grid of such steps.

    `RandomNetwork` builds this module.

    Args:
        field: The random field.
        step: The length h of the steps in depth time.

    Raises:
        InputError: The step is not a positive number.
        InputTypeError: `field` is not a random field.
    """

    def __init__(self, field: RandomField, step: float = 1.0):
        checks.instance(
            "field",
            field,
            RandomField,
            "a random field such as nf.labs.stochastic.StochasticDepth(...)",
        )
        checks.positive("step", step, "the length of the steps in depth time")
        self.field = field
        self.step: float | None = float(step)

    def _change_steps(self, factor: Fraction | None) -> None:
        """Divide the length of the steps; the limit for short steps stays the same."""
        if factor is None or self.step is None:
            self.step = None
        else:
            self.step = float(self.step / factor)

    def __call__(self, x: PyTree, t: Real, *, context: PyTree = None) -> Any:
        """Return the velocity at x: a draw in training, the expectation in evaluation.

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            context: The context, for a field that takes one.

        Raises:
            InputError: The field draws, and the steps have no common length or several evaluations.

        @public
        """
        if self.field.deterministic:
            return evaluate(self.field.parts, x, t, context)[0]
        if self.step is None:
            raise InputError(
                "a random field draws once in a step, and all steps have one length; call eval(), "
                "or take a candidate of equal Euler steps"
            )
        normals = self.field.normals(self.field.rngs(), x)
        return self.field.noisy(x, t, normals, self.step, context=context)


Probability = float | Callable[[Any], Any]
"""A survival probability: a number, or a function of depth time."""


def linear(last: float, *, length: float = 1.0, step: float = 0.0) -> Callable[[Any], Any]:
    """Return a survival probability that falls linearly along depth, for an interval from 0.

    The probability is p(t) = 1 - (t + step) / length (1 - last). With the length of a block as
    `step`, block l of L blocks survives with the probability 1 - l / L (1 - last), which is the
    published rule.

    Args:
        last: The probability at the end of depth, above zero and at most one.
        length: The length of the interval in depth time.
        step: The length of a block in depth time. With the default 0, the probability is one at
            t = 0.

    Returns:
        The function p(t) of depth time, for the argument `survival` of a random field.

    Raises:
        InputError: `last` is no probability above zero, `length` is not a positive number, or
            `step` is negative.
        InputTypeError: `step` is not a number.

    Source:
        Huang et al., arXiv 1603.09382, for the published rule.
    """
    _check_probability("last", last)
    checks.positive("length", length, "that of the interval in depth time")
    checks.number("step", step, least=0)
    return lambda t: 1 - (t + step) / length * (1 - last)


def _check_field(name: str, field: Any) -> None:
    """Refuse a field that is no module, or that is random itself."""
    checks.instance(name, field, nnx.Module, "an nnx.Module such as nf.fields.MLP(...)")
    if isinstance(field, RandomField):
        raise InputTypeError(
            f"{name} must be a plain field: random ones do not nest, got {type(field).__name__}"
        )


def _check_probability(name: str, p: PyTree) -> None:
    """Refuse what is not a number above zero and at most one."""
    if not checks.is_number(p) or not 0 < p <= 1:
        raise InputError(f"{name} is a probability above zero and up to one, got {p!r}")


class _Thinned(RandomField):
    """A field that survives with probability p(t), by Bernoulli draws."""

    def __init__(self, field: nnx.Module, survival: Probability, per: Per, rngs: nnx.Rngs):
        super().__init__(per, rngs)
        _check_field("field", field)
        if callable(survival):
            checks.function("survival", survival, 1)
        else:
            _check_probability("survival", survival)
            survival = float(survival)
        takes_time(field)  # refuses a field with another signature
        self.field, self.survival = field, survival

    @property
    def uses_time(self) -> bool:
        """Whether the field or its survival probability depends on depth time."""
        return takes_time(self.field) or callable(self.survival)

    def check(self, times: np.ndarray) -> None:
        """Refuse depth times at which p(t) is not a probability above zero.

        A traced p(t), as of a learned probability, is not checked.

        Args:
            times: The depth times at which steps start, `(steps,)`.

        Raises:
            InputError: p(t) is not a number above zero and at most one at one of the depth times.
            InputTypeError: `times` does not consist of numbers.
        """
        survival: Any = self.survival
        times = checks.known_numbers("times", times, "steps")
        for t in times if callable(survival) else ():
            p: Any = survival(float(t))
            if isinstance(p, core.Tracer):  # a learned probability
                return
            if not checks.is_number(p) or not 0 < p <= 1:
                raise InputError(
                    "survival is a probability above zero and up to one at every depth time, got "
                    f"{p!r} at t = {t:g}; "
                    "nf.labs.stochastic.linear takes the length of the interval"
                )

    def velocity(self, x: PyTree, t: Real, *, context: PyTree = None) -> Any:
        """Return the velocity f(x, t) of the plain field.

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            context: The context, for a field that takes one.

        Raises:
            InputTypeError: `x` is not made of arrays of numbers.
        """
        checks.states("x", x)
        return evaluate(self.field, x, t, context)

    def probability(self, t: Real) -> Any:
        """Return the survival probability p(t).

        Args:
            t: The depth time.

        Raises:
            InputTypeError: `t` is not a number.
        """
        checks.number("t", t)
        survival: Any = self.survival
        return survival(t) if callable(survival) else survival

    def law(self, normal: Array, t: Real) -> Array:
        """Turn standard normal numbers into draws of z = (eta - p) / sqrt(p (1 - p)).

        Here eta is one with the probability p(t), and zero otherwise.

        Args:
            normal: Standard normal numbers, of any shape.
            t: The depth time.

        Returns:
            The draws of z, of the shape of `normal`.

        Raises:
            InputTypeError: `normal` is not an array of floating-point numbers, or `t` is not a
                number.
        """
        checks.array("normal", normal, "...")
        p = jnp.asarray(self.probability(t), normal.dtype)
        # The draw rises with the normal number.
        alive = (norm.cdf(-normal) < p).astype(normal.dtype)
        return (alive - p) / _spread(p)

    def quadrature(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the two values of z and their probabilities.

        Args:
            t: The depth time.

        Returns:
            Values of z and their weights, two arrays `(2,)`.

        Raises:
            InputTypeError: `t` is not a number.
        """
        p = float(self.probability(t))
        return (np.asarray([1 - p, -p]) / float(_spread(jnp.asarray(p)))), np.asarray([p, 1 - p])


def _spread(p: Array) -> Array:
    """Return sqrt(p (1 - p)), or one where nothing is random."""
    variance = p * (1 - p)
    return jnp.sqrt(jnp.where(variance > 0, variance, 1))


class StochasticDepth(_Thinned):
    """Stochastic depth: residual blocks that are left out at random.

    A step of length h is x + h p f + sqrt(h) (eta - p) f. Here eta is one with the probability
    p(t), and zero otherwise. With h = 1, the step is x + eta f. The limit for h -> 0 is dX = p f
    dt + sqrt(p (1 - p)) f dB, with one scalar Brownian motion.

    With h = 1 and per="batch", a block that is left out is not computed. Its batch statistics are
    not updated either.

    Args:
        field: The velocity field f, a plain NNX module f(x) or f(x, t).
        survival: The probability p, above zero and at most one. p is a number or a function of
            depth time such as `linear(0.5)`.
        per: "sample" draws one eta for every sample (axis 0 of x). "batch" draws one eta for the
            whole batch.
        rngs: The random streams, from which the field forks a stream of its own.

    Raises:
        InputError: `survival` is neither a function nor a number above zero and at most one, `per`
            is neither name, or the random streams lack one to draw noise from.
        InputTypeError: The field is not a module, is a random field itself, or cannot be called as
            f(x) or f(x, t).

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> decay = nf.from_function(lambda rate, x: -rate * x, jnp.asarray(0.5))
        >>> field = nf.labs.stochastic.StochasticDepth(decay, 0.8, rngs=nnx.Rngs(0))
        >>> drift, diffusion = field.parts(jnp.ones((1, 1)), 0.0)  # p f and sqrt(p (1 - p)) f
        >>> round(drift.item(), 2), round(diffusion.item(), 2)
        (-0.4, -0.2)

    Source:
        Lu, Zhong, Li & Dong, arXiv 1710.10121. The limit is stated there. The scaling with h is our
        formulation.
    """

    shared = True

    def __init__(
        self, field: nnx.Module, survival: Probability = 0.8, *, per: Per = "sample", rngs: nnx.Rngs
    ):
        super().__init__(field, survival, per, rngs)

    def noisy(
        self, x: PyTree, t: Real, normal: PyTree, step: float, *, context: PyTree = None
    ) -> Any:
        """Return the velocity of one step.

        Where h = 1 and the batch shares eta, the velocity is eta f. Elsewhere, the velocity is
        a + b z / sqrt(h).

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            normal: Standard normal numbers in the form that `RandomField.normals` returns.
            step: The length h of the step in depth time.
            context: The context, for a field that takes one.

        Returns:
            The velocity, in the form of x.
        """
        if self.per == "sample" or step != 1:
            return super().noisy(x, t, normal, step, context=context)
        alive = norm.cdf(-jax.tree.leaves(normal)[0].ravel()[0]) < self.probability(t)
        graphdef, statistics, rest = nnx.split(self.field, nnx.BatchStat, ...)

        def through(statistics: PyTree, x: PyTree) -> Any:
            """Evaluate the field, and return its new batch statistics and its velocity."""
            field = nnx.merge(graphdef, statistics, rest)
            velocity = evaluate(field, x, t, context)
            return nnx.state(field, nnx.BatchStat), velocity

        def past(statistics, x):
            """Leave the field out: the batch statistics stay, and the velocity is zero."""
            return (statistics, jax.tree.map(jnp.zeros_like, x))

        statistics, velocity = lax.cond(alive, through, past, statistics, x)
        nnx.update(self.field, statistics)
        return velocity

    def parts(self, x: PyTree, t: Real, *, context: PyTree = None) -> tuple[Any, Any]:
        """Return the drift p f and the diffusion sqrt(p (1 - p)) f.

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            context: The context, for a field that takes one.

        Returns:
            The drift and the diffusion, each in the form of x.

        Raises:
            InputTypeError: `x` is not made of arrays of numbers, or `t` is not a number.
        """
        velocity, p = self.velocity(x, t, context=context), jnp.asarray(self.probability(t))

        def scaled(c):
            return jax.tree.map(lambda v: c.astype(v.dtype) * v, velocity)

        return scaled(p), scaled(jnp.sqrt(jnp.maximum(p * (1 - p), 0)))


class Dropout(_Thinned):
    """Dropout: coordinates of the residual branch that are left out at random.

    A step of length h is x + h f + sqrt(h) (m / p - 1) f. Each coordinate has its own m, which is
    one with the probability p(t), and zero otherwise. The coordinates that survive are therefore
    divided by p. The limit for h -> 0 is dX = f dt + sqrt((1 - p) / p) f dB, with a Brownian motion
    for every coordinate.

    Args:
        field: The velocity field f, a plain NNX module f(x) or f(x, t).
        survival: The probability p, above zero and at most one. p is a number or a function of
            depth time such as `linear(0.5)`.
        per: "sample" draws one mask for every sample (axis 0 of x). "batch" draws one mask for the
            whole batch.
        rngs: The random streams, from which the field forks a stream of its own.

    Raises:
        InputError: `survival` is neither a function nor a number above zero and at most one, `per`
            is neither name, or the random streams lack one to draw noise from.
        InputTypeError: The field is not a module, is a random field itself, or cannot be called as
            f(x) or f(x, t).
    """

    shared = False

    def __init__(
        self, field: nnx.Module, survival: Probability = 0.9, *, per: Per = "sample", rngs: nnx.Rngs
    ):
        super().__init__(field, survival, per, rngs)

    def parts(self, x: PyTree, t: Real, *, context: PyTree = None) -> tuple[Any, Any]:
        """Return the drift f and the diffusion sqrt((1 - p) / p) f.

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            context: The context, for a field that takes one.

        Returns:
            The drift and the diffusion, each in the form of x.

        Raises:
            InputTypeError: `x` is not made of arrays of numbers, or `t` is not a number.
        """
        velocity, p = self.velocity(x, t, context=context), jnp.asarray(self.probability(t))
        return velocity, jax.tree.map(
            lambda v: jnp.sqrt(jnp.maximum(1 - p, 0) / p).astype(v.dtype) * v, velocity
        )


class ShakeShake(RandomField):
    """Shake-shake: two residual branches f1 and f2, mixed in random proportions.

    A step of length h is x + (h/2 + sqrt(h) (eta - 1/2)) f1 + (h/2 + sqrt(h) (1/2 - eta)) f2, with
    eta uniform on (0, 1). The limit for h -> 0 is dX = (f1 + f2) / 2 dt + (f1 - f2) / sqrt(12) dB,
    with one scalar Brownian motion.

    Args:
        first: The velocity field f1, a plain NNX module f(x) or f(x, t).
        second: The velocity field f2, a plain NNX module f(x) or f(x, t).
        per: "sample" draws one eta for every sample (axis 0 of x). "batch" draws one eta for the
            whole batch.
        rngs: The random streams, from which the field forks a stream of its own.

    Raises:
        InputError: `per` is neither name, or the random streams lack one to draw noise from.
        InputTypeError: A branch is not a module, is a random field itself, or cannot be called as
            f(x) or f(x, t).

    Source:
        Lu, Zhong, Li & Dong, arXiv 1710.10121. Step and limit are stated there.
    """

    shared = True

    def __init__(
        self, first: nnx.Module, second: nnx.Module, *, per: Per = "sample", rngs: nnx.Rngs
    ):
        super().__init__(per, rngs)
        for name, part in (("first", first), ("second", second)):
            _check_field(name, part)
            takes_time(part)  # refuses a field with another signature
        self.first, self.second = first, second

    @property
    def uses_time(self) -> bool:
        """Whether one of the two branches depends on depth time."""
        return takes_time(self.first) or takes_time(self.second)

    def parts(self, x: PyTree, t: Real, *, context: PyTree = None) -> tuple[Any, Any]:
        """Return the drift (f1 + f2) / 2 and the diffusion (f1 - f2) / sqrt(12).

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            context: The context, for a field that takes one.

        Returns:
            The drift and the diffusion, each in the form of x.

        Raises:
            InputTypeError: `x` is not made of arrays of numbers, or `t` is not a number.
        """
        checks.states("x", x)
        checks.number("t", t)
        one, two = evaluate_parts((self.first, self.second), (x, x), t, context)
        return jax.tree.map(lambda a, b: (a + b) / 2, one, two), jax.tree.map(
            lambda a, b: (a - b) / 12**0.5, one, two
        )

    def law(self, normal: Array, t: Real) -> Array:
        """Turn standard normal numbers into draws of z = sqrt(12) (eta - 1/2).

        Here eta is uniform on (0, 1).

        Args:
            normal: Standard normal numbers, of any shape.
            t: The depth time, which the law does not use.

        Returns:
            The draws of z, of the shape of `normal`.

        Raises:
            InputTypeError: `normal` is not an array of floating-point numbers, or `t` is not a
                number.
        """
        checks.array("normal", normal, "...")
        checks.number("t", t)
        return (norm.cdf(normal) - 0.5) * 12**0.5

    def quadrature(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Return four Gauss-Legendre nodes of z and their weights.

        Args:
            t: The depth time, which the law does not use.

        Returns:
            Values of z and their weights, two arrays `(4,)`.

        Raises:
            InputTypeError: `t` is not a number.
        """
        checks.number("t", t)
        nodes, weights = np.polynomial.legendre.leggauss(4)
        return nodes * 3**0.5, weights / 2


class _Normal(RandomField):
    """A random field whose random numbers z are standard normal."""

    def law(self, normal: Array, t: Real) -> Array:
        """Return the normal numbers themselves.

        Args:
            normal: Standard normal numbers, of any shape.
            t: The depth time, which the law does not use.

        Raises:
            InputTypeError: `normal` is not an array of floating-point numbers, or `t` is not a
                number.
        """
        checks.array("normal", normal, "...")
        checks.number("t", t)
        return normal

    def quadrature(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Return four Gauss-Hermite nodes of z and their weights.

        Args:
            t: The depth time, which the law does not use.

        Returns:
            Values of z and their weights, two arrays `(4,)`.

        Raises:
            InputTypeError: `t` is not a number.
        """
        checks.number("t", t)
        nodes, weights = np.polynomial.hermite_e.hermegauss(4)
        return nodes, weights / weights.sum()


class Noise(_Normal):
    """Normal noise that is added to every coordinate.

    A step of length h is x + h f + sqrt(h) scale z. The limit for h -> 0 is dX = f dt + scale dB,
    with a Brownian motion for every coordinate.

    Args:
        field: The velocity field f, a plain NNX module f(x) or f(x, t).
        scale: The standard deviation of the noise in one unit of depth time.
        per: "sample" draws the noise for every sample (axis 0 of x). "batch" draws one noise for
            the whole batch.
        rngs: The random streams, from which the field forks a stream of its own.

    Raises:
        InputError: `scale` is not a positive number, `per` is neither name, or the random streams
            lack one to draw noise from.
        InputTypeError: The field is not a module, is a random field itself, or cannot be called as
            f(x) or f(x, t).
    """

    shared = False
    additive = True

    def __init__(self, field: nnx.Module, scale: float, *, per: Per = "sample", rngs: nnx.Rngs):
        super().__init__(per, rngs)
        _check_field("field", field)
        checks.positive(
            "scale", scale, "the standard deviation of the noise in one unit of depth time"
        )
        takes_time(field)  # refuses a field with another signature
        self.field, self.scale = field, float(scale)

    @property
    def uses_time(self) -> bool:
        """Whether the field depends on depth time."""
        return takes_time(self.field)

    def parts(self, x: PyTree, t: Real, *, context: PyTree = None) -> tuple[Any, Any]:
        """Return the drift f and the constant diffusion `scale`.

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            context: The context, for a field that takes one.

        Returns:
            The drift and the diffusion, each in the form of x.

        Raises:
            InputTypeError: `x` is not made of arrays of numbers, or `t` is not a number.
        """
        checks.states("x", x)
        checks.number("t", t)
        return evaluate(self.field, x, t, context), jax.tree.map(
            lambda leaf: jnp.full_like(leaf, self.scale), x
        )


class Gaussian(_Normal):
    """A random field with normal numbers in the place of its own law.

    On steps of length h, this field gives the Euler-Maruyama scheme for the limit of the original
    field. Both fields share one random stream, so that one key gives both the same normal numbers.

    Args:
        field: The random field whose drift and diffusion are used.

    Raises:
        InputTypeError: `field` is not a random field.
    """

    def __init__(self, field: RandomField):
        checks.instance(
            "field",
            field,
            RandomField,
            "a random field such as nf.labs.stochastic.StochasticDepth(...)",
        )
        super().__init__(cast(Any, field.per), nnx.Rngs(0))
        # Both fields share one stream, so that one key gives both the same normal numbers.
        self.field, self.shared, self.rngs = field, field.shared, field.rngs

    def parts(self, x: PyTree, t: Real, *, context: PyTree = None) -> tuple[Any, Any]:
        """Return the drift and the diffusion of the original field.

        Args:
            x: The states, an array or a pytree of arrays with the samples along axis 0.
            t: The depth time.
            context: The context, for a field that takes one.

        Returns:
            The drift and the diffusion, each in the form of x.

        Raises:
            InputTypeError: `x` is not made of arrays of numbers, or `t` is not a number.
        """
        return evaluate(self.field.parts, x, t, context)

    def check(self, times: np.ndarray) -> None:
        """Refuse the depth times that the original field refuses.

        Args:
            times: The depth times at which steps start, `(steps,)`.

        Raises:
            InputError: The law of the original field does not exist at one of the depth times.
        """
        self.field.check(times)

    @property
    def uses_time(self) -> bool:
        """Whether the original field depends on depth time."""
        return self.field.uses_time
