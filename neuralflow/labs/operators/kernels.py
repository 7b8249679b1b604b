"""Convolution kernels as differential operators, and back.

(K * u)(x) = sum_pq M_pq h^(p+q) / (p! q!) d^p/dx^p d^q/dy^q u with the moments M_pq = sum_ij i^p j^q K_ij, for the correlation
sum_ij K_ij u(x + i h, y + j h) that convolution layers compute. That a residual block is a differential equation is stated by
Yin, Li, Zhang & Wang (arXiv 1904.07568); these formulas are our formulation.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import core
from jaxtyping import Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError

# Here and back again from moments of so many points six digits are left.
_LARGEST = 15


def stencil(derivative: int, size: int = 3) -> Float[np.ndarray, " size"]:
    """The finite difference of `size` points, an odd number, for a derivative below `size`; divide by h^derivative.

    The one with the moments of the derivative, so of the highest order that so many points have: [-1, 0, 1]/2 and [1, -2, 1]
    are of order two.
    """
    checks.whole("derivative", derivative, least=0)
    _check_size(size)
    if derivative >= size:
        raise InputError(
            f"{size} points have stencils of derivatives below {size}, got {derivative}; take size={_odd(derivative)}"
        )
    return math.factorial(derivative) * _lagrange(size)[derivative]


def to_operator(kernel: Any, spacing: Any = 1.0) -> Any:
    """The coefficients of the derivatives that a convolution kernel stands for: an exact linear map, and `to_kernel` its inverse.

    `kernel`: (k,) or (k, k'), or with channels as `nnx.Conv` keeps it, (k, in, out) or (k, k', in, out); sizes are odd. A
    coefficient stands where its derivative says: entry [q, p] belongs to d^q/dy^q d^p/dx^p, y along the first axis (the rows of an image)
    and x along the second; in one dimension entry [p] to d^p/dx^p. `spacing`: the distance h of neighbouring points, one
    number or one for each axis. The kernel is exactly sum_pq c_pq stencil(q) x stencil(p) / h^(p+q); as an operator on smooth functions
    it leaves out the derivatives from the k-th on. For a true convolution flip the kernel first.

    Numbers are taken to float64 on the host; traced ones stay in their dtype. There and back costs rounding times the condition of the
    moments: relative errors of 1e-14 for 3 points, 3e-14 for 5, 3e-13 for 7, 1e-6 for 15, the most that are taken.
    """
    kernel = _array("a kernel", kernel)
    for axis, h in enumerate(_spacings(spacing, _space(kernel.shape))):
        size = kernel.shape[axis]
        _check_size(size)
        powers = np.vander(np.arange(size) - size // 2, size, increasing=True).T.astype(float)
        kernel = _along(kernel, axis, powers * (h ** np.arange(size) / _factorials(size))[:, None])
    return kernel


def to_kernel(coefficients: Any, spacing: Any = 1.0) -> Any:
    """The convolution kernel with these coefficients, in the form of `to_operator`: its inverse."""
    kernel = _array("an array of coefficients", coefficients)
    for axis, h in enumerate(_spacings(spacing, _space(kernel.shape))):
        size = kernel.shape[axis]
        _check_size(size)
        kernel = _along(
            kernel, axis, (_lagrange(size) * (_factorials(size) / h ** np.arange(size))[:, None]).T
        )
    return kernel


def formula(coefficients: Any, digits: int = 3) -> str:
    """The operator of one pair of channels in words: "∂xx + ∂yy".

    `coefficients`: (k,) or (k, k') of `to_operator`. Those below 1e-6 of the largest are left out.
    """
    checks.whole("digits", digits)
    values = _array("an array of coefficients", coefficients)
    if values.ndim not in (1, 2):
        raise InputError(
            f"a formula is that of one pair of channels, (k,) or (k, k), got coefficients of shape {values.shape}; "
            "take coefficients[..., i, o]"
        )
    if not np.isfinite(values).all():
        raise InputError("a formula is that of finite coefficients, got some that are not")
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
    """How much of an operator is reaction (no derivative), convection (first), diffusion (second), or of higher order."""

    reaction: float
    convection: float
    diffusion: float
    higher: float


def shares(coefficients: Any) -> Shares:
    """The parts of the sum of squared coefficients that belong to each order of derivative, over all pairs of channels.

    `coefficients` of `to_operator` with spacing 1, so with the pixel as the unit of length. A 3 x 3 kernel of independent random entries,
    that of an untrained layer, has 0.30, 0.40, 0.23 and 0.07; one of zeros has none. Our formulation.
    """
    values = np.asarray(_array("an array of coefficients", coefficients), float) ** 2
    axes = _space(values.shape)
    order = np.add.reduce(np.indices(values.shape[:axes]))
    sums = values.reshape(*values.shape[:axes], -1).sum(-1)
    if not np.isfinite(sums).all():
        raise InputError("shares are those of finite coefficients, got some that are not")
    total = sums.sum() or 1.0
    reaction, convection, diffusion = (float(sums[order == k].sum() / total) for k in range(3))
    return Shares(reaction, convection, diffusion, float(sums[order > 2].sum() / total))


def symbol(kernel: Any, frequencies: int = 32) -> np.ndarray:
    """What a kernel (k, in, out) or (k, k', in, out) does to waves: (waves, out, in), complex, the matrix by which it multiplies
    exp(i w x) on a periodic grid. The waves are `frequencies`, an even number, of equally spaced ones an axis, so the shortest is among
    them; those with their conjugates stand once.
    """
    values = np.asarray(kernel)
    if values.ndim not in (3, 4):
        raise InputError(
            f"the symbol is that of a kernel (k, in, out) or (k, k, in, out), got shape {values.shape}"
        )
    checks.whole("frequencies", frequencies, least=2)
    if frequencies % 2:
        raise InputError(
            f"frequencies is an even number, so that the shortest wave is among them, got {frequencies}"
        )
    if not np.isfinite(values).all():
        raise InputError("the symbol is that of a finite kernel, got numbers that are not")
    turns = 2 * np.pi * np.arange(frequencies) / frequencies
    for axis, size in enumerate(values.shape[:-2]):
        waves = turns[: frequencies // 2 + 1] if axis == 0 else turns
        phases = np.exp(1j * np.outer(waves, np.arange(size) - size // 2))
        values = np.moveaxis(np.tensordot(phases, values, (1, axis)), 0, axis)
    return np.swapaxes(values.reshape(-1, *values.shape[-2:]), 1, 2)


def _derivative(p: int, q: int) -> str:
    return f"∂{'x' * p}{'y' * q}" if p + q else ""


def _term(value: float, name: str, digits: int) -> str:
    size = f"{abs(value):.{digits}g}"
    return (
        f"{'-' if value < 0 else '+'} {name if size == '1' and name else f'{size} {name}'.strip()}"
    )


def _array(name: str, value: Any) -> Any:
    """The value as real numbers, in float64 unless it is traced; refuses what is no kernel of one or two dimensions."""
    traced = isinstance(value, core.Tracer)
    array = value if traced else np.asarray(value)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise InputTypeError(f"{name} holds real numbers, got {array.dtype}")
    _space(array.shape)
    if not array.size:
        raise InputError(f"{name} holds at least one number, got shape {array.shape}")
    return array.astype(float) if not traced or jnp.issubdtype(array.dtype, jnp.integer) else array


def _space(shape: Sequence[int]) -> int:
    """The number of dimensions in space of a kernel of this shape."""
    if not 1 <= len(shape) <= 4:
        raise InputError(
            f"a kernel has one or two dimensions, with channels behind them or without, (k,), (k, k), (k, in, out) or (k, k, in, out); "
            f"got shape {tuple(shape)}"
        )
    return 2 - len(shape) % 2


def _spacings(spacing: Any, axes: int) -> list[float]:
    values = (
        np.broadcast_to(np.asarray(spacing, float), (axes,))
        if np.ndim(spacing) == 0
        else np.asarray(spacing, float)
    )
    if values.shape != (axes,) or not np.isfinite(values).all() or not (values > 0).all():
        raise InputError(
            f"spacing is a positive length, or one for each of {axes} axes, got {spacing!r}"
        )
    return values.tolist()


def _check_size(size: Any) -> None:
    checks.whole("the size of a kernel", size)
    if size % 2 == 0:
        raise InputError(
            f"a kernel of even size has no point in the middle, so it is no operator at its points: got size {size}; "
            f"take an odd one, or pad it with a row of zeros to {size + 1}"
        )
    if size > _LARGEST:
        raise InputError(
            f"the moments of {size} points are lost in the rounding of float64; kernels have at most {_LARGEST} points an axis"
        )


def _odd(derivative: int) -> int:
    return derivative + 1 + derivative % 2


def _factorials(size: int) -> np.ndarray:
    return np.asarray([float(math.factorial(p)) for p in range(size)])


def _along(array: Any, axis: int, matrix: np.ndarray) -> Any:
    """A matrix applied along one axis."""
    if isinstance(array, core.Tracer):
        return jnp.moveaxis(
            jnp.tensordot(jnp.asarray(matrix, array.dtype), array, (1, axis)), 0, axis
        )
    return np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)


@functools.cache
def _lagrange(size: int) -> np.ndarray:
    """The coefficients (power, point) of the Lagrange polynomials of the points -size//2, ..., size//2."""
    points = np.arange(size) - size // 2
    columns = [
        np.atleast_1d(np.poly(np.delete(points, k)))[::-1]
        / np.prod(points[k] - np.delete(points, k))
        for k in range(size)
    ]
    return np.stack(columns, axis=1)
