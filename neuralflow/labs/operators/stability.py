"""How long an explicit step may be on a partial differential equation (Courant, Friedrichs & Lewy).

This module holds the waves of an equation. `neuralflow/schemes/analysis.py` tells what a scheme
does to one wave.
"""

from __future__ import annotations

import math
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
    ConvolutionEnergy,
    DifferentialOperator,
    KineticEnergy,
)
from neuralflow.labs.operators.kernels import check_frequencies, symbol
from neuralflow.layers import NeuralODE
from neuralflow.schemes import analysis

# The search ends at this many times the inverse of the spectral radius.
_LONGEST = 64.0
# The first is what rounding may add to a growth of one. Steps up to the second, times the inverse
# of the radius, pass because of this allowance alone.
_SLACK, _NONE = 1e-12, 1e-5


def spectrum(field: nnx.Module, frequencies: int = 32) -> np.ndarray:
    """Return the growth rates of the waves of a field.

    The rates of a `DifferentialOperator` are the eigenvalues of its symbol at the waves of a grid
    without edges.

    For `parabolic`, the rates lie in the interval [-|K|^2 max S'', 0]. The interval holds the rates
    of all linearisations of the field. For `hyperbolic` and `hamiltonian`, the corresponding
    interval lies on the imaginary axis. 65 points represent an interval.

    Args:
        field: A `DifferentialOperator`, or a field of `parabolic`, `hyperbolic` or `hamiltonian`.
        frequencies: The even number of waves an axis.

    Returns:
        The complex rates, in units of 1 / depth time. A pair of complex conjugates may stand there
        with one member only.

    Raises:
        InputTypeError: The field is of another kind, or the operator has other channels out than
            in.
        InputError: The second derivative of the potential has no bound, or `frequencies` is odd,
            below 2 or too large.
    """
    check_frequencies(frequencies)
    if type(field) is DifferentialOperator:
        waves = symbol(field.kernel, frequencies)
        if waves.shape[1] != waves.shape[2]:
            raise InputTypeError(
                f"an operator from {waves.shape[2]} to {waves.shape[1]} channels is no velocity "
                "field; its spectrum is that of a square one"
            )
        return np.linalg.eigvals(waves).ravel()
    if type(field) is Gradient and type(field.energy) in (ConvolutionEnergy, KineticEnergy):
        return -_curvature(field.energy, frequencies) * np.linspace(0, 1, 65).astype(complex)
    if type(field) is Hamiltonian and type(field.energy) is Separable:
        parts = field.energy.kinetic, field.energy.potential
        if all(type(part) in (ConvolutionEnergy, KineticEnergy) for part in parts):
            fastest = math.prod(_curvature(part, frequencies) for part in parts) ** 0.5
            return 1j * fastest * np.linspace(0, 1, 65)
    raise InputTypeError(
        "field must be a DifferentialOperator, or of nf.labs.operators.parabolic, hyperbolic or "
        f"hamiltonian; the waves of a {type(field).__name__} are not known"
    )


def _curvature(energy: Any, frequencies: int) -> float:
    """Return an upper bound |K|^2 max S'' of the second derivatives of the energy."""
    if type(energy) is KineticEnergy:
        return 1.0
    size = np.linalg.norm(
        symbol(energy.convolution.kernel[...], frequencies), ord=2, axis=(1, 2)
    ).max()
    places = jnp.linspace(-30.0, 30.0, 6001)
    slope = jax.grad(energy.potential)
    bends = np.abs(jax.vmap(jax.grad(slope))(places))
    rises = np.abs(np.diff(jax.vmap(slope)(places))) / 0.01
    inside = bends[1500:-1500].max()
    if not np.isfinite(bends).all() or max(bends.max(), rises.max()) > 1.05 * inside + 1e-3:
        raise InputError(
            "the second derivative of the potential has no bound between -30 and 30, so no step is "
            "stable for all states; take a smooth one that grows like |x| or x^2, such as log cosh"
        )
    return float(size**2 * inside)


def stable_step(field: nnx.Module, scheme: AbstractSolver, frequencies: int = 32) -> float:
    """Return the longest step of a scheme under which every wave grows no more than it may.

    Every step up to the result is stable. Under a stable step of length h, a wave that decays or
    stays does not grow. A wave whose rate r has Re r > 0 grows at most by the factor
    1 / (1 - h Re r), the growth of implicit Euler. From h Re r = 1 on, any growth is allowed. Von
    Neumann's condition leaves room of O(h) for such a choice.

    Let R stand for the largest absolute rate. The result is zero if no step above 1e-5 / R is
    stable, as for pure convection under Euler. The result is infinite if all steps up to 64 / R are
    stable, or if R is zero.

    Args:
        field: A field with a `spectrum`.
        scheme: A scheme of `nf.schemes.analysis.growth`.
        frequencies: The even number of waves an axis.

    Returns:
        The longest stable step, in depth time.

    Raises:
        InputTypeError: The waves of the field are not known, or `scheme` is no scheme.
        InputError: The potential has no bound, or `frequencies` is odd or below 2.
    """
    checks.instance("scheme", scheme, AbstractSolver, "a scheme such as nf.Euler()")
    return _stable_step(spectrum(field, frequencies), scheme)


def _stable_step(rates: np.ndarray, scheme: AbstractSolver) -> float:
    radius = float(np.abs(rates).max())
    if not radius:
        return math.inf
    rates = np.unique(np.round(rates / radius, 12))

    def stable(lengths):
        return _growth(rates, scheme, lengths) <= 1 + _SLACK

    def enough(low, high):
        return high <= _NONE or high - low <= 1e-10 * high

    limit = analysis.longest(stable, _LONGEST, scan=256, cuts=16, enough=enough)
    return limit / radius if limit > _NONE else 0.0


def _growth(rates: np.ndarray, scheme: AbstractSolver, lengths: Any) -> np.ndarray:
    """Return the largest growth over the waves, for a step of every length.

    The growth is relative to the growth that the rate of the wave allows.
    """
    z = np.atleast_1d(lengths)[:, None] * rates
    rise = np.clip(np.real(z), 0, None)
    allowed = 1 / np.where(rise < 1, 1 - rise, 1)
    return np.where(rise < 1, analysis.growth(scheme, z) / allowed, 0).max(axis=1)


@dataclass(frozen=True)
class Stability:
    """The steps of a layer on a partial differential equation, each beside the longest stable step.

    Attributes:
        scheme: The name of the scheme.
        rate: The largest real part of the rates of the equation, in 1 / depth time. A wave
            grows in the equation itself if `rate` is positive.
        cells: The number of equal steps must be a multiple of `cells`.
        steps: The lengths of the steps in depth time, `(steps,)`.
        limits: The longest stable step by `stable_step` for the weights where each step starts,
            `(steps,)`.
        growth: The factor by which each step multiplies the wave that grows most, relative to the
            growth that the equation allows, `(steps,)`. A step is stable if the factor is at most
            1.
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
                f"move and hardly decay (growth {self.growth[worst]:.6g} a step); take a scheme "
                "whose region holds a piece of the imaginary axis (nf.RK4(), or "
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


def stability(layer: NeuralODE, frequencies: int = 32) -> Stability:
    """Compare the steps of a layer with the stability bound of its equation.

    Von Neumann's analysis applies to each step with frozen weights. The frozen weights are those at
    the depth where the step starts.

    The condition is necessary on periodic grids. It is also sufficient if the symbols are normal
    matrices and the weights are constant. For nonlinear fields, the condition concerns the
    linearisations.

    Args:
        layer: A layer on a fixed grid, whose field has a `spectrum`.
        frequencies: The even number of waves an axis.

    Returns:
        The lengths of the steps, their limits and their growth.

    Raises:
        InputTypeError: The layer is adaptive, or its field has no `spectrum`.
        InputError: The potential has no bound, or `frequencies` is odd or below 2.

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
    check_frequencies(frequencies)
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
    for k, step in enumerate(steps):
        local = tuple((int(cell), float(s)) for cell, s in plan.local(0.0, k))
        if local not in known:
            rates = np.sign(length) * spectrum(field_in_step(layer.field, local), frequencies)
            known[local] = rates, _stable_step(rates, scheme)
        rates, limit = known[local]
        limits.append(limit)
        growth.append(_growth(rates, scheme, abs(step))[0])
    rate = max(float(np.real(rates).max()) for rates, _ in known.values())
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
