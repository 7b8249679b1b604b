"""Order conditions, stability and observed orders."""

import math

import numpy as np

import neuralflow as nf
from neuralflow import schemes as S
from neuralflow.schemes import analysis


def test_runge_kutta_order_conditions_and_stability_functions():
    for scheme, order in (
        (nf.Heun(), 2),
        (nf.Bosh3(), 3),
        (nf.RK4(), 4),
        (S.ThreeEighths(), 4),
        (nf.Tsit5(), 5),
        (nf.Kvaerno3(), 3),
    ):
        assert max(map(abs, analysis.order_conditions(scheme, order).values())) < 1e-13
        assert max(map(abs, analysis.order_conditions(scheme, order + 1).values())) > 1e-4
    z = np.array([-1.0 + 0.5j, 0.3j])
    truncated = sum(z**q / math.factorial(q) for q in range(5))
    assert np.allclose(analysis.stability_function(nf.RK4(), z), truncated, rtol=0, atol=1e-14)
    assert np.allclose(
        analysis.stability_function(S.ImplicitTrapezoid(), z),
        (1 + z / 2) / (1 - z / 2),
        rtol=0,
        atol=1e-14,
    )
    assert np.allclose(
        analysis.stability_function(S.PolyNet(3), z), 1 + z + z**2 + z**3, rtol=0, atol=1e-14
    )
    # A tableau's formula and the scheme's own step agree.
    assert np.allclose(
        analysis.amplification(nf.RK4(), z)[..., 0, 0], truncated, rtol=0, atol=1e-14
    )
    assert np.isinf(analysis.stability_function(S.ImplicitTrapezoid(), np.array([2.0 + 0j])))
    assert (
        max(map(abs, analysis.order_conditions(nf.ImplicitEuler(), 1).values()))
        == 0
        == analysis.order_conditions(nf.Euler(), 1)["[]"]
    )
    assert np.allclose(analysis.growth(S.RevNet(), np.array([1.99j])), 1)
    assert np.allclose(analysis.growth(S.leapfrog(), np.array([0.99j])), 1)
    assert analysis.growth(S.leapfrog(), np.array([-0.1])) > 1


def test_observed_order_needs_no_reference():
    for scheme, order in (
        (nf.Euler(), 1),
        (nf.Heun(), 2),
        (S.adams_bashforth(3), 3),
        (S.RevNet(), 1),
        (nf.ImplicitEuler(), 1),
    ):
        assert abs(analysis.observed_order(scheme, 128) - order) < 0.1


def test_the_longest_stable_step_of_a_wave():
    def longest(scheme, *rates):
        return analysis.StableSteps(scheme).longest(np.asarray(rates))

    # |R(z)|^2 = 1 + 2 Re z + |z|^2 for Euler.
    rates = np.asarray([-1.0, -0.1 + 1j, -1e-9 + 1j, -3 + 4j])
    known = -2 * np.real(rates) / np.abs(rates) ** 2
    np.testing.assert_allclose(longest(nf.Euler(), *rates), known, rtol=1e-9)
    # |R(iy)|^2 = 1 + y^4 / 4 for Heun, and 1 - y^6 / 72 + y^8 / 576 for RK4.
    np.testing.assert_allclose(longest(nf.RK4(), 1j, -2j), np.sqrt(8) / np.asarray([1, 2]))
    np.testing.assert_allclose(longest(nf.Heun(), -1e-12 + 1j), 2e-4, rtol=1e-6)
    np.testing.assert_allclose(longest(S.adams_bashforth(3), 1j), 0.7236272, rtol=1e-6)
    for scheme in (nf.Euler(), nf.Heun(), S.adams_bashforth(2), S.adams_bashforth(5)):
        assert longest(scheme, 1j) == 0
    # Leapfrog keeps waves and lets decays grow. Waves of no rate are always stable.
    np.testing.assert_allclose(longest(S.leapfrog(), 1j, -1.0, 0.0), [1, 0, np.inf], rtol=1e-7)
    # The allowed growth of growing waves is that of implicit Euler. Euler bends spirals outwards.
    for scheme in (nf.ImplicitEuler(), nf.Euler(), nf.RK4()):
        assert longest(scheme, 1.0) == np.inf
    assert longest(nf.Euler(), 1 + 2j) == 0 < longest(nf.Heun(), 1 + 2j)
