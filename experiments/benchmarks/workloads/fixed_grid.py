"""ResNets on fixed grids: hand-written scans, diffrax and PyTorch.

A network of width d has N blocks x + h W2 tanh(W1 x + b1) + b2 with h = 1 / N and d hidden units.
The routes compute the states after the last block, or the gradient of their sum of squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from flax import nnx

import neuralflow as nf
from experiments.benchmarks import measure
from experiments.benchmarks.compare import Route, Workload, torch_routes
from experiments.benchmarks.data.shared import resnet
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case
from neuralflow.solve import Memory

SIZES = (
    (16, 16, 32),
    (16, 1024, 32),
    (64, 64, 128),
    (64, 256, 128),
    (256, 16, 128),
    (256, 64, 256),
)
"""Width, depth, batch."""
EULER = nf.Euler()


def branch(weights: dict[str, Any], x: Any) -> Any:
    """Return the residual branch of a block, as written by hand."""
    return jnp.tanh(x @ weights["in"] + weights["in bias"]) @ weights["out"] + weights["out bias"]


def scan(checkpoint: bool, **case: Any) -> Any:
    """Build a hand-written scan over the blocks."""
    h = 1 / case["depth"]

    def step(x: Any, weights: Any) -> Any:
        return x + h * branch(weights, x), None

    body = jax.checkpoint(step) if checkpoint else step
    return built(lambda weights, x: jax.lax.scan(body, x, weights)[0], **case)


def nested(**case: Any) -> Any:
    """Build the shortest hand-written two-level scan.

    Checkpoints stand around each chunk of blocks and around each block.
    """
    h, inner = 1 / case["depth"], 2 ** round(math.log2(case["depth"]) / 2)
    step = jax.checkpoint(lambda x, weights: (x + h * branch(weights, x), None))
    chunk = jax.checkpoint(lambda x, weights: (jax.lax.scan(step, x, weights)[0], None))

    def network(weights: Any, x: Any) -> Any:
        chunks = jax.tree.map(lambda w: w.reshape(-1, inner, *w.shape[1:]), weights)
        return jax.lax.scan(chunk, x, chunks)[0]

    return built(network, **case)


def solve(**case: Any) -> Any:
    """Build plain `diffeqsolve` on the same grid, with its default gradient."""
    depth = case["depth"]
    times = diffrax.StepTo(jnp.arange(depth + 1.0))

    def velocity(t: Any, x: Any, weights: Any) -> Any:
        block = {name: w[jnp.floor(t).astype(int)] for name, w in weights.items()}
        return branch(block, x) / depth

    def network(weights: Any, x: Any) -> Any:
        solution: Any = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity), diffrax.Euler(), 0.0, float(depth), None, x, weights,
            stepsize_controller=times, max_steps=depth,
        )  # fmt: skip
        return solution.ys[0]

    return built(network, **case)


def layer(memory: Memory, scheme: diffrax.AbstractSolver = EULER, **case: Any) -> Any:
    """Build a NeuralODE."""
    width, depth = case["width"], case["depth"]
    grid = nf.FixedGrid(scheme, steps=depth, memory=memory)
    field = nf.DepthVarying(
        lambda rngs: nf.fields.MLP(width, hidden=width, rngs=rngs),
        nf.PiecewiseConstant(depth),
        rngs=nnx.Rngs(0),
    )
    graphdef, state = nnx.split(field)

    def network(weights: Any, x: Any) -> Any:
        ordered = [weights[name] for name in ("in bias", "in", "out bias", "out")]
        state_now = jax.tree.unflatten(jax.tree.structure(state), ordered)
        return nf.NeuralODE(nnx.merge(graphdef, state_now), grid)(x)

    return built(network, **case)


def built(network: Callable[..., Any], of: str, **case: Any) -> Any:
    """Return the compiled function that is asked for, of the network, and its arguments."""

    def forward(weights: Any, x: Any) -> Any:
        return {"output": network(weights, x)}

    def gradient(weights: Any, x: Any) -> Any:
        d_weights, d_x = measure.gradient(network)(weights, x)
        return {**d_weights, "x": d_x}

    weights, x = resnet(**case)
    arguments = {name: jnp.asarray(w) for name, w in weights.items()}, jnp.asarray(x)
    return jax.jit({"forward": forward, "gradient": gradient}[of]), arguments


HAND, TORCH = "workloads.fixed_grid", "peers.fixed_grid:network"
WORKLOAD = Workload(
    routes=(
        *(Route(f"{m}", f"{HAND}:layer", {"memory": m}) for m in ("full", "remat", "two_level")),
        Route("scan by hand", f"{HAND}:scan", {"checkpoint": False}),
        Route("checkpointed scan by hand", f"{HAND}:scan", {"checkpoint": True}),
        Route("nested scans by hand", f"{HAND}:nested"),
        Route("diffrax", f"{HAND}:solve"),
        *torch_routes(TORCH, compiled=False),
        *torch_routes(TORCH, "PyTorch, compiled", compiled=True),
    ),
    pairs=(
        ("full", "scan by hand"),
        ("remat", "checkpointed scan by hand"),
        ("two_level", "scan by hand"),
        ("two_level", "nested scans by hand"),
        ("remat", "diffrax"),
        *(
            ("full", f"PyTorch{how}, {threads}")
            for how in ("", ", compiled")
            for threads in ("1 thread", "2 threads")
        ),
    ),
    same=dict.fromkeys(("output", "x", "in", "in bias", "out", "out bias"), 2e-4),
    causes={
        "scan by hand": "two_level computes the steps of a gradient twice, and a chunk is not a "
        "loop; full has the loop of the scan, and more operations around it",
        "nested scans by hand": "four steps that are not a loop share nothing between them",
    },
    first_causes={
        **dict.fromkeys(
            ("scan by hand", "checkpointed scan by hand", "nested scans by hand"),
            "tracing takes 13 ms more (25 in a gradient); a gradient has a third more operations, "
            "and compiles 50 ms longer; two_level compiles the four steps of each chunk",
        ),
        **{
            f"PyTorch, compiled, {threads}": "tracing and compilation take 0.1 to 0.3 s"
            for threads in ("1 thread", "2 threads")
        },
    },
)


def cases(plan: Plan) -> Iterator[Case]:
    for width, depth, batch in ((4, 4, 2),) if plan.quick else SIZES:
        for of in ("forward", "gradient"):
            yield WORKLOAD.case(
                f"{of}, width {width}, depth {depth}, batch {batch}",
                {"of": of, "width": width, "depth": depth, "batch": batch},
                plan,
                # Two products a block forward, and twice as many more in a gradient.
                work=(4.0 if of == "forward" else 12.0) * depth * batch * width**2,
            )
