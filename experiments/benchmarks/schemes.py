"""The cost of a scheme beyond its evaluations of the field, and what reversible memory saves.

    python -m experiments.benchmarks.schemes

The first table gives times per evaluation of the field, as ratios to Euler in the same process. The
second table compares reversible memory with full and remat over depth, as ratios to full. All
ratios are medians over interleaved runs, with the quartiles in brackets. Writes schemes.json and
reversible.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.measure import gradient, ratio, report, side_by_side
from experiments.program import Parser, count
from neuralflow.console import progress
from neuralflow.schemes.network import cost
from neuralflow.solve import Memory

S = nf.schemes
WIDTH, STEPS, BATCH = 64, 64, 128
DEPTHS = (16, 64, 256, 1024)
REVERSIBLE = ("RevNet", "leapfrog", "Reversible Heun")


def schemes(steps: int) -> dict[str, Any]:
    """Return all schemes by name, those with weights for a number of steps."""
    return {
        "Euler": nf.Euler(),
        "Heun": nf.Heun(),
        "RK4": nf.RK4(),
        "Tsit5": nf.Tsit5(),
        "AB2": S.adams_bashforth(2, starter=nf.Heun()),
        "AB4": S.adams_bashforth(4),
        "leapfrog": S.leapfrog(),
        "LM-ResNet": S.LMResNet.learned(steps, rngs=nnx.Rngs(0)),
        "PolyNet, 3": S.PolyNet(3),
        "FixedPointEuler, 3": S.FixedPointEuler(3),
        "FractalNet": S.FractalNet.learned(steps),
        "FractalExpansion, 3 columns": S.FractalExpansion([0.5, 0.5]),
        "RevNet": S.RevNet(),
        "Reversible Heun": S.Reversible(nf.Heun()),
    }


def network(
    scheme: Any, steps: int, memory: Memory = "full", width: int = WIDTH, batch: int = BATCH
) -> tuple[Callable[..., Any], tuple[Any, Any]]:
    """Build a flow of coupled fields by a scheme, as a function of (weights, x).

    The field has RevNet's form, which every scheme can integrate.
    """

    def half(rngs):
        return nf.fields.MLP(width // 2, hidden=width, rngs=rngs)

    def make(rngs):
        return nf.fields.Coupled(half(rngs), half(rngs))

    field = nf.DepthVarying(make, nf.PiecewiseConstant(steps), rngs=nnx.Rngs(0))
    graphdef, weights = nnx.split(
        nf.NeuralODE(field, nf.FixedGrid(scheme, steps=steps, memory=memory))
    )
    x = jax.random.normal(jax.random.key(0), (batch, width))
    return lambda weights, x: nnx.merge(graphdef, weights)(x), (weights, x)


def costs(
    rounds: int, chosen: dict[str, Any], steps: int = STEPS, width: int = WIDTH, batch: int = BATCH
) -> list[dict[str, Any]]:
    """Measure the time per evaluation of the field against Euler's, one row per chosen scheme.

    Euler is one of the chosen schemes.
    """
    networks = {
        name: network(scheme, steps, width=width, batch=batch) for name, scheme in chosen.items()
    }
    functions = {name: function for name, (function, _) in networks.items()}
    inputs = {name: arguments for name, (_, arguments) in networks.items()}
    counts = {name: cost(scheme, steps) / steps for name, scheme in chosen.items()}
    forward = side_by_side(functions, inputs, rounds)
    backward = side_by_side({name: gradient(f) for name, f in functions.items()}, inputs, rounds)

    def each(measurements, name):
        return np.asarray(measurements[name].runs) / counts[name]

    return [
        {
            "scheme": name,
            "evaluations a step": counts[name],
            "forward": ratio(each(forward, name), forward["Euler"].runs),
            "gradient": ratio(each(backward, name), backward["Euler"].runs),
            "compile": backward[name].compile / backward["Euler"].compile,
        }
        for name in chosen
    ]


def memories(
    rounds: int, name: str, steps: int, width: int = WIDTH, batch: int = BATCH
) -> list[dict[str, Any]]:
    """Measure time and working memory of the gradient of a reversible scheme, a row per mode."""
    modes = ("full", "remat", "reversible")
    scheme = schemes(steps)[name]
    networks = {mode: network(scheme, steps, mode, width, batch) for mode in modes}
    functions = {mode: jax.grad(_energy(f), argnums=1) for mode, (f, _) in networks.items()}
    measurements = side_by_side(
        functions, {mode: arguments for mode, (_, arguments) in networks.items()}, rounds
    )
    return [
        {
            "scheme": name,
            "depth": steps,
            "memory": mode,
            "gradient": ratio(measurements[mode].runs, measurements["full"].runs),
            "working memory, kB": measurements[mode].memory / 1000,
            "gradient ms": 1e3 * float(np.median(measurements[mode].runs)),
        }
        for mode in modes
    ]


def _energy(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda weights, x: jnp.sum(function(weights, x) ** 2)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, kept="results", quick={"rounds": 2})
    parser.add_argument(
        "--rounds", type=count, default=15, help="interleaved runs of every function"
    )
    run = parser.begin(arguments)
    quick, rounds = run.options.quick, run.options.rounds
    steps, width, batch = (4, 4, 1) if quick else (STEPS, WIDTH, BATCH)
    every = schemes(steps)
    chosen = {name: every[name] for name in ("Euler", "Heun")} if quick else every
    title = f"Schemes, time per evaluation against Euler's (d={width}, N={steps}, batch {batch})"
    report(run, "schemes", title, costs(rounds, chosen, steps, width, batch))
    pairs = list(itertools.product(REVERSIBLE, DEPTHS))[: 1 if quick else None]
    rows = []
    with progress(len(pairs)) as done:
        for name, depth in pairs:
            rows += memories(rounds, name, depth, width, batch)
            done(f"{name}, depth {depth}")
    report(run, "reversible", "Gradient with respect to x: memory modes over depth", rows)


if __name__ == "__main__":
    main()
