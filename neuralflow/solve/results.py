"""What a solve returns, and how it fails: NaN and a status in a trace, one error with its remedy outside."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class Status(enum.IntEnum):
    """How a solve ended. BAD_DEPTHS: depths asked for in a trace lie outside the interval, or out of order."""

    SUCCESSFUL = 0
    MAX_STEPS = 1
    NOT_FINITE = 2
    IMPLICIT_FAILED = 3
    NOT_INVERTED = 4
    FAILED = 5
    BAD_DEPTHS = 6


class Solution(NamedTuple):
    """States and what the solve did.

    `states`: the final state, or with asked depths a leading axis of their length. `depths`: their depth times.
    `status`, `evaluations` (calls of the field), `accepted`, `rejected` (steps): integers, with a leading batch axis
    under per-sample control. Failed samples have states of NaN. A stage that a scheme hands on to its next step
    counts once, and an implicit stage counts once however many iterations its root finder takes.
    """

    states: PyTree[Array]
    depths: Array
    status: Array
    evaluations: Array
    accepted: Array
    rejected: Array


class SolveError(RuntimeError):
    """A solve failed; `status` says how, the message what to do."""

    def __init__(self, message: str, status: Status):
        super().__init__(message)
        self.status = status


def all_finite(tree: Any) -> Array:
    """Whether every entry of every array is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def column(mask: Array, like: Array) -> Array:
    """A mask over the first axis, in the shape that selects from `like`."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - 1))


def where_ok(status: Array, states: Any) -> Any:
    """NaN where a solve failed: a finite half-way state would be believed."""
    bad = (status != Status.SUCCESSFUL) & (status != Status.NOT_FINITE)
    return jax.tree.map(lambda y: jnp.where(bad, jnp.nan, y), states)
