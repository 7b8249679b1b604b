"""Fields of an energy."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

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
