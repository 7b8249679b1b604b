"""Kernels as operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.operators import SOBEL, slope

from neuralflow.labs import operators as op

LAPLACE = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
GAUSS = np.outer([1, 2, 1], [1, 2, 1]) / 16


# A bound is float64's precision times the condition number of the moments of so many points.
@pytest.mark.parametrize(("size", "bound"), [(1, 0), (3, 1e-14), (5, 3e-14), (7, 3e-13)])
def test_kernel_and_operator_round_trip(size, bound):
    for shape, spacing in (((size, size, 2, 3), (1.0, 0.1)), ((size,), 0.5)):
        kernel = jax.random.normal(jax.random.key(size), shape)
        there = op.to_operator(kernel, spacing)
        back = op.to_kernel(there, spacing)
        again = op.to_operator(back, spacing)
        assert float(jnp.abs(back - kernel).max()) <= bound * float(jnp.abs(kernel).max())
        assert float(jnp.abs(again - there).max()) <= max(bound, 1e-15) * float(
            jnp.abs(there).max()
        )


def test_an_operator_does_to_polynomials_what_its_kernel_does():
    h = 0.3
    kernel = np.asarray(jax.random.normal(jax.random.key(0), (5, 3)))
    c = np.asarray(op.to_operator(kernel, h))
    y, x = np.meshgrid(h * np.arange(-2, 3), h * np.arange(-1, 2), indexing="ij")
    for q in range(5):
        for p in range(3):
            # At the origin only the derivative d^q/dy^q d^p/dx^p of y^q x^p is not zero.
            expected = c[q, p] * np.prod(np.arange(1, q + 1)) * np.prod(np.arange(1, p + 1))
            assert abs(np.sum(kernel * y**q * x**p) - expected) < 1e-12


@pytest.mark.parametrize("derivative", [1, 2])
def test_stencils_are_of_order_two_on_the_sine(derivative):
    exact = (np.sin(1.0), np.cos(1.0), -np.sin(1.0))[derivative]
    steps = 0.1 / 2.0 ** np.arange(4)
    errors = [
        abs(op.stencil(derivative) @ np.sin(1 + h * np.arange(-1, 2)) / h**derivative - exact)
        for h in steps
    ]
    np.testing.assert_allclose(slope(errors), 2.0, atol=0.05)
    fourth = [
        abs(op.stencil(derivative, 5) @ np.sin(1 + h * np.arange(-2, 3)) / h**derivative - exact)
        for h in steps
    ]
    np.testing.assert_allclose(slope(fourth), 4.0, atol=0.05)


def test_formulas_of_known_kernels():
    def written(kernel, h=1.0):
        return op.formula(op.to_operator(kernel, h))

    assert written(LAPLACE) == "∂xx + ∂yy"
    assert written(SOBEL) == "8 ∂x + 2 ∂xyy"
    assert written(np.transpose(SOBEL)) == "8 ∂y + 2 ∂xxy"
    assert written(GAUSS) == "1 + 0.25 ∂xx + 0.25 ∂yy + 0.0625 ∂xxyy"
    assert written(GAUSS, 2.0) == "1 + ∂xx + ∂yy + ∂xxyy"
    assert written([0.5, 0, -0.5]) == "-∂x"
    assert written([[-2.0]]) == "-2"
    assert written(np.zeros((3, 3))) == "0"
    assert written(np.float32(0.1) * np.asarray(LAPLACE, np.float32)) == "0.1 ∂xx + 0.1 ∂yy"


def test_shares_add_up_and_tell_the_orders_apart():
    assert op.shares(op.to_operator(np.asarray(LAPLACE))) == (0, 0, 1, 0)
    assert op.shares(np.zeros(3)) == (0, 0, 0, 0)
    assert op.shares(op.to_operator(np.asarray(SOBEL))) == pytest.approx((0, 64 / 68, 0, 4 / 68))
    # The sums of i^2p j^2q / (p! q!)^2 over the offsets i and j, by the order p + q, are
    # 9, 2 * 6, 2 * 1.5 + 4 and 2 * 1 + 0.25.
    noise = op.shares(op.to_operator(jax.random.normal(jax.random.key(0), (3, 3, 100, 100))))
    assert noise == pytest.approx((9 / 30.25, 12 / 30.25, 7 / 30.25, 2.25 / 30.25), abs=0.01)
    assert sum(noise) == pytest.approx(1)
