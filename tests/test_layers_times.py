"""Depth times that are drawn, learned or each sample's own, and losses at several of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.solve import programs
from support.transport import TIGHT

import neuralflow as nf

GRID = nf.FixedGrid(nf.RK4(), steps=64)
SOLVES = pytest.mark.parametrize("solve", [TIGHT, GRID], ids=["adaptive", "fixed"])


def decay(solve, t1: Any = 1.0):
    """The flow of x' = -x, which is x(t) = exp(-t) x(0)."""
    return nf.NeuralODE(nf.from_function(lambda a, x: a * x, jnp.asarray(-1.0)), solve, 0.0, t1)


class TestEnds:
    @SOLVES
    def test_ends_that_are_drawn_compile_once(self, solve):
        """A training step draws t1 uniformly from (t1 - b, t1 + b), as in arXiv 2006.10711."""
        traces = []

        @nnx.jit
        def step(layer, key, x):
            traces.append(1)

            def loss(layer):
                t1 = jax.random.uniform(key, minval=1 - 0.5, maxval=1 + 0.5)
                drawn = nf.NeuralODE(layer.field, layer.discretisation, layer.t0, t1)
                return jnp.sum(drawn(x)), t1

            return nnx.value_and_grad(loss, has_aux=True)(layer)

        layer = decay(solve)
        for key in jax.random.split(jax.random.key(0), 5):
            (value, t1), gradient = step(layer, key, jnp.ones((1, 1)))
            np.testing.assert_allclose(value, np.exp(-t1), rtol=1e-7)
            np.testing.assert_allclose(gradient["field"]["params"], t1 * np.exp(-t1), rtol=1e-7)
        assert len(traces) == 1
        assert layer.t1 == 1.0

    def test_an_array_in_place_of_an_end_compiles_once(self):
        """A layer that was built with an array for t1 takes other arrays for it."""
        layer, x = decay(GRID, jnp.asarray(1.0)), jnp.ones((1, 1))
        step = jax.jit(lambda graphdef, state, x: nnx.merge(graphdef, state)(x), static_argnums=0)
        for t1 in (0.7, 0.9, 1.1, 1.3, 1.5):
            layer.t1 = jnp.asarray(t1)
            np.testing.assert_allclose(step(*nnx.split(layer), x), np.exp(-t1), rtol=1e-7)
        assert programs(step) == 1

    @SOLVES
    def test_the_gradient_in_an_end_is_the_velocity_there(self, solve, x):
        """At the end it is f(y, t1). At the start it is -dy/dx f(x, t0)."""
        net = nf.fields.MLP(2, hidden=8, time=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        w = jax.random.normal(jax.random.key(2), x.shape)

        def value(x, t0, t1):
            y = nf.NeuralODE(net, solve, t0, t1)(x)
            return jnp.sum(w * y), y

        gradient = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))
        (slope, first, last), y = gradient(x, 0.3, 1.2)
        np.testing.assert_allclose(last, jnp.sum(w * net(y, 1.2)), rtol=0, atol=1e-7)
        np.testing.assert_allclose(first, -jnp.sum(slope * net(x, 0.3)), rtol=0, atol=1e-7)

    @SOLVES
    def test_an_end_is_learned(self, solve):
        """The time at which exp(-t) is exp(-2), from the time 1."""
        layer = decay(solve, nnx.Param(jnp.asarray(1.0)))
        learned = nnx.PathContains("t1")
        optimizer = nnx.Optimizer(layer, optax.adam(0.1), wrt=learned)

        @nnx.jit
        def train(layer, optimizer):
            def loss(layer):
                return jnp.sum((jnp.log(layer(jnp.ones((1, 1)))) + 2) ** 2)

            gradient = nnx.grad(loss, argnums=nnx.DiffState(0, learned))(layer)
            optimizer.update(layer, gradient)

        for _ in range(150):
            train(layer, optimizer)
        learned_end: Any = layer.t1
        np.testing.assert_allclose(learned_end[...], 2.0, atol=1e-3)


class TestLosses:
    """Losses that are summed over states at several depths, against closed forms."""

    depths = jnp.asarray([0.0, 0.3, 0.3, 0.75, 1.0])
    weights = jnp.asarray([0.5, -1.0, 2.0, 1.5, 0.7])

    def gradients(self, states, arguments):
        """The gradients in a, x and the depths of a weighed sum of squares of states."""

        def loss(a, x, depths):
            return jnp.sum(self.weights * jnp.sum(states(a, x, depths) ** 2, (1, 2)))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)

    @staticmethod
    def walked(solve):
        def states(a, x, depths):
            field = nf.from_function(lambda a, x: a * x, a)
            return nf.NeuralODE(field, solve).trajectory(x, depths)

        return states

    def test_of_an_adaptive_layer(self, x):
        def exact(a, x, depths):
            return jnp.exp(a * depths)[:, None, None] * x

        arguments = jnp.asarray(0.8), x, self.depths
        got, want = (self.gradients(s, arguments) for s in (self.walked(TIGHT), exact))
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-8, atol=1e-8)

    def test_of_eulers_steps(self, x):
        """On four steps, the state at k/4 + d is (1 + a/4)^k (1 + a d) x.

        The slope in a depth jumps at the edges of steps. At an edge inside, the slope is that of
        the step that starts there. At the end, the slope is that of the last step.
        """

        def exact(a, x, depths):
            k = jnp.asarray([0, 1, 1, 3, 3])
            return ((1 + a / 4) ** k * (1 + a * (depths - k / 4)))[:, None, None] * x

        arguments = jnp.asarray(0.8), x, self.depths
        euler = self.walked(nf.FixedGrid(nf.Euler(), steps=4))
        got, want = (self.gradients(s, arguments) for s in (euler, exact))
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("weights", [nf.PiecewiseConstant(4), nf.PiecewiseLinear(2)])
    def test_a_depth_that_is_the_end_moves_with_the_end(self, x, weights):
        """The states at the depths t0 and t1 are the input and the layer's value."""
        net = nf.DepthVarying(
            lambda rngs: nf.fields.MLP(2, hidden=3, time=True, param_dtype=jnp.float64, rngs=rngs),
            weights,
            rngs=nnx.Rngs(0),
        )

        def loss(t0, t1, ends):
            layer = nf.NeuralODE(net, nf.FixedGrid(nf.Heun(), steps=4), t0, t1)
            both = layer.trajectory(x, jnp.stack([t0, t1])) if ends else (x, layer(x))
            return jnp.sum(jnp.sin(both[0])) + jnp.sum(both[1] ** 2)

        slopes = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
        at_depths, of_value = (slopes(0.2, 1.4, ends) for ends in (True, False))
        np.testing.assert_allclose(at_depths, of_value, rtol=1e-12)


class TestSamples:
    """Every sample has depth times of its own, under jax.vmap."""

    times = jnp.asarray([[0.1, 0.4, 0.9], [0.0, 0.2, 0.3], [0.5, 0.5, 1.0]])

    @SOLVES
    def test_observation_times(self, solve):
        layer, x = decay(solve), jax.random.normal(jax.random.key(0), (3, 2))

        def loss(x, times):
            states = jax.vmap(lambda x, times: layer.trajectory(x, times))(x, times)
            return jnp.sum(states**2), states

        both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, states), (slope, moved) = jax.jit(both)(x, self.times)
        want = jnp.exp(-self.times)[..., None] * x[:, None]
        np.testing.assert_allclose(states, want, rtol=0, atol=1e-8)
        np.testing.assert_allclose(slope, 2 * jnp.sum(want**2, 1) / x, rtol=0, atol=1e-7)
        np.testing.assert_allclose(moved, -2 * jnp.sum(want**2, 2), rtol=0, atol=1e-7)

    @SOLVES
    def test_intervals(self, solve):
        layer, x = decay(solve), jax.random.normal(jax.random.key(0), (3, 2))
        ends = jnp.asarray([0.3, 1.0, 2.5])

        def final(x, t1):
            return nf.NeuralODE(layer.field, layer.discretisation, 0.0, t1)(x)

        def loss(ends):
            states = jax.vmap(final)(x, ends)
            return jnp.sum(states), states

        slope, states = jax.jit(jax.grad(loss, has_aux=True))(ends)
        np.testing.assert_allclose(states, jnp.exp(-ends)[:, None] * x, rtol=0, atol=1e-7)
        np.testing.assert_allclose(slope, -jnp.sum(states, 1), rtol=0, atol=1e-7)

    def test_an_adaptive_layer_takes_each_samples_own_steps(self):
        """A batch under jax.vmap has the states, and the counts, of samples solved alone."""
        field = nf.from_function(lambda a, x: a * jnp.sin(x), jnp.asarray(3.0))
        layer = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-6, 1e-6))
        x = jnp.asarray([[0.01], [1.0], [100.0]])
        together = jax.jit(jax.vmap(lambda x, times: layer.solve(x, times)))(x, self.times)
        for k in (0, 2):
            alone = layer.solve(x[k], self.times[k])
            np.testing.assert_allclose(together.states[k], alone.states, rtol=1e-12)
            assert int(together.accepted[k]) == int(alone.accepted)
        assert len(set(together.evaluations.tolist())) > 1

    @SOLVES
    def test_times_of_one_sample_out_of_order_are_nan_there_alone(self, solve):
        layer = decay(solve)
        times = self.times.at[1, 2].set(1.5)
        states = jax.jit(jax.vmap(lambda x, times: layer.trajectory(x, times)))(
            jnp.ones((3, 1)), times
        )
        bad = np.isnan(np.asarray(states))[..., 0]
        assert bad[1, 2] and not bad[[0, 2]].any()
