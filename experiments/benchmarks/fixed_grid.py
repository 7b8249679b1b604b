"""NeuralODE on a fixed grid against a hand-written `lax.scan` ResNet and plain `diffeqsolve`.

    python -m experiments.benchmarks.fixed_grid

Every figure is a ratio to the hand-written scan in the same process: the median over rounds, with
the quartiles in brackets.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.measure import ratio, report, side_by_side
from neuralflow.solve import Memory

# width, steps, batch
CASES = ((64, 64, 128), (64, 256, 128), (16, 1024, 32))
LINEAR = (16, 64, 256, 1024, 4096)
MEMORY: tuple[Memory, ...] = ("full", "remat", "two_level")


def routes(
    width: int, steps: int, batch: int
) -> tuple[dict[str, Callable[..., Any]], tuple[Any, Any]]:
    """Build the same network by every route, as functions of (stacked parameters, x)."""
    field = nf.DepthVarying(
        lambda rngs: nf.fields.MLP(width, hidden=width, rngs=rngs),
        nf.PiecewiseConstant(steps),
        rngs=nnx.Rngs(0),
    )
    graphdef, params = nnx.split(field.stack)
    whole, state = nnx.split(field)
    h = 1 / steps

    def scan(params: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, p: (x + h * nnx.merge(graphdef, p)(x), None), x, params)[0]

    def nested(params: Any, x: Any) -> Any:
        """Run the shortest hand-written two-level scan.

        Checkpoints stand around each chunk of layers and around each layer.
        """
        inner = 2 ** round(math.log2(steps) / 2)
        chunks = jax.tree.map(lambda p: p.reshape(-1, inner, *p.shape[1:]), params)
        step = jax.checkpoint(lambda x, p: (x + h * nnx.merge(graphdef, p)(x), None))
        chunk = jax.checkpoint(lambda x, ps: (jax.lax.scan(step, x, ps)[0], None))
        return jax.lax.scan(chunk, x, chunks)[0]

    def solve(params: Any, x: Any) -> Any:
        def velocity(t: Any, x: Any, params: Any) -> Any:
            layer = jax.tree.map(lambda p: p[jnp.floor(t).astype(int)], params)
            return jax.tree.map(lambda v: h * v, nnx.merge(graphdef, layer)(x))

        times = diffrax.StepTo(jnp.arange(steps + 1.0))
        solution: Any = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity), diffrax.Euler(), 0.0, float(steps), None, x, params,
            stepsize_controller=times, max_steps=steps,
        )  # fmt: skip
        return solution.ys[0]

    def layer(memory: Memory) -> Callable[..., Any]:
        grid = nf.FixedGrid(nf.Euler(), steps=steps, memory=memory)

        def run(params: Any, x: Any) -> Any:
            field = nnx.merge(
                whole, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(params))
            )
            return nf.NeuralODE(field, grid)(x)

        return run

    ours: dict[str, Callable[..., Any]] = {memory: layer(memory) for memory in MEMORY}
    functions = {"scan": scan, **ours, "nested scans by hand": nested, "diffeqsolve": solve}
    return functions, (params, jax.random.normal(jax.random.key(0), (batch, width)))


def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the gradient of a scalar of the output with respect to parameters and input."""
    return jax.grad(lambda params, x: jnp.sum(function(params, x) ** 2), argnums=(0, 1))


def compare(
    width: int, steps: int, batch: int, rounds: int, compiles: int = 3
) -> list[dict[str, Any]]:
    """Measure one case: a row per route, as ratios to the hand-written scan.

    Every gradient is compiled `compiles` times, for the median of the compile times.
    """
    functions, arguments = routes(width, steps, batch)
    inputs = dict.fromkeys(functions, arguments)
    forward = side_by_side(functions, inputs, rounds)
    backward = side_by_side(
        {name: gradient(f) for name, f in functions.items()}, inputs, rounds, compiles
    )
    base = backward["scan"]
    return [
        {
            "d, N, batch": f"{width}, {steps}, {batch}",
            "route": name,
            "forward": ratio(forward[name].runs, forward["scan"].runs),
            "gradient": ratio(backward[name].runs, base.runs),
            "compile": backward[name].compile / base.compile,
            "memory": backward[name].memory / base.memory,
            "gradient ms": float(1e3 * jnp.median(jnp.asarray(backward[name].runs))),
        }
        for name in functions
    ]


def growth(rounds: int) -> list[dict[str, Any]]:
    """Measure time and compile time of one layer as its depth grows."""
    rows = []
    for steps in LINEAR:
        functions, arguments = routes(16, steps, 32)
        measured = side_by_side(
            {"remat": gradient(functions["remat"])}, {"remat": arguments}, rounds, compiles=3
        )["remat"]
        milliseconds = 1e3 * float(jnp.median(jnp.asarray(measured.runs)))
        rows.append(
            {
                "N": steps,
                "gradient ms": milliseconds,
                "us a step": 1e3 * milliseconds / steps,
                "compile s": measured.compile,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="interleaved runs of every function")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("experiments/benchmarks/results"),
        help="folder for the JSON files",
    )
    options = parser.parse_args()
    rows = [row for case in CASES for row in compare(*case, options.rounds)]
    report("Fixed grid, Euler: ratio to a hand-written scan", rows, options.out / "fixed_grid.json")
    report(
        "Fixed grid: time and compile time against depth (d=16, batch 32)",
        growth(options.rounds),
        options.out / "growth.json",
    )


if __name__ == "__main__":
    main()
