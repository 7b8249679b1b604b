"""Orders of convergence on several data sets, with Student's intervals over the data sets.

`plane` and `digits` share this module.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

import neuralflow as nf
from neuralflow.console import progress, screen, span
from neuralflow.labs import deep_limit
from neuralflow.statistics import over_seeds

SCHEMES = {"euler": nf.Euler(), "heun": nf.Heun(), "midpoint": nf.Midpoint()}
SHOWN = ("energy", "sup", "l2", "tl2", "h1", "recovery", "forward", "residual")


def last_pair(study: deep_limit.Study, scheme: str) -> dict[str, float]:
    """Return the orders between the two largest depths."""
    one, two = study.of(scheme)[-2:]
    ratio = np.log2(two.depth / one.depth)

    def value(row: Any, what: str) -> float:
        return row.distances[what] if what in row.distances else getattr(row, what)

    return {what: float(np.log2(value(one, what) / value(two, what)) / ratio) for what in SHOWN}


def draw(
    problem: deep_limit.Problem, seed: int, depths: list[int], starts: int, falsify: bool
) -> dict[str, Any]:
    """Run the study of one data set, and return it as plain data."""
    began = time.perf_counter()
    *_, (_, study) = deep_limit.study(problem, SCHEMES, depths, seed=seed, starts=starts)
    panels = (
        [panel.sentence() for panel in deep_limit.falsify(problem, study.limit, seed=seed)]
        if falsify
        else []
    )
    return {
        "energy": study.limit.energy,
        "optima_apart": None if np.isnan(study.disagreement) else study.disagreement,
        "energy_against_adaptive": study.limit_error,
        "basins": study.basins,
        "curvature": study.curvature,
        "orders": {scheme: last_pair(study, scheme) for scheme in SCHEMES},
        "falsifiers": panels,
        "seconds": time.perf_counter() - began,
    }


def measure(
    problems: Mapping[str, deep_limit.Problem],
    depths: list[int],
    starts: int,
    *,
    falsify: bool,
) -> dict[str, Any]:
    """Study all data sets, print a table of orders with intervals, and return plain data."""
    draws, console = {}, screen()
    with progress(len(problems), console) as done:
        for seed, (name, problem) in enumerate(problems.items()):
            draws[name] = draw(problem, seed, depths, starts, falsify)
            done(name)
    for name, study in draws.items():
        met = {where: len(basins) for where, basins in study["basins"].items()}
        known = study["optima_apart"] is not None
        apart = f", optima {study['optima_apart']:.0e} apart" if known else ""
        console.print(f"{name}: basins {met}{apart}, {study['seconds']:.0f} s")
        for sentence in study["falsifiers"]:
            console.print("  " + sentence, highlight=False)
    table = Table(
        title=f"Orders between depths {depths[-2]} and {depths[-1]}, mean (95% if roughly normal) "
        f"over {len(draws)} data sets"
    )
    for name in ("scheme", *SHOWN):
        table.add_column(name, justify="left" if name == "scheme" else "right")
    summary: dict[str, Any] = {}
    for scheme in SCHEMES:
        orders = {what: [d["orders"][scheme][what] for d in draws.values()] for what in SHOWN}
        summary[scheme] = {what: over_seeds(values) for what, values in orders.items()}
        cells = (f"{s['mean']:.3f} ({span(s['interval'], 3)})" for s in summary[scheme].values())
        table.add_row(scheme, *cells)
    console.print(table)
    return {"depths": depths, "starts": starts, "orders": summary, "draws": draws}
