"""The work of all solves inside a block of code, added up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError

from neuralflow.solve.results import Solution

_open: ContextVar[tuple[dict[str, nnx.Variable], ...]] = ContextVar("tallies", default=())


@contextmanager
def tally() -> Iterator[dict[str, nnx.Variable]]:
    """Adds up `evaluations`, `accepted` and `rejected` over the layers called inside (means over per-sample solves).

    Works inside a trace too. Calls in a transformation of their own (a vmap or a checkpoint inside the model) belong
    to another trace and are not counted.
    """
    sums = {name: nnx.Variable(jnp.zeros(())) for name in ("evaluations", "accepted", "rejected")}
    token = _open.set((*_open.get(), sums))
    try:
        yield sums
    finally:
        _open.reset(token)


def count(solution: Solution) -> None:
    """Adds a solve to the tallies that are open."""
    work = {
        "evaluations": solution.evaluations,
        "accepted": solution.accepted,
        "rejected": solution.rejected,
    }
    for sums in _open.get():
        for name, total in sums.items():
            with suppress(TraceContextError):
                total.set_value(total.get_value() + jnp.mean(work[name]))
