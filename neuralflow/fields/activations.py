"""The default activations of the fields.

They are JAX's own functions under names that pickle finds. JAX wraps its functions, so that pickle
refuses them.
"""

from __future__ import annotations

import jax
from jaxtyping import Array


def tanh(x: Array) -> Array:
    """Return `jax.nn.tanh` of every entry of x."""
    return jax.nn.tanh(x)


def relu(x: Array) -> Array:
    """Return `jax.nn.relu` of every entry of x."""
    return jax.nn.relu(x)


def gelu(x: Array) -> Array:
    """Return `jax.nn.gelu` of every entry of x, in its approximation by tanh."""
    return jax.nn.gelu(x)


def softplus(x: Array) -> Array:
    """Return `jax.nn.softplus` of every entry of x."""
    return jax.nn.softplus(x)
