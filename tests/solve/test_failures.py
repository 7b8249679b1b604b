"""A failed solve is NaN in its value and in its gradient, and touches no other sample."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import neuralflow as nf
from neuralflow.solve import Status

STIFF = nf.from_function(lambda k, x: -k * x, jnp.asarray(5000.0))
BURST = nf.from_function(lambda k, x: k * x**2, jnp.asarray(3.0))
SHORT = {"rtol": 1e-8, "atol": 1e-8, "max_steps": 8}


def derivatives(layer, x):
    """Return the value, the status, and the gradients in the parameter, x and the ends."""

    def loss(k, x, t0, t1):
        field = nf.from_function(layer.field.function, k)
        solution = nf.NeuralODE(field, layer.discretisation, t0, t1).solve(x)
        return jnp.sum(solution.states), solution.status

    k = layer.field.params[...]
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
    (value, status), gradient = compiled(k, x, jnp.asarray(0.0), jnp.asarray(1.0))
    return value, status, gradient


@pytest.mark.parametrize(
    ("field", "solve", "status"),
    [
        (STIFF, nf.Adaptive(nf.Tsit5(), **SHORT), Status.MAX_STEPS),
        (STIFF, nf.Adaptive(nf.Tsit5(), **SHORT, gradient="direct"), Status.MAX_STEPS),
        (STIFF, nf.Adaptive(nf.Tsit5(), **SHORT, gradient="continuous"), Status.MAX_STEPS),
        (BURST, nf.FixedGrid(nf.Euler(), steps=64), Status.NOT_FINITE),
        (BURST, nf.FixedGrid(nf.Euler(), steps=64, memory="two_level"), Status.NOT_FINITE),
        (BURST, nf.FixedGrid(nf.ImplicitEuler(), steps=4), Status.IMPLICIT_FAILED),
    ],
    ids=["steps", "direct", "continuous", "fixed", "two_level", "implicit"],
)
def test_a_failed_solve_has_no_finite_gradient(field, solve, status):
    x = jnp.full((2, 1), 50.0)
    value, ended, gradient = derivatives(nf.NeuralODE(field, solve), x)
    assert ended == status and not np.isfinite(value)
    assert all(np.isnan(part).all() for part in gradient)


@pytest.mark.parametrize("gradient", ["steps", "direct", "continuous"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("function", "status", "accepts"),
    [
        (lambda k, x: k * x, Status.NOT_FINITE, False),  # for the sample that is not finite
        (lambda k, x: k / (x - x[0]), Status.NOT_FINITE, False),
        (lambda k, x: k * x**2, Status.FAILED, True),  # 1 / x reaches zero
        (lambda k, x: -k * jnp.sqrt(x), Status.FAILED, True),  # sqrt(x) reaches zero
    ],
    ids=["nan", "pole", "burst", "root"],
)
def test_a_solve_ends_where_no_step_is_short_enough(function, status, accepts, dtype, gradient):
    field = nf.from_function(function, jnp.asarray(3.0, dtype))
    solve = nf.Adaptive(nf.Tsit5(), rtol=1e-3, atol=1e-3, per_sample=True, gradient=gradient)
    x = jnp.asarray([[0.9, 1.0], [1.0, 1.0]], dtype)
    x = x.at[0, 0].set(jnp.nan) if not accepts else x
    solution = nf.NeuralODE(field, solve).solve
    found = jax.jit(lambda x: solution(x))(x)
    assert found.status[0] == status and (found.accepted[0] > 0) == accepts, found
    assert found.rejected[0] < 256 and jnp.isnan(found.states[0]).all()


def test_a_solve_without_an_accepted_step_tells_whether_its_steps_were_used_up():
    field = nf.from_function(lambda k, x: -k * x**3, jnp.asarray(50.0))
    layer = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), max_steps=1))
    with pytest.raises(nf.SolveError, match=r"MAX_STEPS.*0 accepted and 1 rejected"):
        layer(jnp.ones((1, 1)))


def test_a_solve_that_succeeds_has_the_gradient_it_had():
    layer = nf.NeuralODE(
        nf.from_function(lambda k, x: k * x, jnp.asarray(0.5)), nf.FixedGrid(nf.Euler(), steps=4)
    )
    _, status, (k, x, _, _) = derivatives(layer, jnp.ones((1, 1)))
    assert status == 0 and np.allclose(k, (1 + 0.5 / 4) ** 3, rtol=1e-14)
    assert np.allclose(x, (1 + 0.5 / 4) ** 4, rtol=1e-14)


@pytest.mark.parametrize("gradient", ["steps", "direct"])
def test_samples_that_are_solved_alone_fail_alone(gradient):
    solve = nf.Adaptive(nf.Tsit5(), max_steps=256, gradient=gradient, per_sample=True)
    layer = nf.NeuralODE(BURST, solve)  # 1 / x - 3 t passes zero for the second sample
    x = jnp.asarray([[0.1], [0.5]])
    value, slope = jax.jit(jax.value_and_grad(lambda x: layer(x)[0, 0]))(x)
    assert np.allclose(value, 1 / 7, atol=1e-5) and np.isfinite(slope[0]).all()
    both = jax.jit(jax.grad(lambda x: jnp.sum(layer(x))))(x)
    assert np.isfinite(both[0]).all() and np.isnan(both[1]).all()


@pytest.mark.parametrize(
    "solve", [nf.FixedGrid(nf.Heun(), steps=4), nf.Adaptive(nf.Tsit5())], ids=["fixed", "adaptive"]
)
def test_a_depth_beyond_the_interval_has_no_finite_gradient(solve):
    layer = nf.NeuralODE(nf.from_function(lambda k, x: k * x, jnp.asarray(0.5)), solve)
    x = jnp.ones((1, 1))
    total = jax.jit(jax.grad(lambda depths: jnp.sum(layer.trajectory(x, depths))))
    assert np.isfinite(total(jnp.asarray([0.5, 1.0]))).all()
    assert np.isnan(total(jnp.asarray([0.5, 1.5]))).any()


def test_a_solve_that_accepts_no_step_does_not_return_its_input():
    wild = nf.from_function(lambda k, x: jnp.full_like(x, jnp.nan) * k, jnp.asarray(1.0))
    for scheme in (nf.Tsit5(), diffrax.Kvaerno5()):
        layer = nf.NeuralODE(wild, nf.Adaptive(scheme, max_steps=16))
        solution = jax.jit(layer.solve)(jnp.ones((1, 2)))
        assert solution.accepted == 0 and solution.status != 0
        assert np.isnan(solution.states).all()
