"""Batch norms as affine maps: the same values in evaluation mode, and no statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf

X = 3 + 2 * jax.random.normal(jax.random.key(0), (9, 4, 3))


class Nested(nnx.Module):
    """A branch whose batch norm lies inside, is used twice and is told its mode."""

    def __init__(self, norm):
        self.norms: Any = nnx.List([norm, norm])

    def __call__(self, x):
        for norm in self.norms:
            x = jnp.tanh(norm(x, use_running_average=True))
        return x


@pytest.mark.parametrize(
    "options",
    [{}, {"use_scale": False}, {"use_bias": False}, {"axis": 1}, {"dtype": jnp.float32}],
    ids=str,
)
def test_the_values_are_those_of_evaluation(options):
    features = 4 if options.get("axis") == 1 else 3
    norm = nnx.BatchNorm(features, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options)
    for name in ("scale", "bias"):
        if getattr(norm, name) is not None:
            getattr(norm, name)[...] = jnp.linspace(-1, 2, features)
    norm(X)
    for module in (norm, Nested(norm)):
        plain = nf.frozen(module)
        module.eval()
        assert not nnx.state(plain, nnx.BatchStat)
        assert nnx.state(module, nnx.BatchStat)
        assert plain(X).dtype == module(X).dtype
        assert np.allclose(plain(X), module(X), rtol=1e-6, atol=1e-6)


def test_a_norm_that_is_shared_stays_shared_and_its_own():
    norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    plain = nf.frozen(Nested(norm))
    assert isinstance(plain, Nested)
    assert plain.norms[0] is plain.norms[1]
    plain.norms[0].scale[...] = 7.0
    assert norm.scale is not None and (norm.scale[...] == 1).all()


def test_norms_below_depth_are_frozen_at_every_depth():
    field = nf.DepthVarying(
        lambda rngs: nnx.BatchNorm(3, param_dtype=jnp.float64, rngs=rngs),
        nf.PiecewiseConstant(2), rngs=nnx.Rngs(0),
    )  # fmt: skip
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2))
    layer(X)
    plain = nf.frozen(layer)
    layer.eval()
    assert np.allclose(plain(X), layer(X), rtol=1e-6)
