"""Order conditions, stability and observed orders."""

import math

import numpy as np
import pytest

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


def test_the_longest_length_up_to_which_all_is_stable():
    def close(low, high):
        return high - low <= 1e-9

    def longest(stable, largest=10.0):
        return nf.schemes.analysis.longest(stable, largest, scan=100, cuts=8, enough=close)

    assert longest(lambda z: z <= 3.3) == pytest.approx(3.3, abs=1e-8)
    # Lengths beyond that are stable again do not count.
    assert longest(lambda z: (z <= 2.05) | (z > 4)) == pytest.approx(2.05, abs=1e-8)
    assert longest(lambda z: z > 0) == np.inf and longest(lambda z: z < 0) == pytest.approx(
        0, abs=1e-8
    )
