"""A fit of a spiral by torchdiffeq, torchode and torchdyn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data import solves as data
from experiments.benchmarks.peers.solves import SOLVES, Perceptron


def route(
    package: str,
    threads: int,
    options: Mapping[str, Any],
    hidden: int,
    count: int,
    descents: int,
    end: float,
    tolerance: float,
    rate: float,
) -> Any:
    """Build the training by a package."""
    torch.set_num_threads(threads)
    weights, _ = data.perceptron(2, hidden, 1, time=True)
    at = data.times(end, count)
    x, states = map(torch.tensor, data.spiral(at))

    def train() -> Any:
        field = Perceptron(weights)
        solve = SOLVES[package](field, at, tolerance, **options)
        optimiser = torch.optim.Adam(field.parameters(), rate)
        loss, steps = torch.tensor(0.0), 0
        for _ in range(descents):
            optimiser.zero_grad()
            loss = ((solve(x) - states) ** 2).mean()
            steps = field.steps
            loss.backward()
            optimiser.step()
        return {"loss": loss, "steps": torch.tensor(steps)}

    return train, ()
