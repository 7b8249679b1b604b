"""A small layer of torchdiffeq."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]
from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.peers.first_mlp import mlp


def computes(adaptive: bool, of: str) -> float:
    """Build a layer, and return the sum of squares of its output, or of its gradient."""
    field, x = mlp()
    times = torch.tensor([0.0, 1.0])
    if adaptive:
        end = odeint(lambda t, x: field(x), x, times, rtol=1e-4, atol=1e-4, method="dopri5")[-1]
    else:
        options = {"step_size": 1 / 16}
        end = odeint(lambda t, x: field(x), x, times, method="euler", options=options)[-1]
    loss = (end**2).sum()
    if of == "output":
        return float(loss)
    loss.backward()
    return sum(float((w.grad**2).sum()) for w in field.parameters())
