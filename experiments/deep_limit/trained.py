"""Networks trained by plain gradient descent without a penalty: which of them have a limit?

    python -m experiments.deep_limit.trained

The protocol is that of Marion et al. (arXiv 2309.01213): 100 points in 16 dimensions, 32 hidden
units, and 500 iterations with the learning rate 0.01 L. There are three ways to begin: GELU with
equal layers, GELU with layers drawn independently, and ReLU with equal layers. The table shows the
exponents p of L^-p, with Student's intervals over seeds. The gaps are distances to the deepest
network, corrected for its finite depth. Writes trained.json and trained.png.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from neuralflow import files
from neuralflow.console import span
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--depths",
        type=int,
        nargs="+",
        default=[16, 32, 64, 128, 256, 512],
        help="the last is the reference",
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=500)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    console = Console(width=None if Console().is_terminal else 140)
    table = Table(
        title=f"Exponents p of L^-p, mean (95% if roughly normal) over {options.seeds} seeds"
    )
    series, record = {}, {}
    for name, protocol in deep_limit.PROTOCOLS.items():
        began = time.perf_counter()
        series[name] = list(
            deep_limit.descend(
                options.depths, seeds=options.seeds, iterations=options.iterations, **protocol
            )
        )
        scaling = deep_limit.scaling(series[name])
        summary, seconds = exponents(scaling), time.perf_counter() - began
        record[name] = {"verdict": scaling.verdict(), "seconds": seconds, "exponents": summary}
        if not table.columns:
            for head in ("protocol", *summary):
                table.add_column(head, justify="right")

        def show(s):
            return "-" if s is None else f"{s['mean']:.3f}\n({span(s['interval'], 3)})"

        table.add_row(name, *map(show, summary.values()))
        console.print(f"{name}: {scaling.verdict()} ({seconds:.0f} s)", highlight=False)
    console.print(table)
    folder = Path(__file__).parent
    held = {
        "command": "python -m experiments.deep_limit.trained",
        "options": vars(options),
        "protocols": record,
    }
    files.write(folder / "trained.json", files.as_json(held))
    figure = deep_limit.plots.trained(series)
    files.write(folder / "trained.png", lambda path: figure.savefig(path, format="png", dpi=160))


if __name__ == "__main__":
    main()
