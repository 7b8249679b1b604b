"""Convolution kernels as differential operators, and back.

A convolution layer computes the correlation sum_ij K_ij u(x + i h, y + j h), where h is the spacing
of the points. The moments of the kernel K are M_pq = sum_ij i^p j^q K_ij. The Taylor series of u
gives

    (K * u)(x) = sum_pq M_pq h^(p+q) / (p! q!) d^p/dx^p d^q/dy^q u.

Source:
    Yin, Li, Zhang & Wang, arXiv 1904.07568, stated there: a residual block is a differential
    equation. The formulas here are our formulation.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import core
from jaxtyping import Float
from numpy.typing import ArrayLike

from neuralflow import checks
from neuralflow.checks import InputError

# A kernel of this many points keeps six digits after the round trip through its moments.
_LARGEST = 15


def stencil(derivative: int, size: int = 3) -> Float[np.ndarray, " size"]:
    """Return the finite-difference stencil of a derivative on `size` points.

    The stencil has unit spacing. For a spacing h, divide the stencil by h^derivative. The moments
    of the stencil are those of the derivative. The stencil therefore has the highest order of
    accuracy that so many points allow. The stencils [-1, 0, 1]/2 and [1, -2, 1] have order two.

    Args:
        derivative: The order of the derivative, below `size`.
        size: The number of points, odd and at most 15.

    Returns:
        The stencil, `(size,)`.

    Raises:
        InputError: `derivative` is negative or not below `size`, or `size` is even or too large.
        InputTypeError: `derivative` or `size` is not a whole number.
    """
    checks.whole("derivative", derivative, least=0)
    _check_size("size", size)
    if derivative >= size:
        raise InputError(
            f"{size} points have stencils of a derivative below {size}, got {derivative}; take "
            f"size={_odd(derivative)}"
        )
    return math.factorial(derivative) * _lagrange(size)[derivative]


def to_operator(kernel: ArrayLike, spacing: Any = 1.0) -> Any:
    """Compute the coefficients of the derivatives that a convolution kernel stands for.

    The map from kernel to coefficients is linear and exact. `to_kernel` is its inverse.

    The position of a coefficient tells its derivative. Entry [q, p] belongs to d^q/dy^q d^p/dx^p.
    The first axis is y (the rows of an image), and the second axis is x. In one dimension, entry
    [p] belongs to d^p/dx^p. With coefficients c_pq and outer products of stencils, the kernel is
    exactly sum_pq c_pq stencil(q) x stencil(p) / h^(p+q). As an operator on smooth functions, the
    expansion leaves out the derivatives from order k on, where k is the size along the axis.

    The convention is the correlation that convolution layers compute. For a true convolution, flip
    the kernel first.

    Numbers are converted to float64 on the host. Traced arrays keep their dtype. The round trip
    through `to_kernel` costs rounding times the condition of the moments. The relative errors are
    1e-14 for 3 points, 3e-14 for 5, 3e-13 for 7 and 1e-6 for 15.

    Args:
        kernel: The kernel, `(k,)` or `(k, k')`. With channels, as in `nnx.Conv`: `(k, in, out)` or
            `(k, k', in, out)`. The sizes k and k' are odd and at most 15.
        spacing: The distance h of neighbouring points, one number or one for each axis.

    Returns:
        The coefficients, in the shape of `kernel`.

    Raises:
        InputError: `kernel` has an unknown shape, or a size that is even or above 15, or is not
            finite.
        InputError: `spacing` is not positive, or not one number an axis.
        InputTypeError: `kernel` does not hold real numbers.

    Example:
        >>> import numpy as np
        >>> from neuralflow.labs import operators
        >>> laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
        >>> operators.to_operator(laplacian, spacing=0.5).round(2).tolist()
        [[0.0, 0.0, 0.25], [0.0, 0.0, 0.0], [0.25, 0.0, 0.0]]
    """
    values = _array("kernel", kernel)
    for axis, h in enumerate(_spacings(spacing, _space("kernel", values.shape))):
        size = values.shape[axis]
        _check_size("kernel", size)
        powers = np.vander(np.arange(size) - size // 2, size, increasing=True).T.astype(float)
        values = _along(values, axis, powers * (h ** np.arange(size) / _factorials(size))[:, None])
    return values


def to_kernel(coefficients: ArrayLike, spacing: Any = 1.0) -> Any:
    """Compute the convolution kernel that has the given coefficients.

    The function is the inverse of `to_operator`.

    Args:
        coefficients: The coefficients, in the form of `to_operator`.
        spacing: The distance h of neighbouring points, one number or one for each axis.

    Returns:
        The kernel, in the shape of `coefficients`.

    Raises:
        InputError: `coefficients` have an unknown shape, or a size that is even or above 15, or are
            not finite.
        InputError: `spacing` is not positive, or not one number an axis.
        InputTypeError: `coefficients` do not hold real numbers.
    """
    kernel = _array("coefficients", coefficients)
    for axis, h in enumerate(_spacings(spacing, _space("coefficients", kernel.shape))):
        size = kernel.shape[axis]
        _check_size("coefficients", size)
        kernel = _along(
            kernel, axis, (_lagrange(size) * (_factorials(size) / h ** np.arange(size))[:, None]).T
        )
    return kernel


def formula(coefficients: ArrayLike, digits: int = 3) -> str:
    """Write the operator of one pair of channels in words, such as "∂xx + ∂yy".

    Coefficients below 1e-6 of the largest one are left out. An operator with no term left reads
    "0".

    Args:
        coefficients: The coefficients of `to_operator`, `(k,)` or `(k, k')`.
        digits: The number of significant digits, from 1 to 17. 17 digits tell two numbers of
            float64 apart.

    Returns:
        The formula.

    Raises:
        InputError: `coefficients` hold more than one pair of channels, or are not finite.
        InputError: `digits` is below 1 or above 17.
        InputTypeError: `coefficients` do not hold real numbers, or `digits` is not a whole number.

    Example:
        >>> from neuralflow.labs import operators
        >>> operators.formula(operators.to_operator([0.5, -1.0, 0.5], spacing=0.5))
        '0.125 ∂xx'
    """
    checks.whole("digits", digits, most=17)
    values = _array("coefficients", coefficients)
    if values.ndim not in (1, 2):
        raise InputError(
            "a formula is that of one pair of channels, (k,) or (k, k), got coefficients of shape "
            f"{values.shape}; take coefficients[..., i, o]"
        )
    values = values[None] if values.ndim == 1 else values
    places = sorted(
        itertools.product(*map(range, values.shape)), key=lambda place: (sum(place), place)
    )
    terms = [
        (values[q, p], _derivative(p, q))
        for q, p in places
        if abs(values[q, p]) > 1e-6 * np.abs(values).max()
    ]
    words = [_term(value, name, digits) for value, name in terms]
    return " ".join([words[0].removeprefix("+ ").replace("- ", "-"), *words[1:]]) if words else "0"


class Shares(NamedTuple):
    """The shares of an operator by the order of its derivatives.

    Attributes:
        reaction: The share of order zero, without a derivative.
        convection: The share of the first derivatives.
        diffusion: The share of the second derivatives.
        higher: The share of all derivatives of higher order.
    """

    reaction: float
    convection: float
    diffusion: float
    higher: float


def shares(coefficients: ArrayLike) -> Shares:
    """Compute the shares of the sum of squared coefficients by the order of derivative.

    The sum runs over all pairs of channels. A 3 x 3 kernel of independent random entries, as in an
    untrained layer, has the shares 0.30, 0.40, 0.23 and 0.07. A kernel of zeros has the shares 0,
    0, 0, 0.

    Args:
        coefficients: The coefficients of `to_operator` with spacing 1, so the pixel is the unit of
            length.

    Returns:
        The four shares. They sum to one unless all coefficients are zero.

    Raises:
        InputError: `coefficients` are not finite, or have an unknown shape.
        InputTypeError: `coefficients` do not hold real numbers.

    Source:
        Our formulation.
    """
    values = np.asarray(_array("coefficients", coefficients), float)
    values = (values / (np.abs(values).max() or 1.0)) ** 2
    axes = _space("coefficients", values.shape)
    order = np.add.reduce(np.indices(values.shape[:axes]))
    sums = values.reshape(*values.shape[:axes], -1).sum(-1)
    total = sums.sum() or 1.0
    reaction, convection, diffusion = (float(sums[order == k].sum() / total) for k in range(3))
    return Shares(reaction, convection, diffusion, float(sums[order > 2].sum() / total))


def symbol(kernel: ArrayLike, points: int = 32) -> np.ndarray:
    """Compute what a kernel does to the waves of a periodic grid, its symbol.

    The kernel multiplies the wave exp(i w x) by a complex matrix over the channels. A grid of n
    points an axis has the n waves w = 2 pi j / n an axis. The first axis has only n // 2 + 1
    waves here, because the others give the complex conjugates.

    Args:
        kernel: The kernel, `(k, in, out)` or `(k, k', in, out)`.
        points: The number n of points an axis.

    Returns:
        The matrices of all waves, `(waves, out, in)`, complex.

    Raises:
        InputError: `kernel` has another shape or is not finite, or `points` is below 1 or above
            65536, or the matrices have more than 2^30 entries.
        InputTypeError: `kernel` is not made of real numbers, or `points` is no whole number.
    """
    values = np.asarray(checks.numbers("kernel", kernel))
    if values.ndim not in (3, 4) or not values.size:
        raise InputError(
            "the symbol is that of a kernel (k, in, out) or (k, k, in, out), got shape "
            f"{values.shape}"
        )
    check_points(points)
    checks.held(
        f"the symbol at points = {points}",
        int(points) ** (values.ndim - 2) * math.prod(values.shape[-2:]),
        "take fewer",
    )
    turns = 2 * np.pi * np.arange(points) / points
    for axis, size in enumerate(values.shape[:-2]):
        waves = turns[: points // 2 + 1] if axis == 0 else turns
        phases = np.exp(1j * np.outer(waves, np.arange(size) - size // 2))
        values = np.moveaxis(np.tensordot(phases, values, (1, axis)), 0, axis)
    return np.swapaxes(values.reshape(-1, *values.shape[-2:]), 1, 2)


def check_points(points: Any) -> None:
    """Refuse a number of points an axis that is out of range.

    Args:
        points: The number of points an axis.

    Raises:
        InputError: The number is below 1 or above 65536.
        InputTypeError: The number is not whole.
    """
    checks.whole("points", points, most=2**16)


def _derivative(p: int, q: int) -> str:
    return f"∂{'x' * p}{'y' * q}" if p + q else ""


def _term(value: float, name: str, digits: int) -> str:
    size = f"{abs(value):.{digits}g}"
    return (
        f"{'-' if value < 0 else '+'} {name if size == '1' and name else f'{size} {name}'.strip()}"
    )


def _array(name: str, value: Any) -> Any:
    """Return the value as real numbers, in float64 unless it is traced.

    The function refuses what is no kernel of one or two dimensions.
    """
    array = checks.numbers(name, value)
    _space(name, array.shape)
    if not array.size:
        raise InputError(f"{name} holds at least one number, got shape {array.shape}")
    if not isinstance(array, core.Tracer):
        return np.asarray(array, float)
    return array.astype(float) if jnp.issubdtype(array.dtype, jnp.integer) else array


def _space(name: str, shape: Sequence[int]) -> int:
    """Return the number of dimensions in space of a kernel of this shape."""
    if not 1 <= len(shape) <= 4:
        raise InputError(
            f"{name} has one or two dimensions, with channels behind them or without, (k,), "
            f"(k, k), (k, in, out) or (k, k, in, out); got shape {tuple(shape)}"
        )
    return 2 - len(shape) % 2


def _spacings(spacing: Any, axes: int) -> list[float]:
    values = np.asarray(checks.numbers("spacing", spacing), float)
    values = np.broadcast_to(values, (axes,)) if values.ndim == 0 else values
    if values.shape != (axes,) or not (values > 0).all():
        raise InputError(
            f"spacing is a positive length, or one for each of {axes} axes, got {spacing!r}"
        )
    return values.tolist()


def _check_size(name: str, size: Any) -> None:
    checks.whole(name, size)
    if size % 2 == 0:
        raise InputError(
            f"{name} must be odd, since a kernel of even size has no point in the middle, got size "
            f"{size}; pad it with a row of zeros to {size + 1}"
        )
    if size > _LARGEST:
        raise InputError(
            f"{name} must have at most {_LARGEST} points an axis, since the moments of more are "
            f"lost in the rounding of float64, got {size}"
        )


def _odd(derivative: int) -> int:
    return derivative + 1 + derivative % 2


def _factorials(size: int) -> np.ndarray:
    return np.asarray([float(math.factorial(p)) for p in range(size)])


def _along(array: Any, axis: int, matrix: np.ndarray) -> Any:
    """Apply a matrix along one axis of an array."""
    if isinstance(array, core.Tracer):
        return jnp.moveaxis(
            jnp.tensordot(jnp.asarray(matrix, array.dtype), array, (1, axis)), 0, axis
        )
    return np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)


@functools.cache
def _lagrange(size: int) -> np.ndarray:
    """Return the coefficients (power, point) of the Lagrange polynomials.

    The points are -size//2, ..., size//2.
    """
    points = np.arange(size) - size // 2
    columns = [
        np.atleast_1d(np.poly(np.delete(points, k)))[::-1]
        / np.prod(points[k] - np.delete(points, k))
        for k in range(size)
    ]
    return np.stack(columns, axis=1)
