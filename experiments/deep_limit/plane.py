"""Orders of convergence on five draws of ten points in the plane, and the falsifiers.

    python -m experiments.deep_limit.plane

The problem is nonlinear, with S = 10 standard normal points in d = 2 dimensions and y = 1 where
x1 x2 + x1 / 2 > 0. It has tanh layers, a sigmoid readout and the squared loss. The orders are
measured between the last two depths. Their intervals over the draws are Student's. Several draws
have two basins. The study then follows one branch, and the table says how many basins were met.
Writes plane.json.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from experiments.deep_limit.orders import measure
from experiments.program import Parser, count
from neuralflow.labs import deep_limit


def points(seed: int) -> deep_limit.Problem:
    """Return the problem of one draw."""
    x = np.random.default_rng(seed).standard_normal((10, 2))
    return deep_limit.thorpe_van_gennip(x, (x[:, 0] * x[:, 1] + 0.5 * x[:, 0] > 0).astype(float))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, seeds=5, quick={"seeds": 1, "depths": [4, 8], "starts": 2})
    parser.add_argument("--depths", type=count, nargs="+", default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--starts", type=count, default=30)
    run = parser.begin(arguments)
    options = run.options
    problems = {f"draw {seed}": points(seed) for seed in range(options.seeds)}
    with jax.enable_x64(True):
        result = measure(problems, options.depths, options.starts, falsify=True)
    run.write("plane", {"result": result})


if __name__ == "__main__":
    main()
