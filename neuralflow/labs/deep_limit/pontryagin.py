"""The continuum optimum as a boundary-value problem, and the residual of other solutions in it.

Pontryagin's principle for E_infinity gives a two-point boundary-value problem. The unknown
functions of depth t are the states X_s of the samples s, the adjoints p_s, and the weights theta.
f(x, t; theta) is the velocity, a the weight of the penalty, and x_s the inputs:

    X_s' = f,   p_s' = -(df/dx)^T p_s,   2 a theta'' = sum_s (df/dtheta)^T p_s,
    X_s(0) = x_s,   p_s(1) = dloss/dX_s(1),   theta'(0) = tau theta(0),   theta'(1) = 0.

In addition, loss plus ridge is stationary in the readout.

Source:
    Our formulation, for the problem of Thorpe & van Gennip, arXiv 1810.11741.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, basis as depth_basis, tied
from neuralflow.depth.basis import Legendre, PiecewiseLinear
from neuralflow.fields import evaluate
from neuralflow.labs.deep_limit.minimum import Minimum, check_minimum
from neuralflow.labs.deep_limit.problem import Problem, Sobolev
from neuralflow.layers import NeuralODE
from neuralflow.schemes import RK4
from neuralflow.solve import FixedGrid
from neuralflow.solve.collocation import by_columns

__all__ = ["Residuals", "pontryagin", "residuals"]
__docformat__ = "google"


def pontryagin(
    problem: Problem,
    guess: Minimum,
    *,
    tolerance: float = 1e-9,
    terms: int = 24,
    max_nodes: int = 4000,
) -> Minimum:
    """Solve for the continuum optimum near a guess, by collocation and without minimisation.

    The collocation is `scipy.integrate.solve_bvp`. The function is meant for small problems: there
    are 2 samples d + 2 P unknown functions of depth, for states of dimension d and P weights.

    Args:
        problem: The problem, with the penalty `Sobolev(tau)` and a positive weight on every
            parameter.
        guess: A minimiser of any E_n on piecewise-linear weights. A rough minimiser is enough.
        tolerance: The tolerance for the relative residuals of the collocation.
        terms: The number of polynomials, of degree below `terms`, on which the weights are
            returned.
        max_nodes: The largest number of nodes of the collocation.

    Returns:
        The optimum. Its `gradient` is the largest relative residual of the collocation.

    Raises:
        InputError: The penalty of `problem` is not `Sobolev(tau)`, a parameter has no positive
            weight, or the parameters of the minimum are not those of the problem.
        InputTypeError: An argument is of another kind.
        InputTypeError: The weights of `guess` are not on `neuralflow.PiecewiseLinear`.
        RuntimeError: The collocation does not converge.
    """
    from scipy.integrate import solve_bvp

    check_minimum("guess", guess)
    checks.number("tolerance", tolerance, above=0.0)
    checks.whole("terms", terms, most=2**10)
    checks.whole("max_nodes", max_nodes, most=2**20)
    system = _checked(problem)
    nodes, states, adjoints, theta = system.path(guess)
    slope = np.gradient(theta, nodes, axis=0)
    start = np.concatenate(
        [states.reshape(len(nodes), -1), adjoints.reshape(len(nodes), -1), theta, slope], axis=1
    )
    readout = system.flat_readout(guess.readout)

    def jacobian(t, u, r):
        return (by_columns(system.rates_slope, t, u), np.zeros((len(u), len(r), len(t))))

    def edges_slope(left, right, r):
        return tuple(np.asarray(block) for block in system.edges_slope(left, right, r))

    options = {"tol": tolerance, "bc_tol": 1e-3 * tolerance, "max_nodes": max_nodes}
    solution = solve_bvp(
        lambda t, u, r: by_columns(system.rates, t, u),
        lambda left, right, r: np.asarray(system.edges(left, right, r)),
        nodes,
        start.T,
        readout,
        fun_jac=jacobian if len(readout) else lambda t, u: by_columns(system.rates_slope, t, u),
        bc_jac=edges_slope,
        **options,
    )
    if not solution.success:
        raise RuntimeError(
            f"the boundary-value problem was not solved ({solution.message}); give a better guess "
            "or more max_nodes"
        )
    return system.minimum(solution, terms)


@dataclass(frozen=True)
class Residuals:
    """What Pontryagin's equations leave of a solution.

    P is the number of weights at one depth.

    Attributes:
        depths: The depths of the interior nodes (interior nodes,).
        weights: The residuals of the equations of the weights (interior nodes, P), relative to the
            largest |theta''| that the equations ask for.
        start: The residuals (P,) of theta'(0) = tau theta(0).
        end: The residuals (P,) of theta'(1) = 0.
        readout: The gradient of loss plus ridge in the parameters of the readout, which are sorted
            by name.
    """

    depths: np.ndarray
    weights: np.ndarray
    start: np.ndarray
    end: np.ndarray
    readout: np.ndarray


def residuals(problem: Problem, minimum: Minimum) -> Residuals:
    """Measure how far piecewise-linear weights are from the optimality conditions of the continuum.

    The residuals of a minimiser of E_n are O(1/n).

    Args:
        problem: The problem, with the penalty `Sobolev(tau)` and a positive weight on every
            parameter.
        minimum: The weights, on `neuralflow.PiecewiseLinear`, and the readout.

    Returns:
        The residuals along depth and at both ends.

    Raises:
        InputError: The penalty of `problem` is not `Sobolev(tau)`, a parameter has no positive
            weight, or the parameters of the minimum are not those of the problem.
        InputTypeError: An argument is of another kind.
        InputTypeError: The weights of `minimum` are not on `neuralflow.PiecewiseLinear`.
    """
    check_minimum("minimum", minimum)
    system = _checked(problem)
    nodes, states, adjoints, theta = system.path(minimum)
    wanted = np.stack(
        [system.push(*at) for at in zip(nodes, states, adjoints, theta, strict=True)]
    ) / (2 * system.weights)
    widths = np.diff(nodes)[:, None]
    slopes = np.diff(theta, axis=0) / widths
    bend = 2 * np.diff(slopes, axis=0) / (widths[:-1] + widths[1:])
    ends = (
        np.concatenate([states[0].ravel(), adjoints[0].ravel(), theta[0], slopes[0]]),
        np.concatenate([states[-1].ravel(), adjoints[-1].ravel(), theta[-1], slopes[-1]]),
    )
    left = np.asarray(system.edges(*ends, system.flat_readout(minimum.readout)))
    # States and adjoints satisfy their conditions by construction. The conditions of the weights
    # and of the readout remain.
    p, known = len(system.weights), states[0].size + adjoints[0].size
    return Residuals(
        nodes[1:-1],
        (bend - wanted[1:-1]) / np.abs(wanted).max(),
        left[known : known + p],
        left[known + p : known + 2 * p],
        left[known + 2 * p :],
    )


class _System:
    """The equations of a problem, with all weights side by side in one vector."""

    def __init__(self, problem: Problem):
        if not isinstance(problem.penalty, Sobolev) or problem.penalty.power != 1:
            raise InputError(
                "Pontryagin's equations are those of a problem with the penalty Sobolev(tau), got "
                f"{problem.penalty}"
            )
        self.problem, self.tau = problem, problem.penalty.tau
        self.x, self.y = jnp.asarray(problem.x, float), jnp.asarray(problem.y, float)
        self.graphdef, state = nnx.split(nnx.eval_shape(problem.layer))
        flat = nnx.to_flat_state(state)
        self.structure = jax.tree.structure(state)
        self.names = [".".join(map(str, path)) for path, _ in flat]
        self.shapes = [leaf.get_value().shape for _, leaf in flat]
        self.weights = np.concatenate(
            [
                np.full(int(np.prod(s)), problem.weight(n))
                for n, s in zip(self.names, self.shapes, strict=True)
            ]
        )
        if not (self.weights > 0).all():
            raise InputError(
                "Pontryagin's equations need a problem with a positive weight on every parameter, "
                "or theta'' is not determined"
            )
        self.empty = {name: np.zeros(shape) for name, shape in problem.readout.items()}
        self.ridge = np.concatenate(
            [np.full(np.size(v), problem.ridge[n]) for n, v in sorted(self.empty.items())]
            or [np.zeros(0)]
        )
        _, self.readout = ravel_pytree(self.empty)
        self.rates = jax.jit(jax.vmap(self._rates))
        self.rates_slope = jax.jit(jax.vmap(jax.jacfwd(self._rates, argnums=1)))
        self.edges = jax.jit(self._edges)
        self.edges_slope = jax.jit(jax.jacfwd(self._edges, argnums=(0, 1, 2)))
        self.across = jax.jit(self._across)
        self.back = jax.jit(
            lambda x, p, *cell: jax.vjp(lambda x: self._across(x, *cell), x)[1](p)[0]
        )
        self.pull = jax.jit(jax.grad(self._loss))
        self.push = jax.jit(self.forces)

    def flat_readout(self, readout: dict[str, Any]) -> np.ndarray:
        """Return the parameters of a readout in one vector, sorted by name."""
        return np.concatenate(
            [np.ravel(readout[name]) for name in sorted(self.empty)] or [np.zeros(0)]
        )

    def split(self, u: Any) -> tuple[Any, Any, Any, Any]:
        """Return the states, adjoints, weights and slopes of the weights out of one vector."""
        n, p = self.x.size, len(self.weights)
        return (
            u[:n].reshape(self.x.shape),
            u[n : 2 * n].reshape(self.x.shape),
            u[2 * n : 2 * n + p],
            u[2 * n + p :],
        )

    def velocity(self, theta: Array, x: Array, t: Real) -> Array:
        """Return the velocity f(x, t; theta)."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        parts = jnp.split(theta, np.cumsum(sizes)[:-1])
        leaves = [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return evaluate(nnx.merge(self.graphdef, jax.tree.unflatten(self.structure, leaves)), x, t)

    def forces(self, t: Real, x: Array, p: Array, theta: Array) -> Array:
        """Return sum_s (df/dtheta)^T p_s, to which 2 a theta'' must be equal."""
        return jax.vjp(lambda theta: self.velocity(theta, x, t), theta)[1](p)[0]

    def _rates(self, t: Array, u: Array) -> Array:
        x, p, theta, slope = self.split(u)
        velocity, pull = jax.vjp(lambda x, theta: self.velocity(theta, x, t), x, theta)
        by_state, by_weight = pull(p)
        return jnp.concatenate(
            [velocity.ravel(), -by_state.ravel(), slope, by_weight / (2 * self.weights)]
        )

    def _loss(self, states: Array, readout: Array) -> Array:
        return self.problem.loss(self.problem.predict(self.readout(readout), states), self.y)

    def _edges(self, left: Array, right: Array, readout: Array) -> Array:
        x0, _, theta0, slope0 = self.split(left)
        x1, p1, _, slope1 = self.split(right)
        by_state, by_readout = jax.grad(self._loss, argnums=(0, 1))(x1, readout)
        parts = [(x0 - self.x).ravel(), (p1 - by_state).ravel(), slope0 - self.tau * theta0, slope1]
        return jnp.concatenate([*parts, by_readout + 2 * self.ridge * readout])

    def path(self, minimum: Minimum) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the path of a solution through the nodes of its basis.

        The path consists of the depths of the nodes, the states and the adjoints
        (nodes, samples, d), and the weights (nodes, P).
        """
        basis = minimum.basis
        held = {name: np.shape(value)[1:] for name, value in minimum.theta.items()}
        wanted = dict(zip(self.names, self.shapes, strict=True))
        reads = {name: np.shape(value) for name, value in minimum.readout.items()}
        if held != wanted or reads != {name: v.shape for name, v in self.empty.items()}:
            raise InputError(
                f"the minimum (guess) must have the parameters of the problem, {wanted} and a "
                f"readout {sorted(self.empty)}, got {held} and {reads}"
            )
        if not isinstance(basis, PiecewiseLinear):
            raise InputTypeError(
                "the minimum (guess) must have nodal weights on PiecewiseLinear, got weights on "
                f"{basis}"
            )
        weights = [np.asarray(minimum.theta[name]) for name in self.names]
        readout = self.flat_readout(minimum.readout)
        cells = [[w[i : i + 2] for w in weights] for i in range(basis.count)]
        states = [np.asarray(self.x)]
        for cell, t0, t1 in zip(cells, basis.nodes, basis.nodes[1:], strict=False):
            states.append(np.asarray(self.across(states[-1], cell, t0, t1)))
        adjoints = [np.asarray(self.pull(states[-1], readout))]
        for k in reversed(range(basis.count)):
            adjoints.append(
                np.asarray(
                    self.back(states[k], adjoints[-1], cells[k], basis.nodes[k], basis.nodes[k + 1])
                )
            )
        flat = np.concatenate([w.reshape(basis.size, -1) for w in weights], axis=1)
        return basis.nodes, np.stack(states), np.stack(adjoints[::-1]), flat

    def _across(self, x: Array, weights: list[Array], t0: Array, t1: Array) -> Array:
        """Return the states at the end of a cell with linear weights.

        One compiled program serves the cells of all depths.
        """
        varying = DepthVarying(
            lambda rngs: self.problem.layer(), PiecewiseLinear(1), rngs=nnx.Rngs(0), init=tied
        )
        graphdef, state = nnx.split(varying)
        field = nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), weights))
        return NeuralODE(field, FixedGrid(RK4(), steps=4, memory="full"), t0, t1)(x)

    def minimum(self, solution: Any, terms: int) -> Minimum:
        """Return a solution of the equations as weights on polynomials."""
        basis, n = Legendre(terms), self.x.size
        values = solution.sol(basis.nodes).T[:, 2 * n : 2 * n + len(self.weights)]
        coefficients = depth_basis.interpolation(basis) @ values
        parts = np.split(
            coefficients, np.cumsum([int(np.prod(s)) for s in self.shapes])[:-1], axis=1
        )
        theta = {
            n: part.reshape(terms, *s)
            for n, part, s in zip(self.names, parts, self.shapes, strict=True)
        }
        states = self.split(solution.y[:, -1])[0]
        readout = {
            name: np.asarray(value) for name, value in self.readout(jnp.asarray(solution.p)).items()
        }
        points, weight = np.polynomial.legendre.leggauss(64)
        slope = solution.sol((points + 1) / 2)[2 * n + len(self.weights) :]
        start = self.split(solution.y[:, 0])[2]
        energy = float(self._loss(states, solution.p)) + self.ridge @ np.asarray(solution.p) ** 2
        energy += self.weights @ (slope**2 @ weight / 2 + self.tau * start**2)
        prediction = np.asarray(
            self.problem.predict(self.readout(jnp.asarray(solution.p)), jnp.asarray(states))
        )
        return Minimum(
            float(energy),
            basis,
            theta,
            readout,
            prediction,
            float(solution.rms_residuals.max()),
            int(solution.niter),
        )


def _checked(problem: Any) -> _System:
    """Return the equations of a problem, and refuse anything that is no problem."""
    checks.instance("problem", problem, Problem, "a Problem such as thorpe_van_gennip(x, y)")
    return _system(problem)


_system = functools.lru_cache(maxsize=4)(_System)
