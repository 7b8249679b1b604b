"""Memory and time of a gradient over depth, by gradient method.

The network is the ResNet of the workload `fixed_grid`, 64 wide, with a batch of 128. For JAX, the
memory is the temporary memory of the compiled program. For PyTorch, the memory is that of all
tensors that the forward pass keeps for the gradient, without the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import neuralflow as nf
from experiments.benchmarks.compare import Route, one_by_one
from experiments.benchmarks.plan import Plan
from experiments.benchmarks.workloads.fixed_grid import HAND, layer
from experiments.stages.stage import Case, Row, each

DEPTHS = (16, 64, 256, 1024)
ROUTES = (
    *(Route(m, f"{HAND}:layer", {"memory": m}) for m in ("full", "remat", "two_level")),
    Route("reversible", "workloads.memory:reversible"),
    Route("scan by hand", f"{HAND}:scan", {"checkpoint": False}),
    Route("checkpointed scan by hand", f"{HAND}:scan", {"checkpoint": True}),
    Route("diffrax", f"{HAND}:solve"),
    Route("PyTorch", "peers.fixed_grid:kept", {}, ("torch",), "PyTorch, 1"),
)


def reversible(**case: Any) -> Any:
    """Build the same layer with the reversible form of Euler's scheme, which walks back."""
    return layer("reversible", nf.schemes.Reversible(nf.Euler()), **case)


def measured(depth: int, plan: Plan) -> Iterator[Row]:
    """Yield a row for every route."""
    width, batch = (4, 2) if plan.quick else (64, 128)
    case = {"of": "gradient", "width": width, "depth": depth, "batch": batch}
    for route, found in one_by_one(ROUTES, case, plan, 15):
        row = {"depth": depth, "route": route.name}
        if found.left_out:
            yield {**row, "left out": found.left_out}
            continue
        kept = found.values["kept"].item() if "kept" in found.values else found.memory
        memory = kept / 1e6 if kept is not None else None
        yield {**row, "memory MB": memory, "ms": 1e3 * float(np.median(found.runs))}


def cases(plan: Plan) -> Iterator[Case]:
    for depth in (4,) if plan.quick else DEPTHS:
        yield f"depth {depth}", each(measured, depth, plan)
