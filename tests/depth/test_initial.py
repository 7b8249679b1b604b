"""Initialisations: their laws, and what they leave as it is."""

import numpy as np
from flax import nnx

import neuralflow as nf


def test_independent_nodes_are_ordinary_layers():
    field = nf.DepthVarying(
        lambda rngs: nnx.Linear(64, 64, rngs=rngs), nf.PiecewiseConstant(6), rngs=nnx.Rngs(0)
    )
    kernel = field.stack.kernel.get_value()
    assert kernel.shape == (6, 64, 64)
    one = nnx.Linear(64, 64, rngs=nnx.Rngs(1)).kernel.get_value()
    assert np.allclose(kernel.std(axis=(1, 2)), one.std(), rtol=0.1)
    assert np.abs(np.corrcoef(kernel.reshape(6, -1)) - np.eye(6)).max() < 0.1


def test_tied_and_smooth_initialisation():
    def make(rngs):
        return nnx.Linear(64, 64, rngs=rngs)

    for basis in (nf.PiecewiseConstant(8), nf.PiecewiseLinear(8), nf.Legendre(4)):
        field = nf.DepthVarying(make, basis, rngs=nnx.Rngs(0), init=nf.tied)
        ends = [field.at(s).kernel.get_value() for s in (0.0, 0.37, 1.0)]
        assert np.allclose(ends[0], ends[1], atol=1e-6) and np.allclose(ends[0], ends[2], atol=1e-6)
    length = 0.3
    field = nf.DepthVarying(make, nf.PiecewiseLinear(10), rngs=nnx.Rngs(0), init=nf.smooth(length))
    nodes = field.stack.kernel.get_value().reshape(11, -1)
    s = np.arange(11) / 10
    expected = np.exp(-((s[:, None] - s) ** 2) / (2 * length**2))
    assert np.abs(np.corrcoef(nodes) - expected).max() < 0.1
    assert np.allclose(nodes.std(axis=1), nodes.std(), rtol=0.1)


def test_what_is_not_random_stays_at_every_depth():
    for basis in (nf.PiecewiseLinear(5), nf.Legendre(5)):
        for init in (nf.independent, nf.smooth(0.4)):
            field = nf.DepthVarying(
                lambda rngs: nnx.LayerNorm(4, rngs=rngs), basis, rngs=nnx.Rngs(0), init=init
            )
            for s in (0.0, 0.31, 1.0):
                scale = field.at(s).scale
                assert scale is not None and np.allclose(scale.get_value(), 1, atol=1e-6)


def test_fractional_weights_have_their_covariance():
    nodes = nf.PiecewiseConstant(64).nodes
    np.testing.assert_allclose(nf.fractional(0.5)(nodes), np.eye(64), atol=1e-12)
    assert nf.fractional(1.0)(nodes).shape == (64, 1)
    mix = nf.fractional(0.8)(nodes)
    np.testing.assert_allclose((mix**2).sum(1), 1.0, atol=1e-12)
    walk = mix.cumsum(0)
    # The sums are a fractional Brownian motion, whose variance after k steps is k^2H.
    np.testing.assert_allclose((walk**2).sum(1), np.arange(1, 65) ** 1.6, rtol=1e-10)
    assert (nf.fractional(0.3)(nodes) @ nf.fractional(0.3)(nodes).T)[0, 1] < 0
