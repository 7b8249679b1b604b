"""States of an adaptive solve at given depths: the interpolant, and its exact gradient."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.wrong import wrong

import neuralflow as nf

X = jax.random.normal(jax.random.key(1), (3, 2))
DEPTHS = jnp.array([0.0, 0.03, 0.2, 0.21, 0.5, 0.9, 1.0])


@pytest.fixture(scope="module")
def field():
    return nf.fields.MLP(2, hidden=4, time=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))


def weighed(states):
    """One number of states at several depths, in which every state and every entry counts."""
    return jnp.sum(jnp.cos(3 * states) * jnp.arange(1.0, states.size + 1).reshape(states.shape))


def by_hand(field, scheme, x, depths, tolerance=1e-6):
    """The states at the depths as diffrax saves them."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, field: field(y, t)),
        scheme,
        0.0,
        1.0,
        None,
        x,
        field,
        saveat=diffrax.SaveAt(ts=depths),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
    )
    return solution.ys


def along(field, solve, x, depths):
    return nf.NeuralODE(field, solve).trajectory(x, depths)


@pytest.mark.parametrize("scheme", [diffrax.Tsit5(), diffrax.Dopri8()])
def test_values_and_gradients_are_those_of_diffrax(field, scheme, worst):
    solve = nf.Adaptive(scheme, 1e-6, 1e-6, max_steps=64)
    ours, slope = nnx.value_and_grad(
        lambda *given: weighed(along(given[0], solve, *given[1:])), argnums=(0, 1, 2)
    )(field, X, DEPTHS)
    want, slopes = nnx.value_and_grad(
        lambda *given: weighed(by_hand(given[0], scheme, *given[1:])), argnums=(0, 1, 2)
    )(field, X, DEPTHS)
    assert abs(ours - want) < 1e-12 * abs(want)
    assert worst(slope, slopes) < 1e-10


def test_the_steps_do_not_depend_on_the_depths(field):
    layer = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-8, 1e-8, max_steps=200), 0.0, 3.0)
    want = layer.solve(X)
    for count in (10, 1000, 5001):
        many = layer.solve(X, jnp.linspace(0, 3, count))
        assert int(many.accepted) == int(want.accepted)
        assert int(many.rejected) == int(want.rejected)
        assert np.allclose(many.states[-1], want.states, atol=1e-12)
        assert np.array_equal(many.states[0], X)


def test_the_ends_of_the_interval_move_the_depths(worst):
    """x' = cos t on an interval that is not the unit one: the oracle is the closed form."""
    layer = nf.from_function(lambda p, x, t: p * jnp.cos(t) * jnp.ones_like(x), jnp.asarray(2.0))
    solve = nf.Adaptive(nf.Dopri8(), 1e-11, 1e-11)
    depths = jnp.array([0.4, 0.9, 1.9])

    def states(t0, t1, depths, solve=solve):
        return nf.NeuralODE(layer, solve, t0, t1).trajectory(jnp.ones((1, 1)), depths)[:, 0, 0]

    def exact(t0, t1, depths):
        return 1 + 2 * (jnp.sin(depths) - jnp.sin(t0))

    ends = (jnp.asarray(0.3), jnp.asarray(2.0))
    for walk in (solve, nf.Adaptive(nf.Dopri8(), 1e-11, 1e-11, output="stepped")):
        slopes = jax.jacrev(functools.partial(states, solve=walk), (0, 1, 2))(*ends, depths)
        assert worst(slopes, jax.jacrev(exact, (0, 1, 2))(*ends, depths)) < 1e-6


def test_at_a_knot_the_gradient_is_that_of_the_cell_behind(worst):
    """x' = w of the cell, so the state at depth s is an integral of a step function."""
    field = nf.DepthVarying(
        lambda rngs: nf.from_function(lambda w, x: w + 0 * x, jnp.asarray(0.0)),
        nf.PiecewiseConstant(3),
        rngs=nnx.Rngs(0),
    )
    field.stack.params.set_value(jnp.array([1.0, -2.0, 5.0]))
    depths = jnp.array([1 / 6, 1 / 3, 1 / 2, 2 / 3, 1.0])
    layer = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-6, 1e-6))
    x = jnp.zeros((1, 1))
    states = layer.trajectory(x, depths)[:, 0, 0]
    assert np.allclose(states, [1 / 6, 1 / 3, 0, -1 / 3, 4 / 3], atol=1e-12)
    slopes = jax.jacrev(lambda d: layer.trajectory(x, d)[:, 0, 0])(depths)
    assert np.allclose(slopes, np.diag([1.0, -2.0, -2.0, 5.0, 5.0]), atol=1e-9)
    graphdef, state = nnx.split(layer)

    def moved(state):
        return nnx.merge(graphdef, state).trajectory(x, depths)[:, 0, 0]

    weights = jax.tree.leaves(jax.jacrev(moved)(state))[0]
    want = np.array([[1, 0, 0], [2, 0, 0], [2, 1, 0], [2, 2, 0], [2, 2, 2]]) / 6
    assert np.allclose(weights, want, atol=1e-12)


def test_backward_and_alone_the_interpolant_is_the_same(field):
    """The way back passes the states of the way there, and each sample has its own steps."""
    solve = nf.Adaptive(nf.Dopri8(), 1e-10, 1e-10)
    layer = nf.NeuralODE(field, solve)
    there = layer.trajectory(X, DEPTHS)
    back = layer.reverse().trajectory(there[-1], DEPTHS[::-1])
    assert np.allclose(back[::-1], there, atol=1e-7)
    alone = layer.with_solve(nf.Adaptive(nf.Dopri8(), 1e-10, 1e-10, per_sample=True))
    assert np.allclose(alone.trajectory(X, DEPTHS), there, atol=1e-7)
    slope = jax.grad(lambda x, layer: weighed(layer.trajectory(x, DEPTHS)))
    assert np.allclose(slope(X, alone), slope(X, layer), atol=1e-5)


def test_stepping_to_depths_is_as_accurate_as_the_tolerances():
    """x' = 20 cos(20 t): the interpolant of Dopri8 has a lower order than its steps."""
    field = nf.from_function(lambda p, x, t: 20 * jnp.cos(20 * t) * jnp.ones_like(x))
    depths = jnp.linspace(0, 1, 41)
    x, want = jnp.zeros((1, 1)), jnp.sin(20 * depths)
    layers = [
        nf.NeuralODE(field, nf.Adaptive(nf.Dopri8(), 1e-5, 1e-5, output=output))
        for output in ("interpolated", "stepped")
    ]
    loose, tight = (np.abs(layer.trajectory(x, depths)[:, 0, 0] - want).max() for layer in layers)
    assert tight < 1e-5 and tight < loose / 10
    assert layers[1].solve(x, depths).accepted >= 40 > layers[0].solve(x, depths).accepted
    assert 'output="stepped"' in repr(layers[1]).replace("'", '"')
    with pytest.raises(ValueError, match="output must be one of 'interpolated', 'stepped'"):
        nf.Adaptive(nf.Tsit5(), output=wrong("dense"))


def test_an_implicit_scheme_interpolates_too(worst):
    """x' = -3 x: the oracle is the closed form, up to the interpolant's third order."""
    field = nf.from_function(lambda k, x: -k * x, jnp.asarray(3.0))
    solve = nf.Adaptive(nf.Kvaerno3(), 1e-6, 1e-6)
    layer = nf.NeuralODE(field, solve)
    states = layer.trajectory(X, DEPTHS)
    assert np.allclose(states, jnp.exp(-3 * DEPTHS)[:, None, None] * X, atol=1e-4)
    slope = jax.grad(lambda d: layer.trajectory(X, d).sum())(DEPTHS)
    assert np.allclose(slope, -3 * jnp.exp(-3 * DEPTHS) * X.sum(), atol=2e-2)
    pulled = jax.grad(lambda x: layer.trajectory(x, DEPTHS).sum())(X)
    assert np.allclose(pulled, jnp.exp(-3 * DEPTHS).sum(), atol=1e-4)
