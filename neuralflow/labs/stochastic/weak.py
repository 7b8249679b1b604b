"""Weak convergence by sampling: means over paths, and the errors of random networks against their limit, with intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, core, lax

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.labs.stochastic.fields import Gaussian, RandomField
from neuralflow.labs.stochastic.networks import NeuralSDE, RandomNetwork
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.solve import FixedGrid
from neuralflow.statistics import Estimate, estimate, weighed_order

_CHUNK = 2**14


def expectation(
    network: RandomNetwork | NeuralSDE,
    functional: Callable[[Any], Array],
    x: Any,
    *,
    count: int,
    key: Array,
) -> Estimate:
    """The mean of a functional of the output over `count` paths from one point x (...), with its standard error.

    `functional`: from outputs (batch, ...) to numbers (batch, *values). Paths are the samples of batches, so the field draws per sample.
    """
    checks.instance("network", network, RandomNetwork | NeuralSDE, "a RandomNetwork or a NeuralSDE")
    _check(network.field, functional, x, count, key)
    graphdef, state = nnx.split(network)
    values = _sampled((functional, graphdef, count), (state, jax.tree.map(jnp.asarray, x), key))
    return estimate(values)


class WeakErrors(NamedTuple):
    """Errors by the number of steps.

    `steps` (m,); `errors`: estimates (m,) of E functional(network) - E functional(limit); `order`: the slope of log |error| on -log(steps), each
    weighed by what is known of it; `interval`: where that lies with 95%, by linear propagation of the sampling error (NaN where an error is zero).
    """

    steps: tuple[int, ...]
    errors: Estimate
    order: float
    interval: tuple[float, float]


def weak_errors(
    field: RandomField,
    functional: Callable[[Any], Array],
    x: Any,
    *,
    steps: Sequence[int] = (4, 8, 16, 32),
    t0: float = 0.0,
    t1: float = 1.0,
    count: int,
    key: Array,
) -> WeakErrors:
    """How fast networks of more and more blocks come to the limit of a random field, in the mean of a functional, from one point x (...).

    `functional`: from outputs (batch, ...) to numbers (batch,). Every sample has one Brownian path, which drives all networks: the normal number
    behind a block's draw is the path's increment, so what is common to them cancels. The limit is twice its Euler-Maruyama solution in N steps
    less that in N / 2, N at least four times the most steps; what this leaves is of order N^-2 (Talay and Tubaro's extrapolation).
    """
    checks.instance(
        "field",
        field,
        RandomField,
        "a random field such as nf.labs.stochastic.StochasticDepth(...)",
    )
    for n in steps if isinstance(steps, Sequence) else (None,):
        checks.whole("each of steps", n)
    if len(steps) < 2 or not (np.diff(steps) > 0).all():
        raise InputError(f"steps are two or more numbers of blocks that rise, got {tuple(steps)}")
    checks.forward("a random network", t0, t1)
    _check(field, functional, x, count, key)
    base = math.lcm(*steps)
    if base > 16 * max(steps):
        raise InputError(
            f"one path in {base} parts would have to drive networks of {tuple(steps)} blocks; take numbers with a small common multiple, "
            "such as powers of two"
        )
    fine = 2 * base * -(-2 * max(steps) // base)
    field.check(np.linspace(t0, t1, fine + 1)[:-1])
    graphdef, state = nnx.split(field)
    values = _compared(
        (functional, graphdef, count, tuple(steps), fine, float(t0), float(t1)),
        (state, jax.tree.map(jnp.asarray, x), key),
    )
    if values.ndim != 2:
        raise InputError(
            f"the functional has one number for a path here, (batch,), got values of shape {values.shape[1:-1]}"
        )
    order, margin = weighed_order(steps, np.asarray(values, float))
    return WeakErrors(tuple(steps), estimate(values), order, (order - margin, order + margin))


def _check(field: RandomField, functional: Any, x: Any, count: int, key: Any) -> None:
    checks.whole("count", count, least=2)
    checks.function("functional", functional)
    checks.key(key)
    for leaf in jax.tree.leaves(x):
        if isinstance(leaf, core.Tracer):
            continue
        values = np.asarray(leaf)
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise InputError(f"x is one point of finite floating numbers, got {leaf!r}")
    if field.per != "sample":
        raise InputError(
            "paths are the samples of one batch, so the field must draw for each: per='sample', got per='batch'"
        )


def _chunks(x: Any, count: int, one: Callable[[Any, Array], Array], key: Array) -> Array:
    """Values (count, ...) of batches of equal points, made a batch at a time."""
    size = min(count, _CHUNK)
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), x)

    def checked(i: Array) -> Array:
        values: Any = one(batch, jax.random.fold_in(key, i))
        if not isinstance(values, Array) or values.shape[:1] != (size,):
            raise InputError(
                f"the functional goes from outputs (batch, ...) to an array (batch, ...), batch = {size}, got {values!r}"
            )
        return values

    values = lax.map(checked, jnp.arange(-(-count // size)))
    return values.reshape(-1, *values.shape[2:])[:count]


@functools.partial(jax.jit, static_argnums=0)
def _sampled(static: Any, data: Any) -> Array:
    """The functional on every path (count, *values)."""
    functional, graphdef, count = static
    state, x, key = data
    return _chunks(
        x, count, lambda batch, key: functional(nnx.merge(graphdef, state).sample(batch, key)), key
    )


class _Driven(nnx.Module):
    """A random field on steps of one length that draws nothing: its normal numbers (steps, batch, ...) are given."""

    def __init__(self, field: RandomField, step: float, t0: float, normals: Any):
        self.field, self.step, self.t0, self.normals = (
            field,
            step,
            t0,
            nnx.data(jax.tree.map(nnx.Variable, normals)),
        )

    def __call__(self, x: Any, t: Any) -> Any:
        n = jnp.round((t - self.t0) / self.step).astype(int)
        here = jax.tree.map(
            lambda normals: normals[n],
            self.normals,
            is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
        )
        return self.field.noisy(x, t, here, self.step)


@functools.partial(jax.jit, static_argnums=0)
def _compared(static: Any, data: Any) -> Array:
    """The functional on networks of each number of steps less that on the limit, on every path (count, m)."""
    functional, graphdef, count, steps, fine, t0, t1 = static
    state, x, key = data
    field = nnx.merge(graphdef, state)

    def values(batch: Any, key: Array) -> Array:
        increments = jax.vmap(lambda key: field.normals(key, batch))(jax.random.split(key, fine))

        def end(field: RandomField, n: int) -> Array:
            """Sums of normal numbers over the steps of the path that fall into one of n."""

            def summed(leaf):
                return leaf.reshape(n, fine // n, *leaf.shape[1:]).sum(1) / (fine // n) ** 0.5

            driven = _Driven(field, (t1 - t0) / n, t0, jax.tree.map(summed, increments))
            return functional(
                NeuralODE(driven, FixedGrid(Euler(), steps=n, memory="full"), t0, t1)(batch)
            )

        limit = 2 * end(Gaussian(field), fine) - end(Gaussian(field), fine // 2)
        return jnp.stack([end(field, n) - limit for n in steps], axis=-1)

    return _chunks(x, count, values, key)
