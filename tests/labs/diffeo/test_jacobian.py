"""Jacobians of flows: autodiff and integrals of the divergence as oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.diffeo import TIGHT, euler, slope

import neuralflow as nf
from neuralflow import regularisers
from neuralflow.labs import diffeo as D
from neuralflow.transport import along, divergence


class TestJacobians:
    def test_blocks_and_divergence_agree_at_order_one(self, field, x):
        counts, gaps = np.array([32, 64, 128]), []
        for n in counts:
            layer = D.exponential(field, euler(int(n)))
            total = along(layer, x, divergence)[1][0]
            gaps.append(float(jnp.abs(D.log_determinant(layer, x).log - total).max()))
        assert abs(slope(counts, gaps) + 1) < 0.05

    def test_blocks_multiply_to_the_determinant_of_the_map(self, mlp, x):
        layer = nf.NeuralODE(
            mlp(nf.PiecewiseConstant(3)), nf.FixedGrid(nf.RK4(), steps=6), 0.0, 2.0
        )
        exact = jax.vmap(jax.jacfwd(lambda p: layer(p[None])[0]))(x)
        sign, log = D.log_determinant(layer, x)
        np.testing.assert_allclose(log, jnp.linalg.slogdet(exact)[1], rtol=0, atol=1e-10)
        np.testing.assert_array_equal(sign, jnp.linalg.slogdet(exact)[0])
        np.testing.assert_allclose(D.jacobian(layer, x), exact, rtol=0, atol=1e-12)
        steps = D.block_determinants(layer, x)
        assert steps.log.shape == (6, len(x))

    def test_an_adaptive_layer_has_the_integral_of_its_divergence(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseLinear(2)), TIGHT)
        exact = jnp.linalg.slogdet(D.jacobian(layer, x))[1]
        np.testing.assert_allclose(D.log_determinant(layer, x).log, exact, rtol=0, atol=1e-10)

    def test_penalties_are_differentiated(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Heun(), steps=4))

        @nnx.jit
        def slopes(layer, x):
            def penalty(layer):
                return jnp.sum(
                    regularisers.inverse_consistency(layer, x)
                    + regularisers.volume_change(layer, x)
                )

            return nnx.value_and_grad(penalty)(layer)

        value, gradient = slopes(layer, x)
        kernel = layer.field.stack.dense[0].kernel
        entry = (0, 1, 2)
        shifted = []
        for step in (1e-6, -1e-6):
            kernel.set_value(kernel[...].at[entry].add(step))
            shifted.append(float(slopes(layer, x)[0]))
            kernel.set_value(kernel[...].at[entry].add(-step))
        derivative = gradient["field"]["stack"]["dense"][0]["kernel"].get_value()[entry]
        assert value > 0 and abs((shifted[0] - shifted[1]) / 2e-6 - derivative) < 1e-7

    def test_refusals(self, mlp, x):
        layer = nf.NeuralODE(
            mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.schemes.leapfrog(), steps=4)
        )
        with pytest.raises(TypeError, match="carries more than the state"):
            D.log_determinant(layer, x)
        with pytest.raises(TypeError, match="an adaptive layer has no steps"):
            D.block_determinants(layer.with_solve(TIGHT), x)
        with pytest.raises(TypeError, match="leading axis of samples"):
            D.jacobian(jnp.tanh, x[0])
        with pytest.raises(TypeError, match="x must be floating .* got int"):
            D.jacobian(jnp.tanh, jnp.ones((3, 2), int))
        with pytest.raises(ValueError, match="a value for each of 5 samples"):
            D.jacobian(jnp.sum, x)
