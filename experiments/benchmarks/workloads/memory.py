"""Memory and time of a gradient over depth, by gradient method.

The network is the ResNet of the workload `fixed_grid`, 64 wide, with a batch of 128. For JAX, the
memory is the temporary memory of the compiled program. For PyTorch, the memory is that of all
tensors that the forward pass keeps for the gradient, without the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.compare import HERE, Host, Route
from experiments.benchmarks.host import Bench
from experiments.benchmarks.plan import Plan
from experiments.benchmarks.workloads.fixed_grid import HAND
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
    import neuralflow as nf
    from experiments.benchmarks.workloads.fixed_grid import layer

    return layer("reversible", nf.schemes.Reversible(nf.Euler()), **case)


def measured(depth: int, plan: Plan) -> Iterator[Row]:
    """Yield a row for every route."""
    width, batch = (4, 2) if plan.dry else (64, 128)
    case = {"of": "gradient", "width": width, "depth": depth, "batch": batch}
    for route in ROUTES:
        host = Bench() if route.process == HERE else Host.of(plan.peers, route.process)
        if missing := host.missing(route.needs):
            yield {"depth": depth, "route": route.name, "left out": f"{missing[0]} not installed"}
            continue
        started = host.start(
            route.name, f"experiments.benchmarks.{route.where}", {**case, **route.options}
        )
        kept = started.memory if "kept" not in started.values else started.values["kept"].item()
        seconds = sorted(host.run(route.name) for _ in range(2 if plan.dry else 15))
        yield {
            "depth": depth,
            "route": route.name,
            "memory MB": kept / 1e6 if kept is not None else None,
            "ms": 1e3 * seconds[len(seconds) // 2],
        }


def cases(plan: Plan) -> Iterator[Case]:
    for depth in (4,) if plan.dry else DEPTHS:
        yield f"depth {depth}", each(measured, depth, plan)
