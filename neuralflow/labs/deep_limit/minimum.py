"""Minimisation that reaches the minimum, from many starts, and what it tells about the minima it met."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from neuralflow.depth import basis as depth_basis
from neuralflow.depth.basis import Basis
from neuralflow.labs.deep_limit.objective import Objective
from neuralflow.labs.deep_limit.problem import Problem
from neuralflow.schemes import Tsit5
from neuralflow.solve import Adaptive


@dataclass(frozen=True, eq=False)
class Minimum:
    """A minimiser: energy, weights on their basis, readout, predictions; and how it was reached.

    `gradient`: its largest entry in whitened coordinates. `iterations`: of L-BFGS.
    """

    energy: float
    basis: Basis
    theta: dict[str, np.ndarray]
    readout: dict[str, np.ndarray]
    prediction: np.ndarray
    gradient: float
    iterations: int

    def flat(self, matrix: np.ndarray) -> np.ndarray:
        """matrix @ coefficients, all weights side by side: (rows, parameters)."""
        return np.concatenate(
            [(matrix @ c.reshape(len(c), -1)) for c in self.theta.values()], axis=1
        )

    def at(self, depths: Any) -> np.ndarray:
        """All weights side by side at depths (m,) in [0, 1]: (m, parameters)."""
        return self.flat(depth_basis.evaluation(self.basis, np.asarray(depths, float)))


def minimise(
    objective: Objective,
    starts: Sequence[np.ndarray],
    *,
    tolerance: float = 1e-11,
    progress: float = 0.0,
) -> list[Minimum]:
    """Runs L-BFGS from every start, and returns the minima found, the best first and polished.

    L-BFGS ends where rounding hides the descent; Anderson's iteration, which sees the gradient alone, goes on from
    there to `tolerance`, the largest entry of the gradient in whitened coordinates (the curvature there is about two).
    On kinks, where the gradient does not vanish, L-BFGS crawls: `progress` is the fall of the energy, in one iteration, at
    which it gives up.
    """
    from scipy.optimize import minimize

    options = {"maxcor": 30, "maxiter": 2000, "maxfun": 4000, "ftol": progress, "gtol": 1e-7}
    runs = [
        minimize(lambda xi: objective(xi)[:2], start, jac=True, method="L-BFGS-B", options=options)
        for start in starts
    ]
    best, *others = sorted(runs, key=lambda run: run.fun)
    return [
        described(objective, _polished(objective, best.x, tolerance), int(best.nit)),
        *(described(objective, run.x, int(run.nit)) for run in others),
    ]


def _polished(objective: Objective, xi: np.ndarray, tolerance: float) -> np.ndarray:
    from scipy.linalg import LinAlgWarning
    from scipy.optimize import root

    def slope(xi):
        return objective(xi)[1]

    if np.abs(slope(xi)).max() > 1e-4:  # a kink, or no minimum at all: nothing to polish
        return xi
    options = {
        "fatol": tolerance,
        "maxiter": 60,
        "line_search": None,
        "jac_options": {"alpha": -0.5, "M": 10},
    }
    with (
        np.errstate(divide="ignore", invalid="ignore"),
        warnings.catch_warnings(),
    ):  # a minimum already
        warnings.simplefilter("ignore", LinAlgWarning)
        polished = root(slope, xi, method="anderson", options=options).x
    return min(polished, xi, key=lambda xi: np.abs(slope(xi)).max())


def described(objective: Objective, xi: np.ndarray, iterations: int = 0) -> Minimum:
    """The point with these coordinates."""
    energy, gradient, prediction = objective(xi)
    theta, readout = objective.parameters(np.asarray(xi))
    return Minimum(
        energy,
        objective.basis,
        theta,
        readout,
        prediction,
        float(np.abs(gradient).max()),
        iterations,
    )


def newton(
    objective: Objective, minimum: Minimum, *, tolerance: float = 1e-13, iterations: int = 8
) -> Minimum:
    """Polishes a minimum by Newton's method: exact Hessian-vector products inside conjugate gradients.

    In whitened coordinates the Hessian is twice the identity and a compact part, so that few products are enough at
    any depth. Stops at `tolerance` (largest entry of the gradient) or where the gradient no longer falls.
    """
    from scipy.sparse.linalg import cg

    xi = objective.coordinates(minimum.theta, minimum.readout)
    gradient = objective(xi)[1]
    for _ in range(iterations):
        if np.abs(gradient).max() <= tolerance:
            break
        step = xi - cg(_hessian(objective, xi), gradient, rtol=1e-10, maxiter=10 * len(xi))[0]
        moved = objective(step)[1]
        if np.abs(moved).max() >= np.abs(gradient).max():
            break
        xi, gradient = step, moved
    return replace(described(objective, xi), iterations=minimum.iterations)


def curvature(objective: Objective, minimum: Minimum) -> float:
    """The smallest eigenvalue of the Hessian in whitened coordinates (two, where the loss has no say).

    Positive at an isolated minimum; zero along a family of equal minima.
    """
    from scipy.sparse.linalg import eigsh

    xi = objective.coordinates(minimum.theta, minimum.readout)
    if len(xi) <= 16:  # Lanczos needs room
        return float(
            np.linalg.eigvalsh(np.stack([objective.bend(xi, v) for v in np.eye(len(xi))])).min()
        )
    options: dict[str, Any] = {"tol": 1e-6, "v0": np.random.default_rng(0).standard_normal(len(xi))}
    return float(
        eigsh(_hessian(objective, xi), k=1, which="SA", return_eigenvectors=False, **options)[0]
    )


def _hessian(objective: Objective, xi: np.ndarray) -> Any:
    from scipy.sparse.linalg import LinearOperator

    operator: Any = LinearOperator
    shape = (len(xi), len(xi))
    return operator(
        dtype=float, shape=shape, matvec=lambda v: objective.bend(xi, np.asarray(v, float).ravel())
    )


def basins(minima: Sequence[Minimum], tolerance: float = 1e-6) -> list[tuple[float, int]]:
    """The different energies that were met, to a relative tolerance, lowest first, and how often each was."""
    levels: list[tuple[float, int]] = []
    for energy in sorted(m.energy for m in minima):
        if levels and energy - levels[-1][0] <= tolerance * abs(levels[-1][0]):
            levels[-1] = (levels[-1][0], levels[-1][1] + 1)
        else:
            levels.append((energy, 1))
    return levels


def random_starts(
    objective: Objective, count: int, seed: int, scale: float = 0.3
) -> list[np.ndarray]:
    """Normal draws in whitened coordinates."""
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal(objective.size) for _ in range(count)]


def adaptive_energy(problem: Problem, minimum: Minimum, tolerance: float = 1e-10) -> float:
    """The energy of these weights with their ODE solved adaptively."""
    objective = Objective(problem, minimum.basis, Adaptive(Tsit5(), rtol=tolerance, atol=tolerance))
    return float(jax.jit(objective.energy)(objective.coordinates(minimum.theta, minimum.readout)))


def restarted(objective: Objective, minimum: Minimum) -> np.ndarray:
    """A minimum as a start at another depth: refined where the basis allows it, projected where not."""
    matrix = depth_basis.projection(minimum.basis, objective.basis)
    theta = {name: np.tensordot(matrix, value, axes=1) for name, value in minimum.theta.items()}
    return objective.coordinates(theta, minimum.readout)


def recovery(objective: Objective, limit: Minimum) -> np.ndarray:
    """The coordinates of the limit's weights, taken at the nodes: the recovery sequence of Gamma-convergence."""
    matrix = depth_basis.interpolation(objective.basis) @ depth_basis.evaluation(
        limit.basis, objective.basis.nodes
    )
    theta = {name: np.tensordot(matrix, value, axes=1) for name, value in limit.theta.items()}
    return objective.coordinates(theta, limit.readout)
