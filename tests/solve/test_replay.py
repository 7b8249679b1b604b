"""Gradients through the accepted steps of adaptive solves."""

import diffrax
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support.solve import Several, differentiated, gradients

import neuralflow as nf
from neuralflow.solve.replay import Kept

pytestmark = pytest.mark.device


def on_every_basis(mlp, tolerance):
    bases = (nf.PiecewiseConstant(4), nf.PiecewiseLinear(4), nf.Legendre(4))
    field = Several([mlp(basis, seed=k) for k, basis in enumerate(bases)])
    return nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), tolerance, tolerance))


@pytest.mark.optimised
def test_adaptive_gradients_are_those_of_the_accepted_steps(mlp, x, worst):
    """The oracle is diffrax, which differentiates through its own loop."""
    layer = on_every_basis(mlp, 1e-7)
    direct = layer.with_solve(nf.Adaptive(nf.Tsit5(), 1e-7, 1e-7, gradient="direct", max_steps=64))
    assert worst(gradients(layer, x)[:2], gradients(direct, x)[:2]) < 1e-12


def test_adaptive_gradients_on_every_basis(mlp, x, worst):
    layer = on_every_basis(mlp, 1e-9)
    fine = gradients(layer.with_solve(nf.FixedGrid(nf.RK4(), steps=200)), x)
    assert worst(gradients(layer, x), fine) < 1e-6
    continuous = gradients(
        layer.with_solve(nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9, gradient="continuous")), x
    )
    assert worst(continuous, fine) < 1e-6


def test_adaptive_gradient_is_diffraxs_where_both_apply(x, worst):
    field = nf.fields.MLP(2, hidden=8, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(field)

    def plain(state, x):
        term = diffrax.ODETerm(lambda t, x, state: 3.0 * nnx.merge(graphdef, state)(x))
        controller = diffrax.PIDController(rtol=1e-7, atol=1e-7)
        solution = diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.0, 1.0, None, x, state, stepsize_controller=controller
        )
        assert solution.ys is not None
        return jnp.sum(solution.ys**2)

    def ours(state, x):
        return jnp.sum(
            nf.NeuralODE(nnx.merge(graphdef, state), nf.Adaptive(nf.Tsit5(), 1e-7, 1e-7), 0.0, 3.0)(
                x
            )
            ** 2
        )

    want = jax.jit(jax.grad(plain, argnums=(0, 1)))(state, x)
    assert worst(want, jax.jit(jax.grad(ours, argnums=(0, 1)))(state, x)) < 1e-12


def test_more_steps_than_states_are_kept(x, worst):
    field = nf.from_function(lambda p, x, t: jnp.cos(p * t) * x, jnp.asarray(40.0))
    few = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-8, 1e-8, max_steps=400))
    assert few.solve(x).accepted > 2 * Kept(400).room
    assert (
        worst(gradients(few, x), gradients(few.with_solve(nf.FixedGrid(nf.RK4(), steps=2000)), x))
        < 1e-5
    )


@pytest.mark.parametrize("max_steps", [1, 2, 5, 16, 33, 130])
def test_every_state_that_is_kept_is_found_again(max_steps):
    kept = Kept(max_steps)
    assert kept.room + 1 + kept.longest <= 4 * max_steps**0.5
    number = jnp.arange(max_steps)

    @jax.jit
    def reach(states, n):
        states = kept.put(states, n, n)
        distance = kept.distance(n)
        wanted = (number % distance == 0) & (number <= n)
        return states, distance, jnp.all(~wanted | (states[kept.place(number)] == number))

    states = kept.empty(number[0])
    for n in number:
        states, distance, found = reach(states, n)
        assert found
        assert distance <= kept.longest and (distance == 1 or n >= kept.room * distance // 2)


@pytest.mark.parametrize("scheme", [nf.Tsit5(), nf.Kvaerno3()])
def test_samples_of_different_numbers_of_steps_have_their_own_gradients(scheme, worst):
    """The field is not finite at zero, where no sample is."""
    field = nf.from_function(lambda p, x: p * (1 / x - x), jnp.asarray(1.0))
    solve = nf.Adaptive(scheme, 1e-7, 1e-7, per_sample=True, max_steps=600)
    layer = nf.NeuralODE(field, solve)
    x = jnp.asarray([[0.9], [0.02], [3.0]])
    steps = layer.solve(x).accepted
    assert jnp.max(steps) > 1.5 * jnp.min(steps)
    run = differentiated(layer)
    alone = [run(x[k : k + 1])[1] for k in range(len(x))]
    weights, state = run(x)[1][:2]
    assert worst(state, jnp.concatenate([g[1] for g in alone])) < 1e-10
    assert worst(weights, jax.tree.map(lambda *g: sum(g), *[g[0] for g in alone])) < 1e-10
