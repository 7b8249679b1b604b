"""A small layer of torchdiffeq."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]
from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data.shared import layer


def mlp() -> tuple[torch.nn.Module, torch.Tensor]:
    """Return the field of the layer, and its input."""
    kernels, biases, (x,) = layer()
    field = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    with torch.no_grad():
        for k, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            field[2 * k].weight.copy_(torch.tensor(kernel.T.copy()))
            field[2 * k].bias.copy_(torch.tensor(bias))
    return field, torch.tensor(x)


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
