"""Weak errors by sampling."""

import numpy as np
import pytest
from support.stochastic import KEY, START, bend, bent, depth

from neuralflow.labs import stochastic as st


def test_sampled_weak_errors_of_a_linear_field_are_the_exact_ones():
    field, steps = depth(0.8), (3, 6)

    def cube(y):
        return y[:, 1] ** 3

    weak_errors = st.weak_errors(field, cube, START, steps=steps, count=200_000, key=KEY)
    limit = st.limit_moments(field, START)[2][1, 1, 1]
    exact = np.asarray([st.network_moments(field, START, n)[2][1, 1, 1] - limit for n in steps])
    assert (
        np.abs(np.asarray(weak_errors.errors.mean) - exact)
        < 4 * np.asarray(weak_errors.errors.error)
    ).all()
    assert (np.abs(exact) > 10 * np.asarray(weak_errors.errors.error)).all()
    assert weak_errors.interval[0] < np.log2(exact[0] / exact[1]) < weak_errors.interval[1]


def test_weak_error_of_a_nonlinear_field_falls_with_depth():
    """The order is one at p = 1/2, and it is found within a tenth.

    Paths that share their Brownian motion tell it with less noise than independent ones would.
    """
    field = bent(survival=0.5)
    weak_errors = st.weak_errors(field, bend, START, steps=(8, 16), count=150_000, key=KEY)
    assert weak_errors.order == pytest.approx(1.0, abs=0.1)
    assert (
        weak_errors.interval[0]
        < weak_errors.order
        < weak_errors.interval[1]
        < weak_errors.interval[0] + 0.3
    )
    alone = st.expectation(st.RandomNetwork(field, 16), bend, START, count=150_000, key=KEY)
    assert float(weak_errors.errors.error[-1]) < 0.9 * 2**0.5 * float(alone.error)
