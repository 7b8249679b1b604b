"""A layer of neuralflow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.data.shared import layer


def computes(adaptive: bool, of: str) -> float:
    """Build a layer, and return the sum of squares of its output, or of its gradient."""
    kernels, biases, (x,) = layer()
    field = nf.fields.MLP(2, hidden=32, rngs=nnx.Rngs(0))
    for dense, kernel, bias in zip(field.dense, kernels, biases, strict=True):
        dense.kernel[...] = kernel
        if dense.bias is not None:
            dense.bias[...] = bias
    solve = nf.Adaptive(nf.Tsit5(), 1e-4, 1e-4) if adaptive else nf.FixedGrid(nf.Euler(), steps=16)
    model = nf.NeuralODE(field, solve)
    loss = nnx.jit(lambda model, x: jnp.sum(model(x) ** 2))
    if of == "output":
        return float(loss(model, jnp.asarray(x)))
    gradient = nnx.jit(nnx.grad(loss))(model, jnp.asarray(x))
    return sum(float((np.asarray(g) ** 2).sum()) for g in jax.tree.leaves(gradient))
