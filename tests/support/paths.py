"""A network, equations and their grid, which the tests of paths share."""

import jax
import jax.numpy as jnp
import numpy as np

import neuralflow as nf
from neuralflow.labs import paths

KEY = jax.random.key(0)


def network(depth, d=4):
    scale = 0.4 / depth**0.5
    matrices, offsets = jax.random.split(jax.random.key(depth))
    return paths.Branches.of(
        scale * jax.random.normal(matrices, (depth, d, d)),
        scale * jax.random.normal(offsets, (depth, d)),
    )


X = jnp.asarray([0.5, -1.0, 2.0, 0.3])


def apart(a, b):
    return float(jnp.abs(a - b).max())


PERIOD = 2 * np.pi
GRID = PERIOD * np.arange(64) / 64
START = np.exp(np.sin(GRID))
CONSTANT = paths.Equation(0.3, [0.7], 0.2)
VARYING = paths.Equation(0.3, lambda x: 1 + 0.5 * jnp.sin(x), lambda x: 0.3 * jnp.cos(x[..., 0]))


def start(x):
    return jnp.exp(jnp.sin(x[..., 0]))


def flat(*values, **options):
    """A one-channel operator on a line."""
    return nf.labs.operators.DifferentialOperator(
        1, 1, dimension=1, coefficients=np.asarray(values)[:, None, None], **options
    )
