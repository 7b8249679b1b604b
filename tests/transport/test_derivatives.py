"""Total derivatives along paths: closed forms, Taylor arithmetic and differences as oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.jet import jet
from jax.scipy.linalg import expm
from support.transport import MATRIX, TIGHT, linear
from support.wrong import wrong

import neuralflow as nf
from neuralflow.regularisers import kinetic_energy, total_derivative
from neuralflow.transport import Exact, Motion, along

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)


def integral(function, start=0.0, stop=1.0):
    """The integral of a function of one number, by Gauss quadrature."""
    times = start + (stop - start) * (NODES + 1) / 2
    return (stop - start) / 2 * sum(w * function(t) for w, t in zip(WEIGHTS, times, strict=True))


def test_of_a_linear_field_they_are_powers_of_its_matrix(x):
    orders = 1, 2, 3
    _, penalties = along(linear(), x, kinetic_energy, *map(total_derivative, orders))
    for order, penalty in zip((1, *orders), penalties, strict=True):
        power = np.linalg.matrix_power(MATRIX, order)
        want = integral(lambda t, a=power: jnp.sum((x @ expm(t * MATRIX).T @ a.T) ** 2, 1))
        np.testing.assert_allclose(penalty, want, rtol=1e-8)


def test_of_a_field_of_time_they_are_derivatives_in_time(x):
    """x' = sin 3t has the second derivative 3 cos 3t and the third -9 sin 3t."""
    field = nf.from_function(lambda w, x, t: jnp.sin(w * t) + 0 * x, jnp.asarray(3.0))
    layer = nf.NeuralODE(field, TIGHT, 0.2, 1.4)
    _, penalties = along(layer, x, total_derivative(2), total_derivative(3))
    wants = lambda t: (3 * np.cos(3 * t)) ** 2, lambda t: (9 * np.sin(3 * t)) ** 2
    for penalty, want in zip(penalties, wants, strict=True):
        np.testing.assert_allclose(penalty, np.full(5, 2 * integral(want, 0.2, 1.4)), rtol=1e-8)


def test_taylor_arithmetic_agrees(x):
    """Of a network that takes time, up to the fourth order."""
    net = nf.fields.MLP(2, hidden=8, time=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    one, zero = jnp.ones(()), jnp.zeros(())
    t, terms = jnp.asarray(0.3), [net(x, 0.3)]
    for order in (1, 2, 3):
        series = tuple(terms), (one, *[zero] * (order - 1))
        first, rest = jet(net, (x, t), series)
        terms = [first, *rest]
    motion = Motion(net, x, t, Exact(), None)
    for order, term in enumerate(terms, 1):
        np.testing.assert_allclose(motion.derivative(order), term, rtol=1e-9, atol=1e-12)


def test_a_turning_pair_has_derivatives_of_one_size():
    """x'' = -x turns (x, v) with speed one, and every derivative is as long as the state."""
    spring = nf.from_function(lambda p, state: -state[0])
    layer = nf.NeuralODE(nf.fields.SecondOrder(spring), TIGHT, 0.0, 2.0)
    x, v = jax.random.normal(jax.random.key(0), (2, 3, 4, 1))
    _, (penalty,) = along(layer, (x, v), total_derivative(4))
    np.testing.assert_allclose(penalty, 2 * jnp.sum(x**2 + v**2, (1, 2)), rtol=1e-8)


def test_weights_of_cells_are_constant_and_other_weights_are_held():
    """The fields a(t) x: a = 1 and then 2 by cells, a = t by knots, and a = t by the field's time.

    With weights that are held, x'' is a^2 x. With a = t written in the field, it is (1 + t^2) x.
    """

    def scalar(basis, values):
        def make(rngs):
            return nnx.Linear(1, 1, use_bias=False, param_dtype=jnp.float64, rngs=rngs)

        field = nf.DepthVarying(make, basis, rngs=nnx.Rngs(0))
        field.stack.kernel.set_value(jnp.asarray(values).reshape(-1, 1, 1))
        return field

    def penalty(field):
        return along(nf.NeuralODE(field, TIGHT), jnp.ones((1, 1)), total_derivative(2))[1][0][0]

    cells = integral(lambda t: np.exp(2 * t), 0, 0.5)
    cells += 16 * integral(lambda t: np.exp(4 * t - 1), 0.5, 1)
    want = {
        cells: scalar(nf.PiecewiseConstant(2), [1.0, 2.0]),
        integral(lambda t: t**4 * np.exp(t**2)): scalar(nf.PiecewiseLinear(1), [0.0, 1.0]),
        integral(lambda t: (1 + t**2) ** 2 * np.exp(t**2)): nf.from_function(lambda p, x, t: t * x),
    }
    for number, field in want.items():
        np.testing.assert_allclose(penalty(field), number, rtol=1e-8)


@pytest.mark.parametrize("solve", [TIGHT, nf.FixedGrid(nf.RK4(), steps=4)], ids=str)
def test_the_gradient_of_a_penalty_is_that_of_differences(solve, x):
    def loss(a):
        field = nf.from_function(lambda a, x, t: jnp.tanh(x @ a + t), a)
        return jnp.sum(along(nf.NeuralODE(field, solve), x, total_derivative(3))[1][0])

    loss = jax.jit(loss)
    direction = jnp.asarray([[0.4, -1.0], [0.3, 0.8]])
    slope = jnp.sum(jax.grad(loss)(MATRIX) * direction)
    h = 1e-4
    ends = [loss(MATRIX + k * h * direction) for k in (-2, -1, 1, 2)]
    want = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
    np.testing.assert_allclose(slope, want, rtol=1e-6)


def test_an_order_is_a_whole_number_from_one():
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        total_derivative(0)
    with pytest.raises(TypeError, match="order must be a whole number, got 1.5"):
        total_derivative(wrong(1.5))
