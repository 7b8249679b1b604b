"""Bases of depth: integrals, refinement and projection, and a basis of one's own."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st

import neuralflow as nf
from neuralflow.depth import basis as B
from neuralflow.depth.basis import CubicSpline, Legendre, PiecewiseConstant, PiecewiseLinear
from neuralflow.solve import GradientMethod

UNEVEN = (0.0, 0.1, 0.35, 0.8, 1.0)
BASES = [
    PiecewiseConstant(5),
    PiecewiseConstant(UNEVEN),
    PiecewiseLinear(4),
    PiecewiseLinear(UNEVEN),
    Legendre(1),
    Legendre(6),
    CubicSpline(1),
    CubicSpline(5),
]
bases = st.sampled_from(BASES)


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_mass_and_stiffness_are_the_integrals(basis):
    coefficients = np.random.default_rng(0).standard_normal(basis.size)
    # The oracle is a midpoint rule of very many points, which lie away from the knots.
    # It knows nothing of the basis.
    count = 20_000
    depth = (np.arange(count) + 0.5) / count
    values = B.evaluation(basis, depth) @ coefficients
    assert np.isclose(coefficients @ B.mass(basis) @ coefficients, np.mean(values**2), rtol=2e-4)
    if basis.smoothness < 0:
        with pytest.raises(ValueError, match="no H1 seminorm"):
            basis.stiffness()
        assert not B.derivative(basis, depth[:8]).any()
        return
    slopes = (
        (B.evaluation(basis, depth + 1e-6) - B.evaluation(basis, depth - 1e-6))
        @ coefficients
        / 2e-6
    )
    assert np.isclose(
        coefficients @ basis.stiffness() @ coefficients, np.mean(slopes**2), rtol=1e-3
    )
    inside = np.linspace(0.01, 0.99, 8)
    near = (B.evaluation(basis, inside + 1e-6) - B.evaluation(basis, inside - 1e-6)) / 2e-6
    assert np.allclose(B.derivative(basis, inside), near, atol=1e-6)


@given(bases, st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_evaluation_by_matrix_and_by_window_agree(basis, depth, seed):
    coefficients = np.random.default_rng(seed).standard_normal((basis.size, 3))
    cell, s = B.locate(basis, np.asarray(depth))
    window = basis.window(jnp.asarray(coefficients), jnp.asarray(cell))
    value = basis.combine(window, jnp.asarray(s))
    assert np.allclose(value, B.evaluation(basis, depth)[0] @ coefficients, atol=1e-12)


def test_knots_are_one_sided():
    steps = PiecewiseConstant(4)
    values = np.arange(4.0)
    assert (
        B.evaluation(steps, 0.25, "left") @ values,
        B.evaluation(steps, 0.25, "right") @ values,
    ) == (0.0, 1.0)
    assert B.evaluation(steps, 1.0, "right") @ values == 3.0
    assert B.evaluation(steps, 0.0, "left") @ values == 0.0


def test_linear_ends_are_the_nodes_to_the_last_bit():
    nodes = jnp.asarray(np.random.default_rng(0).standard_normal(8))
    line = PiecewiseLinear(7)
    for cell in range(7):
        window = line.window(nodes, jnp.asarray(cell))
        assert line.combine(window, jnp.asarray(0.0)) == nodes[cell]
        assert line.combine(window, jnp.asarray(1.0)) == nodes[cell + 1]


@given(bases, bases, st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_refinement_is_exact_and_projection_is_nearest(source, target, seed):
    coefficients = np.random.default_rng(seed).standard_normal(source.size)
    depth = np.linspace(0, 1, 401)[1:-1]
    projected = B.projection(source, target) @ coefficients
    error = B.evaluation(source, depth) @ coefficients - B.evaluation(target, depth) @ projected
    if B.contains(target, source):
        assert np.abs(error).max() < 1e-10
        assert np.allclose(B.refinement(source, target) @ coefficients, projected)
        return
    with pytest.raises(ValueError, match="does not contain"):
        B.refinement(source, target)
    # The error is orthogonal to the target, so no small change of the projection is nearer.
    gram = B.mass(target) @ projected - B._gram(target, source) @ coefficients
    assert np.abs(gram).max() < 1e-11


def test_containment():
    assert B.contains(PiecewiseConstant(8), PiecewiseConstant(4))
    assert not B.contains(PiecewiseConstant(6), PiecewiseConstant(4))
    assert B.contains(PiecewiseLinear(6), PiecewiseLinear(3))
    assert not B.contains(PiecewiseLinear(8), PiecewiseConstant(4))
    assert B.contains(PiecewiseLinear(3), Legendre(2))
    assert not B.contains(Legendre(9), PiecewiseLinear(2))
    assert B.contains(PiecewiseConstant(49), PiecewiseConstant(7))
    assert B.contains(CubicSpline(6), CubicSpline(3))
    assert B.contains(CubicSpline(6), Legendre(4))
    assert B.contains(Legendre(4), CubicSpline(1))
    assert not B.contains(CubicSpline(6), PiecewiseLinear(6))


def test_splines_have_two_continuous_derivatives():
    spline = CubicSpline(4)
    coefficients = np.random.default_rng(0).standard_normal(7)
    for knot in (0.25, 0.5, 0.75):
        values = [B.evaluation(spline, knot, side) @ coefficients for side in ("left", "right")]
        slopes = [B.derivative(spline, knot, side) @ coefficients for side in ("left", "right")]
        bends = [
            (B.derivative(spline, knot + e) - B.derivative(spline, knot)) @ coefficients / e
            for e in (-1e-6, 1e-6)
        ]
        assert np.allclose(*values, rtol=0, atol=1e-13)
        assert np.allclose(*slopes, rtol=0, atol=1e-12)
        assert np.allclose(*bends, rtol=0, atol=1e-3)
    smooth = np.sin(3 * spline.nodes)
    assert np.allclose(
        B.evaluation(spline, spline.nodes) @ B.interpolation(spline) @ smooth,
        smooth,
        rtol=0,
        atol=1e-12,
    )


def test_refining_cells_copies_bits():
    matrix = B.refinement(PiecewiseConstant(7), PiecewiseConstant(49))
    assert ((matrix == 0) | (matrix == 1)).all()
    assert (matrix.argmax(axis=1) == np.arange(49) // 7).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: PiecewiseLinear((0.1, 1.0)), "increase strictly from 0 to 1"),
        (lambda: B.locate(PiecewiseConstant(2), np.asarray(1.5)), "must lie in"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_half_a_basis_lies_in_it(basis):
    half = basis.halved()
    assert type(half) is type(basis) and half.size <= basis.size
    if basis.count % 2 == 0 or basis.hierarchical:
        assert B.contains(basis, half)


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_a_finer_basis_contains_it(basis):
    finer = basis.refined(3)
    assert type(finer) is type(basis) and B.contains(finer, basis)
    parts = "size" if basis.hierarchical else "count"
    assert getattr(finer, parts) == 3 * getattr(basis, parts)


@pytest.mark.parametrize("basis", [basis for basis in BASES if basis.smoothness >= 0], ids=str)
def test_the_gram_matrix_of_the_penalty_is_its_value(basis):
    coefficients = np.random.default_rng(0).standard_normal(basis.size)
    start = B.evaluation(basis, 0.0)[0] @ coefficients
    want = 2.0 * coefficients @ basis.stiffness() @ coefficients + 0.3 * start**2
    assert np.isclose(
        coefficients @ B.sobolev_gram(basis, 0.3, 2.0) @ coefficients, want, rtol=1e-12
    )


@dataclass(frozen=True)
class QuadraticSpline(B.Basis):
    """A basis as a user would write it: quadratic B-splines on equal cells."""

    cells: int | tuple[float, ...]
    smoothness = 1
    nodal = False

    @property
    def degree(self):
        return 2

    @property
    def size(self):
        return self.count + 2

    @property
    def nodes(self):
        return np.asarray([0.0, *(np.arange(self.count) + 0.5) / self.count, 1.0])

    def shape(self, s):
        return np.stack([(1 - s) ** 2, -2 * s**2 + 2 * s + 1, s**2]) / 2

    def slope(self, cell, s):
        return self.count * np.stack([s - 1, 1 - 2 * s, s])

    def stiffness(self):
        raise NotImplementedError

    def halved(self):
        return QuadraticSpline(self.count // 2)

    def refined(self, factor):
        return QuadraticSpline(factor * self.count)

    def window(self, coefficients, cell):
        return tuple(coefficients[cell + k] for k in range(3))

    def combine(self, window, s):
        return (
            (1 - s) ** 2 * window[0] + (1 + 2 * s - 2 * s**2) * window[1] + s**2 * window[2]
        ) / 2


def test_a_basis_of_ones_own_needs_its_shape_functions_only():
    basis, depth = QuadraticSpline(4), np.linspace(0, 1, 9)
    line = B.refinement(PiecewiseLinear(1), basis) @ np.asarray([1.0, 3.0])
    assert np.allclose(B.evaluation(basis, depth) @ line, 1 + 2 * depth, atol=1e-12)
    assert np.allclose(B.derivative(basis, depth) @ line, 2.0, atol=1e-12)
    assert np.isclose(line @ B.mass(basis) @ line, 13 / 3)

    def make(rngs):
        return nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)

    field = nf.DepthVarying(make, basis, rngs=nnx.Rngs(0))
    x = y = jnp.ones((3, 2))
    for k in range(8):
        y = y + field.at(k / 8)(y) / 8
    assert np.allclose(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=8))(x), y, atol=1e-12)

    def slope(gradient: GradientMethod):
        solve = nf.Adaptive(nf.Tsit5(), 1e-8, 1e-8, gradient=gradient)
        return jax.grad(lambda x: nf.NeuralODE(field, solve)(x).sum())(x)

    assert np.allclose(slope("steps"), slope("direct"), atol=1e-9)
