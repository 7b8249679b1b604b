"""The protocol of Marion et al., compiled for all seeds at once, against an eager PyTorch loop.

    pip install torch
    python -m experiments.benchmarks.descent

The protocol has 100 points in 16 dimensions, 32 hidden units, GELU, equal layers at the start, and
full gradient descent with the learning rate 0.01 L, in float32. PyTorch walks a list of blocks and
steps `torch.optim.SGD`, one seed after the other, as such experiments are published. Both start
from the same weights and data, and the table tells how far apart they end. The seconds of
neuralflow are the seconds of the whole call, compilation included. `steady` is the ratio without
compilation.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.measure import report
from neuralflow.labs import deep_limit
from neuralflow.labs.deep_limit.trained import Residual

DIMENSION, HIDDEN, SAMPLES = 16, 32, 100


def start(seed: int) -> np.ndarray:
    """Return the weights W at the start, `(hidden, dimension)`, the same in every layer."""

    def make(rngs):
        return Residual(DIMENSION, HIDDEN, jax.nn.gelu, rngs=rngs)

    rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(1), seed))
    stack: Any = nf.DepthVarying(make, nf.PiecewiseConstant(2), rngs=rngs, init=nf.tied).stack
    return np.array(stack.W[...][0])


def eager(depth: int, seed: int, iterations: int) -> tuple[np.ndarray, float]:
    """Return V of every layer after the PyTorch loop, and the seconds of the loop."""
    import torch  # pyright: ignore[reportMissingImports]

    class Block(torch.nn.Module):
        def __init__(self, weights: np.ndarray):
            super().__init__()
            self.V = torch.nn.Parameter(torch.zeros(DIMENSION, HIDDEN))
            self.W = torch.nn.Parameter(torch.tensor(weights))
            self.activation: Any = torch.nn.GELU(approximate="tanh")

        def forward(self, h: Any) -> Any:
            hidden: Any = self.activation(h @ self.W.T / DIMENSION**0.5)
            return h + hidden @ self.V.T / (depth * HIDDEN**0.5)

    x, y = (torch.tensor(np.array(a)) for a in deep_limit.gaussian_pairs(seed, SAMPLES, DIMENSION))
    network: Any = torch.nn.Sequential(*(Block(start(seed)) for _ in range(depth)))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01 * depth)
    began = time.perf_counter()
    for _ in range(iterations):
        optimiser.zero_grad()
        loss = ((network(x) - y) ** 2).sum() / (2 * SAMPLES)
        loss.backward()
        optimiser.step()
    seconds = time.perf_counter() - began
    return np.stack([block.V.detach().numpy() for block in network]), seconds  # pyright: ignore[reportAttributeAccessIssue]


def compiled(depth: int, seeds: int, iterations: int) -> tuple[np.ndarray, float]:
    """Return V by seed and layer, and the seconds of the call."""
    began = time.perf_counter()
    (network,) = deep_limit.descend(
        [depth],
        seeds=seeds,
        iterations=iterations,
        dimension=DIMENSION,
        hidden=HIDDEN,
        samples=SAMPLES,
    )
    return network.weights["V"], time.perf_counter() - began


def compare(depth: int, seeds: int, iterations: int) -> dict[str, Any]:
    """Measure one depth."""
    theirs, slow = zip(*(eager(depth, seed, iterations) for seed in range(seeds)), strict=True)
    ours, fast = compiled(depth, seeds, iterations)
    _, compile_alone = compiled(depth, seeds, 1)
    apart = float(np.abs(ours - np.stack(theirs)).max() / np.abs(ours).max())
    return {
        "L": depth,
        "PyTorch s": sum(slow),
        "neuralflow s": fast,
        "of it compiling s": compile_alone,
        "ratio": sum(slow) / fast,
        "steady": sum(slow) / (fast - compile_alone),
        "largest difference in V": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("experiments/benchmarks/results"),
        help="folder for the JSON file",
    )
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    rows = [compare(depth, options.seeds, options.iterations) for depth in options.depths]
    slow, fast = (sum(row[f"{who} s"] for row in rows) for who in ("PyTorch", "neuralflow"))
    total = {
        **dict.fromkeys(rows[0], ""),
        "L": "all",
        "PyTorch s": slow,
        "neuralflow s": fast,
        "ratio": slow / fast,
    }
    report(
        "Marion's protocol: PyTorch, eager, over neuralflow",
        [*rows, total],
        options.out / "descent.json",
    )


if __name__ == "__main__":
    main()
