"""What numbers say: means with standard errors, intervals over a few data sets, observed orders of convergence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neuralflow.checks import InputError, InputTypeError

# Depths below this are left out of fitted orders: a wrong limit can look right there.
ASYMPTOTIC = 32
_NORMAL = 1.959964  # 95% of a normal distribution, on both sides


class Estimate(NamedTuple):
    """The mean of random values and its standard error."""

    mean: Array
    error: Array


def estimate(values: Float[Any, "count *values"]) -> Estimate:
    """The mean over axis 0 with its standard error. ValueError for fewer than two values, TypeError for complex ones."""
    if np.ndim(values) < 1 or len(values) < 2:
        raise InputError(
            f"an estimate takes two values or more along axis 0, got shape {np.shape(values)}"
        )
    array = jnp.asarray(values)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise InputTypeError(
            "an estimate is that of real numbers, got complex ones; take real and imaginary parts one by one"
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
    """p of error = C n^-p by least squares in logarithms over depths >= `least`; None for fewer than two of them.

    `reference`: where the errors were measured against a network of that depth and not against the limit, the model is
    C |n^-p - reference^-p|: the reference is as far off, in the same direction (our formulation).
    """
    pairs = [
        (n, e)
        for n, e in zip(depths, errors, strict=True)
        if n >= least and e > 0 and n != reference
    ]
    if len(pairs) < 2:
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
    """p of |mean| = C steps^-p over random values (samples, steps), and half its interval of 95%.

    Each number of steps is weighed by the relative error of its mean; the interval is by linear propagation of the sampling error, with the
    covariance of values that share their samples. NaN where a mean is zero.
    """
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
    """A bootstrap interval (bias-corrected and accelerated) for the mean of orders that were found on as many data sets."""
    from scipy.stats import bootstrap

    values = np.asarray(orders, float)
    if len(values) < 3:
        raise InputError(f"an interval needs at least three data sets, got {len(values)}")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    limits = bootstrap(
        (values,), np.mean, confidence_level=level, rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(limits.low), float(limits.high)


def over_seeds(values: Any) -> dict[str, Any]:
    """Mean and 95% interval over a few seeds, by Student's distribution."""
    from scipy import stats

    values = np.asarray(values, float)
    spread = stats.sem(values) if len(values) > 1 else np.nan
    low, high = (
        stats.t.interval(0.95, len(values) - 1, values.mean(), spread)
        if np.ptp(values)
        else (values[0], values[0])
    )
    return {"mean": float(values.mean()), "interval": [float(low), float(high)]}
