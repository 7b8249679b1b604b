"""Estimates, intervals and observed orders, on numbers whose answers are known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies
from refusals import refuses
from scipy import stats
from support.wrong import wrong

import neuralflow as nf
from neuralflow.console import span
from neuralflow.files import as_json
from neuralflow.statistics import estimate, fitted_order, interval, over_seeds, weighed_order


def test_an_estimate_is_the_mean_with_its_standard_error():
    values = np.random.default_rng(0).standard_normal((50, 3))
    mean, error = estimate(values)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(error, stats.sem(values), rtol=1e-14)
    np.testing.assert_allclose(jax.jit(estimate)(values).error, error, rtol=1e-14)
    assert nf.statistics.estimate(np.asarray([1, 2, 3])).mean == 2
    with pytest.raises(ValueError, match="two values or more"):
        estimate(jnp.ones(1))
    with pytest.raises(TypeError, match="real numbers, got complex"):
        estimate(jnp.ones(3) * 1j)


def test_intervals():
    """An interval over seeds is the interval over data sets, and equal values have none."""
    values = [1.0, 2.0, 4.0]
    low, high = interval(values)
    # Student's t of 97.5% with two degrees of freedom is 4.302653.
    # The standard deviation of the values is sqrt(7/3).
    half = 4.302653 * (7 / 3) ** 0.5 / 3**0.5
    np.testing.assert_allclose((low, high), (7 / 3 - half, 7 / 3 + half), rtol=1e-6)
    assert over_seeds(values) == {"mean": 7 / 3, "interval": [low, high]}
    # The quantile of 75% with one degree of freedom, a Cauchy distribution, is 1.
    np.testing.assert_allclose(interval([1.0, 4.0], level=0.5), (1.0, 4.0), rtol=1e-12)
    for equal in ([1.5, 1.5, 1.5], [0.93]):
        assert np.isnan(interval(equal)).all()
        assert json.loads(as_json(over_seeds(equal))) == {"mean": equal[0], "interval": [None] * 2}
        assert span(over_seeds(equal)["interval"]) == "-"
    assert span((0.5, 1.25), 1) == "0.5 to 1.2"


@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_intervals_cover_what_they_say(count):
    """The mean of normal draws lies inside in 95% of repetitions.

    The margin of the number of hits is four binomial standard deviations.
    """
    repetitions, rng = 1000, np.random.default_rng(count)
    limits = (interval(2 + 3 * rng.standard_normal(count)) for _ in range(repetitions))
    hits = sum(low <= 2 <= high for low, high in limits)
    assert abs(hits - 0.95 * repetitions) < 4 * (repetitions * 0.95 * 0.05) ** 0.5


def test_fitted_orders():
    assert fitted_order([4, 8], [1, 0.5]) is None
    order = fitted_order([4, 32, 64, 128], [9.0, 4.0, 1.0, 0.25])
    assert order is not None and np.isclose(order, 2.0)


@given(order=strategies.floats(0.5, 3.0), size=strategies.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=25)
def test_orders_against_a_finite_reference_are_corrected(order, size):
    depths = [16, 32, 64, 128, 256]
    errors = [size * abs(n**-order - 256.0**-order) for n in depths]
    corrected = fitted_order(depths, errors, least=16, reference=256)
    assert corrected is not None and np.isclose(corrected, order, atol=1e-4)
    flat, growing = [0.1, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]
    for unfallen in (flat, growing):
        assert fitted_order(depths[:4], unfallen, least=16, reference=256) == 0
    # Without the correction it would have seemed larger.
    plain = fitted_order(depths[:4], errors[:4], least=16)
    assert plain is not None and plain > order + 0.03


test_bad_input_is_refused_in_one_sentence = refuses(
    {
        "no seeds": (lambda: over_seeds([]), "values must have shape"),
        "a seed that failed": (lambda: over_seeds([1.0, np.nan]), "values must be finite"),
        "orders in rows": (lambda: interval(wrong(np.ones((3, 3)))), "values must have shape"),
        "a level in percent": (lambda: interval([1.0, 2.0, 3.0], level=95), "between 0 and 1"),
        "unequal lengths": (lambda: fitted_order([32, 64], [1.0]), "2 depths and 1 errors"),
        "a negative error": (lambda: fitted_order([32, 64], [1.0, -1.0]), "from zero on"),
        "values of other steps": (
            lambda: weighed_order((2, 4), np.ones((5, 3))),
            r"\(samples, 2\)",
        ),
    }
)


def test_what_was_not_measured_is_left_out():
    order = fitted_order([32, 64, 128], [1.0, np.nan, 0.0625])
    assert order is not None and np.isclose(order, 2.0)
    assert fitted_order([32, 32], [1.0, 2.0]) is None


def test_a_weighed_order_has_an_interval_that_covers():
    """The means 2 n^-1.5 have noise of their own in each of four hundred repetitions.

    The interval of 95% holds the order in about 95% of them.
    """
    steps, rng = (4, 8, 16), np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        values = 2 * np.asarray(steps) ** -1.5 + 0.05 * rng.standard_normal((200, 3)) * (
            1.0,
            2.0,
            1.0,
        )
        order, half = weighed_order(steps, values)
        inside += abs(order - 1.5) < half
    assert 0.92 < inside / 400 < 0.98
    exact = np.broadcast_to(2 * np.asarray(steps) ** -1.5, (5, 3))
    assert weighed_order(steps, exact)[0] == pytest.approx(1.5, abs=1e-9)


def test_intervals_of_very_large_and_very_small_values():
    low, high = interval([1.0, 2.0, 4.0])
    for size in (1e-300, 1e200):
        assert np.allclose(np.asarray(interval([size, 2 * size, 4 * size])) / size, (low, high))
