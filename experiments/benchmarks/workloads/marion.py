"""The descent of Marion et al. for several seeds: neuralflow, a scan by hand, and PyTorch.

The protocol has 100 points in 16 dimensions, 32 hidden units, GELU, equal layers at the start, and
full gradient descent with the learning rate 0.01 L for L layers, in float32. A run is the whole
protocol at one depth, for four seeds, and the values are the V of every layer and seed.

neuralflow has `nf.labs.deep_limit.descend`, with one device of JAX for each core. A call of
`descend` compiles a program for its depth, so that later calls take as long as the first. The scan
by hand is compiled once, and runs on one device. PyTorch walks a list of blocks and steps
`torch.optim.SGD`. As such experiments are published, it trains one seed after the other. "Seeds at
once" gives all its tensors a leading axis for the seeds. All routes start from the same weights and
data.

The runs have 100 iterations, and the published ones have 500 and more. The time of the iterations
grows with their number, and the time of a compilation does not.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.benchmarks.compare import Route, Workload, torch_routes
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case
from neuralflow.labs import deep_limit

DIMENSION, HIDDEN, SAMPLES, RATE = 16, 32, 100, 0.01
DEPTHS = (16, 64, 256)


def descend(depth: int, iterations: int, start: dict[str, np.ndarray]) -> Any:
    """Build the descent of neuralflow. It draws the start by itself."""
    _spread()

    def run() -> Any:
        (network,) = _descent(depth, iterations, len(start["W"]), RATE)
        return {"V": network.weights["V"]}

    return run, ()


def scan(depth: int, iterations: int, start: dict[str, np.ndarray]) -> Any:
    """Build a hand-written descent: a scan over the layers in a loop over the iterations."""
    _spread()

    def loss(weights: Any, x: Any, y: Any) -> Any:
        def layer(h: Any, w: Any) -> Any:
            hidden = jax.nn.gelu(h @ w["W"].T / DIMENSION**0.5)
            return h + hidden @ w["V"].T / (depth * HIDDEN**0.5), None

        return jnp.sum((lax.scan(layer, x, weights)[0] - y) ** 2) / (2 * len(x))

    def one(start: Any) -> Any:
        def step(_: Any, weights: Any) -> Any:
            slope = jax.grad(loss)(weights, start["x"], start["y"])
            return jax.tree.map(lambda w, s: w - RATE * depth * s, weights, slope)

        W = jnp.broadcast_to(start["W"], (depth, HIDDEN, DIMENSION))
        weights = {"V": jnp.zeros((depth, DIMENSION, HIDDEN)), "W": W}
        return lax.fori_loop(0, iterations, step, weights)["V"]

    every = jax.jit(lambda start: {"V": jax.vmap(one)(start)})
    return every, (jax.tree.map(jnp.asarray, start),)


def drawn(seeds: int) -> dict[str, np.ndarray]:
    """Return the W, the inputs and the targets from which `descend` starts, by seed.

    A descent with the rate 0 stays where it starts.
    """
    (network,) = _descent(2, 1, seeds, 0.0)
    pairs = [deep_limit.gaussian_pairs(seed, SAMPLES, DIMENSION) for seed in range(seeds)]
    x, y = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return {"W": network.weights["W"][:, 0], "x": x, "y": y}


def _descent(depth: int, iterations: int, seeds: int, rate: float) -> Any:
    return deep_limit.descend(
        [depth], seeds=seeds, samples=SAMPLES, dimension=DIMENSION, hidden=HIDDEN,
        iterations=iterations, rate=rate,
    )  # fmt: skip


def _spread() -> None:
    """Give JAX one device for each core. A JAX that runs already keeps its devices."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


TORCH = (
    *torch_routes("peers.marion:descent", together=False),
    *torch_routes("peers.marion:descent", "PyTorch, seeds at once", together=True),
)
WORKLOAD = Workload(
    routes=(
        Route("descend", "workloads.marion:descend"),
        Route("scan by hand", "workloads.marion:scan"),
        *TORCH,
    ),
    pairs=tuple(("descend", other) for other in ("scan by hand", *(r.name for r in TORCH))),
    same={"V": 1e-4},
)


def cases(plan: Plan) -> Iterator[Case]:
    depths, iterations, seeds = ((4,), 2, 2) if plan.quick else (DEPTHS, 100, 4)
    start = functools.cache(lambda: drawn(seeds))
    for depth in depths:
        yield WORKLOAD.case(
            f"depth {depth}, {seeds} seeds, {iterations} iterations",
            {"depth": depth, "iterations": iterations, "start": start()},
            plan,
            rounds=(3, 9),
        )
