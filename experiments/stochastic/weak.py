"""How fast random networks of a nonlinear field come to their limits.

    python -m experiments.stochastic.weak

The field has 16 hidden units in the plane, with weights of its own in four parts of depth, in
float64. The weak errors are errors in the mean of tanh(X_1 - X_2) from one point, by depth. They
come from sampling a million paths for every row, and have intervals. The interval of an order is
that of the slope at these depths, not of the order as depth grows without end. The seconds are
those of the second call, without compilation. Writes weak.json and weak.png.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.program import Parser, count
from neuralflow.console import progress, screen, span
from neuralflow.labs import stochastic

START, STEPS = np.asarray([1.0, -0.5]), (8, 16, 32, 64)


def field(seed: int) -> nnx.Module:
    def make(rngs):
        return nf.fields.MLP(2, hidden=16, param_dtype=float, rngs=rngs)

    return nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(seed))


def fields() -> dict[str, Any]:
    rngs = nnx.Rngs(0)
    return {
        "depth, p = 0.5": stochastic.StochasticDepth(field(0), 0.5, rngs=rngs),
        "depth, p = 0.8": stochastic.StochasticDepth(field(0), 0.8, rngs=rngs),
        "shake-shake": stochastic.ShakeShake(field(0), field(1), rngs=rngs),
        "dropout, p = 0.8": stochastic.Dropout(field(0), 0.8, rngs=rngs),
    }


def bend(y: Any) -> Any:
    return jnp.tanh(y[:, 0] - y[:, 1])


def measured(
    random: Any, steps: Sequence[int], paths: int
) -> tuple[stochastic.WeakErrors, dict[str, float]]:
    """Return the weak errors of networks of one field, and seconds without compilation.

    The seconds are those of all depths and the limit, and those of one network of 16 blocks.
    """
    network, options = stochastic.RandomNetwork(random, 16), {"count": paths}

    def errors(key: Any) -> stochastic.WeakErrors:
        return stochastic.weak_errors(random, bend, START, steps=steps, key=key, **options)

    def one(key: Any) -> Any:
        return stochastic.expectation(network, bend, START, key=key, **options)

    seconds, answers = {}, []
    for what, call in (("errors", errors), ("one network", one)):
        call(jax.random.key(1))  # compiles
        began = time.perf_counter()
        answers.append(jax.block_until_ready(call(jax.random.key(0))))
        seconds[what] = time.perf_counter() - began
    return answers[0], seconds


def table(
    errors: dict[str, stochastic.WeakErrors], seconds: dict[str, dict[str, float]], paths: int
) -> Table:
    """Return the table of all networks."""
    made = Table(title=f"weak errors of tanh(X1 - X2), {paths} paths")
    made.add_column("network", no_wrap=True)
    for column in (*(f"{n} blocks" for n in STEPS), "±", "order", "seconds", "one"):
        made.add_column(column, justify="right", no_wrap=True)
    for name, row in errors.items():
        values = (*np.asarray(row.errors.mean), 1.96 * np.asarray(row.errors.error).max())
        order = f"{row.order:.2f} ({span(row.interval)})"
        times = (f"{value:.1f}" for value in seconds[name].values())
        made.add_row(name, *(f"{1e3 * value:.2f}" for value in values), order, *times)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, quick={"paths": 1000})
    parser.add_argument("--paths", type=count, default=1_000_000)
    run = parser.begin(arguments)
    paths, console = run.options.paths, screen()
    errors: dict[str, stochastic.WeakErrors] = {}
    seconds: dict[str, dict[str, float]] = {}
    with jax.enable_x64(True):
        chosen = list(fields().items())[: 1 if run.options.quick else None]
        with progress(len(chosen), console) as done:
            for name, random in chosen:
                errors[name], seconds[name] = measured(random, STEPS, paths)
                done(f"{name}: order {errors[name].order:.2f}")
        picture = stochastic.plots.weak_errors(errors)
    console.print(table(errors, seconds, paths))
    console.print(
        "errors in thousandths, intervals of 95%, of an order that of the slope at these depths; "
        "seconds for all depths and the limit, and for one network of 16"
    )
    rows = {
        name: {
            "errors": np.asarray(row.errors.mean).tolist(),
            "standard errors": np.asarray(row.errors.error).tolist(),
            "order": row.order,
            "interval": row.interval,
            "seconds": seconds[name],
        }
        for name, row in errors.items()
    }
    result = {"paths": paths, "steps": STEPS, "networks": rows}
    run.write("weak", {"result": result}, {"weak.png": picture})


if __name__ == "__main__":
    main()
