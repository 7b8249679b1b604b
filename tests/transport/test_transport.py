"""Values carried along flows: closed forms, autodiff and the equations themselves as oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.scipy.linalg import expm
from support.transport import MATRIX, TIGHT, gauss, linear, wave
from support.wrong import wrong

import neuralflow as nf
from neuralflow.transport import Continuity, Transport


class TestTransport:
    def test_a_linear_flow_has_its_closed_form(self, x):
        flow, t = linear(), 0.3
        ahead = x @ expm(0.7 * MATRIX).T
        np.testing.assert_allclose(Transport(flow, wave)(x, t), wave(ahead), rtol=0, atol=1e-9)
        behind = x @ expm(-0.3 * MATRIX).T
        np.testing.assert_allclose(
            Transport(flow, wave, "start")(x, t), wave(behind), rtol=0, atol=1e-9
        )

    def test_the_equations_hold(self, mlp, x):
        """At t = 1 the weights jump; the equations hold inside the cell that begins there."""
        flow = nf.NeuralODE(mlp(nf.PiecewiseConstant(3)), TIGHT, 0.5, 2.0)

        def plane(x):
            return jnp.stack([wave(x), x[:, 0] ** 2], axis=1)

        assert np.abs(Transport(flow, plane).residual(x, 0.8)).max() < 1e-6
        assert np.abs(Continuity(flow, gauss, "start").residual(x, 1.0)).max() < 1e-6

    def test_a_wrong_velocity_leaves_a_residual(self, mlp, x):
        flow = nf.NeuralODE(mlp(nf.PiecewiseConstant(3)), TIGHT)
        other = nf.NeuralODE(mlp(nf.PiecewiseConstant(3), seed=1), TIGHT)
        u = Transport(flow, wave)
        nnx.Module.__setattr__(u.layer, "velocity", other.velocity)
        assert np.abs(u.residual(x, 0.5)).max() > 1e-2

    def test_a_resnet_meets_the_transport_equation_at_order_one(self, mlp, x):
        field = mlp(nf.PiecewiseLinear(2))
        exact = Transport(nf.NeuralODE(field, TIGHT), wave)(x, 0.0)
        depths = (32, 64, 128)
        nets = (
            Transport(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=n)), wave) for n in depths
        )
        errors = [np.abs(net(x, 0.0) - exact).max() for net in nets]
        assert abs(np.polyfit(np.log(depths), np.log(errors), 1)[0] + 1) < 0.05

    def test_on_a_grid_it_is_the_rest_of_the_network(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(5)), nf.FixedGrid(nf.Euler(), steps=5))
        head = nnx.Linear(2, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        y = layer.trajectory(x)[2]
        for block in nf.to_branches(layer)[2:]:
            y = y + 0.2 * block(y)
        u = Transport(layer, head)
        np.testing.assert_allclose(u(layer.trajectory(x)[2], 0.4), head(y), rtol=0, atol=1e-15)
        np.testing.assert_array_equal(u(x, 0.0), head(layer(x)))
        np.testing.assert_array_equal(u(x, 1.0), head(x))

    def test_gradients_are_those_of_autodiff(self, mlp, x):
        flow = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Midpoint(), steps=4))

        def plane(x):
            return jnp.stack([wave(x), x[:, 0] ** 2], axis=1)

        def one(p):
            return plane(flow(p[None]))[0]

        want = jax.jit(jax.vmap(jax.jacrev(one)))(x)
        np.testing.assert_allclose(Transport(flow, plane).gradient(x, 0.0), want, rtol=0, atol=1e-8)
        np.testing.assert_allclose(
            Transport(flow, wave).gradient(x, 0.0), want[:, 0], rtol=0, atol=1e-8
        )

    def test_refusals(self, mlp, x):
        flow = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), TIGHT)
        for t in (-0.1, 1.5, np.nan, wrong("0"), np.zeros(2)):
            with pytest.raises(ValueError, match="one depth time between 0 and 1"):
                Transport(flow, wave)(x, t)
        with pytest.raises(ValueError, match="given must be one of 'start', 'end'"):
            Transport(flow, wave, wrong("middle"))
        with pytest.raises(TypeError, match="must be a function"):
            Transport(flow, 3)
        with pytest.raises(TypeError, match="forward layer"):
            Transport(flow.reverse(), wave)
        with pytest.raises(ValueError, match="step must be one finite number > 0"):
            Transport(flow, wave).residual(x, 0.3, step=0)
        with pytest.raises(ValueError, match="a row a sample"):
            Transport(flow, jnp.sum).gradient(x, 1.0)
