"""Networks trained by plain gradient descent without a penalty: which of them have a limit?

    python -m experiments.deep_limit.trained

The protocol is that of Marion et al. (arXiv 2309.01213): 100 points in 16 dimensions, 32 hidden
units, and 500 iterations with the learning rate 0.01 L. There are three ways to begin: GELU with
equal layers, GELU with layers drawn independently, and ReLU with equal layers. The table shows the
exponents p of L^-p, with Student's intervals over seeds. The gaps are distances to the deepest
network, corrected for its finite depth. Writes trained.json and trained.png. The kept run took six
minutes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.table import Table

from experiments.program import Parser, cores
from neuralflow.console import progress, screen, span
from neuralflow.labs import deep_limit
from neuralflow.statistics import over_seeds


def exponents(scaling: deep_limit.Scaling) -> dict[str, Any]:
    """Return the means and the intervals of the exponents over seeds."""
    summary: dict[str, Any] = {}
    for what in ("gaps", "largest", "increment", "variation"):
        for name, values in getattr(scaling, what).items():
            known = [float(v) for v in values if np.isfinite(v)]
            summary[f"{what} {name}"] = {**over_seeds(known), "seeds": known} if known else None
    return summary


def table(record: dict[str, Any], seeds: int) -> Table:
    """Return the table of the exponents of every protocol."""
    made = Table(title=f"Exponents p of L^-p, mean (95% if roughly normal) over {seeds} seeds")

    def shown(s: dict[str, Any] | None) -> str:
        return "-" if s is None else f"{s['mean']:.3f}\n({span(s['interval'], 3)})"

    for head in ("protocol", *next(iter(record.values()))["exponents"]):
        made.add_column(head, justify="right")
    for name, row in record.items():
        made.add_row(name, *map(shown, row["exponents"].values()))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    quick = {"depths": [2, 4, 8], "seeds": 1, "iterations": 2}
    parser = Parser(__file__, __doc__, seeds=4, quick=quick)
    parser.add_argument(
        "--depths",
        type=int,
        nargs="+",
        default=[16, 32, 64, 128, 256, 512],
        help="the last is the reference",
    )
    parser.add_argument("--iterations", type=int, default=500)
    run = parser.begin(arguments)
    options, console, series, record = run.options, screen(), {}, {}
    protocols = list(deep_limit.PROTOCOLS.items())[: 1 if options.quick else None]
    with jax.enable_x64(True), progress(len(protocols), console) as done:
        for name, protocol in protocols:
            began = time.perf_counter()
            sizes = {"seeds": options.seeds, "iterations": options.iterations}
            series[name] = list(deep_limit.descend(options.depths, **sizes, **protocol))
            scaling = deep_limit.scaling(series[name])
            summary, seconds = exponents(scaling), time.perf_counter() - began
            record[name] = {"verdict": scaling.verdict(), "seconds": seconds, "exponents": summary}
            done(f"{name}: {scaling.verdict()} ({seconds:.0f} s)")
        figure = deep_limit.plots.trained(series)
    console.print(table(record, options.seeds))
    run.write("trained", {"protocols": record}, {"trained.png": figure})


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", cores())  # Seeds are shared out among them.
    main()
