"""Flows, densities and distributions of which everything is known."""

import jax
import jax.numpy as jnp
from flax import nnx

import neuralflow as nf

TIGHT = nf.Adaptive(nf.Tsit5(), 1e-10, 1e-10)
MATRIX = jnp.asarray([[0.3, -1.1], [0.7, -0.5]])


def linear():
    """The flow of x' = A x on [0, 1], of which every answer is known."""
    return nf.NeuralODE(nf.from_function(lambda a, x: x @ a.T, MATRIX), TIGHT)


def gauss(x):
    return -0.5 * jnp.sum(x**2, axis=-1) - x.shape[-1] / 2 * jnp.log(2 * jnp.pi)


def wave(x):
    return jnp.sin(x[:, 0]) * x[:, 1]


class Normal(nnx.Module):
    """A base distribution as a user would write it, with a scale that is learned."""

    def __init__(self, dimension):
        self.dimension = dimension
        self.scale = nnx.Param(jnp.ones(()))

    def log_prob(self, y):
        scale = self.scale[...]
        return gauss(y / scale) - self.dimension * jnp.log(scale)

    def sample(self, key, shape=()):
        return self.scale[...] * jax.random.normal(key, (*shape, self.dimension))
