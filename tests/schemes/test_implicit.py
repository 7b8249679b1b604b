"""Derivatives of implicit steps: the implicit function theorem, and failure as NaN."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuralflow as nf

X = 0.3 * jnp.ones((2, 2))


def layer(solve, velocity=lambda a, x: jnp.sin(a * x[..., ::-1]), dtype=float):
    return nf.NeuralODE(nf.from_function(velocity, jnp.asarray(0.8, dtype)), solve)


@pytest.mark.parametrize("velocity", [lambda a, x: a * x**2, lambda a, x: jnp.sqrt(-a * x)])
def test_an_implicit_step_that_fails_is_nan_in_value_and_gradient(velocity):
    ode = layer(nf.FixedGrid(nf.ImplicitEuler(), steps=3), velocity, jnp.float32)
    x = jnp.full((1, 1), 1e10, jnp.float32)
    value, slope = jax.jit(jax.value_and_grad(lambda x: ode(x).sum()))(x)
    assert np.isnan(value) and np.isnan(slope).all()


@pytest.mark.parametrize("memory", ["full", "remat"])
def test_second_derivatives_are_those_of_the_equation(memory: Literal["full", "remat"]):
    """A step solves y = x + h a y, so y = x / (1 - h a)."""
    h = 0.5
    ode = layer(nf.FixedGrid(nf.ImplicitEuler(), steps=2, memory=memory), lambda a, x: a * x)

    def end(a):
        return ode.with_field(nf.from_function(lambda a, x: a * x, a))(jnp.ones((1, 1)))[0, 0]

    a = jnp.asarray(0.8)
    first, second = 2 * h / (1 - h * a) ** 3, 6 * h**2 / (1 - h * a) ** 4
    for once in (jax.grad(end)(a), jax.jvp(end, (a,), (1.0,))[1]):
        np.testing.assert_allclose(once, first, rtol=1e-9)
    for again in (jax.grad(jax.grad(end)), jax.jacfwd(jax.grad(end)), jax.hessian(end)):
        np.testing.assert_allclose(again(a), second, rtol=1e-8)


@pytest.mark.parametrize("scheme", [nf.schemes.ImplicitTrapezoid(), nf.Kvaerno3()])
def test_gradients_are_those_of_differences(scheme):
    report = nf.check_gradient(layer(nf.FixedGrid(scheme, steps=2)), X)
    assert max(*report.exact.values(), *report.directional.values()) < 1e-6


def test_gradients_at_depths_between_steps_are_those_of_diffraxs_loop():
    def slope(gradient):
        solve = nf.Adaptive(nf.ImplicitEuler(), 1e-2, 1e-2, gradient=gradient, max_steps=32)
        ode = layer(solve)
        return jax.grad(lambda x: (ode.trajectory(x, [0.3, 0.9]) ** 2).sum())(X)

    assert np.allclose(slope("steps"), slope("direct"), rtol=1e-4, atol=0)


def test_derivatives_of_an_inverse_are_those_of_the_equation():
    """Two steps take x to y = (1 + h a)^2 x."""
    h, y = 0.5, jnp.asarray([[1.0], [2.0]])

    def start(a, y):
        field = nf.from_function(lambda a, x: a * x, a)
        return nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2)).invert(y)[1, 0]

    a = jnp.asarray(0.8)
    first, second = -2 * h * 2 / (1 + h * a) ** 3, 6 * h**2 * 2 / (1 + h * a) ** 4
    np.testing.assert_allclose(jax.grad(start)(a, y), first, rtol=1e-12)
    np.testing.assert_allclose(jax.jvp(lambda a: start(a, y), (a,), (1.0,))[1], first, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(jax.grad(start))(a, y), second, rtol=1e-10)
    slope = jax.grad(start, argnums=1)(a, y)
    np.testing.assert_allclose(slope[:, 0], [0, float(1 + h * a) ** -2], rtol=1e-12)


def test_an_inverse_that_fails_is_nan_in_value_and_gradient():
    ode = layer(nf.FixedGrid(nf.Euler(), steps=1), lambda a, x: a * x)
    steep = ode.with_field(nf.from_function(lambda a, x: a * x, jnp.asarray(3.0)))
    value, slope = jax.jit(jax.value_and_grad(lambda y: steep.invert(y).sum()))(X)
    assert np.isnan(value) and np.isnan(slope).all()


def test_an_adaptive_implicit_solve_that_fails_is_nan_in_value_and_gradient():
    solve = nf.Adaptive(nf.ImplicitEuler(), 1e-3, 1e-3, gradient="direct", max_steps=8)
    ode = layer(solve, lambda a, x: jnp.sqrt(-a * x))
    value, slope = jax.jit(jax.value_and_grad(lambda x: ode(x).sum()))(X)
    assert np.isnan(value) and np.isnan(slope).all()
