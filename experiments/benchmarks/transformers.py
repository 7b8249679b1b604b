"""A transformer as a splitting against the same blocks in a hand-written `lax.scan`.

    python -m experiments.benchmarks.transformers

Every figure is a ratio to the hand-written scan in the same process: the median over rounds, with
the quartiles in brackets. The scan has no checkpoints, and "full" keeps as much as the scan does.
Writes transformers.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.measure import gradient, ratio, report, side_by_side
from experiments.program import Parser, count
from neuralflow.console import progress
from neuralflow.solve import Memory

# dimension, heads, blocks, sequences, tokens
CASES = ((64, 4, 8, 8, 64), (32, 4, 16, 16, 32), (128, 4, 4, 4, 128))
MEMORY: tuple[Memory, ...] = ("full", "remat")


def routes(
    dimension: int, heads: int, blocks: int, sequences: int, tokens: int
) -> tuple[dict[str, Callable[..., Any]], tuple[Any, Any]]:
    """Build the same causal transformer by every route, as functions of (weights, x)."""

    def make(rngs: nnx.Rngs) -> nf.fields.Split:
        return nf.fields.Split(
            nf.fields.Attention(dimension, heads=heads, causal=True, rngs=rngs),
            nf.fields.FeedForward(dimension, hidden=4 * dimension, rngs=rngs),
        )

    field = nf.DepthVarying(make, nf.PiecewiseConstant(blocks), rngs=nnx.Rngs(0))
    form, weights = nnx.split(field.stack)

    def block(x: Any, weights: Any) -> Any:
        attention, feed_forward = nnx.merge(form, weights).parts
        y = x + attention(x)
        return y + feed_forward(y), None

    def scan(weights: Any, x: Any) -> Any:
        return jax.lax.scan(block, x, weights)[0]

    def layer(memory: Memory) -> Callable[..., Any]:
        grid = nf.FixedGrid(nf.schemes.LieTrotter(), steps=blocks, memory=memory)

        def run(weights: Any, x: Any) -> Any:
            field = nf.DepthVarying.from_stack(
                nnx.merge(form, weights), nf.PiecewiseConstant(blocks)
            )
            return nf.NeuralODE(field, grid, 0.0, float(blocks))(x)

        return run

    x = jax.random.normal(jax.random.key(1), (sequences, tokens, dimension), jnp.float32)
    return {"scan": scan, **{memory: layer(memory) for memory in MEMORY}}, (weights, x)


def compare(case: tuple[int, int, int, int, int], rounds: int) -> list[dict[str, Any]]:
    """Measure one case: a row per route."""
    functions, arguments = routes(*case)
    inputs = dict.fromkeys(functions, arguments)
    forward = side_by_side(functions, inputs, rounds)
    backward = side_by_side({k: gradient(f) for k, f in functions.items()}, inputs, rounds)
    return [
        {
            "d, heads, blocks, sequences, tokens": ", ".join(map(str, case)),
            "route": name,
            "forward": ratio(forward[name].runs, forward["scan"].runs),
            "gradient": ratio(backward[name].runs, backward["scan"].runs),
            "compile": backward[name].compile / backward["scan"].compile,
            "memory": backward[name].memory / backward["scan"].memory,
        }
        for name in functions
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, kept="results", quick={"rounds": 2})
    parser.add_argument(
        "--rounds", type=count, default=30, help="interleaved runs of every function"
    )
    run = parser.begin(arguments)
    cases, rows = ((8, 2, 2, 2, 4),) if run.options.quick else CASES, []
    with progress(len(cases)) as done:
        for case in cases:
            rows += compare(case, run.options.rounds)
            done(", ".join(map(str, case)))
    report(run, "transformers", "transformers against a hand-written scan", rows)


if __name__ == "__main__":
    main()
