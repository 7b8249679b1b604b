"""Minimisers against closed forms."""

from dataclasses import replace

import numpy as np
from support.deep_limit import anchor, closed_form, energy

import neuralflow as nf
from neuralflow.depth.basis import evaluation
from neuralflow.labs import deep_limit as D


def test_minimisers_are_the_closed_form_to_1e_10():
    for n in (4, 32):
        minimum = D.minimise(D.discrete(anchor(), nf.Euler(), n), [np.ones(n + 1)])[0]
        t = np.arange(n) / n
        want, r = closed_form(t, n)
        assert np.abs(minimum.theta["b"][:-1, 0] - want).max() < 1e-10
        assert abs(minimum.energy - energy(t, want, r, n)) < 1e-10
    limit = D.minimise(D.continuum(anchor(), terms=6), [np.ones(6)])[0]
    s = np.linspace(0, 1, 33)
    assert np.abs(limit.flat(evaluation(limit.basis, s))[:, 0] - closed_form(s)[0]).max() < 1e-10
    assert abs(D.adaptive_energy(anchor(), limit) - limit.energy) < 1e-10


def test_newton_and_curvature_where_they_are_known():
    """The anchor's energy is quadratic, so one Newton step ends at the minimum.

    The Hessian is known.
    """
    objective = D.continuum(anchor(), terms=4, steps=16)
    rough = D.minimise(objective, [np.ones(4)])[0]
    off = replace(rough, theta={"b": rough.theta["b"] + 0.1})
    polished = D.newton(objective, off)
    assert (
        np.abs(polished.theta["b"] - rough.theta["b"]).max() < 1e-12 and polished.gradient < 1e-13
    )
    hessian = np.stack([objective.bend(np.zeros(4), v) for v in np.eye(4)])
    assert np.isclose(D.curvature(objective, rough), np.linalg.eigvalsh(hessian)[0]) and np.isclose(
        D.curvature(objective, rough), 2.0
    )


def test_basins():
    def minimum(energy):
        return D.Minimum(energy, nf.PiecewiseLinear(1), {}, {}, np.zeros(1), 0.0, 1)

    assert D.basins([minimum(e) for e in (1.0, 2.0, 1.0 + 1e-9, 2.0)]) == [(1.0, 2), (2.0, 2)]
