"""The same layer in flax, solved by diffrax or by a hand-written scan."""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.benchmarks.data.shared import layer


class MLP(nnx.Module):
    """An MLP with one hidden layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(2, 32, rngs=rngs)
        self.second = nnx.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jnp.tanh(self.first(x)))


def computes(adaptive: bool, of: str) -> float:
    """Build a layer, and return the sum of squares of its output, or of its gradient."""
    kernels, biases, (x,) = layer()
    field = MLP(nnx.Rngs(0))
    for dense, kernel, bias in zip((field.first, field.second), kernels, biases, strict=True):
        dense.kernel[...] = kernel
        if dense.bias is not None:
            dense.bias[...] = bias
    graphdef, params = nnx.split(field)

    def solved(params, x):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, x, params: nnx.merge(graphdef, params)(x)),
            diffrax.Tsit5(),
            0.0,
            1.0,
            None,
            x,
            params,
            stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-4),
        ).ys[0]  # pyright: ignore[reportOptionalSubscript]

    def scanned(params, x):
        model = nnx.merge(graphdef, params)
        return jax.lax.scan(lambda x, _: (x + model(x) / 16, None), x, None, 16)[0]

    run = solved if adaptive else scanned
    loss = jax.jit(lambda params, x: jnp.sum(run(params, x) ** 2))
    if of == "output":
        return float(loss(params, jnp.asarray(x)))
    gradient = jax.jit(jax.grad(loss))(params, jnp.asarray(x))
    return sum(float((np.asarray(g) ** 2).sum()) for g in jax.tree.leaves(gradient))
