"""The exponential of a displacement field on a grid, eager, with the channels first."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data.images import velocity


def eager(threads: int, of: str, size: int, squarings: int) -> Any:
    """Build the loop over `grid_sample`."""
    torch.set_num_threads(threads)
    v: Any = torch.tensor(np.moveaxis(velocity(size), -1, 0).copy()).requires_grad_(
        of == "gradient"
    )

    def exponential() -> Any:
        nodes = torch.stack(torch.meshgrid(*[torch.arange(size, dtype=v.dtype)] * 2, indexing="ij"))
        u = v[None] / 2**squarings
        for _ in range(squarings):
            places = (nodes + u).movedim(1, -1).flip(-1) * (2 / (size - 1)) - 1
            u = u + torch.nn.functional.grid_sample(
                u, places, mode="bilinear", padding_mode="border", align_corners=True
            )
        return u[0]

    def forward() -> Any:
        with torch.no_grad():
            return {"u": exponential().movedim(0, -1)}

    def gradient() -> Any:
        v.grad = None
        (exponential() ** 2).sum().backward()
        slope: Any = v.grad
        return {"v": slope.movedim(0, -1)}

    return {"forward": forward, "gradient": gradient}[of], ()
