"""The descent of Marion et al. on a list of blocks, eager."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

RATE = 0.01


class Block(torch.nn.Module):
    """h + V GELU(W h / sqrt(q)) / (L sqrt(m)), for `depth` = L, and W of shape `(*seeds, m, q)`."""

    def __init__(self, weights: np.ndarray, depth: int):
        super().__init__()
        *seeds, hidden, dimension = weights.shape
        self.V: Any = torch.nn.Parameter(torch.zeros(*seeds, dimension, hidden))
        self.W: Any = torch.nn.Parameter(torch.tensor(weights))
        self.activation: Any = torch.nn.GELU(approximate="tanh")
        self.depth = depth

    def forward(self, h: Any) -> Any:
        hidden = self.activation(h @ self.W.mT / self.W.shape[-1] ** 0.5)
        return h + hidden @ self.V.mT / (self.depth * self.V.shape[-1] ** 0.5)


def descent(
    threads: int, together: bool, depth: int, iterations: int, start: dict[str, np.ndarray]
) -> Any:
    """Build the descent, from the W, the inputs and the targets of every seed."""
    torch.set_num_threads(threads)
    seeds = len(start["W"])

    def trained(W: np.ndarray, x: Any, y: Any) -> Any:
        network: Any = torch.nn.Sequential(*(Block(W, depth) for _ in range(depth)))
        optimiser = torch.optim.SGD(network.parameters(), lr=RATE * depth)
        for _ in range(iterations):
            optimiser.zero_grad()
            loss = ((network(x) - y) ** 2).sum() / (2 * x.shape[-2])
            loss.backward()
            optimiser.step()
        return torch.stack([block.V.detach() for block in network], dim=-3)

    x, y = torch.tensor(start["x"]), torch.tensor(start["y"])

    def run() -> Any:
        if together:
            return {"V": trained(start["W"], x, y)}
        return {"V": [trained(start["W"][seed], x[seed], y[seed]) for seed in range(seeds)]}

    return run, ()
