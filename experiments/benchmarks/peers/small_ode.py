"""A small neural ODE by torchdiffeq, torchode and torchdyn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data import solves as data
from experiments.benchmarks.peers.solves import SOLVES, Perceptron

MOST = 100
"""The times up to which an adjoint equation runs. It starts anew at every time."""


def route(
    package: str,
    threads: int,
    options: Mapping[str, Any],
    of: str,
    end: float,
    count: int,
    tolerance: float,
    **sizes: int,
) -> Any:
    """Build the states at times, or their gradient, by a package."""
    adjoint = options.get("adjoint") or options.get("sensitivity") == "adjoint"
    if adjoint and count > MOST:
        raise ValueError(f"the adjoint equation starts anew at {count} times, which takes seconds")
    torch.set_num_threads(threads)
    weights, states = data.orbits(**sizes)
    at = data.times(end, count)
    exact = torch.tensor(data.carried(weights, states, at), dtype=torch.float32)
    size = exact.abs().max()
    field, x = Perceptron(weights), torch.tensor(states).requires_grad_(of == "gradient")
    solve = SOLVES[package](field, at, tolerance, **options)

    def told(out: Any) -> Any:
        error = (out.detach() - exact).abs().max() / size
        return {"error": error, "steps": torch.tensor(field.steps)}

    def forward() -> Any:
        with torch.no_grad():
            out = solve(x)
        return {"states": out, **told(out)}

    def gradient() -> Any:
        x.grad = None
        field.zero_grad()
        out = solve(x)
        values = told(out)
        (out**2).sum().backward()
        slopes = (weight.grad for weight in field.parameters())
        return {"x": x.grad, **values, **dict(zip(field.names, slopes, strict=True))}

    return {"forward": forward, "gradient": gradient}[of], ()
