"""A product of square matrices in float32: what the cores can multiply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from experiments.benchmarks.compare import Route, one_by_one, torch_routes
from experiments.benchmarks.data.shared import square
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case, Row, each

ROUTES = (Route("JAX", "workloads.product:product"), *torch_routes("peers.product:product"))


def product(size: int) -> Any:
    """Build the product in JAX."""
    return jax.jit(lambda a: {"product": a @ a}), (jax.numpy.asarray(square(size)),)


def measured(size: int, plan: Plan) -> Iterator[Row]:
    """Yield a row for every route, with the quickest of some runs."""
    for route, found in one_by_one(ROUTES, {"size": size}, plan, 15):
        row = {"size": size, "route": route.name}
        if found.left_out:
            yield {**row, "left out": found.left_out}
        else:
            yield {**row, "GFLOP/s": 2e-9 * size**3 / min(found.runs)}


def cases(plan: Plan) -> Iterator[Case]:
    for size in (8,) if plan.quick else (256, 2048):
        yield f"{size} x {size}", each(measured, size, plan)
