"""Random fields, and functionals of their outputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.special import ndtri

import neuralflow as nf
from neuralflow.labs import stochastic as st

KEY = jax.random.key(0)
A = np.asarray([[-0.5, 1.0], [-0.3, -0.2]])
B = np.asarray([[0.2, -0.4], [0.6, 0.1]])
START = np.asarray([1.0, -0.5])


def linear(matrix):
    return nf.from_function(lambda a, x: x @ a.T, jnp.asarray(matrix))


def depth(survival, **options):
    return st.StochasticDepth(linear(A), survival, rngs=nnx.Rngs(0), **options)


def shake():
    return st.ShakeShake(linear(A), linear(B), rngs=nnx.Rngs(0))


def powers(y):
    """All products of one, two and three coordinates, (batch, 14)."""
    two = jnp.einsum("bi,bj->bij", y, y)
    three = jnp.einsum("bij,bk->bijk", two, y)
    return jnp.concatenate([y, two.reshape(len(y), -1), three.reshape(len(y), -1)], axis=-1)


def flat(moments):
    return np.concatenate([m.ravel() for m in moments])


class Bent(nnx.Module):
    """A nonlinear field with weights that vary with depth."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.dense(x)) - x


def bent(kind: Callable[..., Any] = st.StochasticDepth, **options) -> Any:
    field = nf.DepthVarying(Bent, nf.PiecewiseConstant(4), rngs=nnx.Rngs(1))
    return kind(field, rngs=nnx.Rngs(0), **options)


def apart(field: st.RandomField, t: float = 0.3) -> float:
    """Return how far means of powers up to five by the quadrature are from those of the law.

    The oracle is a midpoint rule of very many quantiles, which knows nothing of the law.
    """
    count, (nodes, weights) = 1_000_000, field.quadrature(t)
    z = np.asarray(field.law(jnp.asarray(ndtri((np.arange(count) + 0.5) / count)), t))
    return max(float(abs(weights @ nodes**p - np.mean(z**p))) for p in range(6))


def bend(y):
    return jnp.tanh(y[:, 0] - y[:, 1])
