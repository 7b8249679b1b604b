"""How long the steps of an equation may be."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.operators import DX, D, V, equation

import neuralflow as nf
from neuralflow import schemes as S
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
        symbols = op.symbol(field.energy.potential.convolution.kernel[...], 4096)
        limit = 2 / np.linalg.norm(symbols, ord=2, axis=(1, 2)).max()
        # |K| is rounded up by at most 1 / cos(pi / 64).
        assert 0.9987 * limit < op.stable_step(field, scheme) < limit
    else:
        assert op.stable_step(field, scheme) == pytest.approx(limit, rel=1e-6)


def test_euler_on_convection_and_diffusion_has_its_closed_forms():
    # The bound 2 D / v^2 is that of ever longer waves, the bound 1 / (2 D) that of the shortest.
    for v, d in ((1.3, 0.4), (V, 1e-4), (0.5, 2.0)):
        line = equation(0, v, d, spacing=1.0)
        known = min(2 * d / v**2, 1 / (2 * d))
        np.testing.assert_allclose(op.stable_step(line, nf.Euler()), known, rtol=1e-6)
    # In the plane the worst long wave goes into a direction between the axes.
    plane = equation(0, 0.3, 1.0, 0.05, 0, 0.3, dimension=2, spacing=1.0)
    known = 2 / (0.3**2 / 0.05 + 1.0**2 / 0.3)
    np.testing.assert_allclose(op.stable_step(plane, nf.Euler()), known, rtol=1e-6)


def excess(field, scheme, length, sizes: Iterable[int] = range(3, 201)):
    """The largest growth over the allowed one on periodic grids, less one, from the kernel."""
    rates = np.concatenate([np.linalg.eigvals(op.symbol(field.kernel, n)).ravel() for n in sizes])
    rise = np.clip(length * rates.real, 0, 1)
    grown = nf.schemes.analysis.growth(scheme, length * rates) * (1 - rise)
    return grown[rise < 1].max() - 1


def coupled(channels, dimension, seed, grows=False):
    """Convection with real speeds and diffusion, with random matrices over the channels."""
    rng = np.random.default_rng(seed)
    terms = op.TERMS[dimension]
    values = rng.normal(size=(len(terms), channels, channels))
    for term, matrix in zip(terms, values, strict=True):
        if sum(term) == 1:
            matrix += matrix.T.copy()
        elif max(term) == 2:
            matrix[:] = 0.1 * matrix @ matrix.T + 0.02 * np.eye(channels)
        elif not grows:
            matrix[:] = 0
    return op.DifferentialOperator(
        channels,
        channels,
        dimension=dimension,
        boundary="periodic",
        coefficients=values,
        param_dtype=jnp.float64,
    )


SCHEMES = {"Euler": nf.Euler(), "Heun": nf.Heun(), "RK4": nf.RK4(), "AB2": S.adams_bashforth(2)}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stable_step_is_stable_on_every_grid_and_a_longer_one_is_not(channels, scheme):
    field, scheme = coupled(channels, 1, channels), SCHEMES[scheme]
    limit = op.stable_step(field, scheme)
    assert 0 < limit < np.inf
    assert excess(field, scheme, limit) <= 1e-11 < excess(field, scheme, 1.01 * limit)
    # One grid allows no less, and exactly what its own waves allow.
    for n in (3, 4, 7):
        one = op.stable_step(field, scheme, n)
        assert one >= limit * (1 - 1e-9)
        assert excess(field, scheme, one, [n]) <= 1e-11 < excess(field, scheme, 1.001 * one, [n])


def test_steps_in_the_plane_and_of_growing_waves_are_stable_on_every_grid():
    for field, sizes in (
        (coupled(2, 2, 0), (3, 4, 7, 16, 31)),
        (coupled(2, 1, 0, grows=True), range(3, 201)),
    ):
        limit = op.stable_step(field, nf.RK4())
        assert 0 < limit < np.inf
        assert excess(field, nf.RK4(), limit, sizes) <= 1e-11
        assert excess(field, nf.RK4(), 1.01 * limit, sizes) > 1e-11


def test_where_no_step_is_stable_the_answer_is_zero():
    turning = np.zeros((3, 3, 3))
    turning[1] = np.random.default_rng(0).normal(size=(3, 3))
    turning[1] = turning[1] @ np.diag([1.0, -0.5, 2.0]) @ np.linalg.inv(turning[1])
    several = op.DifferentialOperator(
        3, 3, dimension=1, coefficients=turning, param_dtype=jnp.float64
    )
    drifts = equation(0, V, 0, 0, 0, D, dimension=2)  # along the axis without diffusion
    growing = equation(0.1, V, D)  # between growing and decaying waves
    for name, scheme in SCHEMES.items():
        for field in (equation(0, V, 0), several, drifts, growing):
            assert (op.stable_step(field, scheme) > 0) is (name == "RK4")
    np.testing.assert_allclose(op.stable_step(several, nf.RK4()), np.sqrt(2), rtol=1e-6)
    # On two points, central differences of a wave are zero, and nothing moves.
    for scheme in (nf.Euler(), nf.RK4()):
        assert op.stable_step(equation(0, V, 0), scheme, points=2) == np.inf


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dimension", [1, 2])
def test_the_norm_of_a_convolution_is_a_bound(size, dimension):
    field: Any = op.parabolic(
        2, hidden=3, kernel=size, dimension=dimension, potential=half, rngs=nnx.Rngs(size)
    )
    symbols = op.symbol(field.energy.convolution.kernel[...], 1009 if dimension == 1 else 101)
    norm = np.linalg.norm(symbols, ord=2, axis=(1, 2)).max() ** 2
    bound = np.abs(op.spectrum(field)).max()
    assert norm * (1 - 1e-6) <= bound <= norm * 1.08


def test_the_bend_of_a_potential_is_found_between_the_points_of_a_scan():
    ends = []
    for at in (0.0, 0.0049):

        def potential(x, at=at):
            return op.log_cosh(10 * (x - at)) / 100

        field = op.parabolic(2, potential=potential, rngs=nnx.Rngs(0))
        ends.append(np.abs(op.spectrum(field)).max())
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-9)


def half(x):
    """The potential x^2 / 2, with S'' = 1."""
    return x**2 / 2


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
