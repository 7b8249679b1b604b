"""A counter of the work of all solves inside a block of code."""

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
    """Add up the work of all layers that are called inside a `with` block.

    The counter adds `evaluations`, `accepted` and `rejected` of every solve. A solve with
    per-sample control adds the mean over its samples.

    The counter works inside a trace too. A call inside a further transformation, such as a vmap or
    a checkpoint inside the model, belongs to another trace. The counter leaves such a call out.

    Yields:
        A mapping from the names "evaluations", "accepted" and "rejected" to NNX variables. Each
        variable holds the sum so far.
    """
    sums = {name: nnx.Variable(jnp.zeros(())) for name in ("evaluations", "accepted", "rejected")}
    token = _open.set((*_open.get(), sums))
    try:
        yield sums
    finally:
        _open.reset(token)


def count(solution: Solution) -> None:
    """Add a solve to all open tallies.

    Args:
        solution: The solution of the solve.
    """
    work = {
        "evaluations": solution.evaluations,
        "accepted": solution.accepted,
        "rejected": solution.rejected,
    }
    for sums in _open.get():
        for name, total in sums.items():
            with suppress(TraceContextError):
                total.set_value(total.get_value() + jnp.mean(work[name]))
