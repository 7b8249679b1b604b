"""Weak convergence by sampling: means over paths, and errors of random networks with intervals.

The errors are the differences between the means of random networks and the means of their limit.
Exact moments of linear fields stand in `moments`.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, core, lax
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError
from neuralflow.labs.stochastic.fields import Gaussian, RandomField
from neuralflow.labs.stochastic.networks import MOST_STEPS, NeuralSDE, RandomNetwork
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.solve import FixedGrid
from neuralflow.statistics import Estimate, estimate, weighed_order

_CHUNK = 2**14


def expectation(
    network: RandomNetwork | NeuralSDE,
    functional: Callable[[PyTree], Array],
    x: PyTree,
    *,
    count: int,
    key: Array,
) -> Estimate:
    """Estimate the mean of a functional of the output over random paths from one point.

    The paths are the samples of batches. The field therefore has to draw per sample.

    Args:
        network: The random network or the SDE.
        functional: The functional, which maps outputs `(batch, ...)` to numbers `(batch, *values)`.
        x: The point where all paths start, one array `(...)` or a pytree of arrays, without an axis
            of samples.
        count: The number of paths, at least two.
        key: The random key of the paths.

    Returns:
        The mean and its standard error, `(*values)` each.

    Raises:
        InputError: The field draws per batch, x is not made of finite floating-point numbers,
            `count` is below two or above 2^28, or the functional does not return one value for each
            sample.
        InputTypeError: `network` is neither a `RandomNetwork` nor a `NeuralSDE`, `functional` is
            not a function, `key` is not one random key, or `count` is not a whole number.
    """
    checks.instance("network", network, RandomNetwork | NeuralSDE, "a RandomNetwork or a NeuralSDE")
    _check(network.field, functional, x, count, key)
    graphdef, state = nnx.split(network)
    values = _sampled(
        (functional, graphdef, int(count)), (state, jax.tree.map(jnp.asarray, x), key)
    )
    return estimate(values)


class WeakErrors(NamedTuple):
    """The weak errors of random networks, by the number of blocks.

    Attributes:
        steps: The m numbers of blocks, in rising order.
        errors: The estimates of E functional(network) - E functional(limit), with a mean and a
            standard error `(m,)` each.
        order: The slope of log |error| over -log(steps). Each error counts by the precision of its
            estimate.
        interval: The interval of 95% of this slope, by linear propagation of the sampling error. It
            covers the slope of the exact errors at these numbers of blocks, and not the order as
            the number of blocks grows without end: the asymptotic order 1 lay inside 73 to 78% of
            the time. NaN where an error is zero.
    """

    steps: tuple[int, ...]
    errors: Estimate
    order: float
    interval: tuple[float, float]


def weak_errors(
    field: RandomField,
    functional: Callable[[PyTree], Array],
    x: PyTree,
    *,
    steps: Sequence[int] = (4, 8, 16, 32),
    t0: float = 0.0,
    t1: float = 1.0,
    count: int,
    key: Array,
) -> WeakErrors:
    """Measure how fast random networks with more and more blocks come to the limit of their field.

    The measure is the mean of a functional over paths from one point. Every sample has one Brownian
    path, and this path drives all networks. The normal number behind the draw of a block is the
    increment of the path over that block, scaled to variance one. The noise that is common to a
    network and the limit therefore cancels.

    The functional on the limit comes from Euler-Maruyama solutions. It is twice the value in N
    steps less the value in N / 2 steps, where N is at least four times the largest of `steps`. The
    remaining error of the limit is of order N^-2.

    Args:
        field: The random field. It draws per sample.
        functional: The functional, which maps outputs `(batch, ...)` to numbers `(batch,)`.
        x: The point where all paths start, one array `(...)` or a pytree of arrays, without an axis
            of samples.
        steps: Two or more numbers of blocks, in rising order. Their least common multiple is at
            most 16 times the largest.
        t0: The depth time where the interval starts.
        t1: The depth time where the interval ends, greater than `t0`.
        count: The number of paths, at least two.
        key: The random key of the paths.

    Returns:
        The errors, and the slope of their logarithms with its interval. The interval is that of the
        slope at these numbers of blocks. The asymptotic order differs from this slope by as much as
        terms of higher order add to the errors, and lies outside the interval more often than 5% of
        the time.

    Raises:
        InputError: `steps` does not rise, has fewer than two numbers, is too large or has too large
            a common multiple, the field draws per batch, its law does not exist at the start of a
            step, x is not made of finite floating-point numbers, `t1` is not greater than `t0`,
            `count` is below two or above 2^28, or the functional does not return one number for
            each sample.
        InputTypeError: `field` is not a random field, `functional` is not a function, `key` is not
            one random key, or `count` or one of `steps` is not a whole number.

    Source:
        The extrapolation of the limit is Talay and Tubaro's.
    """
    checks.instance(
        "field",
        field,
        RandomField,
        "a random field such as nf.labs.stochastic.StochasticDepth(...)",
    )
    steps = checks.wholes("steps", steps)
    if len(steps) < 2 or any(n >= m for n, m in itertools.pairwise(steps)):
        raise InputError(f"steps are two or more numbers of blocks that rise, got {steps}")
    checks.forward("a random network", t0, t1)
    _check(field, functional, x, count, key)
    base = math.lcm(*steps)
    if base > 16 * max(steps):
        raise InputError(
            f"steps: one path in {base} parts would have to drive networks of {steps} blocks; "
            "take numbers with a small common multiple, such as powers of two"
        )
    fine = 2 * base * -(-2 * max(steps) // base)
    if fine > MOST_STEPS:
        raise InputError(
            f"steps: the limit of networks of {steps} blocks takes {fine} steps, and {MOST_STEPS} "
            "are the most; take fewer blocks"
        )
    field.check(np.linspace(t0, t1, fine + 1)[:-1])
    graphdef, state = nnx.split(field)
    values = _compared(
        (functional, graphdef, int(count), steps, fine, float(t0), float(t1)),
        (state, jax.tree.map(jnp.asarray, x), key),
    )
    if values.ndim != 2:
        raise InputError(
            "the functional has one number for a path here, (batch,), got values of shape "
            f"{values.shape[1:-1]}"
        )
    order, margin = weighed_order(steps, np.asarray(values, float))
    return WeakErrors(steps, estimate(values), order, (order - margin, order + margin))


def _check(field: RandomField, functional: Any, x: PyTree, count: int, key: Any) -> None:
    """Check the arguments that `expectation` and `weak_errors` have in common."""
    checks.whole("count", count, least=2, most=2**28)
    checks.function("functional", functional, 1)
    checks.key(key)
    checks.states("x", x)
    for leaf in jax.tree.leaves(x):
        if isinstance(leaf, core.Tracer):
            continue
        values = np.asarray(leaf)
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise InputError(f"x is one point of finite floating numbers, got {leaf!r}")
    if field.per != "sample":
        raise InputError(
            "paths are the samples of one batch, so the field must draw for each: per='sample', "
            "got per='batch'"
        )


def _chunks(x: PyTree, count: int, one: Callable[[Any, Array], Array], key: Array) -> Array:
    """Return values `(count, ...)` of batches of equal points, computed a batch at a time."""
    size = min(count, _CHUNK)
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), x)

    values = lax.map(
        lambda i: one(batch, jax.random.fold_in(key, i)), jnp.arange(-(-count // size))
    )
    return values.reshape(-1, *values.shape[2:])[:count]


def _values(functional: Callable[[PyTree], Array], outputs: PyTree) -> Array:
    """Return the values of a functional, and refuse anything but real numbers of every sample."""
    values: Any = functional(outputs)
    size = len(jax.tree.leaves(outputs)[0])
    real = isinstance(values, Array) and not jnp.iscomplexobj(values)
    if not real or values.shape[:1] != (size,):
        shown = getattr(values, "shape", type(values).__name__)
        raise InputError(
            "the functional goes from outputs (batch, ...) to an array of real numbers "
            f"(batch, ...), batch = {size}, got {shown if real else type(values).__name__}"
        )
    return values


@functools.partial(jax.jit, static_argnums=0)
def _sampled(static: Any, data: Any) -> Array:
    """Return the functional on every path, `(count, *values)`."""
    functional, graphdef, count = static
    state, x, key = data

    def values(batch: Any, key: Array) -> Array:
        return _values(functional, nnx.merge(graphdef, state).sample(batch, key))

    return _chunks(x, count, values, key)


class _Driven(nnx.Module):
    """A random field on steps of one length, driven by given normal numbers instead of draws.

    The normal numbers have the shape `(steps, batch, ...)`.
    """

    def __init__(self, field: RandomField, step: float, t0: float, normals: PyTree):
        self.field, self.step, self.t0, self.normals = (
            field,
            step,
            t0,
            nnx.data(jax.tree.map(nnx.Variable, normals)),
        )

    def __call__(self, x: PyTree, t: Real) -> Any:
        n = jnp.round((t - self.t0) / self.step).astype(int)
        here = jax.tree.map(
            lambda normals: normals[n],
            self.normals,
            is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
        )
        return self.field.noisy(x, t, here, self.step)


@functools.partial(jax.jit, static_argnums=0)
def _compared(static: Any, data: Any) -> Array:
    """Return the functional on the networks less the functional on the limit, for every path.

    The shape is `(count, m)`, where the m columns belong to the m numbers of blocks.
    """
    functional, graphdef, count, steps, fine, t0, t1 = static
    state, x, key = data
    field = nnx.merge(graphdef, state)

    def values(batch: Any, key: Array) -> Array:
        """Compute the differences for one batch of paths."""
        increments = jax.vmap(lambda key: field.normals(key, batch))(jax.random.split(key, fine))

        def end(field: RandomField, n: int) -> Array:
            """Return the functional on a network of n blocks that the paths drive."""

            def summed(leaf):
                """Add up the increments over each of the n blocks, scaled to variance one."""
                return leaf.reshape(n, fine // n, *leaf.shape[1:]).sum(1) / (fine // n) ** 0.5

            driven = _Driven(field, (t1 - t0) / n, t0, jax.tree.map(summed, increments))
            network = NeuralODE(driven, FixedGrid(Euler(), steps=n, memory="full"), t0, t1)
            return _values(functional, network(batch))

        limit = 2 * end(Gaussian(field), fine) - end(Gaussian(field), fine // 2)
        return jnp.stack([end(field, n) - limit for n in steps], axis=-1)

    return _chunks(x, count, values, key)
