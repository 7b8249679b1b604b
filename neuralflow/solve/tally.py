"""A counter of the work of all solves inside a block of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array

from neuralflow.solve.results import Solution


@jax.tree_util.register_dataclass
@dataclass
class Work:
    """The work of several solves, added up. A pytree, so that a compiled function can return it.

    Attributes:
        evaluations: The number of evaluations of velocity fields.
        accepted: The number of accepted steps.
        rejected: The number of rejected steps.
    """

    evaluations: Array
    accepted: Array
    rejected: Array


class _Tally(NamedTuple):
    """The sums of an open block, and the trace in which the block was opened."""

    work: Work
    state: Any
    trace: Any


_open: ContextVar[tuple[_Tally, ...]] = ContextVar("tallies", default=())


@contextmanager
def tally() -> Iterator[Work]:
    """Add up the work of all layers that are called inside a `with` block.

    The sums grow with every call of a layer, and can be read at any time. A solve with per-sample
    control adds the mean over its samples. So does a call under a `jax.vmap` that starts inside the
    block. A call under `jax.grad`, `nnx.value_and_grad` or
    `jax.jvp` counts once, as it does without the derivative. The evaluations that a gradient takes
    on its way back do not count.

    Under `jax.jit` or `nnx.jit`, open the block inside the compiled function and return the work or
    a part of it. Python does not see how often a function that is compiled inside the block runs.
    So the sums are NaN after the first call under a `jax.jit`, `jax.checkpoint` or `lax.scan` that
    starts inside the block, and a function that was compiled before the block adds nothing.

    Yields:
        The sums so far: numbers `evaluations`, `accepted` and `rejected`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda rate, x: -rate * x, 1.0)
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=3))
        >>> with nf.tally() as work:
        ...     y = layer(layer(jnp.ones((5, 2))))
        >>> int(work.evaluations), int(work.accepted)
        (24, 6)
        >>> @jax.jit
        ... def loss(x):
        ...     with nf.tally() as work:
        ...         y = layer(x)
        ...     return jnp.sum(y**2), work
        >>> value, work = loss(jnp.ones((5, 2)))
        >>> int(work.evaluations)
        12
    """
    zero = jnp.zeros(())
    opened = _Tally(Work(zero, zero, zero), _state(), _trace(zero))
    token = _open.set((*_open.get(), opened))
    try:
        yield opened.work
    finally:
        _open.reset(token)


def count(solution: Solution) -> None:
    """Add a solve to all open tallies.

    Args:
        solution: The solution of the solve.
    """
    for work, state, trace in _open.get():
        for name, total in vars(work).items():
            number = lax.stop_gradient(jnp.mean(jnp.asarray(getattr(solution, name), float)))
            if state != _state():
                number = _shared(number)
            total = total + number
            # A number of another trace has no meaning where the block ends.
            known = state == _state() or _trace(total) is trace
            setattr(work, name, total if known else np.full((), np.nan))


@jax.custom_batching.custom_vmap
def _shared(number: Array) -> Array:
    """Return a number. Under a `jax.vmap`, return the mean over the samples, which all share."""
    return number


@_shared.def_vmap
def _shared_rule(size: int, batched: list[bool], number: Array) -> tuple[Array, bool]:
    return _shared(jnp.mean(number, axis=0) if batched[0] else number), False


def _state() -> Any:
    """Return which transformations are under way, to be compared."""
    return get_opaque_trace_state(convention="nnx")


def _trace(value: Array) -> Any:
    """Return the trace that a number belongs to, or None for a number that is known."""
    return getattr(value, "_trace", None)
