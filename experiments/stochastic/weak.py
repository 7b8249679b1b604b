"""How fast random networks of a nonlinear field come to their limits.

    python -m experiments.stochastic.weak

The field has 16 hidden units in the plane, with weights of its own in four parts of depth, in
float64. The weak errors are errors in the mean of tanh(X_1 - X_2) from one point, by depth. They
come from sampling a million paths for every row, and have intervals. The interval of an order is
that of the slope at these depths, not of the order as depth grows without end. The seconds are
those of the second call, without compilation. Writes weak.json and weak.png beside this file.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

import neuralflow as nf
from neuralflow import files
from neuralflow.console import progress, screen, span
from neuralflow.labs import stochastic

HERE = Path(__file__).parent
COMMAND = "python -m experiments.stochastic.weak"
START = np.asarray([1.0, -0.5])


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paths", type=int, default=1_000_000)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    console, steps = screen(), (8, 16, 32, 64)
    weak_errors: dict[str, stochastic.WeakErrors] = {}
    seconds: dict[str, dict[str, float]] = {}
    with progress(len(fields()), console) as done:
        for name, random in fields().items():
            network = stochastic.RandomNetwork(random, 16)
            calls = {
                "errors": lambda key, random=random: stochastic.weak_errors(
                    random, bend, START, steps=steps, count=options.paths, key=key
                ),
                "one network": lambda key, network=network: stochastic.expectation(
                    network, bend, START, count=options.paths, key=key
                ),
            }
            seconds[name] = {}
            for what, call in calls.items():
                call(jax.random.key(1))  # compiles
                began = time.perf_counter()
                answer = jax.block_until_ready(call(jax.random.key(0)))
                seconds[name][what] = time.perf_counter() - began
                if isinstance(answer, stochastic.WeakErrors):
                    weak_errors[name] = answer
            done(f"{name}: order {weak_errors[name].order:.2f}")
    table = Table(title=f"weak errors of tanh(X1 - X2), {options.paths} paths")
    table.add_column("network", no_wrap=True)
    for column in (*(f"{n} blocks" for n in steps), "±", "order", "seconds", "one"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, errors in weak_errors.items():
        cells = [
            f"{1e3 * value:.2f}"
            for value in (*np.asarray(errors.errors.mean), 1.96 * float(errors.errors.error.max()))
        ]
        order = f"{errors.order:.2f} ({span(errors.interval)})"
        table.add_row(
            name,
            *cells,
            order,
            *(f"{seconds[name][what]:.1f}" for what in ("errors", "one network")),
        )
    console.print(table)
    console.print(
        "errors in thousandths, intervals of 95%, of an order that of the slope at these depths; "
        "seconds for all depths and the limit, and for one network of 16"
    )
    rows = {
        name: {
            "errors": np.asarray(errors.errors.mean).tolist(),
            "standard errors": np.asarray(errors.errors.error).tolist(),
            "order": errors.order,
            "interval": errors.interval,
            "seconds": seconds[name],
        }
        for name, errors in weak_errors.items()
    }
    result = {"paths": options.paths, "steps": steps, "networks": rows}
    files.write(HERE / "weak.json", files.as_json({"command": COMMAND, "result": result}))
    stochastic.plots.weak_errors(weak_errors).savefig(HERE / "weak.png", dpi=150)


if __name__ == "__main__":
    main()
