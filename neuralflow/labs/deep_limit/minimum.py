"""Minimisation from many starts that reaches the minimum, and what is known about the minima.

`objective` defines what is minimised. `pontryagin` finds the continuum optimum without
minimisation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from neuralflow import checks
from neuralflow.annotations import Reals
from neuralflow.checks import InputError
from neuralflow.depth import basis as depth_basis
from neuralflow.depth.basis import Basis
from neuralflow.labs.deep_limit.objective import Objective
from neuralflow.labs.deep_limit.problem import Problem
from neuralflow.schemes import Tsit5
from neuralflow.solve import Adaptive


@dataclass(frozen=True, eq=False)
class Minimum:
    """A minimiser of an objective, and how the minimiser was reached.

    Attributes:
        energy: The value of the objective.
        basis: The basis of the weights in depth.
        theta: The coefficients of the weights, by dotted name. The first axis counts the basis.
        readout: The parameters of the readout, by name.
        prediction: The predictions (samples, ...).
        gradient: The largest entry of the gradient in whitened coordinates. For a result of
            `pontryagin`, the largest relative residual of the collocation.
        iterations: The number of iterations of L-BFGS. For a result of `pontryagin`, the number of
            iterations of the collocation.

    Raises:
        InputError: A weight has another number of coefficients than the basis.
        InputTypeError: `basis` is no basis, or `theta` or `readout` is no mapping to arrays.
    """

    energy: float
    basis: Basis
    theta: dict[str, np.ndarray]
    readout: dict[str, np.ndarray]
    prediction: np.ndarray
    gradient: float
    iterations: int

    def __post_init__(self):
        checks.instance("basis", self.basis, Basis, "a basis such as nf.PiecewiseLinear(8)")
        for what in ("theta", "readout"):
            checks.instance(what, getattr(self, what), Mapping, "a mapping from names to arrays")
            for name, value in getattr(self, what).items():
                array = checks.numbers(f"{what}[{name!r}]", value, finite=False)
                if what == "theta" and array.shape[:1] != (self.basis.size,):
                    raise InputError(
                        f"theta[{name!r}] must have {self.basis.size} coefficients on axis 0, as "
                        f"the basis has, got shape {array.shape}"
                    )

    def flat(self, matrix: np.ndarray) -> np.ndarray:
        """Apply a matrix to the coefficients of all weights.

        Args:
            matrix: A matrix (rows, basis size).

        Returns:
            matrix @ coefficients (rows, parameters), with all weights side by side.

        Raises:
            InputError: `matrix` does not have one column for each coefficient.
            InputTypeError: `matrix` is not made of real numbers.
        """
        matrix = np.asarray(checks.numbers("matrix", matrix))
        if matrix.ndim != 2 or matrix.shape[1] != self.basis.size:
            raise InputError(
                f"matrix must have the shape (rows, {self.basis.size}), got {matrix.shape}"
            )
        return np.concatenate(
            [(matrix @ c.reshape(len(c), -1)) for c in self.theta.values()], axis=1
        )

    def at(self, depths: Reals) -> np.ndarray:
        """Evaluate all weights at some depths.

        Args:
            depths: Normalised depths (m,) in [0, 1].

        Returns:
            The weights (m, parameters), side by side.

        Raises:
            InputError: `depths` has another number of axes, or a depth lies outside [0, 1].
            InputTypeError: `depths` is not made of real numbers.
        """
        points = np.asarray(checks.numbers("depths", depths), float)
        if points.ndim != 1 or not ((points >= 0) & (points <= 1)).all():
            raise InputError(
                "depths must be a row of numbers in [0, 1], got "
                f"{points if points.ndim == 1 else f'shape {points.shape}'}"
            )
        return self.flat(depth_basis.evaluation(self.basis, points))


def check_minimum(name: str, value: Any) -> None:
    """Refuse anything but a minimum.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.

    Raises:
        InputTypeError: `value` is no `Minimum`.
    """
    checks.instance(name, value, Minimum, "a Minimum such as a study's .limit")


def _check_objective(objective: Any) -> None:
    checks.instance("objective", objective, Objective, "an Objective such as discrete(...)")


def minimise(
    objective: Objective,
    starts: Sequence[np.ndarray],
    *,
    tolerance: float = 1e-11,
    progress: float = 0.0,
) -> list[Minimum]:
    """Run L-BFGS from every start, and polish the best minimum.

    L-BFGS ends where rounding hides the descent. Anderson's iteration uses the gradient alone and
    continues from there.

    Args:
        objective: The objective.
        starts: Starts (size,) in whitened coordinates.
        tolerance: The largest entry of the gradient in whitened coordinates at which the polishing
            ends. The curvature in these coordinates is about two.
        progress: The fall of the energy in one iteration at which L-BFGS gives up. For energies
            above one, the fall is relative to the energy. L-BFGS is slow on kinks, where the
            gradient does not vanish. The default 0 lets L-BFGS continue as long as the energy
            falls.

    Returns:
        One minimum for each start, the lowest energy first. Only the first minimum is polished.

    Raises:
        InputError: There is no start, a start has another shape or is not finite, or `tolerance`
            or `progress` is negative.
        InputTypeError: An argument is of another kind.
    """
    _check_objective(objective)
    checks.number("tolerance", tolerance, least=0.0)
    checks.number("progress", progress, least=0.0)
    starts = [
        np.asarray(checks.numbers("a start of starts", objective._checked("starts[i]", start)))
        for start in checks.sequence("starts", starts, "a list of coordinates (size,)")
    ]
    if not starts:
        raise InputError("starts must hold one start at least, such as random_starts(...)")
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

    # Such a gradient belongs to a kink or to no minimum: there is nothing to polish.
    if np.abs(slope(xi)).max() > 1e-4:
        return xi
    options = {
        "fatol": tolerance,
        "maxiter": 60,
        "line_search": None,
        "jac_options": {"alpha": -0.5, "M": 10},
    }
    # At a minimum already, the iteration divides by zero.
    with (
        np.errstate(divide="ignore", invalid="ignore"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", LinAlgWarning)
        polished = root(slope, xi, method="anderson", options=options).x
    return min(polished, xi, key=lambda xi: np.abs(slope(xi)).max())


def described(objective: Objective, xi: np.ndarray, iterations: int = 0) -> Minimum:
    """Describe a point by its energy, weights and predictions.

    Args:
        objective: The objective.
        xi: The whitened coordinates (size,) of the point.
        iterations: The number of iterations that the description states.

    Returns:
        The point as a `Minimum`, whether or not it is one.

    Raises:
        InputError: `xi` has another shape, or `iterations` is negative.
        InputTypeError: An argument is of another kind.
    """
    _check_objective(objective)
    checks.whole("iterations", iterations, least=0)
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
    """Polish a minimum by Newton's method.

    Conjugate gradients solve for each step, with exact Hessian-vector products. In whitened
    coordinates the Hessian is twice the identity plus a compact part. Few products are therefore
    enough at any depth.

    Args:
        objective: The objective.
        minimum: The minimum to polish.
        tolerance: The largest entry of the gradient at which the method stops.
        iterations: The largest number of Newton steps. The method also stops where the gradient no
            longer falls.

    Returns:
        The polished minimum. Its `iterations` are those of `minimum`.

    Raises:
        InputError: `minimum` has other parameters than `objective`, `tolerance` is negative, or
            `iterations` is below 1.
        InputTypeError: An argument is of another kind.
    """
    _check_objective(objective)
    check_minimum("minimum", minimum)
    checks.number("tolerance", tolerance, least=0.0)
    checks.whole("iterations", iterations)
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
    """Return the smallest eigenvalue of the Hessian in whitened coordinates.

    The eigenvalue is positive at an isolated minimum, and zero along a family of equal minima.
    Along directions in which the loss is flat, the regulariser alone gives the eigenvalue two.

    Args:
        objective: The objective.
        minimum: A minimum of `objective`.

    Raises:
        InputError: `minimum` has other parameters than `objective`.
        InputTypeError: An argument is of another kind.
    """
    _check_objective(objective)
    check_minimum("minimum", minimum)
    from scipy.sparse.linalg import eigsh

    xi = objective.coordinates(minimum.theta, minimum.readout)
    if len(xi) <= 16:  # Too few coordinates for Lanczos.
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
    """Count how often each different energy occurs among minima.

    Args:
        minima: The minima.
        tolerance: The relative difference up to which two energies are equal.

    Returns:
        Pairs (energy, count), the lowest energy first.

    Raises:
        InputError: `tolerance` is negative.
        InputTypeError: `minima` is no sequence of `Minimum`, or `tolerance` is not a number.
    """
    for minimum in checks.sequence("minima", minima, "a list of Minimum"):
        check_minimum("each of minima", minimum)
    checks.number("tolerance", tolerance, least=0.0)
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
    """Draw normal starts in whitened coordinates.

    Args:
        objective: The objective.
        count: The number of starts.
        seed: The seed of the draws.
        scale: The standard deviation of every coordinate.

    Returns:
        `count` starts (size,).

    Raises:
        InputError: `count` is below 1, the starts would hold more than 2^30 numbers, `seed` is
            negative or 2^63 or more, or `scale` is not positive.
        InputTypeError: An argument is of another kind.
    """
    _check_objective(objective)
    checks.whole("count", count)
    checks.held(f"count = {count} starts", int(count) * objective.size, "take fewer")
    checks.seed("seed", seed)
    checks.number("scale", scale, above=0.0)
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal(objective.size) for _ in range(count)]


def adaptive_energy(problem: Problem, minimum: Minimum, tolerance: float = 1e-10) -> float:
    """Return the energy of a minimum's weights with the ODE solved adaptively by Tsit5.

    Args:
        problem: The problem.
        minimum: The weights and the readout.
        tolerance: The relative and the absolute tolerance of the solve.

    Raises:
        InputError: `minimum` has other parameters than `problem`, or `tolerance` is not positive.
        InputTypeError: An argument is of another kind.
    """
    check_minimum("minimum", minimum)
    checks.number("tolerance", tolerance, above=0.0)
    objective = Objective(problem, minimum.basis, Adaptive(Tsit5(), rtol=tolerance, atol=tolerance))
    return float(jax.jit(objective.energy)(objective.coordinates(minimum.theta, minimum.readout)))


def restarted(objective: Objective, minimum: Minimum) -> np.ndarray:
    """Return a minimum as a start at another depth.

    The weights are refined where the new basis contains the old one, and are projected otherwise.

    Args:
        objective: The objective at the new depth.
        minimum: The minimum at the old depth.

    Returns:
        The start (size,) in whitened coordinates.

    Raises:
        InputError: `minimum` has other parameters than `objective`.
        InputTypeError: An argument is of another kind.
    """
    _check_objective(objective)
    check_minimum("minimum", minimum)
    matrix = depth_basis.projection(minimum.basis, objective.basis)
    theta = {name: np.tensordot(matrix, value, axes=1) for name, value in minimum.theta.items()}
    return objective.coordinates(theta, minimum.readout)


def recovery(objective: Objective, limit: Minimum) -> np.ndarray:
    """Return the weights of the limit, taken at the nodes of an objective, as coordinates.

    These points, one at every depth, are the recovery sequence of Gamma-convergence.

    Args:
        objective: The objective at a finite depth.
        limit: The minimiser of the limit.

    Returns:
        The whitened coordinates (size,) of the point.

    Raises:
        InputError: `limit` has other parameters than `objective`.
        InputTypeError: An argument is of another kind.
    """
    _check_objective(objective)
    check_minimum("limit", limit)
    matrix = depth_basis.interpolation(objective.basis) @ depth_basis.evaluation(
        limit.basis, objective.basis.nodes
    )
    theta = {name: np.tensordot(matrix, value, axes=1) for name, value in limit.theta.items()}
    return objective.coordinates(theta, limit.readout)
