"""What the tests of several schemes share."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import neuralflow as nf

X = jax.random.normal(jax.random.key(1), (3, 2))


def stacked(cells, seed=0, dtype=jnp.float64):
    def make(rngs):
        return nf.fields.MLP(4, hidden=5, param_dtype=dtype, rngs=rngs)

    return nf.DepthVarying(make, nf.PiecewiseConstant(cells), rngs=nnx.Rngs(seed))


def grid(scheme, n, **options):
    return nf.FixedGrid(scheme, steps=n, **options)


def slope(errors, hs):
    return np.polyfit(np.log(hs), np.log(errors), 1)[0]
