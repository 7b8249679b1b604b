"""The field of a small layer in PyTorch."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]

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
