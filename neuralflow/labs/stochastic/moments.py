"""Moments of linear random networks and of their limits, without random numbers: the oracle of weak convergence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.linalg import expm

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import FlatField, field_at, field_in_step, grid as grids
from neuralflow.labs.stochastic.fields import RandomField

Matrices = tuple[np.ndarray, np.ndarray]


def matrices(field: RandomField, d: int, t: float = 0.0) -> Matrices:
    """A and B of a linear random field on states of d numbers: drift A x and diffusion B x. ValueError where it is not linear.

    A field whose weights vary along depth has none of its own; the moments take those of every step.
    """
    points = jnp.concatenate(
        [jnp.eye(d), jnp.zeros((1, d)), jax.random.normal(jax.random.key(0), (3, d))]
    )
    drift, diffusion = (np.asarray(part, float) for part in field.parts(points, t))
    pair = []
    for name, values in (("drift", drift), ("diffusion", diffusion)):
        matrix = values[:d].T
        if np.abs(values - np.asarray(points) @ matrix.T).max() > 1e-6 * (1 + np.abs(values).max()):
            raise InputError(
                f"moments are closed for linear fields, and the {name} of this {type(field).__name__} is not linear; use expectation()"
            )
        pair.append(matrix)
    return pair[0], pair[1]


def network_moments(
    field: RandomField, x: Float[Any, " d"], steps: int, time: float = 1.0
) -> list[np.ndarray]:
    """E X, E X (x) X and E X (x) X (x) X of the random network after `steps` blocks, exactly: arrays with 1, 2 and 3 axes of d.

    A block is the random matrix I + h A + sqrt(h) z B; the mean of its tensor powers is taken by quadrature over the law of z. Linear fields
    whose noise the coordinates share.
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
    field: RandomField, x: Float[Any, " d"], time: float = 1.0, *, steps: int = 256
) -> list[np.ndarray]:
    """The same of the limit dX = A X dt + B X dB, from the equation of its moments: by exponentials of matrices.

    m_k' = (sum_i A_i + sum_{i<j} B_i B_j) m_k, the index telling on which of k factors a matrix acts. Constant fields exactly; what varies
    in time by `steps` exponentials at midpoints, to O(steps^-2) (for weights in cells, a multiple of their number).
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
    """Whether drift, diffusion or law depend on depth."""
    return bool(field.uses_time or FlatField(field).bases)


def _along(field: RandomField, count: int, share: float) -> Callable[[int], Any]:
    """The field with the weights of the n-th of so many equal steps: where it starts (share 0), or within it."""
    bases = FlatField(field).bases
    if not bases:
        return lambda n: field
    if share:
        return lambda n: field_at(field, (n + share) / count)
    plan = grids.plan(grids.uniform(count), bases)
    return lambda n: field_in_step(field, plan.local(0.0, n))


def _generator(a: np.ndarray, b: np.ndarray, k: int) -> np.ndarray:
    """The matrix of the equation of the k-th moments."""
    one = np.eye(len(a))

    def acting(*places):
        return functools.reduce(
            np.kron, [places[i] if places[i] is not None else one for i in range(k)]
        )

    total = sum(acting(*(a if i == j else None for i in range(k))) for j in range(k))
    for i in range(k):
        for j in range(i):
            total = total + acting(*(b if m in (i, j) else None for m in range(k)))
    return np.asarray(total)


def _start(field: RandomField, x: Any, time: Any, steps: Any) -> np.ndarray:
    checks.instance(
        "field",
        field,
        RandomField,
        "a random field such as nf.labs.stochastic.StochasticDepth(...)",
    )
    if not field.shared:
        raise InputTypeError(
            f"these moments are those of noise that the coordinates share, and each has its own in {type(field).__name__}"
        )
    checks.positive("time", time, "the length of the interval in depth time")
    checks.whole("steps", steps)
    field.check(np.linspace(0, time, steps + 1)[:-1])
    x = np.asarray(x, float)
    if x.ndim != 1 or not np.isfinite(x).all() or not x.size:
        raise InputError(f"moments start from one point (d,) of finite numbers, got {x.tolist()}")
    return x
