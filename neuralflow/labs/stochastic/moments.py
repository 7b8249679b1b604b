"""Exact moments of linear random networks and of their limits, without random numbers.

These moments are the reference for the tests of weak convergence. `weak` estimates means by
sampling, for any field.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy.linalg import expm

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import FlatField, field_at, field_in_step, grid as grids
from neuralflow.labs.stochastic.fields import RandomField
from neuralflow.labs.stochastic.networks import MOST_STEPS

_MOST_COORDINATES = 25

Matrices = tuple[np.ndarray, np.ndarray]
"""The matrices A of the drift and B of the diffusion, `(d, d)` each."""


def matrices(field: RandomField, d: int, t: float = 0.0) -> Matrices:
    """Return the matrices A and B of a linear random field, with drift A x and diffusion B x.

    A field whose weights vary with depth has no single A and B. `network_moments` and
    `limit_moments` take the matrices of every step of such a field.

    Args:
        field: The random field, on states of d numbers.
        d: The number of coordinates of a state.
        t: The depth time at which drift and diffusion are evaluated.

    Returns:
        A and B, `(d, d)` each.

    Raises:
        InputError: The drift or the diffusion is not linear in x, or `d` is below 1 or above 8192.
        InputTypeError: `field` is not a random field, `d` is not a whole number, or `t` is not a
            number.
    """
    _check_field(field)
    checks.whole("d", d, most=8192)
    checks.number("t", t)
    # The whole range of scales on both sides of zero shows limits and kinks of a field.
    ways, scales = jax.random.normal(jax.random.key(0), (3, d)), jnp.geomspace(1e-8, 1e8, 33)
    rays = (jnp.stack([-scales, scales])[..., None, None] * ways).reshape(-1, d)
    points = jnp.concatenate([jnp.eye(d), jnp.zeros((1, d)), rays])
    sizes = np.abs(np.asarray(points, float)).sum(axis=1, keepdims=True)
    drift, diffusion = (np.asarray(part, float) for part in field.parts(points, t))
    pair = []
    for name, values in (("drift", drift), ("diffusion", diffusion)):
        matrix = values[:d].T
        with np.errstate(invalid="ignore"):  # a field may overflow
            away = np.abs(values - np.asarray(points, float) @ matrix.T)
        if not (away <= 1e-6 * sizes * (1 + np.abs(matrix).max())).all():
            raise InputError(
                f"moments are closed for linear fields, and the {name} of this "
                f"{type(field).__name__} is not linear; use expectation()"
            )
        pair.append(matrix)
    return pair[0], pair[1]


def network_moments(
    field: RandomField, x: Float[Array | np.ndarray, " d"], steps: int, time: float = 1.0
) -> list[np.ndarray]:
    """Compute the first three moments of a linear random network, exactly.

    The moments are E X, E X (x) X and E X (x) X (x) X, where X is the state after `steps` blocks
    and (x) is the tensor product. A block is the random matrix I + h A + sqrt(h) z B. A quadrature
    over the law of z gives the mean of the block's tensor powers.

    Args:
        field: The random field. Its drift and diffusion are linear in x, and the coordinates share
            their noise. Its weights may vary with depth.
        x: The start X_0, `(d,)`.
        steps: The number of blocks.
        time: The length of the interval in depth time. The interval starts at depth time 0.

    Returns:
        The three moments, arrays with 1, 2 and 3 axes of length d.

    Raises:
        InputError: The field is not linear, the law of z does not exist at the start of a step, x
            is not one point of at most 25 finite numbers, `time` is not positive, or `steps` is
            below one or above 2^24.
        InputTypeError: `field` is not a random field, its coordinates do not share their noise, x
            does not consist of numbers, or `steps` is not a whole number.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> decay = nf.from_function(lambda rate, x: -rate * x, jnp.asarray(0.5))
        >>> field = nf.labs.stochastic.StochasticDepth(decay, 0.8, rngs=nnx.Rngs(0))
        >>> first, second, third = nf.labs.stochastic.network_moments(field, jnp.ones(1), 4)
        >>> round(first.item(), 2), second.shape, third.shape
        (0.66, (1, 1), (1, 1, 1))
    """
    x = _start(field, x, time, steps)
    h, d = time / steps, len(x)
    moments = [functools.reduce(np.multiply.outer, [x] * k).ravel() for k in (1, 2, 3)]
    at = _along(field, steps, 0.0)
    known: Any = None
    for n in range(steps):
        if known is None or _varies(field):
            a, b = matrices(at(n), d, n * h)
            blocks = [
                (w, np.eye(d) + h * a + h**0.5 * z * b)
                for z, w in zip(*field.quadrature(n * h), strict=True)
            ]
            known = [
                sum(w * functools.reduce(np.kron, [m] * k) for w, m in blocks) for k in (1, 2, 3)
            ]
        moments = [matrix @ moment for matrix, moment in zip(known, moments, strict=True)]
    return [moment.reshape((d,) * k) for k, moment in enumerate(moments, 1)]


def limit_moments(
    field: RandomField, x: Float[Array | np.ndarray, " d"], time: float = 1.0, *, steps: int = 256
) -> list[np.ndarray]:
    """Compute the first three moments of the limit dX = A X dt + B X dB of a linear random field.

    The k-th moment m_k follows m_k' = (sum_i A_i + sum_{i<j} B_i B_j) m_k, where the index tells on
    which of the k tensor factors a matrix acts. Exponentials of matrices solve this equation. The
    moments of a field that is constant in depth are exact.

    Args:
        field: The random field. Its drift and diffusion are linear in x, and the coordinates share
            their noise. Its weights may vary with depth.
        x: The start X_0, `(d,)`.
        time: The length of the interval in depth time. The interval starts at depth time 0.
        steps: The number of exponentials for a field that varies with depth. Each exponential takes
            the matrices at the midpoint of its step, with an error of O(steps^-2). For weights in
            cells, this order takes a multiple of the number of cells.

    Returns:
        The moments E X, E X (x) X and E X (x) X (x) X, arrays with 1, 2 and 3 axes of length d.

    Raises:
        InputError: The field is not linear, the law of z does not exist at the start of a step, x
            is not one point of at most 25 finite numbers, `time` is not positive, or `steps` is
            below one or above 2^24.
        InputTypeError: `field` is not a random field, its coordinates do not share their noise, x
            does not consist of numbers, or `steps` is not a whole number.
    """
    x = _start(field, x, time, steps)
    count = steps if _varies(field) else 1
    moments = [functools.reduce(np.multiply.outer, [x] * k).ravel() for k in (1, 2, 3)]
    at = _along(field, count, 0.5)
    for n in range(count):
        a, b = matrices(at(n), len(x), (n + 0.5) / count * time)
        moments = [
            expm(time / count * _generator(a, b, k)) @ moment for k, moment in enumerate(moments, 1)
        ]
    return [moment.reshape((len(x),) * k) for k, moment in enumerate(moments, 1)]


def _varies(field: RandomField) -> bool:
    """Tell whether drift, diffusion or law depend on depth."""
    return bool(field.uses_time or FlatField(field).bases)


def _along(field: RandomField, count: int, share: float) -> Callable[[int], Any]:
    """Return a function from n to the field with the weights of the n-th of `count` equal steps.

    With `share` 0, the weights are the weights at the start of the step. Otherwise, `share` is the
    place within the step.
    """
    bases = FlatField(field).bases
    if not bases:
        return lambda n: field
    if share:
        return lambda n: field_at(field, (n + share) / count)
    plan = grids.plan(grids.uniform(count), bases)
    return lambda n: field_in_step(field, plan.local(0.0, n))


def _generator(a: np.ndarray, b: np.ndarray, k: int) -> np.ndarray:
    """Return the matrix of the equation of the k-th moments."""
    one = np.eye(len(a))

    def acting(*places):
        """Return the tensor product of the given matrices, with the identity for None."""
        return functools.reduce(
            np.kron, [places[i] if places[i] is not None else one for i in range(k)]
        )

    total = sum(acting(*(a if i == j else None for i in range(k))) for j in range(k))
    for i in range(k):
        for j in range(i):
            total = total + acting(*(b if m in (i, j) else None for m in range(k)))
    return np.asarray(total)


def _start(field: RandomField, x: PyTree, time: Real, steps: Any) -> np.ndarray:
    """Check the arguments of the moments, and return the start as floating-point numbers."""
    _check_field(field)
    if not field.shared:
        raise InputTypeError(
            "these moments are those of noise that the coordinates share, and each has its own "
            f"in {type(field).__name__}"
        )
    checks.positive("time", time, "the length of the interval in depth time")
    checks.whole("steps", steps, most=MOST_STEPS)
    field.check(np.linspace(0, time, steps + 1)[:-1])
    x = checks.known_numbers("x", x, "d")
    if len(x) > _MOST_COORDINATES:
        raise InputError(
            "the third moments take matrices of d^6 numbers, so x has at most "
            f"{_MOST_COORDINATES} coordinates, got {len(x)}; use expectation()"
        )
    return x


def _check_field(field: Any) -> None:
    checks.instance(
        "field",
        field,
        RandomField,
        "a random field such as nf.labs.stochastic.StochasticDepth(...)",
    )
