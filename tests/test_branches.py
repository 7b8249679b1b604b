"""Residual branches as a layer, and a layer as residual branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf


def test_branches_of_a_resnet_make_a_layer_to_the_last_bit():
    block = jax.jit(lambda branch, x: x + branch(x))
    for count in (1, 7, 50):
        branches = [nf.fields.MLP(3, hidden=5, rngs=nnx.Rngs(k)) for k in range(count)]
        x = jax.random.normal(jax.random.key(0), (4, 3), jnp.float32)

        layer = nf.from_branches(branches)
        by_block = x
        for branch in branches:
            by_block = block(branch, by_block)
        assert (layer(x) == by_block).all()
        again = nf.to_branches(layer)
        assert len(again) == count
        for one, two in zip(branches, again, strict=True):
            assert (one(x) == two(x)).all()


def test_branches_of_a_timed_field_are_its_blocks():
    def make(rngs):
        return nf.fields.MLP(2, hidden=4, time=True, param_dtype=jnp.float64, rngs=rngs)

    field = nf.DepthVarying(make, nf.PiecewiseLinear(3), rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=6), 0.5, 2.0)
    x = jax.random.normal(jax.random.key(0), (64, 2))
    y = x
    for branch in nf.to_branches(layer):
        y = y + 0.25 * branch(y)
    assert np.allclose(layer(x), y, atol=1e-14)


def test_branches_that_do_not_fit_are_refused():
    def mlp(h):
        return nf.fields.MLP(2, hidden=h, rngs=nnx.Rngs(0))

    with pytest.raises(ValueError, match="module 1 has parameters"):
        nf.from_branches([mlp(3), mlp(4)])
    with pytest.raises(ValueError, match="at least one"):
        nf.from_branches([])
    with pytest.raises(TypeError, match="Euler is a stack of residual blocks"):
        nf.to_branches(nf.NeuralODE(mlp(3), nf.FixedGrid(nf.Heun(), steps=4)))
