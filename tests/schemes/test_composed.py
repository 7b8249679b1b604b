"""Schemes whose steps are composed of evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
from support.schemes import grid, slope, stacked

import neuralflow as nf
from neuralflow import schemes as S
from neuralflow.schemes import analysis


def test_fractalnet_with_heuns_coefficients_is_heun(worst):
    n, x = 7, jax.random.normal(jax.random.key(3), (5, 4))
    heun = nf.NeuralODE(stacked(n), grid(nf.Heun(), n))
    for scheme in (
        S.FractalNet(),
        S.ConsistentFractalNet(),
        S.FractalNet.learned(n),
        S.ConsistentFractalNet.learned(n),
    ):
        assert worst(heun.with_solve(grid(scheme, n))(x), heun(x)) < 1e-14
    midpoint = heun.with_solve(grid(nf.Midpoint(), n))(x)
    assert worst(heun.with_solve(grid(S.FractalExpansion([2.0]), n))(x), midpoint) < 1e-14
    assert worst(heun.with_solve(grid(S.ConsistentFractalNet(0.0, 0.5), n))(x), midpoint) < 1e-14


def test_fractal_coefficients_say_their_order():
    rule = {
        (0.5, 0.5, 1.0, 1.0, 0.5): 2,
        (0.5, 0.5, 1.0, 0.5, 0.75): 1,
        (0.5, 0.5, 1.1, 1.0, 0.5): 0,
        (1.0, 0.0, 1.0, 0.5, 1.0): 2,
    }

    def velocity(x):
        return jnp.stack([jnp.cos(x[0]) + x[1], jnp.sin(x[0] + x[1])])

    x = jnp.asarray([0.3, 0.7])
    for coefficients, order in rule.items():
        scheme = S.FractalNet(*coefficients)
        assert scheme.order(None) == order
        # Otherwise a step does not start at u, and follows no equation.
        if coefficients[2] == 1:
            g0, g1, _ = analysis.modified_equation(scheme, velocity, x)
            assert (jnp.abs(g0 - velocity(x)).max() < 1e-12) == (order > 0)
            assert (jnp.abs(g1).max() < 1e-12) == (order > 1)


def test_poly_nears_backward_euler_for_linear_fields_only():
    # One step against backward Euler's own has an error of O(h^(K+1)) for a linear field.
    a = jax.random.normal(jax.random.key(5), (4, 4))
    u = jax.random.normal(jax.random.key(6), (4,))
    hs = np.array([0.02, 0.01, 0.005, 0.0025])

    def steps(scheme, f):
        return jax.jit(jax.vmap(lambda h: analysis.walk(scheme, lambda x, t: f(x), u, h, 1)))(hs)

    def rate(scheme, f, exact):
        return slope(np.linalg.norm(steps(scheme, f) - exact, axis=1), hs)

    implicit = jnp.stack([jnp.linalg.solve(jnp.eye(4) - h * a, u) for h in hs])
    for degree in (1, 2, 3):
        for scheme in (S.PolyNet(degree), S.FixedPointEuler(degree)):
            assert abs(rate(scheme, lambda x: a @ x, implicit) - (degree + 1)) < 0.05

    # For a nonlinear field with f(0) = 0 the error of PolyNet is O(h^2) at any degree K.
    # With f(0) != 0 it is O(h), so PolyNet is inconsistent. FixedPointEuler stays O(h^(K+1)).
    for f, want in ((lambda x: jnp.tanh(a @ x), 2), (lambda x: jnp.tanh(a @ x + 1), 1)):
        exact = steps(S.FixedPointEuler(20), f)
        assert abs(rate(S.PolyNet(3), f, exact) - want) < 0.1
        assert abs(rate(S.FixedPointEuler(3), f, exact) - 4) < 0.1

    def f(x):
        return jnp.tanh(a @ x + 1)

    g0 = analysis.modified_equation(S.PolyNet(3), f, u)[0]
    assert jnp.abs(g0 - (f(u) + 2 * f(jnp.zeros(4)))).max() < 1e-12
