"""A small layer of torchdyn."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]
from torchdyn.core import NeuralODE  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.peers.first_mlp import mlp


def computes(adaptive: bool, of: str) -> float:
    """Build a layer, and return the sum of squares of its output, or of its gradient."""
    field, x = mlp()
    solver = {"solver": "dopri5", "atol": 1e-4, "rtol": 1e-4} if adaptive else {"solver": "euler"}
    model = NeuralODE(field, sensitivity="autograd", **solver)
    times = torch.linspace(0, 1, 2 if adaptive else 17)
    loss = (model(x, times)[1][-1] ** 2).sum()
    if of == "output":
        return float(loss)
    loss.backward()
    return sum(float((w.grad**2).sum()) for w in field.parameters())
