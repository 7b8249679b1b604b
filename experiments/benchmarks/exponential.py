"""The exponential of a displacement field on a grid, against PyTorch.

    pip install torch
    python -m experiments.benchmarks.exponential

Both scale and square a smooth field on 256 x 256 nodes in float32, on the same cores. The one is
`nf.labs.diffeo.sampled.exponential`, compiled. The other is PyTorch as registration tools write it:
an eager loop over `torch.nn.functional.grid_sample`, with bilinear interpolation, border padding
and aligned corners. The rows measure the forward pass and the gradient of a sum of squares, over
the number of squarings, and so show the cost of one squaring. Both agree to rounding, which is
checked first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.measure import ratio, report
from neuralflow.labs.diffeo import sampled


def field(size: int) -> np.ndarray:
    """Return a smooth velocity of some eight spacings, `(size, size, 2)`, at rest at the edges."""
    a, b = np.meshgrid(*[np.linspace(0, 1, size)] * 2, indexing="ij")
    bump = np.sin(np.pi * a) ** 2 * np.sin(np.pi * b) ** 2
    return (8 * np.stack([bump * np.cos(5 * b + a), bump * np.sin(4 * a)], axis=-1)).astype(
        np.float32
    )


def torch_exponential(squarings: int) -> Callable[[Any], Any]:
    """Return the same exponential by grid_sample, with the channels first."""
    import torch  # pyright: ignore[reportMissingImports]

    def exponential(v: Any) -> Any:
        rows, columns = v.shape[-2:]
        axes = [torch.arange(n, dtype=v.dtype) for n in (rows, columns)]
        nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
        scale = torch.tensor([2 / (columns - 1), 2 / (rows - 1)], dtype=v.dtype)
        u = v[None] / 2**squarings
        for _ in range(squarings):
            places = (nodes + u).movedim(1, -1).flip(-1) * scale - 1
            u = u + torch.nn.functional.grid_sample(
                u, places, mode="bilinear", padding_mode="border", align_corners=True
            )
        return u[0]

    return exponential


def compare(size: int, squarings: int, rounds: int) -> list[dict[str, Any]]:
    """Measure the forward pass and the gradient, one row each."""
    import torch  # pyright: ignore[reportMissingImports]

    velocity = field(size)
    ours = jnp.asarray(velocity)
    theirs = torch.tensor(np.moveaxis(velocity, -1, 0).copy())
    forward = jax.jit(lambda v: sampled.exponential(v, squarings))
    backward = jax.jit(jax.grad(lambda v: jnp.sum(sampled.exponential(v, squarings) ** 2)))
    exponential = torch_exponential(squarings)

    def torch_gradient() -> Any:
        v = theirs.clone().requires_grad_(True)
        (exponential(v) ** 2).sum().backward()
        return v.grad

    def torch_forward() -> Any:
        with torch.no_grad():
            return exponential(theirs)

    rows = []
    pairs = {
        "forward": (lambda: forward(ours), torch_forward),
        "gradient": (lambda: backward(ours), torch_gradient),
    }
    for what, (mine, other) in pairs.items():
        a, b = np.asarray(mine()), np.moveaxis(other().numpy(), 0, -1)
        apart = float(np.abs(a - b).max() / np.abs(b).max())
        assert apart < 1e-4, f"the two differ by {apart:.1e}"
        runs: dict[str, list[float]] = {"mine": [], "other": []}
        for _ in range(rounds):
            for name, run in (("mine", mine), ("other", other)):
                began = time.perf_counter()
                jax.block_until_ready(run())
                runs[name].append(time.perf_counter() - began)
        seconds = {name: np.asarray(values) for name, values in runs.items()}
        rows.append(
            {
                "what": what,
                "nodes": f"{size} x {size}",
                "squarings": squarings,
                "neuralflow ms": 1e3 * float(np.median(seconds["mine"])),
                "PyTorch ms": 1e3 * float(np.median(seconds["other"])),
                "PyTorch over neuralflow": ratio(seconds["other"], seconds["mine"]),
                "apart": apart,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--squarings", type=int, nargs="+", default=[4, 7, 10])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("experiments/benchmarks/results"),
        help="folder for the JSON file",
    )
    options = parser.parse_args()
    rows = [row for n in options.squarings for row in compare(options.size, n, options.rounds)]
    report(
        "exp(V) on a grid by scaling and squaring: PyTorch over neuralflow",
        rows,
        options.out / "exponential.json",
    )


if __name__ == "__main__":
    main()
