"""Do networks that plain gradient descent trains without a penalty come to the limit of an ODE?

    python -m experiments.literature marion

The protocol is that of Marion et al.: 100 points in 16 dimensions, 32 hidden units, and 500
iterations with the learning rate 0.01 L. There are three ways to begin: GELU with equal layers,
GELU with layers drawn independently, and ReLU with equal layers. A run trains one of them at all
depths. The gaps are the distances to the deepest network, and their exponents p of L^-p are
corrected for its finite depth. A seed draws data and weights. float64 throughout.

Published statement (Marion, Wu, Sander & Biau, arXiv 2309.01213; stated there): with a smooth
activation and equal layers at the start, trained weights stay within C / L of those of a limit
ODE. Our notes add that the statistic of the released code, named the largest increment, is the
root of a sum of squares, which falls as L^-1/2.

The paper's size: "paper" takes depths to 512.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.literature.statements import Size, Statement, ticks
from neuralflow import plots
from neuralflow.labs import deep_limit

DEPTHS = {
    "quick": (4, 8, 16),
    "default": (16, 32, 64, 128, 256),
    "paper": (16, 32, 64, 128, 256, 512),
}
SEEDS = {"quick": 2, "default": 16, "paper": 16}
ITERATIONS = {"quick": 20, "default": 500, "paper": 500}
KINDS = ("gaps", "largest", "increment", "variation")
GELU, OWN, RELU = deep_limit.PROTOCOLS


def configurations(size: Size, seeds: int | None = None) -> list[dict[str, Any]]:
    """Return the runs: one for each way to begin."""
    rest = {"seeds": seeds or SEEDS[size], "iterations": ITERATIONS[size]}
    return [{"protocol": p, "depths": list(DEPTHS[size]), **rest} for p in deep_limit.PROTOCOLS]


def run(protocol: str, depths: Sequence[int], seeds: int, iterations: int) -> dict[str, Any]:
    """Train the networks of one protocol at all depths.

    Returns:
        The exponents (seeds,) as "gaps V", "increment W" and so on, the verdict on them, and the
        distances to the deepest network (depths - 1, seeds) as "distance V" and so on.
    """
    with jax.enable_x64(True):
        chosen = deep_limit.PROTOCOLS[protocol]
        networks = list(
            deep_limit.descend(list(depths), seeds=seeds, iterations=iterations, **chosen)
        )
    scaling = deep_limit.scaling(networks)
    gaps = [deep_limit.gaps(network, networks[-1]) for network in networks[:-1]]
    distances = {f"distance {name}": np.stack([gap[name] for gap in gaps]) for name in gaps[0]}
    exponents = {
        f"{kind} {name}": np.asarray(values)
        for kind in KINDS
        for name, values in getattr(scaling, kind).items()
    }
    return {"verdict": scaling.verdict(), **exponents, **distances}


def report(rows: Sequence[dict[str, Any]]) -> tuple[list[Statement], Any]:
    """Compare the exponents with what is published."""
    by = {row["protocol"]: row for row in rows}
    depths = rows[0]["depths"]
    rests = (
        f"L = {depths[0]} to {depths[-1]}, which is the reference; "
        f"{rows[0]['iterations']} iterations"
    )
    source, text = "2309.01213, stated there", "trained weights are within C / L of a limit"
    statements = []

    def state(text: str, source: str, what: str, protocol: str, low: float, high: float):
        if what in by[protocol]:
            values = [float(v) for v in by[protocol][what]]
            what = f"exponent of {what}, {protocol}"
            statements.append(Statement(text, source, what, values, low, high, rests))

    for name in ("V", "W", "output", "loss"):
        state(text, source, f"gaps {name}", GELU, 0.9, 1.1)
    state("neighbouring layers differ by C / L", source, "increment V", GELU, 0.9, 1.1)
    state(
        "the released statistic falls as L^-1/2",
        "our notes on the code",
        "variation V",
        GELU,
        0.4,
        0.6,
    )
    state(
        "without equal layers no limit is promised (falsifier)", source, "gaps W", OWN, -np.inf, 0.5
    )
    state(
        "without a smooth activation nothing is promised (falsifier)",
        source,
        "increment W",
        RELU,
        -np.inf,
        0.75,
    )
    return statements, _picture(rows)


def _picture(rows: Sequence[dict[str, Any]]) -> Any:
    figure, axes = plots.figure(1, 3, width=11, height=4)
    for axis, row in zip(axes, rows, strict=True):
        depths = row["depths"][:-1]
        for k, name in enumerate(("V", "W", "output", "loss")):
            values = np.maximum(row[f"distance {name}"], 1e-17)
            shown = np.exp(np.log(values).mean(axis=1))
            order = float(np.mean(row[f"gaps {name}"]))
            style = {"color": plots.COLOURS[k], "marker": plots.MARKS[k], "markersize": 4}
            axis.loglog(depths, shown, label=f"{name}: {order:.2f}", **style)
        axis.set_title(row["protocol"], fontsize=9)
        axis.set_xlabel("layers L")
        axis.legend(fontsize=7, title="exponent, corrected", title_fontsize=7)
        ticks(axis, depths)
    axes[0].set_ylabel(f"distance from L = {rows[0]['depths'][-1]}")
    return figure
