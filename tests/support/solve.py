"""What the tests of several solves share."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import neuralflow as nf


class Several(nnx.Module):
    """A field whose weights stand on several bases: the sum of its parts."""

    def __init__(self, parts):
        self.parts = nnx.List(parts)

    def __call__(self, x, t):
        return sum(part(x, t) for part in self.parts)


def differentiated(layer):
    """A function of x and an interval, which gives a number and its gradients.

    The gradients are those with respect to the weights, x and the ends of the interval.
    """
    graphdef, state = nnx.split(layer.field)

    def loss(state, x, t0, t1):
        return jnp.sum(
            nf.NeuralODE(nnx.merge(graphdef, state), layer.discretisation, t0, t1)(x) ** 2
        )

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    return lambda x, t0=0.1, t1=1.3: compiled(state, x, jnp.asarray(t0), jnp.asarray(t1))


def programs(compiled: Any) -> int:
    """How many programs a jitted function has compiled."""
    return compiled._cache_size()


def gradients(layer, x):
    return differentiated(layer)(x)[1]
