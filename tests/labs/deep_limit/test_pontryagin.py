"""Pontryagin's equations: an optimum of their own, and their residuals."""

from dataclasses import replace

import numpy as np
from support.deep_limit import small

from neuralflow.labs import deep_limit as D


def test_two_optima_that_do_not_know_of_each_other_agree_to_1e_8(study, kept):
    assert study.disagreement < 1e-8 and study.limit_error < 1e-10
    assert abs(kept["boundary"].minimum.energy - study.limit.energy) < 1e-10


def test_the_weak_form_of_the_residuals_is_the_gradient(study):
    """A point that is no minimum leaves residuals as large as what the equations ask for."""
    right = study.weights["heun", 64]
    moved = replace(right, theta={name: value + 0.3 for name, value in right.theta.items()})
    assert np.abs(D.residuals(small(2), right).weights).max() < 1e-4
    left = D.residuals(small(2), moved)
    assert np.abs(left.weights).max() > 0.05 and np.abs(left.start).max() > 0.1
