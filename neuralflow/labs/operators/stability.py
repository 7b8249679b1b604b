"""How long an explicit step may be on a partial differential equation (Courant, Friedrichs & Lewy).

What a scheme does to one wave is `schemes.analysis`; here are the waves of an equation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
from neuralflow.labs.operators.kernels import symbol
from neuralflow.layers import NeuralODE
from neuralflow.schemes import analysis

# Steps are looked for up to this many times the inverse of the spectral radius.
_LONGEST = 64.0
# What rounding may add to a growth of one, and steps (over the inverse of the radius) that pass by it alone.
_SLACK, _NONE = 1e-12, 1e-5


def spectrum(field: nnx.Module, frequencies: int = 32) -> np.ndarray:
    """Growth rates of the waves of a field, complex, those with their conjugates once.

    Of a `DifferentialOperator`: the eigenvalues of its symbol at `frequencies` waves an axis, on a grid without edges. Of `parabolic`:
    the interval [-|K|^2 max S'', 0] in which those of its linearisations lie, of `hyperbolic` and `hamiltonian` that on the imaginary
    axis, by 65 points. TypeError for other fields, and for operators with other channels out than in.
    """
    if type(field) is DifferentialOperator:
        waves = symbol(field.kernel, frequencies)
        if waves.shape[1] != waves.shape[2]:
            raise InputTypeError(
                f"an operator from {waves.shape[2]} to {waves.shape[1]} channels is no velocity field; its spectrum is that of a square one"
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
        f"the waves of a {type(field).__name__} are not known; they are of a DifferentialOperator, and of nf.labs.operators.parabolic, hyperbolic "
        "and hamiltonian"
    )


def _curvature(energy: Any, frequencies: int) -> float:
    """An upper bound of the energy's second derivatives, |K|^2 max S''."""
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
            "the second derivative of the potential has no bound between -30 and 30, so no step is stable for all states; take a smooth one "
            "that grows like |x| or x^2, such as log cosh"
        )
    return float(size**2 * inside)


def stable_step(field: nnx.Module, scheme: Any, frequencies: int = 32) -> float:
    """The longest step of a scheme under which no wave of a field grows that should not; depth time.

    With every step up to it, a wave that decays or stays does not grow, and one of rate r > 0 grows by 1 / (1 - h Re r) at most (by anything from h Re r = 1 on), which is
    that of implicit Euler (von Neumann's condition leaves room of O(h)). Zero where no step is stable, as for pure convection under Euler (below
    1e-5 over the largest rate); infinite past 64 over the largest rate. Schemes of `nf.schemes.analysis.growth`.
    """
    return _stable_step(spectrum(field, frequencies), scheme)


def _stable_step(rates: np.ndarray, scheme: Any) -> float:
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


def _growth(rates: np.ndarray, scheme: Any, lengths: Any) -> np.ndarray:
    """The largest growth of a step of every length over the waves, over what their own rates allow."""
    z = np.atleast_1d(lengths)[:, None] * rates
    rise = np.clip(np.real(z), 0, None)
    allowed = 1 / np.where(rise < 1, 1 - rise, 1)
    return np.where(rise < 1, analysis.growth(scheme, z) / allowed, 0).max(axis=1)


@dataclass(frozen=True)
class Stability:
    """The steps of a layer on a partial differential equation, each beside the longest stable one.

    `steps` (steps,): lengths in depth time. `limits` (steps,): by `stable_step`, with the weights where each starts. `growth` (steps,): by how
    much a step multiplies the wave that grows most, over what the equation itself allows; at most 1 is stable. `rate`: the largest rate at which a wave
    grows in the equation itself. `cells`: a number of which equal steps are a multiple.
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
        """The verdict in words."""
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
            return f"Stable: the step nearest to its limit is {length:.4g} long, and {self.scheme} allows {bound}.{grows}"
        if not limit:
            return (
                f"Unstable: {self.scheme} has no stable step on this equation, some of whose waves move and hardly decay (growth "
                f"{self.growth[worst]:.6g} a step); take a scheme whose region holds a piece of the imaginary axis (nf.RK4(), or "
                "nf.schemes.RevNet() for waves), or more diffusion."
            )
        count = self.cells * math.ceil(self.steps.sum() / limit / self.cells - 1e-9)
        return (
            f"Unstable: step {worst} of {len(self.steps)} is {length:.4g} long where {self.scheme} allows {limit:.4g} (growth {self.growth[worst]:.4g} a "
            f"step); take {count} equal steps or more, or a scheme with a larger region of stability."
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
    """The steps of a layer against the stability bound of its equation, by von Neumann's analysis of each with its weights frozen.

    Necessary and, where the symbols are normal matrices and the weights constant, sufficient on periodic grids; for nonlinear fields of the
    linearisations. Weights are those where a step starts. TypeError for adaptive layers, and fields without a `spectrum`.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    scheme = layer.discretisation.scheme
    if not layer.discretisation.planned:
        raise InputTypeError(
            "an adaptive layer chooses stable steps by itself; ask a fixed grid: layer.with_solve(nf.FixedGrid(...))"
        )
    plan = layer.plan
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
    """ValueError unless every step of a layer is stable on its equation, by `stability`."""
    verdict = stability(layer)
    if not verdict.stable:
        raise InputError(verdict.sentence())
