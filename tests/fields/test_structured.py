"""Fields of an energy, and of an acceleration."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support.wrong import wrong

import neuralflow as nf


def test_energies_are_kept_and_descended(worst):
    rngs = nnx.Rngs(0)

    def energy(d):
        return nf.fields.Energy(d, hidden=6, param_dtype=jnp.float64, rngs=rngs)

    x = jax.random.normal(jax.random.key(1), (5, 4))
    solve = nf.Adaptive(nf.Tsit5(), 1e-10, 1e-10)
    for h in (energy(4), nf.fields.Separable(energy(2), energy(2))):
        field = nf.fields.Hamiltonian(h)
        flow = nf.NeuralODE(field, solve, 0.0, 3.0)
        assert jnp.abs(h(flow(x)) - h(x)).max() < 1e-8
        assert jnp.abs(flow(x) - x).max() > 1e-2
        if isinstance(h, nf.fields.Separable):
            pair = field((x[:, :2], x[:, 2:]))
            assert worst(jnp.concatenate(pair, axis=1), field(x)) < 1e-14
            # A separable energy is a field for RevNet, which is the symplectic Euler scheme.
            # The energy does not drift over many steps.
            rev = nf.NeuralODE(field, nf.FixedGrid(nf.schemes.RevNet(), steps=2000), 0.0, 100.0)
            assert jnp.abs(h(rev(x)) - h(x)).max() < 0.05
    potential = energy(4)
    descent = nf.fields.Gradient(potential)
    path = nf.NeuralODE(descent, solve, 0.0, 3.0).trajectory(x, jnp.linspace(0, 3, 7))
    assert (jnp.diff(jax.vmap(potential)(path), axis=0) < 0).all()
    jacobian = jax.jacobian(descent)(x[:1])[0, :, 0]
    assert worst(jacobian, jacobian.T) < 1e-14


def test_an_energy_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="one number a sample"):
        nf.fields.Gradient(nf.fields.MLP(4, hidden=3, rngs=nnx.Rngs(0)))(
            jnp.ones((5, 4), jnp.float32)
        )


EXACT = nf.Adaptive(nf.Tsit5(), 1e-11, 1e-11)


def test_an_oscillator_swings_as_its_closed_form_says(worst):
    """x'' = -w^2 x from (x, v) is x cos wt + v/w sin wt, for pairs and for arrays of two halves."""
    w, t = 1.7, 2.3
    spring = nf.from_function(lambda k, state: -k * state[0], jnp.asarray(w**2))
    x, v = jax.random.normal(jax.random.key(1), (2, 5, 3))
    end = nf.NeuralODE(nf.fields.SecondOrder(spring), EXACT, 0.0, t)((x, v))
    c, s = jnp.cos(w * t), jnp.sin(w * t)
    assert worst(end, (c * x + s * v / w, -w * s * x + c * v)) < 1e-8
    matrix = nnx.Linear(6, 3, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    matrix.kernel.set_value(jnp.concatenate([-(w**2) * jnp.eye(3), jnp.zeros((3, 3))]))
    state = jnp.concatenate([x, v], axis=1)
    again = nf.NeuralODE(nf.fields.SecondOrder(matrix), EXACT, 0.0, t)(state)
    assert worst(again, jnp.concatenate(end, axis=1)) < 1e-8


def test_a_damped_and_driven_oscillator_uses_velocity_and_time(worst):
    """x'' = -2 g x' - (w^2 + g^2) x + f, with f such that exp(-g t) cos wt + t^2 solves it."""
    g, w, t = 0.4, 1.9, 1.6

    def acceleration(params, state, t):
        x, v = state
        force = 2 + 4 * g * t + (w**2 + g**2) * t**2
        return -params["damping"] * v - params["spring"] * x + force

    params = {"damping": 2 * g, "spring": w**2 + g**2}
    field = nf.fields.SecondOrder(nf.from_function(acceleration, params))
    start = jnp.ones((1, 1)), jnp.full((1, 1), -g)
    x, v = nf.NeuralODE(field, EXACT, 0.0, t)(start)
    decay, c, s = jnp.exp(-g * t), jnp.cos(w * t), jnp.sin(w * t)
    assert worst(x, jnp.full((1, 1), decay * c + t**2)) < 1e-8
    assert worst(v, jnp.full((1, 1), -decay * (g * c + w * s) + 2 * t)) < 1e-8


def test_an_acceleration_that_varies_with_depth_is_found_inside():
    """A constant acceleration of 1 in the first half of depth, and of 3 in the second."""

    def make(rngs):
        return nnx.Linear(2, 1, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    depth = nf.DepthVarying(make, nf.PiecewiseConstant(2), rngs=nnx.Rngs(0))
    nnx.update(depth.stack, {"bias": jnp.asarray([[1.0], [3.0]])})
    layer = nf.NeuralODE(nf.fields.SecondOrder(depth), nf.FixedGrid(nf.RK4(), steps=2))
    assert jnp.allclose(layer(jnp.zeros((1, 2))), jnp.asarray([1 / 8 + 1 / 4 + 3 / 8, 2.0]))


def test_an_acceleration_of_the_wrong_form_is_refused():
    field = nf.fields.SecondOrder(nf.fields.MLP(4, hidden=3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="form of the velocity, .5, 2., got .5, 4.; .* one half"):
        field(jnp.ones((5, 4), jnp.float32))
    with pytest.raises(ValueError, match="a pair, or an array whose last axis is even"):
        field(jnp.ones((5, 3), jnp.float32))
    with pytest.raises(TypeError, match="acceleration must be an nnx.Module; wrap functions"):
        nf.fields.SecondOrder(wrong(jnp.sin))
