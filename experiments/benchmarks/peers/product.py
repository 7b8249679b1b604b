"""A product of square matrices in PyTorch."""

from __future__ import annotations

from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data.shared import square


def product(size: int, threads: int) -> Any:
    """Build the product."""
    torch.set_num_threads(threads)
    a = torch.tensor(square(size))
    return lambda: {"product": a @ a}, ()
