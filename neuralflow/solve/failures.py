"""The error of a solve that failed outside a trace.

The class `SolveError` stands in `results`. The remedies that belong to one kind of discretisation
stand in its method `remedy`.
"""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from neuralflow.solve.base import Discretisation
from neuralflow.solve.results import Solution, SolveError, Status


def failure(solve: Discretisation, field: nnx.Module, x: PyTree, solution: Solution) -> SolveError:
    """Build the error of a failed solve of concrete numbers.

    One sentence states the status, the step counts and the remedy.

    Args:
        solve: The discretisation that failed.
        field: The velocity field.
        x: The state where the walk started.
        solution: The solution of the failed solve. Under per-sample control, the error states the
            largest status and the largest step counts of all samples.

    Returns:
        The error, for the caller to raise.
    """
    worst = Status(int(np.max(solution.status)))
    accepted, rejected = int(np.max(solution.accepted)), int(np.max(solution.rejected))
    return SolveError(
        f"the solve failed ({worst.name}): {_remedy(solve, field, worst, x, accepted, rejected)}",
        worst,
    )


def _remedy(
    solve: Discretisation,
    field: nnx.Module,
    status: Status,
    x: PyTree,
    accepted: int,
    rejected: int,
) -> str:
    """Return the remedy of a failed solve.

    Values in x or in the weights that are not finite come first, and a velocity that is not finite
    at the start comes second. All other failures have the remedy of the discretisation.
    """
    for name, tree in (
        ("x", x),
        ("the weights of the field", nnx.state(field, (nnx.Param, nnx.BatchStat))),
    ):
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        bad = sum(int((~np.isfinite(a)).sum()) for a in leaves if a.dtype.kind in "fc")
        if bad:
            return (
                f"{name} held {bad} values that are not finite before the first step; "
                "mend them first"
            )
    if status == Status.NOT_FINITE and not accepted:
        return (
            f"the velocity of {type(field).__name__} is not finite where the solve begins; "
            "look at field(x) there"
        )
    return solve.remedy(status, accepted, rejected)
