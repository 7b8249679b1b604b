"""Parts of a layer: walks between two depths inside its interval."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.solve import programs
from support.transport import TIGHT, Normal, wave

import neuralflow as nf
from neuralflow import layers
from neuralflow.transport import NormalisingFlow, Transport


class TestBetween:
    @pytest.mark.parametrize("basis", [nf.PiecewiseConstant(6), nf.PiecewiseLinear(3)])
    def test_the_blocks_of_a_part_are_those_of_the_whole_to_the_last_bit(self, mlp, x, basis):
        for solve in (
            nf.FixedGrid(nf.Euler(), steps=12),
            nf.FixedGrid(nf.Heun(), times=np.arange(7) / 6),
        ):
            layer = nf.NeuralODE(mlp(basis), solve, 0.5, 2.0)
            edges = layer.trajectory(x)
            half = len(edges) // 2
            np.testing.assert_array_equal(layer.between(0.5, 1.25)(x), edges[half])
            np.testing.assert_array_equal(layer.between(1.25, 2.0)(edges[half]), edges[-1])
            np.testing.assert_array_equal(
                layer.between(1.25, 2.0).trajectory(edges[half]), edges[half:]
            )

    def test_steps_that_are_cut_are_the_schemes_own_shortened(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Heun(), steps=4))
        inside = layer.trajectory(x, jnp.asarray([0.3, 0.9]))
        np.testing.assert_allclose(layer.between(0, 0.3)(x), inside[0], rtol=0, atol=1e-15)
        assert int(layer.between(0.3, 0.9).solve(x).accepted) == 3

    def test_an_adaptive_part_composes_and_its_ends_differentiate(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseLinear(3)), TIGHT, 0.5, 2.0)
        walk = jax.jit(lambda a, b, x: layer.between(a, b)(x))
        np.testing.assert_allclose(walk(1.2, 2.0, walk(0.5, 1.2, x)), layer(x), rtol=0, atol=1e-9)
        loss = jax.jit(lambda a, b: jnp.sum(jnp.sin(layer.between(a, b)(x))))
        gradient = jax.jit(jax.grad(lambda a, b: loss(a, b), argnums=(0, 1)))(0.8, 1.7)
        for k, step in enumerate(1e-4 * np.eye(2)):
            ends = np.array([0.8, 1.7])
            assert abs((loss(*(ends + step)) - loss(*(ends - step))) / 2e-4 - gradient[k]) < 1e-6

    def test_new_ends_compile_nothing_and_an_empty_part_is_the_identity(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), TIGHT)
        layer.between(0.25, 1.0)(x)
        before = programs(layers._integrate)
        np.testing.assert_array_equal(layer.between(0.75, 0.75)(x), x)
        assert programs(layers._integrate) == before

    def test_a_part_has_parts_and_ends_of_its_own(self, mlp, x):
        layer = nf.NeuralODE(
            mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Euler(), steps=4), 0.0, 2.0
        )
        part = layer.between(0.5, 1.5)
        assert part.ends == (0.5, 1.5) and layer.ends == (0.0, 2.0)
        np.testing.assert_array_equal(part.between(0.5, 1.0)(x), layer.between(0.5, 1.0)(x))
        with pytest.raises(ValueError, match="order of 0.5 to 1.5 and inside, got 1.0 and 1.8"):
            part.between(1.0, 1.8)
        u = Transport(part, wave)
        np.testing.assert_array_equal(u(x, 0.5), wave(part(x)))
        np.testing.assert_array_equal(u(x, 1.5), wave(x))
        flow = NormalisingFlow(
            layer.with_solve(nf.FixedGrid(nf.RK4(), steps=32)).between(0.5, 1.5), Normal(2)
        )
        points, log_prob = flow.sample_and_log_prob(jax.random.key(0), 3)
        np.testing.assert_allclose(flow.log_prob(points), log_prob, rtol=0, atol=1e-4)

    def test_in_a_trace_what_lies_outside_is_nan(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.Adaptive(nf.Tsit5(), 1e-6, 1e-6))
        walk = jax.jit(lambda a, b: layer.between(a, b)(x))
        assert np.isfinite(walk(0.2, 0.7)).all()
        for ends in ((0.2, 1.5), (-0.1, 0.5), (0.6, 0.3)):
            assert np.isnan(walk(*ends)).all()
        velocities = jax.vmap(lambda t: layer.velocity(x, t))(jnp.asarray([0.2, 0.7]))
        np.testing.assert_allclose(velocities[1], layer.velocity(x, 0.7), rtol=1e-14)

    def test_refusals(self, mlp, x):
        layer = nf.NeuralODE(
            mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Euler(), steps=4), 0.0, 2.0
        )
        for start, stop in (
            (-0.1, 1),
            (0, 2.1),
            (1.5, 1),
        ):
            with pytest.raises(ValueError, match="two depth times in the order of 0 to 2"):
                layer.between(start, stop)
        with pytest.raises(TypeError, match="the ends of a fixed grid are numbers"):
            jax.jit(lambda t: layer.between(t, 2.0)(x))(1.0)
        with pytest.raises(ValueError, match="direction of the walk between 1 and 2"):
            layer.between(1, 2).trajectory(x, jnp.asarray([0.5]))
        with pytest.raises(ValueError, match="cannot start or stop inside"):
            layer.with_solve(nf.FixedGrid(nf.schemes.LMResNet(0.1), steps=4)).between(0.5, 1)
        with pytest.raises(ValueError, match="increasing normalised depths"):
            nf.FixedGrid(nf.Euler(), steps=4, ends=(0.5, 0.5))
        with pytest.raises(ValueError, match="one depth time between 0 and 2, got 3"):
            layer.velocity(x, 3)

    def test_the_velocity_has_the_weights_of_its_depth(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseLinear(2)), TIGHT, 1.0, 3.0)
        np.testing.assert_allclose(layer.velocity(x, 1.5), layer.field.at(0.25)(x, 1.5), rtol=1e-14)
