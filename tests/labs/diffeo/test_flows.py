"""Exponentials, logarithms, inverses and compositions of flows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.scipy.linalg import expm
from support.diffeo import TIGHT, euler, slope
from support.wrong import wrong

import neuralflow as nf
from neuralflow.labs import diffeo as D


class TestExponential:
    def test_shared_blocks_come_to_it_at_order_one_and_back_again(self, field, x):
        exact = D.exponential(field, TIGHT)
        y, counts = exact(x), np.array([16, 32, 64])
        gaps, returns = [], []
        for n in counts:
            blocks = D.exponential(field, euler(int(n)))
            gaps.append(float(jnp.abs(blocks(x) - y).max()))
            returns.append(
                float(jnp.abs(D.exponential(field, euler(int(n)), -1.0)(blocks(x)) - x).max())
            )
            np.testing.assert_allclose(D.inverse(blocks)(blocks(x)), x, rtol=0, atol=1e-14)
        assert abs(slope(counts, gaps) + 1) < 0.05 and abs(slope(counts, returns) + 1) < 0.05
        np.testing.assert_allclose(D.exponential(field, TIGHT, -1.0)(y), x, rtol=0, atol=1e-9)
        half = D.exponential(field, TIGHT, 0.5)
        np.testing.assert_allclose(half(half(x)), y, rtol=0, atol=1e-9)

    def test_a_linear_field_has_the_matrix_exponential(self, x):
        matrix = jnp.asarray([[0.3, -1.1], [0.7, -0.5]])
        field = nf.from_function(lambda a, x: x @ a.T, matrix)
        for scale in (1.0, -0.4):
            np.testing.assert_allclose(
                D.exponential(field, TIGHT, scale)(x), x @ expm(scale * matrix).T, rtol=0, atol=1e-9
            )

    def test_squaring_is_the_same_blocks_to_rounding(self, field, x):
        blocks = D.exponential(field, euler(32))
        block = D.exponential(field, euler(1), 1 / 32)
        np.testing.assert_allclose(jax.jit(D.squared(block, 5))(x), blocks(x), rtol=0, atol=1e-15)
        half = D.exponential(field, euler(16), 0.5)
        np.testing.assert_allclose(half(half(x)), blocks(x), rtol=0, atol=1e-15)

    def test_the_logarithm_of_an_exponential_is_its_field(self, field, x):
        flow = D.exponential(field, nf.FixedGrid(nf.RK4(), steps=8), 0.1)
        errors = [
            float(jnp.abs(D.logarithm(flow, terms=n)(x) - 0.1 * field.at(0.0)(x)).max())
            for n in (1, 8)
        ]
        assert errors[1] < 1e-9 and errors[0] > 1e4 * errors[1]
        matrix = jnp.asarray([[0.1, -0.6], [0.4, -0.2]])
        logarithm = D.logarithm(
            lambda x: x @ expm(matrix).T, lambda y: y @ expm(-matrix).T, terms=16
        )
        np.testing.assert_allclose(logarithm(x), x @ matrix.T, rtol=0, atol=1e-9)

    def test_refusals(self, mlp, x):
        with pytest.raises(ValueError, match="only a stationary field has an exponential"):
            D.exponential(mlp(nf.PiecewiseConstant(4)), euler(4))
        with pytest.raises(ValueError, match="built with time=True"):
            D.exponential(nf.fields.MLP(2, hidden=2, time=True, rngs=nnx.Rngs(0)), euler(4))
        with pytest.raises(TypeError, match="wrap it: nf.from_function"):
            D.exponential(wrong(lambda x: x), euler(4))
        with pytest.raises(TypeError, match="the inverse of a plain function is not known"):
            D.logarithm(lambda x: x)
        with pytest.raises(ValueError, match="times must be at least 0"):
            D.squared(lambda x: x, -1)


class TestInverses:
    @pytest.mark.parametrize(
        "scheme", [nf.Heun(), nf.schemes.RevNet()], ids=lambda s: type(s).__name__
    )
    def test_a_fixed_grid_is_inverted_to_rounding(self, x, scheme):
        def net(rngs):
            return nf.fields.MLP(1, hidden=8, param_dtype=jnp.float64, rngs=rngs)

        field = nf.DepthVarying(
            lambda rngs: nf.fields.Coupled(net(rngs), net(rngs)),
            nf.PiecewiseConstant(3),
            rngs=nnx.Rngs(0),
        )
        layer = nf.NeuralODE(field, nf.FixedGrid(scheme, steps=6))
        back = D.inverse(layer)
        np.testing.assert_allclose(back(layer(x)), x, rtol=0, atol=1e-14)
        assert D.inverse(back) is layer
        np.testing.assert_allclose(
            D.inverse(layer.reverse())(layer.reverse()(x)), x, rtol=0, atol=1e-14
        )

    def test_float32_beside_float64(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2), dtype=jnp.float32), euler(4))
        x = x.astype(jnp.float32)
        np.testing.assert_allclose(D.inverse(layer)(layer(x)), x, rtol=0, atol=1e-5)

    def test_compositions(self, field, mlp, x):
        first = nf.NeuralODE(mlp(nf.PiecewiseConstant(3)), euler(12))
        second = D.exponential(field, nf.FixedGrid(nf.Heun(), steps=8), 0.7)
        both = D.Composition(first, second)
        np.testing.assert_array_equal(both(x), second(first(x)))
        np.testing.assert_allclose(both.invert(both(x)), x, rtol=0, atol=1e-9)
        np.testing.assert_allclose(D.inverse(D.inverse(both))(x), both(x), rtol=0, atol=1e-9)
        chain = D.jacobian(second, first(x)) @ D.jacobian(first, x)
        np.testing.assert_allclose(D.jacobian(both, x), chain, rtol=1e-10)
        np.testing.assert_allclose(
            D.log_determinant(both, x).log, jnp.linalg.slogdet(chain)[1], rtol=0, atol=1e-12
        )

    def test_refusals(self, x):
        steep = nf.NeuralODE(nf.from_function(lambda a, x: a * x, jnp.asarray(-3.0)), euler(1))
        with pytest.raises(nf.SolveError, match="a block has no fixed point"):
            D.inverse(steep)(x)
        with pytest.raises(TypeError, match="flow 1 must be a NeuralODE"):
            D.Composition(steep, jnp.tanh)
