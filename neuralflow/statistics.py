"""Statistics: means with standard errors, intervals over data sets or seeds, observed orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from neuralflow.checks import InputError, InputTypeError

# A fitted order leaves out depths below this number: a wrong limit can look right there.
ASYMPTOTIC = 32
_NORMAL = 1.959964  # 95% of a normal distribution lies within so many deviations of its mean


class Estimate(NamedTuple):
    """A mean of random values and the standard error of the mean.

    Attributes:
        mean: The mean.
        error: The standard error, of the shape of `mean`.
    """

    mean: Array
    error: Array


def estimate(values: Float[Array | np.ndarray, "count *values"]) -> Estimate:
    """Return the mean over the first axis, with its standard error.

    Args:
        values: Independent random values, `(count, ...)`, with count at least two.

    Returns:
        The mean and the standard error, each of the shape `(...)`.

    Raises:
        InputError: There are fewer than two values.
        InputTypeError: The values are complex.
    """
    if np.ndim(values) < 1 or len(values) < 2:
        raise InputError(
            f"an estimate takes two values or more along axis 0, got shape {np.shape(values)}"
        )
    array = jnp.asarray(values)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise InputTypeError(
            "an estimate is that of real numbers, got complex ones; "
            "take real and imaginary parts one by one"
        )
    array = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
    return Estimate(array.mean(axis=0), array.std(axis=0, ddof=1) / len(array) ** 0.5)


def fitted_order(
    depths: Sequence[int],
    errors: Sequence[float],
    *,
    least: int = ASYMPTOTIC,
    reference: int | None = None,
) -> float | None:
    """Return the observed order p of convergence in depth, from error = C n^-p.

    The order is fitted by least squares in logarithms. n is the depth of a network in steps.

    Errors may be measured against a network of a finite depth instead of the limit. The model is
    then error = C |n^-p - reference^-p|: the reference is off in the same direction by its own
    C reference^-p.

    Args:
        depths: The depths n.
        errors: The error at each depth. Errors of zero, and NaN for an error that was not
            measured, are left out.
        least: The smallest depth that is used. Errors at smaller depths can look right under a
            wrong limit.
        reference: The depth of the network against which the errors were measured, or None for
            errors against the limit. An error at this depth is left out.

    Returns:
        The order p. None if errors at fewer than two different depths are left. With a reference, p
        is sought between 0.001 and 6.

    Raises:
        InputError: There are not as many errors as depths, or an error is negative or infinite.

    Example:
        >>> from neuralflow.statistics import fitted_order
        >>> depths = [32, 64, 128]
        >>> round(fitted_order(depths, [5.0 / n**2 for n in depths]), 2)
        2.0

    Source:
        The model with a reference is our formulation.
    """
    if len(depths) != len(errors):
        raise InputError(
            f"an order is fitted to one error a depth, got {len(depths)} depths and "
            f"{len(errors)} errors"
        )
    if any(e < 0 or np.isinf(e) for e in errors):
        raise InputError(f"errors are finite numbers from zero on, got {list(errors)}")
    pairs = [
        (n, e)
        for n, e in zip(depths, errors, strict=True)
        if n >= least and e > 0 and n != reference
    ]
    if len({n for n, _ in pairs}) < 2:
        return None
    n, e = np.asarray(pairs, float).T
    if reference is None:
        return float(-np.polyfit(np.log(n), np.log(e), 1)[0])
    from scipy.optimize import minimize_scalar

    def misfit(p: float) -> float:
        return float(np.var(np.log(e) - np.log(np.abs(n**-p - float(reference) ** -p))))

    best: Any = minimize_scalar(
        misfit, bounds=(1e-3, 6.0), method="bounded", options={"xatol": 1e-8}
    )
    return float(best.x)


def weighed_order(steps: Sequence[int], values: np.ndarray) -> tuple[float, float]:
    """Return the order p of |mean| = C steps^-p for random values, with its 95% interval.

    The order is fitted by least squares in logarithms. Each number of steps is weighed by the
    inverse square of the relative error of its mean. The interval follows by linear propagation of
    the sampling error. The propagation uses the covariance of values that share their samples.

    Args:
        steps: The numbers of steps.
        values: Random values `(samples, len(steps))`. Values in one row may share their sample.

    Returns:
        The order p, and half of the width of the interval. Both are NaN where a mean is zero.

    Raises:
        InputError: `values` has not two rows or more, each with one value for each number of steps.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] != len(steps):
        raise InputError(
            f"values are (samples, {len(steps)}), at least two samples, got shape {values.shape}"
        )
    mean, covariance = values.mean(0), np.atleast_2d(np.cov(values.T)) / len(values)
    covariance = covariance + np.diag(
        (1e-12 * mean) ** 2
    )  # where nothing is random, all is known alike
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = mean**2 / np.diag(covariance)
        log = np.log(steps) - (weights @ np.log(steps)) / weights.sum()
        slope = weights * log / (weights @ log**2)
        spread = slope / mean
        return float(-slope @ np.log(np.abs(mean))), float(
            _NORMAL * np.sqrt(spread @ covariance @ spread)
        )


def interval(orders: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return a bootstrap interval for the mean of orders, one order from each data set.

    The bootstrap is bias-corrected and accelerated.

    Args:
        orders: The observed orders, at least three.
        level: The confidence level.
        seed: The seed of the resampling.

    Returns:
        The lower and the upper limit. Both are the order itself where all orders are equal.

    Raises:
        InputError: There are fewer than three orders, an order is not finite, or `level` does not
            lie between 0 and 1.
    """
    from scipy.stats import bootstrap

    values = _row(orders)
    if len(values) < 3:
        raise InputError(f"an interval needs at least three data sets, got {len(values)}")
    if not 0 < level < 1:
        raise InputError(f"level is a probability between 0 and 1, got {level}; for example 0.95")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    limits = bootstrap(
        (values,), np.mean, confidence_level=level, rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(limits.low), float(limits.high)


def over_seeds(values: PyTree) -> dict[str, Any]:
    """Return the mean and its 95% interval over a few seeds, by Student's t distribution.

    Args:
        values: One number for each seed.

    Returns:
        A dictionary with the entries `mean` and `interval` (lower and upper limit). The interval is
        a point where all values are equal. One value alone says nothing of its spread: its interval
        is (NaN, NaN).

    Raises:
        InputError: There is no value, or a value is not finite.
    """
    from scipy import stats

    values = _row(values)
    if not len(values):
        raise InputError("a mean over seeds needs at least one value, got none")
    low = high = values[0] if len(values) > 1 else np.nan
    if np.ptp(values):
        low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return {"mean": float(values.mean()), "interval": [float(low), float(high)]}


def _row(values: PyTree) -> np.ndarray:
    """Return numbers as a row (n,), float64. Refuse anything else."""
    row = np.asarray(values, float)
    if row.ndim != 1 or not np.isfinite(row).all():
        raise InputError(f"expected a row of finite numbers, got {row.tolist()}")
    return row
