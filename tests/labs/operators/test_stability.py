"""How long the steps of an equation may be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.operators import DX, D, V, equation

import neuralflow as nf
from neuralflow.labs import operators as op

LIMITS = {
    "heat on a line": (equation(0, 0, D), nf.Euler(), DX**2 / (2 * D)),
    "heat in the plane": (equation(0, 0, 0, D, 0, D, dimension=2), nf.Euler(), DX**2 / (4 * D)),
    "heat under RK4": (equation(0, 0, D), nf.RK4(), 2.785293563405282 * DX**2 / (4 * D)),
    "heat under implicit Euler": (equation(0, 0, D), nf.ImplicitEuler(), np.inf),
    "convection under RK4": (equation(0, V, 0), nf.RK4(), np.sqrt(8) * DX / V),
    "convection under Euler": (equation(0, V, 0), nf.Euler(), 0.0),
    "convection and much diffusion": (equation(0, V, 0.08), nf.Euler(), DX**2 / (2 * 0.08)),
    "decay": (equation(-4.0, 0, 0), nf.Euler(), 0.5),
    "growth": (equation(4.0, 0, 0), nf.Euler(), np.inf),
    "growth and decay": (equation(3.0, 0, 1.0, spacing=1.0), nf.Euler(), 2.0),
    "growth under implicit Euler": (equation(4.0, 0, 0), nf.ImplicitEuler(), np.inf),
    "hardly any diffusion": (equation(0, 0, 1e-13), nf.Euler(), DX**2 / 2e-13),
    "wave": (
        op.hyperbolic(2, periodic=True, dimension=1, rngs=nnx.Rngs(0)),
        nf.schemes.RevNet(),
        None,
    ),
}


@pytest.mark.parametrize("case", LIMITS)
def test_stable_steps_are_the_known_ones(case):
    field, scheme, limit = LIMITS[case]
    if limit is None:
        symbols = op.symbol(field.energy.potential.convolution.kernel[...])
        limit = 2 / np.linalg.norm(symbols, ord=2, axis=(1, 2)).max()
    assert op.stable_step(field, scheme) == pytest.approx(limit, rel=1e-6)


def test_convection_with_little_diffusion_is_bound_by_the_longest_waves():
    # The bound is h <= 2 D / v^2. Ever longer waves come to it, so a finer set of them is taken.
    for d in (2e-2, 1e-3, 1e-4):
        assert op.stable_step(equation(0, V, d), nf.Euler(), 256) == pytest.approx(
            2 * d / V**2, rel=1e-3
        )


def test_networks_decay_below_the_limit_and_grow_above_it():
    field = LIMITS["heat in the plane"][0]
    limit = op.stable_step(field, nf.Euler())
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
    for share, grows in ((0.999, False), (1.02, True)):
        layer = nf.NeuralODE(
            field,
            nf.FixedGrid(nf.Euler(), steps=400),
            jnp.zeros(()),
            jnp.asarray(400 * share * limit),
        )
        stability = op.stability(layer)
        assert stability.stable is not grows
        assert bool(stability.growth.max() > 1 + 1e-6) is grows
        assert (float(jnp.abs(layer(x)).max()) > 100) is grows


def test_a_layer_of_unstable_steps_is_refused_with_the_remedy():
    field = nf.DepthVarying.from_modules(
        [equation(0, 0, d) for d in (0.05, 0.1)], nf.PiecewiseConstant(2)
    )
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=16))
    assert op.stability(layer).limits[[0, -1]] == pytest.approx([0.1, 0.05], rel=1e-6)
    with pytest.raises(
        ValueError,
        match=r"step 8 of 16 is 0\.0625 long where Euler allows 0\.05 .* take 20 equal steps",
    ):
        op.check(layer)
    op.check(layer.with_solve(nf.FixedGrid(nf.Euler(), steps=20)))
    assert "nearest to its limit" in str(
        op.stability(layer.with_solve(nf.FixedGrid(nf.Euler(), steps=40)))
    )
    back = op.stability(
        nf.NeuralODE(equation(0, 0, D), nf.FixedGrid(nf.Euler(), steps=4)).reverse()
    )
    assert back.stable and "Waves grow in the equation itself, at rates up to 20" in back.sentence()
    coarse = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=16), 0.0, 1.05)
    # The number is a multiple of the cells.
    assert "take 22 equal steps" in op.stability(coarse).sentence()


def test_parabolic_energy_falls_and_waves_keep_theirs():
    x = jax.random.normal(jax.random.key(0), (3, 12, 4))
    heat = op.parabolic(4, dimension=1, periodic=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    step = 0.99 * op.stable_step(heat, nf.Euler())
    layer = nf.NeuralODE(
        heat, nf.FixedGrid(nf.Euler(), steps=20), jnp.zeros(()), jnp.asarray(20 * step)
    )
    op.check(layer)
    energies = jax.vmap(heat.energy)(layer.trajectory(x))
    assert (jnp.diff(energies, axis=0) < 0).all()

    wave = op.hyperbolic(4, dimension=1, periodic=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    h = 0.5 * op.stable_step(wave, nf.schemes.RevNet())
    layer = nf.NeuralODE(
        wave, nf.FixedGrid(nf.schemes.RevNet(), steps=20), jnp.zeros(()), jnp.asarray(20 * h)
    )
    u, p = layer.trajectory((x, jnp.cos(x)))
    energy: Any = wave.energy
    pull = jax.vmap(jax.grad(lambda u: energy.potential(u).sum()))
    # Leapfrog's step is u_2 = 2 u_1 - u_0 + h^2 u''.
    np.testing.assert_allclose(u[2:], 2 * u[1:-1] - u[:-2] - h**2 * pull(u[1:-1]), atol=1e-12)

    def drift(q, p):
        return np.ptp(jax.vmap(wave.energy)((q, p)), axis=0) / np.abs(wave.energy((x, jnp.cos(x))))

    euler = layer.with_solve(nf.FixedGrid(nf.Euler(), steps=20)).trajectory((x, jnp.cos(x)))
    assert drift(u, p).max() < 0.2 < drift(*euler).min()


def test_hamiltonian_fields_have_their_spectrum():
    """The eigenvalues of the field's own Jacobian lie in the interval that `spectrum` spans."""
    for make in (op.parabolic, op.hyperbolic, op.hamiltonian):
        field = make(2, dimension=1, periodic=True, param_dtype=jnp.float64, rngs=nnx.Rngs(3))
        width = 2 if make is op.parabolic else 4

        def flat(x, field=field, width=width):
            return field(x.reshape(1, 8, width)).ravel()

        eigenvalues = np.linalg.eigvals(
            jax.jacobian(flat)(0.1 * jax.random.normal(jax.random.key(0), (8 * width,)))
        )
        bound = np.abs(op.spectrum(field)).max()
        assert np.abs(eigenvalues).max() <= bound * (1 + 1e-9)
        assert np.abs(eigenvalues).max() > 0.5 * bound
        axis = eigenvalues.imag if make is op.parabolic else eigenvalues.real
        assert np.abs(axis).max() < 1e-7
