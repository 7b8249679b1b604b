"""Equations on one channel, and slopes of errors."""

import jax.numpy as jnp
import numpy as np

from neuralflow.labs import operators as op

SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
DX = 0.1


def equation(*values, dimension=1, **options):
    """A DifferentialOperator on one channel."""
    coefficients = np.asarray(values, float)[:, None, None]
    options = {"spacing": DX, "boundary": "periodic", "param_dtype": jnp.float64} | options
    return op.DifferentialOperator(1, 1, dimension=dimension, coefficients=coefficients, **options)


def slope(errors, ratio=2.0):
    return np.diff(np.log(errors)) / -np.log(ratio)


D, V = 0.05, 1.0
