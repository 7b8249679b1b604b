"""A continuous normalising flow in bijx, on flax and diffrax."""

from __future__ import annotations

from typing import Any

import bijx  # pyright: ignore[reportMissingImports]
import diffrax
import jax
import jax.numpy as jnp
from flax import nnx

from experiments.benchmarks.data.training import moons, perceptron


class Velocity(nnx.Module):
    """A perceptron of a point and the time."""

    def __init__(self, widths: tuple[int, ...], rngs: nnx.Rngs):
        self.net = bijx.nn.nets.MLP(
            widths[0], widths[-1], list(widths[1:-1]), activation=jnp.tanh, rngs=rngs
        )

    def __call__(self, t: Any, x: Any) -> Any:
        return self.net(jnp.append(x, t))


def flow(batch: int, hidden: int, tolerance: float) -> Any:
    """Build the loss and its gradient, with the trace by `AutoJacVF` and `ContFlowDiffrax`."""
    widths = (3, hidden, hidden, 2)
    config = bijx.DiffraxConfig(
        solver=diffrax.Dopri5(),
        t_start=1.0,  # the base
        t_end=0.0,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
    )
    rngs = nnx.Rngs(0)
    bijection = bijx.ContFlowDiffrax(bijx.AutoJacVF(Velocity(widths, rngs)), config)
    model = bijx.Transformed(bijx.IndependentNormal((2,), rngs=rngs), bijection)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(weights: Any, x: Any) -> Any:
        ordered = [array for kernel, bias in weights for array in (bias, kernel)]
        params_now = jax.tree.unflatten(jax.tree.structure(params), ordered)
        return -nnx.merge(graphdef, params_now, rest).log_density(x).mean()

    def step(weights: Any, x: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(weights, x)
        named = {
            f"{name} {k}": array
            for k, pair in enumerate(gradient)
            for name, array in zip(("kernel", "bias"), pair, strict=True)
        }
        return {"loss": value, **named}

    weights = jax.tree.map(jnp.asarray, perceptron(widths))
    return jax.jit(step), (weights, jnp.asarray(moons(batch)))
