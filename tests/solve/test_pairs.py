"""Complex states under schemes whose steps solve equations."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuralflow as nf

START = jnp.asarray([[0.7, 0.4], [-0.2, 0.9]])


def bent(a, z):
    """A field that is not holomorphic, and whose Jacobian is no complex number."""
    return -a * z * jnp.abs(z) ** 2 + 0.3 * jnp.conj(z)


def bent_pairs(a, p):
    z = bent(a, p[..., 0] + 1j * p[..., 1])
    return jnp.stack([z.real, z.imag], -1)


def as_complex(p):
    return p[..., 0] + 1j * p[..., 1]


SOLVES = {
    "implicit Euler": nf.FixedGrid(nf.ImplicitEuler(), steps=4),
    "adaptive": nf.Adaptive(diffrax.Kvaerno3(), 1e-6, 1e-6),
    "explicit": nf.FixedGrid(nf.RK4(), steps=4),
}


@pytest.mark.parametrize("solve", SOLVES.values(), ids=SOLVES)
def test_complex_steps_are_the_steps_of_their_real_pairs(solve):
    def loss(field, join):
        def value(a, p):
            layer = nf.NeuralODE(nf.from_function(field, a), solve)
            z = layer(join(p))
            z = z if jnp.iscomplexobj(z) else as_complex(z)
            return jnp.sum(z.real**2 + 3 * z.imag)

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(jnp.asarray(1.3), START)

    one, two = loss(bent, as_complex), loss(bent_pairs, lambda p: p)
    scale = 1e-8 if isinstance(solve, nf.Adaptive) else 1e-10
    assert all(
        np.allclose(a, b, rtol=0, atol=scale)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    )


@pytest.mark.parametrize("scheme", [nf.Euler(), nf.ImplicitEuler()])
def test_complex_steps_are_inverted(scheme):
    layer = nf.NeuralODE(nf.from_function(bent, jnp.asarray(0.5)), nf.FixedGrid(scheme, steps=4))
    z = as_complex(START)
    assert np.allclose(layer.invert(layer(z)), z, atol=1e-9)
    outputs = layer.per_step(z, lambda block, z: block(z))
    assert jnp.iscomplexobj(outputs) and np.allclose(outputs[-1], layer(z), atol=1e-12)


def test_a_pytree_of_real_and_complex_states():
    def field(a, x):
        return {"z": 1j * a * x["z"] * x["r"], "r": -a * x["r"]}

    layer = nf.NeuralODE(
        nf.from_function(field, jnp.asarray(1.0)), nf.Adaptive(diffrax.Kvaerno5(), 1e-9, 1e-9)
    )
    end = layer({"z": jnp.ones((2, 1), complex), "r": jnp.ones((2, 1))})
    assert np.allclose(end["r"], np.exp(-1.0), atol=1e-7)
    assert np.allclose(end["z"], np.exp(1j * (1 - np.exp(-1.0))), atol=1e-7)


def test_states_of_complex_steps_at_depths_are_complex():
    layer = nf.NeuralODE(nf.from_function(bent, jnp.asarray(0.5)), SOLVES["implicit Euler"])
    z = as_complex(START)
    states = layer.trajectory(z, [0.5, 1.0])
    assert states.shape == (2, 2) and np.allclose(states[1], layer(z), atol=1e-12)
