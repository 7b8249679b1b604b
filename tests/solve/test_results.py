"""What a solve returns: states, statuses and counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuralflow as nf


def test_states_at_asked_depths(mlp, x, worst):
    depths = jnp.asarray([0.0, 0.1, 0.25, 0.33, 0.9, 1.0])
    field = mlp(nf.PiecewiseConstant(4))
    adaptive = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9))
    fixed = adaptive.with_solve(nf.FixedGrid(nf.RK4(), steps=200))
    assert worst(adaptive.trajectory(x, depths), fixed.trajectory(x, depths)) < 1e-8
    every = fixed.trajectory(x)
    assert (
        every.shape == (201, *x.shape) and (every[0] == x).all() and (every[-1] == fixed(x)).all()
    )
    assert (fixed.trajectory(x, depths)[2] == every[50]).all()
    for layer in (adaptive, fixed):
        jacobian = jax.jit(jax.jacrev(lambda d, layer=layer: layer.trajectory(x, d).sum((1, 2))))(
            depths
        )
        inside = np.asarray([1, 3, 4])
        velocity = []
        for i in inside:
            module = field.at(float(depths[i]))
            velocity.append(float(module(layer.trajectory(x, depths)[i], depths[i]).sum()))
        assert np.allclose(jacobian[inside, inside], velocity, rtol=1e-6)
        assert np.abs(jacobian - np.diag(np.diag(jacobian))).max() < 1e-12


@pytest.mark.parametrize(
    "solve", [nf.FixedGrid(nf.Heun(), steps=4), nf.Adaptive(nf.Tsit5())], ids=["fixed", "adaptive"]
)
def test_depths_that_a_trace_cannot_refuse_are_nan(mlp, x, solve):
    layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(4)), solve)
    traced = jax.jit(lambda depths: layer.solve(x, depths))
    for depths, bad in (([0.2, 2.0], 1), ([np.nan, 0.7], 0), ([-0.1, 1.0], 0)):
        solution = traced(jnp.asarray(depths))
        assert solution.status == nf.Status.BAD_DEPTHS
        assert (
            jnp.isnan(solution.states[bad]).all() and jnp.isfinite(solution.states[1 - bad]).all()
        )
        with pytest.raises(ValueError, match="in the direction of the walk"):
            layer.solve(x, jnp.asarray(depths))
    assert traced(jnp.asarray([0.2, 0.7])).status == nf.Status.SUCCESSFUL


@pytest.mark.parametrize(
    "scheme", [nf.Heun(), nf.Tsit5(), nf.Bosh3()], ids=lambda s: type(s).__name__
)
def test_evaluations_are_counted(scheme):
    calls = []
    field = nf.from_function(lambda p, x: (jax.debug.callback(lambda: calls.append(1)), -x)[1])
    x = jnp.ones((1, 1))
    for solve in (nf.FixedGrid(scheme, steps=7), nf.Adaptive(scheme, 1e-3, 1e-3)):
        calls.clear()
        solution = jax.block_until_ready(nf.NeuralODE(field, solve).solve(x))
        jax.effects_barrier()
        assert len(calls) == int(solution.evaluations)


def test_pytree_states_and_complex_ones(worst):
    field = nf.from_function(lambda p, z: {"q": z["p"], "p": -z["q"]})
    z = {"q": jnp.ones((2, 1)), "p": jnp.zeros((2, 1))}
    for solve in (nf.FixedGrid(nf.RK4(), steps=100), nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9)):
        state = nf.NeuralODE(field, solve, 0.0, 1.0)(z)
        assert (
            worst(state, {"q": jnp.full((2, 1), np.cos(1)), "p": jnp.full((2, 1), -np.sin(1))})
            < 1e-7
        )
    turned = nf.NeuralODE(nf.from_function(lambda p, x: 1j * x), nf.FixedGrid(nf.RK4(), steps=100))(
        jnp.ones((1, 1), complex)
    )
    assert abs(complex(turned[0, 0]) - np.exp(1j)) < 1e-9
