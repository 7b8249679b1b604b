"""Ten points in the plane, five draws of them: orders of convergence with intervals, and the falsifiers.

    python -m experiments.deep_limit.plane

The nonlinear problem of d = 2 with S = 10 standard normal points, y = 1 where x1 x2 + x1 / 2 > 0, tanh layers, a sigmoid
readout and the squared loss. Orders are those of the last pair of depths; their intervals are bootstrapped over the
draws. Several draws have two basins: one branch is followed, and the table says how many were met. Writes plane.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import neuralflow as nf
from neuralflow import deep_limit, report

SCHEMES = {"euler": nf.Euler(), "heun": nf.Heun(), "midpoint": nf.Midpoint()}
SHOWN = ("energy", "sup", "l2", "tl2", "h1", "recovery", "forward", "residual")


def points(seed: int) -> deep_limit.Problem:
    """One draw."""
    x = np.random.default_rng(seed).standard_normal((10, 2))
    return deep_limit.thorpe_van_gennip(x, (x[:, 0] * x[:, 1] + 0.5 * x[:, 0] > 0).astype(float))


def last_pair(found: deep_limit.Study, scheme: str) -> dict[str, float]:
    """Orders between the two largest depths."""
    one, two = found.of(scheme)[-2:]
    value = lambda row, what: row.distances.get(what, getattr(row, what, None))
    return {what: float(np.log2(value(one, what) / value(two, what))) for what in SHOWN}


def draw(seed: int, depths: list[int], starts: int) -> dict[str, Any]:
    """The study of one draw, as plain data."""
    problem, began = points(seed), time.perf_counter()
    *_, (_, found) = deep_limit.study(problem, SCHEMES, depths, seed=seed, starts=starts)
    panels = [panel.sentence() for panel in deep_limit.falsify(problem, found.limit, seed=seed)]
    return {
        "seed": seed,
        "energy": found.limit.energy,
        "optima_apart": found.disagreement,
        "energy_against_adaptive": found.limit_error,
        "basins": found.basins,
        "curvature": found.curvature,
        "orders": {scheme: last_pair(found, scheme) for scheme in SCHEMES},
        "falsifiers": panels,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--starts", type=int, default=30)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    console, draws = Console(width=None if Console().is_terminal else 140), []
    for seed in options.seeds:
        draws.append(draw(seed, options.depths, options.starts))
        met = {where: len(basins) for where, basins in draws[-1]["basins"].items()}
        console.print(f"draw {seed}: basins {met}, optima {draws[-1]['optima_apart']:.0e} apart, {draws[-1]['seconds']:.0f} s")
        for sentence in draws[-1]["falsifiers"]:
            console.print("  " + sentence, highlight=False)
    table = Table(title=f"Orders between depths {options.depths[-2]} and {options.depths[-1]}, mean (95% interval) over draws")
    for name in ("scheme", *SHOWN):
        table.add_column(name, justify="left" if name == "scheme" else "right")
    summary: dict[str, Any] = {}
    for scheme in SCHEMES:
        orders = {what: [d["orders"][scheme][what] for d in draws] for what in SHOWN}
        summary[scheme] = {w: {"mean": float(np.mean(o)), "interval": deep_limit.interval(o)} for w, o in orders.items()}
        cells = (f"{s['mean']:.3f} ({s['interval'][0]:.3f}-{s['interval'][1]:.3f})" for s in summary[scheme].values())
        table.add_row(scheme, *cells)
    console.print(table)
    record = {"command": "python -m experiments.deep_limit.plane", "options": vars(options), "orders": summary, "draws": draws}
    report.write(Path(__file__).parent / "plane.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
