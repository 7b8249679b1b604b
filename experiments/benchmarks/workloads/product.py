"""A product of square matrices in float32: what the cores can multiply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from experiments.benchmarks.compare import HERE, Host, Route, torch_routes
from experiments.benchmarks.data.shared import square
from experiments.benchmarks.host import Bench
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case, Row, each

ROUTES = (Route("JAX", "workloads.product:product"), *torch_routes("peers.product:product"))


def product(size: int) -> Any:
    """Build the product in JAX."""
    return jax.jit(lambda a: {"product": a @ a}), (jax.numpy.asarray(square(size)),)


def measured(size: int, plan: Plan) -> Iterator[Row]:
    """Yield a row for every route, with the quickest of some runs."""
    for route in ROUTES:
        host = Bench() if route.process == HERE else Host.of(plan.peers, route.process)
        if missing := host.missing(route.needs):
            yield {"size": size, "route": route.name, "left out": f"{missing[0]} not installed"}
            continue
        case = {"size": size, **route.options}
        host.start(route.name, f"experiments.benchmarks.{route.where}", case)
        seconds = min(host.run(route.name) for _ in range(2 if plan.dry else 15))
        yield {"size": size, "route": route.name, "GFLOP/s": 2e-9 * size**3 / seconds}


def cases(plan: Plan) -> Iterator[Case]:
    for size in (8,) if plan.dry else (256, 2048):
        yield f"{size} x {size}", each(measured, size, plan)
