"""Adaptive solves by torchdiffeq, torchode and torchdyn."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

Solve = Callable[[Any], Any]
"""A function of the states at time 0 that returns the states at times."""


class Perceptron(torch.nn.Module):
    """A velocity field that counts what a solve has done.

    Attributes:
        names: The names of the weights, in the order of the parameters.
        evaluations: The number of evaluations.
        steps: The number of accepted steps, where the package tells of them.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        super().__init__()
        self.a, self.b, self.c, self.d = map(_parameter, weights.values())
        self.time = len(weights["in"]) > weights["out"].shape[1]
        self.names = list(weights)
        self.evaluations = self.steps = 0

    def forward(self, t: Any, x: Any, args: Any = None) -> Any:
        self.evaluations += 1
        if self.time:
            x = torch.cat([x, t.expand(len(x))[:, None]], 1)
        return torch.addmm(self.d, torch.tanh(torch.addmm(self.b, x, self.a)), self.c)

    def callback_accept_step(self, t: Any, x: Any, h: Any) -> None:
        """Count a step of torchdiffeq."""
        self.steps += 1


def torchdiffeq(field: Perceptron, at: np.ndarray, tolerance: float, adjoint: bool) -> Solve:
    """Build the solve of torchdiffeq, by its default Dopri5."""
    package = importlib.import_module("torchdiffeq")
    solver = package.odeint_adjoint if adjoint else package.odeint
    grid = torch.tensor(np.append(np.float32(0), at))

    def solve(x: Any) -> Any:
        field.steps = 0
        return solver(field, x, grid, rtol=tolerance, atol=tolerance)[1:]

    return solve


def torchode(field: Perceptron, at: np.ndarray, tolerance: float) -> Solve:
    """Build the solve of torchode, by Tsit5 with the controller of its examples."""
    package = importlib.import_module("torchode")
    term = package.ODETerm(field)
    controller = package.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    solver = package.AutoDiffAdjoint(package.Tsit5(term=term), controller)
    grid = torch.tensor(at)

    def solve(x: Any) -> Any:
        start, end = torch.zeros(len(x)), grid[-1:].expand(len(x))
        inner = None if len(at) == 1 else grid.expand(len(x), -1)
        solution = solver.solve(package.InitialValueProblem(x, start, end, inner))
        field.steps = int(solution.stats["n_accepted"].max())
        return solution.ys.transpose(0, 1)

    return solve


def torchdyn(field: Perceptron, at: np.ndarray, tolerance: float, sensitivity: str) -> Solve:
    """Build the solve of torchdyn, by its default Tsit5."""
    package = importlib.import_module("torchdyn.core")
    layer = package.NeuralODE(
        field,
        sensitivity=sensitivity,
        atol=tolerance,
        rtol=tolerance,
        atol_adjoint=tolerance,
        rtol_adjoint=tolerance,
        return_t_eval=False,
    )
    grid = torch.tensor(np.append(np.float32(0), at))

    def solve(x: Any) -> Any:
        field.evaluations = 0
        states = layer(x, grid)[1:]
        field.steps = (field.evaluations - 2) // 6
        return states

    return solve


def _parameter(weight: np.ndarray) -> Any:
    return torch.nn.Parameter(torch.tensor(weight))


SOLVES = {"torchdiffeq": torchdiffeq, "torchode": torchode, "torchdyn": torchdyn}
