"""A product of square matrices in float32: what the cores can multiply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from experiments.benchmarks.compare import Route, Workload, torch_routes
from experiments.benchmarks.data import square
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case


def product(size: int) -> Any:
    """Build the product in JAX."""
    return jax.jit(lambda a: {"product": a @ a}), (jax.numpy.asarray(square(size)),)


WORKLOAD = Workload(
    routes=(Route("JAX", "workloads.product:product"), *torch_routes("peers.product:product")),
    pairs=(("JAX", "PyTorch, 1 thread"), ("JAX", "PyTorch, 2 threads")),
    same={"product": 1e-4},
)


def cases(plan: Plan) -> Iterator[Case]:
    for size in (8,) if plan.dry else (256, 2048):
        yield WORKLOAD.case(f"{size} x {size}", {"size": size}, plan, work=2.0 * size**3, seconds=8)
