"""The exponential of a displacement field on a grid: neuralflow and PyTorch.

Both scale and square a smooth velocity on 256 x 256 nodes in float32. neuralflow has
`nf.labs.diffeo.sampled.exponential`, compiled. PyTorch has what registration tools write: an eager
loop over `torch.nn.functional.grid_sample`, with bilinear interpolation, border padding and aligned
corners. The routes compute the displacement, or the gradient of its sum of squares. The number of
squarings tells the cost of one squaring.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.compare import Route, Workload, torch_routes
from experiments.benchmarks.data.images import velocity
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case
from neuralflow.labs.diffeo import sampled


def compiled(of: str, size: int, squarings: int) -> Any:
    """Build the exponential of neuralflow."""

    def forward(v: Any) -> Any:
        return {"u": sampled.exponential(v, squarings)}

    def gradient(v: Any) -> Any:
        return {"v": jax.grad(lambda v: jnp.sum(forward(v)["u"] ** 2))(v)}

    return jax.jit({"forward": forward, "gradient": gradient}[of]), (jnp.asarray(velocity(size)),)


TORCH = torch_routes("peers.exponential:eager")
WORKLOAD = Workload(
    routes=(Route("exponential", "workloads.exponential:compiled"), *TORCH),
    pairs=tuple(("exponential", route.name) for route in TORCH),
    same={"u": 1e-5, "v": 2e-4},
)


def cases(plan: Plan) -> Iterator[Case]:
    size, numbers = (16, (2,)) if plan.quick else (256, (4, 7, 10))
    for squarings in numbers:
        for of in ("forward", "gradient"):
            yield WORKLOAD.case(
                f"{of}, {size} x {size} nodes, {squarings} squarings",
                {"of": of, "size": size, "squarings": squarings},
                plan,
            )
