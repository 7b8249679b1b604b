"""A continuous normalising flow in torchdiffeq and in torchdyn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data.training import moons, perceptron
from experiments.benchmarks.peers.accuracy import linear


class Moving(torch.nn.Module):
    """The velocity of points, and minus its divergence by one pass of autograd a coordinate."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = net

    def forward(self, t: Any, state: Any) -> Any:
        x, _ = state
        with torch.enable_grad():
            x = x.requires_grad_(True)
            v = self.net(torch.cat([x, t.expand(len(x), 1)], 1))
            rows = (
                torch.autograd.grad(v[:, i].sum(), x, create_graph=True)[0][:, i] for i in (0, 1)
            )
            return v, -sum(rows)


def torchdiffeq(adjoint: bool, **case: Any) -> Any:
    """Build the loss and its gradient with `odeint`, by autograd or by the adjoint equation."""
    import torchdiffeq as package  # pyright: ignore[reportMissingImports]

    odeint = package.odeint_adjoint if adjoint else package.odeint
    options = {"rtol": case["tolerance"], "atol": case["tolerance"], "method": "dopri5"}
    times = torch.tensor([0.0, 1.0])

    def walk(net: Any) -> Callable[[Any], Any]:
        moving = Moving(net)

        def ends(x: Any) -> Any:
            y, lost = odeint(moving, (x, torch.zeros(len(x))), times, **options)
            return y[-1], lost[-1]

        return ends

    return built(walk, (), **case)


def torchdyn(**case: Any) -> Any:
    """Build the loss and its gradient with `CNF`, `autograd_trace` and a `NeuralODE`."""
    from torchdyn.core import NeuralODE  # pyright: ignore[reportMissingImports]
    from torchdyn.models import CNF, autograd_trace  # pyright: ignore[reportMissingImports]
    from torchdyn.nn import Augmenter, DepthCat  # pyright: ignore[reportMissingImports]

    def walk(net: Any) -> Callable[[Any], Any]:
        node = NeuralODE(
            CNF(net, trace_estimator=autograd_trace), solver="dopri5", sensitivity="autograd",
            atol=case["tolerance"], rtol=case["tolerance"], return_t_eval=False,
        )  # fmt: skip
        flow = torch.nn.Sequential(Augmenter(augment_idx=1, augment_dims=1), node)

        def ends(x: Any) -> Any:
            state = flow(x)[-1]
            return state[:, 1:], state[:, 0]

        return ends

    return built(walk, (DepthCat(1),), **case)


def built(
    walk: Callable[[Any], Callable[[Any], Any]], before: tuple[Any, ...], *,
    batch: int, hidden: int, tolerance: float, threads: int,
) -> Any:  # fmt: skip
    """Return the function from points to the loss and its gradient, and its arguments.

    Args:
        walk: A function from the network to the function from points to where they end, and to the
            integrals of minus the divergence.
        before: The modules in front of the network.
        batch: The number of points.
        hidden: The number of units in both hidden layers.
        tolerance: The tolerance of the solve.
        threads: The threads of PyTorch.
    """
    torch.set_num_threads(threads)
    first, second, last = dense = [linear(*pair) for pair in perceptron((3, hidden, hidden, 2))]
    net = torch.nn.Sequential(*before, first, torch.nn.Tanh(), second, torch.nn.Tanh(), last)
    ends = walk(net)

    def step(x: Any) -> Any:
        net.zero_grad()
        y, lost = ends(x)
        loss = (0.5 * (y**2).sum(1) + math.log(2 * math.pi) + lost).mean()
        loss.backward()
        kernels = {f"kernel {k}": layer.weight.grad.T for k, layer in enumerate(dense)}
        biases = {f"bias {k}": layer.bias.grad for k, layer in enumerate(dense)}
        return {"loss": loss.detach(), **kernels, **biases}

    return step, (torch.tensor(moons(batch)),)
