"""Statistics: means with standard errors, intervals over data sets or seeds, observed orders."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError

__docformat__ = "google"

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
        InputTypeError: The values are complex, or no numbers.
    """
    if not isinstance(values, jax.Array):
        try:
            values = np.asarray(values)
        except (TypeError, ValueError):  # rows of different lengths
            values = np.asarray(None)
        if values.dtype.kind not in "biufc":
            raise InputTypeError(
                "values must be an array of numbers, two or more along axis 0, got one of "
                f"{values.dtype}"
            )
    if np.ndim(values) < 1 or len(values) < 2:
        raise InputError(
            f"values must be two values or more along axis 0, got shape {np.shape(values)}"
        )
    array = jnp.asarray(values)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise InputTypeError(
            "values must be real numbers, got complex ones; "
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
        The order p. None if errors at fewer than two different depths are left: give a smaller
        `least` for networks of few layers. With a reference, p is sought between 0 and 6, and 0
        says that the errors fall with no order at all: they stay as they are, or grow.

    Raises:
        InputError: There are not as many errors as depths, a depth is below 1, or an error is
            negative or infinite.
        InputTypeError: `depths` or `errors` are no numbers in a row, or `least` or `reference` is
            no whole number.

    Example:
        >>> from neuralflow.statistics import fitted_order
        >>> depths = [32, 64, 128]
        >>> round(fitted_order(depths, [5.0 / n**2 for n in depths]), 2)
        2.0

    Source:
        The model with a reference is our formulation.
    """
    places, sizes = (
        _depths("depths", depths),
        checks.known_numbers("errors", errors, "n", finite=False),
    )
    checks.whole("least", least, least=0)
    if reference is not None:
        checks.whole("reference", reference)
    if len(places) != len(sizes):
        raise InputError(
            f"an order is fitted to one error a depth, got {len(places)} depths and "
            f"{len(sizes)} errors"
        )
    if (sizes < 0).any() or np.isinf(sizes).any():
        raise InputError(f"errors are finite numbers from zero on, got {sizes.tolist()}")
    pairs = [
        (n, e)
        for n, e in zip(places, sizes, strict=True)
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

    least_order = 1e-3  # Smaller ones look alike at any depth.
    best: Any = minimize_scalar(
        misfit, bounds=(least_order, 6.0), method="bounded", options={"xatol": 1e-8}
    )
    return float(best.x) if best.x > 1.01 * least_order else 0.0


def weighed_order(steps: Sequence[int], values: np.ndarray) -> tuple[float, float]:
    """Return the order p of |mean| = C steps^-p for random values, with its 95% interval.

    The order is fitted by least squares in logarithms. Each number of steps is weighed by the
    inverse square of the relative error of its mean. The interval follows by linear propagation of
    the sampling error. The propagation uses the covariance of values that share their samples.

    The interval covers the slope that the exact means have at these numbers of steps, if there are
    hundreds of samples or more. The order as steps grow without end is another number: it differs
    from this slope where means are no exact power of the number of steps.

    Args:
        steps: The numbers of steps.
        values: Random values `(samples, len(steps))`. Values in one row may share their sample.

    Returns:
        The order p, and half of the width of the interval of its slope. Both are NaN where a mean
        is zero.

    Raises:
        InputError: `values` has not two rows or more, each with one value for each number of steps,
            or a value is not finite. Or there are fewer than two different numbers of steps.
        InputTypeError: `steps` or `values` are no numbers.
    """
    counts = _depths("steps", steps)
    if len(np.unique(counts)) < 2:
        raise InputError(f"steps must be two different numbers or more, got {counts.tolist()}")
    values = checks.known_numbers("values", values, "samples", len(counts))
    if len(values) < 2:
        raise InputError(f"values must be those of two samples or more, got {len(values)}")
    mean, covariance = values.mean(0), np.atleast_2d(np.cov(values.T)) / len(values)
    covariance = covariance + np.diag(
        (1e-12 * mean) ** 2
    )  # where nothing is random, all is known alike
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = mean**2 / np.diag(covariance)
        log = np.log(counts) - (weights @ np.log(counts)) / weights.sum()
        slope = weights * log / (weights @ log**2)
        spread = slope / mean
        return float(-slope @ np.log(np.abs(mean))), float(
            _NORMAL * np.sqrt(spread @ covariance @ spread)
        )


def interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval for the mean of a few values.

    The values come from independent data sets or seeds. The interval covers the mean of all such
    data sets or seeds with probability `level` if the values are roughly normal, however few they
    are. For other values it is an approximation.

    Args:
        values: One number for each data set or seed, such as an observed order.
        level: The confidence level.

    Returns:
        The lower and the upper limit. Both are NaN where all values are equal, and where there is
        one value: such values say nothing of their spread.

    Raises:
        InputError: There is no value, a value is not finite, or `level` does not lie between 0 and
            1.
        InputTypeError: `values` are no numbers in a row, or `level` is no number.

    Example:
        >>> from neuralflow.statistics import interval
        >>> low, high = interval([0.98, 1.0, 1.01, 0.99, 1.02])
        >>> round(low, 2), round(high, 2)
        (0.98, 1.02)
    """
    values = checks.known_numbers("values", values, "n")
    checks.number("level", level, above=0)
    if level >= 1:
        raise InputError(f"level is a probability between 0 and 1, got {level}; for example 0.95")
    from scipy import stats

    if np.ptp(values) == 0:
        return np.nan, np.nan
    size = np.abs(values).max()  # Squares of very large and very small numbers leave the range.
    scaled = values / size
    low, high = stats.t.interval(float(level), len(values) - 1, scaled.mean(), stats.sem(scaled))
    return float(low * size), float(high * size)


def over_seeds(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Return the mean over a few seeds, with its 95% interval as `interval` gives it.

    Args:
        values: One number for each seed.

    Returns:
        A dictionary with the entries `mean` and `interval` (lower and upper limit). The interval
        covers 95% if the values are roughly normal. Both limits are NaN where all values are equal,
        and where there is one value.

    Raises:
        InputError: There is no value, or a value is not finite.
        InputTypeError: `values` are no numbers in a row.
    """
    values = checks.known_numbers("values", values, "n")
    return {"mean": float(values.mean()), "interval": list(interval(values))}


def _depths(name: str, values: Any) -> np.ndarray:
    """Return whole numbers from 1 on as a row `(n,)`, float64, and refuse anything else."""
    row = checks.known_numbers(name, values, "n")
    if (row < 1).any() or (row % 1).any():
        raise InputError(f"{name} must be whole numbers from 1 on, got {row.tolist()}")
    return row
