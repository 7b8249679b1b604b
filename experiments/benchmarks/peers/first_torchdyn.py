"""A small layer of torchdyn."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]
from torchdyn.core import NeuralODE  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data.shared import layer


def computes(adaptive: bool, of: str) -> float:
    """Build a layer, and return the sum of squares of its output, or of its gradient."""
    kernels, biases, (x,) = layer()
    field = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    with torch.no_grad():
        for k, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            field[2 * k].weight.copy_(torch.tensor(kernel.T.copy()))
            field[2 * k].bias.copy_(torch.tensor(bias))
    solver = {"solver": "dopri5", "atol": 1e-4, "rtol": 1e-4} if adaptive else {"solver": "euler"}
    model = NeuralODE(field, sensitivity="autograd", **solver)
    times = torch.linspace(0, 1, 2 if adaptive else 17)
    loss = (model(torch.tensor(x), times)[1][-1] ** 2).sum()
    if of == "output":
        return float(loss)
    loss.backward()
    return sum(float((w.grad**2).sum()) for w in field.parameters())
