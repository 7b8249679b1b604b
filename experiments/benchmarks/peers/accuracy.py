"""Trainings of a neural ODE classifier to a test accuracy, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data.training import classifier, labelled, orders

Walk = Callable[[Any], Any]


class Field(torch.nn.Module):
    """A velocity field that does not depend on time, of a network."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = net

    def forward(self, t: Any, x: Any) -> Any:
        return self.net(x)


def torchdiffeq(adjoint: bool, **case: Any) -> Any:
    """Build the training with `odeint`, by autograd or by the adjoint equation."""
    import torchdiffeq as package  # pyright: ignore[reportMissingImports]

    odeint = package.odeint_adjoint if adjoint else package.odeint
    options = {"rtol": case["tolerance"], "atol": case["tolerance"], "method": "dopri5"}

    def flow(field: Field) -> Walk:
        times = torch.tensor([0.0, 1.0])
        return lambda x: odeint(field, x, times, **options)[-1]

    return training(flow, **case)


def torchdyn(**case: Any) -> Any:
    """Build the training with a `NeuralODE`, by autograd."""
    from torchdyn.core import NeuralODE  # pyright: ignore[reportMissingImports]

    def flow(field: Field) -> Walk:
        node = NeuralODE(
            field.net, solver="dopri5", sensitivity="autograd", return_t_eval=False,
            atol=case["tolerance"], rtol=case["tolerance"],
        )  # fmt: skip
        return lambda x: node(x)[-1]

    return training(flow, **case)


def torchode(**case: Any) -> Any:
    """Build the training with `AutoDiffAdjoint` and its integral controller, as in its README."""
    import torchode as package  # pyright: ignore[reportMissingImports]

    def flow(field: Field) -> Walk:
        term = package.ODETerm(field)
        control = package.IntegralController(case["tolerance"], case["tolerance"], term=term)
        solver = package.AutoDiffAdjoint(package.Dopri5(term=term), control)

        def walk(x: Any) -> Any:
            begin, end = torch.zeros(len(x)), torch.ones(len(x))
            problem = package.InitialValueProblem(y0=x, t_start=begin, t_end=end)
            return solver.solve(problem).ys[:, -1]

        return walk

    return training(flow, **case)


def training(
    flow: Callable[[Field], Walk], *, threads: int, points: str, train: int, test: int,
    zeros: int, classes: int, hidden: int, batch: int, rate: float, target: float, epochs: int,
    **_: Any,
) -> Any:  # fmt: skip
    """Return the training of a flow between zeros and a linear head, and its arguments: none."""
    torch.set_num_threads(threads)
    data, held = (
        {"x": torch.tensor(part["x"]), "y": torch.tensor(part["y"]).long()}
        for part in labelled(points, train, test)
    )
    weights = classifier(data["x"].shape[1] + zeros, hidden, classes)
    rows = torch.tensor(orders(train, batch, epochs)).long()

    def train_to_target() -> Any:
        first, second, head = (linear(*pair) for pair in weights)
        field = Field(torch.nn.Sequential(first, torch.nn.Tanh(), second))
        walk = flow(field)
        adam = torch.optim.Adam([*field.parameters(), *head.parameters()], lr=rate)

        def logits(x: Any) -> Any:
            return head(walk(torch.nn.functional.pad(x, (0, zeros))))

        def update(chosen: Any) -> Any:
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(logits(data["x"][chosen]), data["y"][chosen])
            loss.backward()
            adam.step()
            return loss.detach()

        def accuracy() -> float:
            with torch.no_grad():
                return float((logits(held["x"]).argmax(1) == held["y"]).float().mean())

        reached, done, losses = 0.0, 0, []
        while reached < target and done < epochs:
            values = [update(chosen) for chosen in rows[done]]
            losses, done, reached = losses or values[:2], done + 1, accuracy()
        updates = torch.tensor(float(done * rows.shape[1]))
        return {"first losses": losses, "updates": updates, "accuracy": torch.tensor(reached)}

    return train_to_target, ()


def linear(kernel: Any, bias: Any) -> Any:
    """Return a linear map with these weights."""
    layer = torch.nn.Linear(*kernel.shape)
    layer.weight.data = torch.tensor(kernel.T.copy())
    layer.bias.data = torch.tensor(bias)
    return layer
