"""Distances of known functions, and hidden units brought into one order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from support.deep_limit import TAU, A, Y, anchor, closed_form

import neuralflow as nf
from neuralflow.depth.basis import evaluation
from neuralflow.labs import deep_limit as D


def test_closed_form_errors_have_their_known_limits():
    limit = D.minimise(D.continuum(anchor(), terms=6), [np.ones(6)])[0]
    minimum = D.minimise(D.discrete(anchor(), nf.Euler(), 256), [np.ones(257)])[0]
    gap = D.distances(minimum, limit)
    assert abs(256 * gap["sup"] - 0.20119) < 5e-5
    assert abs(256 * gap["energy"] - 0.311235) < 5e-5


@pytest.mark.parametrize(
    ("scheme", "order"),
    [
        (nf.ImplicitEuler(), 1),
        (nf.schemes.adams_bashforth(2), 2),
        (nf.schemes.LMResNet(-0.3), None),
    ],
    ids=["ImplicitEuler", "AB2", "LMResNet"],
)
def test_minima_converge_at_the_expected_order_or_stay_apart(scheme, order):
    """The minima of a problem whose limit has a closed form, which is a polynomial in depth."""
    b, r = closed_form(np.linspace(0, 1, 3))
    limit = D.Minimum(
        energy=r**2 + A * (r**2 / A**2 / 3 + TAU * b[0] ** 2),
        basis=nf.Legendre(3),
        theta={"b": np.linalg.solve(evaluation(nf.Legendre(3), np.linspace(0, 1, 3)), b)[:, None]},
        readout={},
        prediction=np.asarray([[Y + r]]),
        gradient=0.0,
        iterations=0,
    )
    gaps = []
    for n in (64, 128):
        objective = D.discrete(anchor(), scheme, n)
        gaps.append(D.distances(D.minimise(objective, [np.ones(n + 1)])[0], limit))
    assert D.expected_order(scheme, "sup") == order
    for name in ("energy", "prediction", "sup", "l2", "h1"):
        fall = np.log2(gaps[0][name] / gaps[1][name])
        assert abs(fall - (D.expected_order(scheme, name) or 0)) < 0.1, name


def test_the_expected_order_is_that_of_scheme_and_distance():
    assert D.expected_order(nf.ImplicitEuler(), "energy") == 1
    assert D.expected_order(nf.RK4(), "recovery") == 2
    assert D.expected_order(nf.RK4(), "tl2") == D.expected_order(nf.Euler(), "l2") == 1
    # Even a distance with an interpolant of order one does not fall towards another limit.
    assert D.expected_order(nf.schemes.PolyNet(2), "tl2") is None


@given(seed=strategies.integers(0, 1000), odd=strategies.booleans())
@settings(deadline=None, max_examples=25)
def test_hidden_units_are_aligned(seed, odd):
    rng = np.random.default_rng(seed)
    basis = nf.PiecewiseLinear(3)
    theta = {
        "in.kernel": rng.standard_normal((4, 2, 6)),
        "in.bias": rng.standard_normal((4, 6)),
        "out": rng.standard_normal((4, 6, 2)),
    }
    axes = {"in.kernel": 1, "in.bias": 0, "out": 0}
    order, signs = rng.permutation(6), rng.choice([-1, 1], 6) if odd else np.ones(6)
    mixed = {
        "in.kernel": theta["in.kernel"][:, :, order] * signs,
        "in.bias": theta["in.bias"][:, order] * signs,
        "out": theta["out"][:, order] * signs[:, None],
    }
    one = D.Minimum(0.0, basis, theta, {}, np.zeros(1), 0.0, 0)
    back = D.aligned(replace(one, theta=mixed), one, axes, odd=odd)
    assert all(np.allclose(back.theta[name], theta[name]) for name in theta)


def test_distances_of_known_functions():
    n = 16
    line = nf.PiecewiseLinear(n)

    def point(energy, basis, b):
        return D.Minimum(energy, basis, {"b": np.asarray(b)[:, None]}, {}, np.zeros(1), 0.0, 0)

    # theta_n(t) = t stands against theta(t) = t + 1/2, both exact, and then against t^2.
    one = point(1.0, line, np.arange(n + 1) / n)
    shifted = point(1.5, nf.Legendre(3), [1.0, 0.5, 0.0])
    gap = D.distances(one, shifted)
    assert np.allclose(
        [gap["energy"], gap["sup"], gap["l2"], gap["h1"]], [0.5, 0.5, 0.5, 0.0], atol=1e-12
    )
    assert np.allclose(
        [gap[k] for k in ("sup constant", "sup linear", "centred")],
        [0.5 + 1 / n, 0.5, 0.5 + 0.5 / n],
    )
    assert (
        np.isclose(gap["l2 constant"] ** 2, 0.25 + 1 / (2 * n) + 1 / (3 * n**2))
        and gap["prediction"] == 0
    )
    # The part of time comes first, then the mean of (1/2 + r)^2 over 0 <= r < 1/n.
    held = 1 / (3 * n**2) + 0.25 + 1 / (2 * n) + 1 / (3 * n**2)
    assert np.isclose(gap["tl2"] ** 2, held)
    square = point(1.0, nf.Legendre(3), [1 / 3, 1 / 2, 1 / 6])
    gap = D.distances(one, square)
    assert np.isclose(gap["l2"], np.sqrt(1 / 30)) and np.isclose(gap["h1"], np.sqrt(1 / 3))
