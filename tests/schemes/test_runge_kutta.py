"""Runge-Kutta schemes: observed orders, and stiff steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow.depth.basis import evaluation


def _logistic(p, x, t):
    return x * (1 - x) * (1 + jnp.sin(t))


def _turn(p, x):
    return jnp.stack([x[..., 1], -x[..., 0]], axis=-1)


def _growth(x, factor):
    return x * factor / (1 + x * (factor - 1))


START = jnp.asarray([[0.1, 0.3, 2.0]])
# A problem is a field, a start, the end of the interval and the exact state there.
LOGISTIC = (_logistic, START, 4.0, _growth(START, np.exp(5 - np.cos(4.0))))
TURN = (_turn, jnp.asarray([[1.0, 0.0]]), 20.0, jnp.asarray([[np.cos(20.0), -np.sin(20.0)]]))
SWING = (lambda p, x, t: x * jnp.cos(t), START, 2.0, START * np.exp(np.sin(2.0)))
# At these numbers of steps the leading term of the error decides, and it is above rounding.
SCHEMES = [
    (nf.Euler(), 1, LOGISTIC, (64, 128)),
    (nf.Heun(), 2, LOGISTIC, (64, 128)),
    (nf.Midpoint(), 2, LOGISTIC, (64, 128)),
    (nf.Ralston(), 2, LOGISTIC, (64, 128)),
    (nf.Bosh3(), 3, LOGISTIC, (64, 128)),
    (nf.RK4(), 4, LOGISTIC, (64, 128)),
    (nf.ThreeEighths(), 4, LOGISTIC, (64, 128)),
    (nf.Tsit5(), 5, TURN, (256, 512)),
    (nf.Dopri5(), 5, TURN, (256, 512)),
    (nf.Dopri8(), 8, SWING, (8, 16)),
    (nf.ImplicitEuler(), 1, LOGISTIC, (64, 128)),
    (nf.Kvaerno3(), 3, LOGISTIC, (128, 256)),
]


def order_of(scheme, field, x, t1, exact, steps):
    errors = [
        float(jnp.abs(nf.NeuralODE(field, nf.FixedGrid(scheme, steps=n), 0.0, t1)(x) - exact).max())
        for n in steps
    ]
    return np.log(errors[0] / errors[1]) / np.log(steps[1] / steps[0])


@pytest.mark.parametrize(
    ("scheme", "order", "problem", "steps"), SCHEMES, ids=[type(row[0]).__name__ for row in SCHEMES]
)
def test_observed_order_on_a_closed_form(scheme, order, problem, steps):
    field, x, t1, exact = problem
    assert abs(order_of(scheme, nf.from_function(field), x, t1, exact, steps) - order) < 0.1


class Rate(nnx.Module):
    def __init__(self):
        self.rate = nnx.Param(jnp.asarray(0.0))

    def __call__(self, x):
        return self.rate.get_value() * x * (1 - x)


@pytest.mark.parametrize(
    "basis", [nf.Legendre(4), nf.PiecewiseLinear(2), nf.PiecewiseConstant(2)], ids=str
)
@pytest.mark.parametrize(
    ("scheme", "order"), [(nf.Euler(), 1), (nf.Heun(), 2), (nf.Bosh3(), 3), (nf.RK4(), 4)]
)
def test_observed_order_with_weights_on_a_basis(basis, scheme, order):
    # The solution of x' = rate(s) x (1 - x) is the logistic curve in the integral of the rate.
    field = nf.DepthVarying(lambda rngs: Rate(), basis, rngs=nnx.Rngs(0))
    values = 1 + np.random.default_rng(3).standard_normal(basis.size)
    field.stack.rate.set_value(jnp.asarray(values))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    mean = sum(
        weights @ (evaluation(basis, (cell + (nodes + 1) / 2) / 2) @ values) / 4
        for cell in range(2)
    )
    assert (
        abs(
            order_of(scheme, field, START, 4.0, _growth(START, np.exp(4 * mean)), (256, 512))
            - order
        )
        < 0.1
    )


def test_implicit_schemes_take_stiff_steps(worst):
    field = nf.from_function(lambda p, x: -1000.0 * (x - 1))
    x = jnp.asarray([[3.0]])
    for scheme in (nf.ImplicitEuler(), nf.Kvaerno3()):
        assert (
            worst(nf.NeuralODE(field, nf.FixedGrid(scheme, steps=10))(x), jnp.ones_like(x)) < 1e-2
        )
    stiff = nf.NeuralODE(field, nf.Adaptive(nf.Kvaerno3(), 1e-6, 1e-6))
    assert worst(stiff(x), jnp.ones_like(x)) < 1e-5
    graph = jax.jit(jax.grad(lambda x: jnp.sum(stiff(x))))(x)
    assert abs(float(graph[0, 0])) < 1e-5
