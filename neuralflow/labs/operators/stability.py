"""How long an explicit step may be on a partial differential equation (Courant, Friedrichs & Lewy).

This module holds the waves of an equation. `neuralflow.schemes.analysis` tells what a scheme does
to one wave.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractSolver
from flax import nnx

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import FlatField, field_in_step, raw
from neuralflow.fields import Gradient, Hamiltonian, Separable
from neuralflow.labs.operators.equations import (
    TERMS,
    ConvolutionEnergy,
    DifferentialOperator,
    KineticEnergy,
)
from neuralflow.labs.operators.kernels import check_points, symbol
from neuralflow.layers import NeuralODE
from neuralflow.schemes import analysis

__all__ = ["Stability", "check", "spectrum", "stability", "stable_step"]
__docformat__ = "google"

# Where channels are coupled, rounding may add this to an eigenvalue, relative to the matrix.
_ROUNDING = 1e-12
# A wave of so many radians a point stands for the limit of ever longer waves.
_LONG = 2.0**-12
# The search for the wave that limits the step begins with so many waves a half turn, follows so
# many of them, looks so far to each side, and ends at so fine a distance or after so many rounds.
_BEGIN, _FOLLOWED, _REACH, _FINEST, _ROUNDS = 16, 6, 4, 1e-7, 60


def spectrum(field: nnx.Module, points: int = 32) -> np.ndarray:
    """Return the growth rates of the waves of a field on a periodic grid.

    The rates of a `neuralflow.labs.operators.DifferentialOperator` are the eigenvalues of its
    symbol at the waves of the grid.

    For `neuralflow.labs.operators.parabolic`, the rates lie in the interval [-|K|^2 max S'', 0].
    The interval holds the rates of all linearisations of the field on all grids. For
    `neuralflow.labs.operators.hyperbolic` and `neuralflow.labs.operators.hamiltonian`, the
    corresponding interval lies on the imaginary axis. 65 points represent an interval. |K| is the
    largest norm of the symbol of K over all waves, rounded up by at most 0.13 % an axis for a
    kernel of three points.

    Args:
        field: A `neuralflow.labs.operators.DifferentialOperator`, or a field of
            `neuralflow.labs.operators.parabolic`, `neuralflow.labs.operators.hyperbolic` or
            `neuralflow.labs.operators.hamiltonian`.
        points: The number of points an axis. A grid of n points has n waves an axis.

    Returns:
        The complex rates, in units of 1 / depth time. A pair of complex conjugates may stand there
        with one member only.

    Raises:
        InputTypeError: The field is of another kind, the operator has other channels out than in,
            or `points` is no whole number.
        InputError: The second derivative of the potential has no bound, or `points` is below 1 or
            too large.
    """
    check_points(points)
    if type(field) is DifferentialOperator:
        return _rates(field, _waves(points, field.dimension)).ravel()
    return _end(field) * np.linspace(0, 1, 65)


def _waves(points: int, dimension: int) -> np.ndarray:
    """Return the waves of a grid, `(waves, dimension)`, in radians a point.

    Half of them stand for their complex conjugates.
    """
    checks.held(f"the waves at points = {points}", int(points) ** dimension, "take fewer")
    turns = 2 * np.pi * np.arange(points) / points
    axes = [turns[: points // 2 + 1], turns][-dimension:] if dimension > 1 else [turns]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dimension)


def _rates(field: DifferentialOperator, waves: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of the symbol at waves `(..., dimension)`, `(..., channels)`."""
    values = np.asarray(field.coefficients[...], float)
    if values.shape[1] != values.shape[2]:
        raise InputTypeError(
            f"an operator from {values.shape[1]} to {values.shape[2]} channels is no velocity "
            "field; its spectrum is that of a square one"
        )
    # The exact symbols of the stencils keep their digits for long waves.
    h = field.spacing
    half = np.sin(waves / 2)
    # The shortest wave stands still: sin(pi) is zero, and not a rounding error.
    cosine = np.where(np.abs(waves) % (2 * np.pi) == np.pi, 0, np.cos(waves / 2))
    lines = [np.ones_like(waves), 2j * half * cosine / h, -4 * (half / h) ** 2]
    terms = [
        math.prod(lines[order][..., axis] for axis, order in enumerate(term))
        for term in TERMS[field.dimension]
    ]
    matrices = np.tensordot(np.stack(terms, axis=-1), values, 1)
    rates: Any = np.linalg.eigvals(matrices).astype(complex)
    coupled = (np.abs(matrices) * (1 - np.eye(len(values[0])))).any(axis=(-1, -2))
    noise = np.where(coupled, _ROUNDING * np.linalg.norm(matrices, axis=(-1, -2)), 0)[..., None]
    real, imaginary = (np.where(np.abs(x) > noise, x, 0) for x in (rates.real, rates.imag))
    return real + 1j * imaginary


def _end(field: nnx.Module) -> complex:
    """Return the end of the interval of the rates of a field of convolution energies."""
    if type(field) is Gradient and type(field.energy) in (ConvolutionEnergy, KineticEnergy):
        return complex(-_curvature(field.energy))
    if type(field) is Hamiltonian and type(field.energy) is Separable:
        parts = field.energy.kinetic, field.energy.potential
        if all(type(part) in (ConvolutionEnergy, KineticEnergy) for part in parts):
            return 1j * math.prod(map(_curvature, parts)) ** 0.5
    raise InputTypeError(
        "field must be a DifferentialOperator, or of nf.labs.operators.parabolic, hyperbolic or "
        f"hamiltonian; the waves of a {type(field).__name__} are not known"
    )


def _curvature(energy: Any) -> float:
    """Return an upper bound |K|^2 max S'' of the second derivatives of the energy."""
    if type(energy) is KineticEnergy:
        return 1.0
    slope = jax.grad(energy.potential)
    bend = jax.vmap(jax.grad(slope))
    places = np.linspace(-30.0, 30.0, 6001)
    bends = np.abs(bend(jnp.asarray(places)))
    rises = np.abs(np.diff(jax.vmap(slope)(jnp.asarray(places)))) / 0.01
    inside = bends[1500:-1500].max()
    if not np.isfinite(bends).all() or max(bends.max(), rises.max()) > 1.05 * inside + 1e-3:
        raise InputError(
            "the second derivative of the potential has no bound between -30 and 30, so no step is "
            "stable for all states; take a smooth one that grows like |x| or x^2, such as log cosh"
        )
    for width in (1e-2, 1e-4):
        places = places[bends.argmax()] + width * np.linspace(-1, 1, 201)
        bends = np.abs(bend(jnp.asarray(places)))
        inside = max(inside, bends.max())
    return float(_norm(energy.convolution.kernel[...]) ** 2 * inside)


def _norm(kernel: Any) -> float:
    """Return an upper bound of the norm of a convolution, over all waves.

    The symbol is a trigonometric polynomial of degree m = (k - 1) / 2 in the wave of an axis. Its
    largest value is at most that on N equally spaced waves over cos(pi m / N). For an even k, m is
    half a whole number, and the polynomial one with the double period.

    Source:
        Ehlich & Zeller 1964, as recalled.
    """
    kernel = np.asarray(kernel, float)
    sizes = kernel.shape[:-2]
    points = max(64, 8 * max(sizes))
    largest = np.linalg.norm(symbol(kernel, points), ord=2, axis=(1, 2)).max()
    return float(largest / math.prod(math.cos(math.pi * (k - 1) / 2 / points) for k in sizes))


def stable_step(field: nnx.Module, scheme: AbstractSolver, points: int | None = None) -> float:
    """Return the longest step of a scheme under which every wave grows no more than it may.

    Every step up to the result is stable. Under a stable step of length h, a wave that decays or
    stays does not grow. A wave whose rate r has Re r > 0 grows at most by the factor
    1 / (1 - h Re r), the growth of implicit Euler. From h Re r = 1 on, any growth is allowed. Von
    Neumann's condition leaves room of O(h) for such a choice.

    The waves are those of periodic grids. Without `points`, the step is stable on every grid. A
    search over all waves follows those with the shortest stable steps, down to ever longer waves
    and to 1e-7 radians a point.

    The result is zero if some wave grows under arbitrarily short steps, as for pure convection
    under Euler or Heun. Between a wave that grows in the equation and a wave that decays lies one
    that does neither. If this wave moves, Euler and Heun have no stable step. The result is
    infinite if every wave is stable for all h |r| up to 64, or if all rates are zero.

    Args:
        field: A field with a `spectrum`.
        scheme: A scheme of `neuralflow.schemes.analysis.growth`.
        points: The number of points an axis of the one grid whose waves count. None stands for
            every grid. The bounds of `neuralflow.labs.operators.parabolic`,
            `neuralflow.labs.operators.hyperbolic` and `neuralflow.labs.operators.hamiltonian` hold
            on every grid in any case.

    Returns:
        The longest stable step, in depth time.

    Raises:
        InputTypeError: The waves of the field are not known, `scheme` is no scheme, or `points` is
            no whole number.
        InputError: The potential has no bound, or `points` is below 1 or too large.
        InputError: `points` is given for an operator whose grid does not go round.

    Example:
        >>> import neuralflow as nf
        >>> from neuralflow.labs import operators
        >>> moved = [[[0.0]], [[1.3]], [[0.4]]]
        >>> line = operators.DifferentialOperator(1, 1, dimension=1, coefficients=moved)
        >>> round(operators.stable_step(line, nf.Euler()), 4), round(2 * 0.4 / 1.3**2, 4)
        (0.4734, 0.4734)
    """
    checks.instance("scheme", scheme, AbstractSolver, "a scheme such as nf.Euler()")
    if points is not None:
        check_points(points)
    return _stable_step(field, analysis.StableSteps(scheme), points, 1)[0]


def _stable_step(
    field: nnx.Module, steps: analysis.StableSteps, points: int | None, sign: int
) -> tuple[float, np.ndarray]:
    """Return the longest stable step, and the rates that were looked at first."""
    if type(field) is not DifferentialOperator:
        rates = np.asarray([sign * _end(field)])
        return float(steps.longest(rates).min()), rates
    if points is not None and field.boundary != "periodic":
        raise InputError(
            f"a grid of points = {points} points has waves of its own where it goes round, and "
            f"this operator's boundary is {field.boundary!r}; leave points out for a step that is "
            "stable on every grid, or take boundary='periodic'"
        )

    def rates_at(waves: np.ndarray) -> np.ndarray:
        return sign * _rates(field, waves)

    if points is not None:
        rates, limit = np.unique(rates_at(_waves(points, field.dimension))), math.inf
        for part in np.array_split(rates, -(-len(rates) // 1024)):
            ends = np.minimum(limit * np.maximum(np.abs(part), 1e-300), 64.0)
            limit = min(limit, float(steps.longest(part, ends).min()))
        return limit, rates

    def short(waves: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(waves, axis=-1, keepdims=True)
        return rates_at(np.where(length < _LONG, 0, waves))

    def long(angles: np.ndarray) -> np.ndarray:
        if field.dimension == 1:
            return rates_at(np.full((*angles.shape[:-1], 1), _LONG))
        return rates_at(_LONG * np.concatenate([np.cos(angles), np.sin(angles)], axis=-1))

    shortest = min(
        _shortest(short, field.dimension, steps),
        _shortest(long, field.dimension - 1, steps, edge=False),
        key=lambda found: found[0],
    )
    first = rates_at(_waves(2 * _BEGIN, field.dimension)).ravel()
    return shortest[0], np.concatenate([first, shortest[1]])


def _shortest(
    rates_at: Callable[[np.ndarray], np.ndarray],
    dimension: int,
    steps: analysis.StableSteps,
    edge: bool = True,
) -> tuple[float, np.ndarray]:
    """Return the shortest of the longest stable steps of all waves, and the rates of its wave.

    The search solves on a few waves, follows those with the shortest steps to the waves around
    them, and looks ever closer.

    Args:
        rates_at: The rates `(..., channels)` at waves `(..., dimension)` of period 2 pi.
        dimension: The number of coordinates of a wave.
        steps: The stable steps of the scheme.
        edge: Whether rates on the imaginary axis lie there exactly, among the first waves.
    """
    cell = math.pi / _BEGIN
    waves = cell * _patch(_BEGIN, dimension)
    rates = rates_at(waves)
    crossing = _crossing(rates_at, waves[None], rates[None], steps)
    limits = _limits(rates, steps, 64.0, 512, edge, exact=False)
    if not limits.all() or len(crossing):
        return 0.0, np.concatenate([rates[limits == 0].ravel(), crossing])
    chosen: list[int] = []
    for k in np.argsort(limits):
        apart = np.abs(waves[chosen] - waves[k]).max(axis=-1, initial=0) > 2.5 * cell
        if limits[k] < np.inf and apart.all() and len(chosen) < _FOLLOWED:
            chosen.append(int(k))
    if not chosen:
        return math.inf, np.zeros(0)
    centres, cells = waves[chosen], np.full(len(chosen), cell / _REACH)
    best = _limits(rates[chosen], steps, 64.0, 512, edge)
    row, patch = np.arange(len(chosen)), _patch(_REACH, dimension)
    inner = np.abs(patch).max(axis=-1, initial=0) < _REACH
    for _ in range(_ROUNDS if dimension else 0):
        waves = centres[:, None] + cells[:, None, None] * patch
        rates = rates_at(waves)
        crossing = _crossing(rates_at, waves, rates, steps)
        limits = _limits(rates, steps, best[:, None, None] * np.abs(rates), 64, False)
        if not limits.all() or len(crossing):
            return 0.0, np.concatenate([rates[limits == 0].ravel(), crossing])
        worst = limits.argmin(axis=1)
        gain = 1 - limits[row, worst] / best
        centres = np.where(gain[:, None] > 0, waves[row, worst], centres)
        best = np.fmin(best, limits[row, worst])
        # A candidate at the rim goes on in longer strides, as far as it gains.
        near = inner[worst] | (gain < 1e-6)
        cells = np.where(near, cells / _REACH, np.minimum(2 * cells, cell))
        if (cells < _FINEST).all():
            break
    return float(best.min()), rates_at(centres[best.argmin()])


def _patch(reach: int, dimension: int) -> np.ndarray:
    """Return the points with whole coordinates up to `reach`, `(points, dimension)`."""
    points = list(itertools.product(range(-reach, reach + 1), repeat=dimension))
    return np.asarray(points, float)


def _limits(
    rates: Any,
    steps: analysis.StableSteps,
    largest: Any,
    scan: int,
    edge: bool,
    **options: Any,
) -> np.ndarray:
    """Return the longest stable steps of waves, from their rates `(..., channels)`."""
    limits = steps.longest(rates, largest, scan, **options)
    # Without `edge`, a real part of zero may be the rounding of a small one.
    left_out = (limits == 0) & (rates.real == 0) & (not edge)
    return np.where(left_out, np.inf, limits).min(axis=-1)


def _crossing(
    rates_at: Callable[[np.ndarray], np.ndarray],
    waves: np.ndarray,
    rates: np.ndarray,
    steps: analysis.StableSteps,
) -> np.ndarray:
    """Return rates on the imaginary axis between waves `(rows, waves, dimension)`.

    Where no step is stable on the axis, such a rate leaves none for the equation. A rate crosses
    the axis, or goes through zero, between two waves with different numbers of growing rates.
    """
    if steps.longest(np.asarray(1j)):
        return np.zeros(0)

    def growing(rates: Any) -> np.ndarray:
        return (rates.real > 0).sum(axis=-1)

    differ = np.diff(growing(rates), axis=1) != 0
    left, right = waves[:, :-1][differ], waves[:, 1:][differ]
    if not len(left):
        return np.zeros(0)
    count = growing(rates_at(left))
    for _ in range(60):
        middle = (left + right) / 2
        same = (growing(rates_at(middle)) == count)[:, None]
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    ends: Any = rates_at(left)
    return ends[np.abs(ends.real) < 1e-12 * np.abs(ends.imag)]


@dataclass(frozen=True)
class Stability:
    """The steps of a layer on a partial differential equation, each beside the longest stable step.

    Attributes:
        scheme: The name of the scheme.
        rate: The largest real part of the rates that were looked at, in 1 / depth time. A wave
            grows in the equation itself if `rate` is positive.
        cells: The number of equal steps must be a multiple of `cells`.
        steps: The lengths of the steps in depth time, `(steps,)`.
        limits: The longest stable step by `stable_step` for the weights where each step starts,
            `(steps,)`.
        growth: The factor by which each step multiplies the wave that grows most among those that
            were looked at, relative to the growth that the equation allows, `(steps,)`. These are
            the waves of a grid of 32 points an axis, or of `points`, and the wave that limits the
            step. The factor is at most 1 under a stable step.
    """

    scheme: str
    rate: float
    cells: int
    steps: np.ndarray
    limits: np.ndarray
    growth: np.ndarray

    @property
    def stable(self) -> bool:
        """Whether no step is too long."""
        return bool((self.steps <= self.limits * (1 + 1e-9)).all())

    def sentence(self) -> str:
        """Return the verdict in words."""
        with np.errstate(divide="ignore"):
            share = self.steps / self.limits
        worst = int(share.argmax())
        length, limit = self.steps[worst], self.limits[worst]
        if self.stable:
            bound = "any length" if math.isinf(limit) else f"{limit:.4g}"
            grows = (
                f" Waves grow in the equation itself, at rates up to {self.rate:.4g}."
                if self.rate > 1e-12
                else ""
            )
            return (
                f"Stable: the step nearest to its limit is {length:.4g} long, and {self.scheme} "
                f"allows {bound}.{grows}"
            )
        if not limit:
            return (
                f"Unstable: {self.scheme} has no stable step on this equation, some of whose waves "
                f"move and hardly decay or grow (growth {self.growth[worst]:.6g} a step); take a "
                "scheme whose region holds a piece of the imaginary axis (nf.RK4(), or "
                "nf.schemes.RevNet() for waves), or more diffusion."
            )
        count = self.cells * math.ceil(self.steps.sum() / limit / self.cells - 1e-9)
        return (
            f"Unstable: step {worst} of {len(self.steps)} is {length:.4g} long where {self.scheme} "
            f"allows {limit:.4g} (growth {self.growth[worst]:.4g} a step); take {count} equal "
            "steps or more, or a scheme with a larger region of stability."
        )

    def __str__(self) -> str:
        rows = [("step", "length", "limit", "growth")]
        rows += [
            (str(k), f"{a:.4g}", f"{b:.4g}", f"{c:.4g}")
            for k, (a, b, c) in enumerate(zip(self.steps, self.limits, self.growth, strict=True))
        ]
        return "\n".join(
            [*("  ".join(f"{cell:>9}" for cell in row) for row in rows), self.sentence()]
        )


def stability(layer: NeuralODE, points: int | None = None) -> Stability:
    """Compare the steps of a layer with the stability bound of its equation.

    Von Neumann's analysis applies to each step with frozen weights. The frozen weights are those at
    the depth where the step starts.

    The condition is necessary on periodic grids. It is also sufficient if the symbols are normal
    matrices and the weights are constant. For nonlinear fields, the condition concerns the
    linearisations.

    Args:
        layer: A layer on a fixed grid, whose field has a `spectrum`.
        points: The number of points an axis of the grid in space. None stands for every grid. The
            bounds of `neuralflow.labs.operators.parabolic`, `neuralflow.labs.operators.hyperbolic`
            and `neuralflow.labs.operators.hamiltonian` hold on every grid in any case.

    Returns:
        The lengths of the steps, their limits and their growth.

    Raises:
        InputTypeError: The layer is adaptive, its field has no `spectrum`, or `points` is no whole
            number.
        InputError: The potential has no bound, or `points` is below 1 or too large.
        InputError: `points` is given for an operator whose grid does not go round.

    Example:
        >>> import neuralflow as nf
        >>> from neuralflow.labs import operators
        >>> one = [[[0.0]], [[0.0]], [[1.0]]]
        >>> heat = operators.DifferentialOperator(1, 1, dimension=1, coefficients=one)
        >>> layer = nf.NeuralODE(heat, nf.FixedGrid(nf.Euler(), steps=4))
        >>> print(operators.stability(layer).sentence())
        Stable: the step nearest to its limit is 0.25 long, and Euler allows 0.5.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    if points is not None:
        check_points(points)
    scheme = layer.discretisation.scheme
    if not layer.discretisation.planned:
        raise InputTypeError(
            "layer must walk a fixed grid, an adaptive one chooses stable steps by itself: "
            "layer.with_solve(nf.FixedGrid(...))"
        )
    plan = layer.plan()
    sign = -1 if layer.backward else 1
    length = sign * (float(raw(layer.t1)) - float(raw(layer.t0)))
    steps = np.abs(plan.lengths) / plan.total * length
    limits, growth, known = [], [], {}
    stable = analysis.StableSteps(scheme)
    for k, step in enumerate(steps):
        local = tuple((int(cell), float(s)) for cell, s in plan.local(0.0, k))
        field = field_in_step(layer.field, local)
        weights = tuple(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(nnx.state(field)))
        if weights not in known:
            known[weights] = _stable_step(field, stable, points, int(np.sign(length)))
        limit, rates = known[weights]
        limits.append(limit)
        growth.append(math.exp(stable.excess(abs(step) * rates).max()))
    rate = max(float(np.real(rates).max()) for _, rates in known.values())
    cells = math.lcm(*(basis.count for basis in FlatField(layer.field).bases))
    return Stability(
        type(scheme).__name__, rate, cells, np.abs(steps), np.asarray(limits), np.asarray(growth)
    )


def check(layer: NeuralODE) -> None:
    """Raise an error unless every step of a layer is stable on its equation, by `stability`.

    Args:
        layer: The layer to check, on a fixed grid.

    Raises:
        InputError: A step is too long.
        InputTypeError: The layer is adaptive, or its field has no `spectrum`.
    """
    verdict = stability(layer)
    if not verdict.stable:
        raise InputError(verdict.sentence())
