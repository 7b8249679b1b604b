"""The one error of a solve that failed outside a trace."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx

from neuralflow.solve.base import Discretisation
from neuralflow.solve.results import Solution, SolveError, Status


def failure(solve: Discretisation, field: nnx.Module, x: Any, solution: Solution) -> SolveError:
    """The error of a solve of concrete numbers that has failed: status, step counts and the remedy in one sentence."""
    worst = Status(int(np.max(solution.status)))
    accepted, rejected = int(np.max(solution.accepted)), int(np.max(solution.rejected))
    return SolveError(
        f"the solve failed ({worst.name}): {_remedy(solve, field, worst, x, accepted, rejected)}",
        worst,
    )


def _remedy(
    solve: Discretisation, field: nnx.Module, status: Status, x: Any, accepted: int, rejected: int
) -> str:
    for name, tree in (
        ("x", x),
        ("the weights of the field", nnx.state(field, (nnx.Param, nnx.BatchStat))),
    ):
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        bad = sum(int((~np.isfinite(a)).sum()) for a in leaves if a.dtype.kind in "fc")
        if bad:
            return f"{name} held {bad} values that are not finite before the first step; mend them first"
    if status == Status.NOT_FINITE and not accepted:
        return f"the velocity of {type(field).__name__} is not finite where the solve begins; look at field(x) there"
    return solve.remedy(status, accepted, rejected)
