"""What stochastic depth saves: training steps whose left-out blocks are not computed.

    python -m experiments.benchmarks.skipped

The networks are a ResNet and an LM-ResNet on images of 28 x 28. A step computes loss and gradients,
with one draw for the whole batch. A run is sixteen steps, each with draws of its own, and runs with
and without stochastic depth are interleaved. `time` is the time with stochastic depth over the time
without: the median, with the quartiles in brackets. Beside `time` stands the expected share of the
residual blocks that are computed. Writes skipped.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.measure import ratio, report
from experiments.lm_resnet.model import BLOCKS, Model, Network
from experiments.program import Parser, count
from neuralflow.console import progress

STEPS = 16
CASES: tuple[tuple[int, Model, int, float], ...] = (
    (20, "resnet", 8, 0.5), (20, "resnet", 8, 0.2), (20, "lm", 8, 0.5), (56, "resnet", 8, 0.5),
)  # fmt: skip
"""Depth, network, width and the probability that the last block survives."""


def stepping(
    depth: int, model: Model, width: int, survival: float | None
) -> Callable[[Any, Any], Any]:
    """Compile a training step, a function of (key, batch) that returns loss and gradients."""
    network = Network(depth, model, channels=1, width=width, survival=survival, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)

    @jax.jit
    def step(params: Any, key: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            return nf.models.classification(
                nf.labs.stochastic.seeded(nnx.merge(graphdef, params, rest, copy=True), key), batch
            )[0]

        return jax.value_and_grad(loss)(params)

    return lambda key, batch: step(params, key, batch)


def compare(depth: int, model: Model, width: int, survival: float, rounds: int) -> dict[str, Any]:
    """Measure one case."""
    batch = {
        "x": jax.random.normal(jax.random.key(0), (128, 28, 28, 1)),
        "y": jnp.asarray(np.arange(128) % 10),
    }
    steps = {
        name: stepping(depth, model, width, p)
        for name, p in (("with", survival), ("without", None))
    }
    runs: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        jax.block_until_ready(step(jax.random.key(0), batch))
    for k in range(rounds):
        keys = jax.random.split(jax.random.key(k + 1), STEPS)
        for name, step in steps.items():
            began = time.perf_counter()
            for key in keys:
                jax.block_until_ready(step(key, batch))
            runs[name].append(time.perf_counter() - began)
    blocks = 3 * BLOCKS[depth]
    left_out = [
        n for n in range(1, blocks + 1) if n not in (BLOCKS[depth] + 1, 2 * BLOCKS[depth] + 1)
    ]  # not the entries
    computed = (blocks - sum(n / blocks * (1 - survival) for n in left_out)) / blocks
    return {
        "network": f"{model}-{depth}, width {width}",
        "p_L": survival,
        "step without, ms": 1e3 * float(np.median(runs["without"])) / STEPS,
        "blocks computed": computed,
        "time": ratio(np.asarray(runs["with"]), np.asarray(runs["without"])),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, kept="results", quick={"rounds": 1})
    parser.add_argument("--rounds", type=count, default=7, help="interleaved runs of either")
    run = parser.begin(arguments)
    small: tuple[int, Model, int, float] = (20, "resnet", 2, 0.5)
    cases, rows = (small,) if run.options.quick else CASES, []
    with progress(len(cases)) as done:
        for case in cases:
            rows.append(compare(*case, run.options.rounds))
            done(f"{rows[-1]['network']}, p_L = {case[-1]}")
    report(run, "skipped", "Training steps with stochastic depth against those without", rows)


if __name__ == "__main__":
    main()
