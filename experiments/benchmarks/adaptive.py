"""NeuralODE with adaptive steps against plain `diffeqsolve` with its defaults.

    python -m experiments.benchmarks.adaptive

Both take equally many accepted steps. Every figure is a ratio to `diffeqsolve` in the same process:
the median over rounds, with the quartiles in brackets.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.measure import ratio, report, side_by_side

# end of the interval, tolerance, dimension, hidden, batch
CASES = (
    (5.0, 1e-4, 4, 32, 256),
    (30.0, 1e-6, 4, 32, 256),
    (100.0, 1e-6, 4, 32, 256),
    (30.0, 1e-6, 32, 64, 128),
)


def routes(
    t1: float, tolerance: float, dimension: int, hidden: int
) -> tuple[dict[str, Callable[..., Any]], Any]:
    """Build the same solve by both routes, as functions of (parameters, x).

    `diffeqsolve` solves in the same normalised depth.
    """
    field = nf.fields.MLP(dimension, hidden=hidden, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(field)
    adaptive = nf.Adaptive(nf.Tsit5(), rtol=tolerance, atol=tolerance)

    def layer(params: Any, x: Any) -> Any:
        return nf.NeuralODE(nnx.merge(graphdef, params), adaptive, 0.0, t1)(x)

    def plain(params: Any, x: Any) -> Any:
        return plain_solution(params, x).ys[0]

    def plain_solution(params: Any, x: Any) -> Any:
        def velocity(t: Any, x: Any, params: Any) -> Any:
            return t1 * nnx.merge(graphdef, params)(x)

        controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            diffrax.Tsit5(),
            0.0,
            1.0,
            None,
            x,
            params,
            stepsize_controller=controller,
            throw=False,
        )

    def steps(params, x):
        return (
            nf.NeuralODE(nnx.merge(graphdef, params), adaptive, 0.0, t1).solve(x).accepted,
            plain_solution(params, x).stats["num_accepted_steps"],
        )

    return {"neuralflow": layer, "diffeqsolve": plain, "steps": steps}, params


def compare(
    t1: float,
    tolerance: float,
    dimension: int,
    hidden: int,
    batch: int,
    rounds: int,
    compiles: tuple[int, int] = (3, 7),
) -> dict[str, Any]:
    """Measure one case: forward, gradient, compile time and memory as ratios to `diffeqsolve`.

    Forward and gradient are compiled `compiles` times, for the medians of the compile times.
    """
    functions, params = routes(t1, tolerance, dimension, hidden)
    x = jax.random.normal(jax.random.key(0), (batch, dimension))
    ours, theirs = jax.jit(functions.pop("steps"))(params, x)
    inputs = dict.fromkeys(functions, (params, x))
    forward = side_by_side(functions, inputs, rounds, compiles[0])
    grads = {
        name: jax.grad(lambda params, x, f=f: jnp.sum(f(params, x) ** 2), argnums=(0, 1))
        for name, f in functions.items()
    }
    backward = side_by_side(grads, inputs, rounds, compiles[1])
    a, b = backward["neuralflow"], backward["diffeqsolve"]
    return {
        "T, tol, d, hidden, batch": f"{t1:g}, {tolerance:g}, {dimension}, {hidden}, {batch}",
        "steps": f"{int(ours)} = {int(theirs)}"
        if int(ours) == int(theirs)
        else f"{int(ours)} != {int(theirs)}",
        "forward": ratio(forward["neuralflow"].runs, forward["diffeqsolve"].runs),
        "gradient": ratio(a.runs, b.runs),
        "compile forward": forward["neuralflow"].compile / forward["diffeqsolve"].compile,
        "compile gradient": a.compile / b.compile,
        "memory": a.memory / b.memory,
        "gradient ms": 1e3 * float(jnp.median(jnp.asarray(a.runs))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="interleaved runs of every function")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("experiments/benchmarks/results"),
        help="folder for the JSON file",
    )
    options = parser.parse_args()
    rows = [compare(*case, options.rounds) for case in CASES]
    report(
        "Adaptive, Tsit5: ratio to diffeqsolve with its defaults",
        rows,
        options.out / "adaptive.json",
    )


if __name__ == "__main__":
    main()
