"""Orders of convergence on five draws of ten points in the plane, and the falsifiers.

    python -m experiments.deep_limit.plane

The problem is nonlinear, with S = 10 standard normal points in d = 2 dimensions and y = 1 where
x1 x2 + x1 / 2 > 0. It has tanh layers, a sigmoid readout and the squared loss. The orders are
measured between the last two depths. Their intervals over the draws are Student's. Several draws
have two basins. The study then follows one branch, and the table says how many basins were met.
Writes plane.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from experiments.deep_limit.orders import keep, measure
from neuralflow.labs import deep_limit


def points(seed: int) -> deep_limit.Problem:
    """Return the problem of one draw."""
    x = np.random.default_rng(seed).standard_normal((10, 2))
    return deep_limit.thorpe_van_gennip(x, (x[:, 0] * x[:, 1] + 0.5 * x[:, 0] > 0).astype(float))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--starts", type=int, default=30)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    problems = {f"draw {seed}": points(seed) for seed in range(options.draws)}
    console = Console(width=None if Console().is_terminal else 140)
    results = measure(problems, options.depths, options.starts, console, falsify=True)
    keep(Path(__file__).with_suffix(".json"), "python -m experiments.deep_limit.plane", results)


if __name__ == "__main__":
    main()
