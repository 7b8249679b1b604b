"""Minimisers of the regularised objective E_n against the minimiser of its continuum limit.

Thorpe & van Gennip, Deep Limits of Residual Neural Networks, arXiv 1810.11741: E_n Gamma-converges to E_infinity and
minimisers converge (stated there). The rates below are our formulation: with u = theta' as the control, E_n is a
Runge-Kutta discretisation of a Bolza problem, so order 1 is expected of Euler and order 2 of Heun and midpoint
(Hager, Numer. Math. 87, 2000), where the distance itself is not limited by the interpolant.

Everything here is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from neuralflow import basis as depth_basis
from neuralflow.basis import Basis, Legendre, PiecewiseLinear
from neuralflow.depth import DepthVarying, tied
from neuralflow.layers import NeuralODE
from neuralflow.schemes import RK4, Euler, Tsit5
from neuralflow.solve import Adaptive, FixedGrid

DISTANCES = ("energy", "sup", "l2", "tl2", "h1")
"""Energy gap; nodal sup; L2 of the piecewise-linear interpolant; TL2; H1 seminorm of the interpolant."""

# Depths below this are left out of fitted orders: a wrong limit can look right there.
_ASYMPTOTIC = 32


class Perceptron(nnx.Module):
    """The paper's layer x' = activation(K x + b)."""

    def __init__(self, dimension: int, activation: Callable[[Array], Array] = jnp.tanh):
        self.K = nnx.Param(jnp.zeros((dimension, dimension)))
        self.b = nnx.Param(jnp.zeros(dimension))
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Velocity at x."""
        return self.activation(x @ self.K[...].T + self.b[...])


@dataclass(frozen=True)
class Problem:
    """What is minimised: loss(readout, X(1)) + sum_p a_p (int |p'|^2 + tau |p(0)|^2) + sum_r ridge_r |r|^2.

    `x` (samples, d): inputs. `layer()`: a module whose parameters p vary with depth. `weights`: a_p by parameter name.
    `loss(readout, states)`: a scalar. `readout`: shapes of the readout's parameters, `ridge` their weights.
    """

    x: np.ndarray
    layer: Callable[[], nnx.Module]
    weights: Mapping[str, float]
    tau: float
    loss: Callable[[dict[str, Array], Array], Array]
    readout: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ridge: Mapping[str, float] = field(default_factory=dict)


def classification(
    x: Float[np.ndarray, "samples d"],
    y: Shaped[np.ndarray, ...],
    *,
    a: tuple[float, float, float, float] = (0.025, 0.025, 0.01, 0.01),
    tau: float = 1.0,
    activation: Callable[[Array], Array] = jnp.tanh,
) -> Problem:
    """The paper's E_n: layers activation(K x + b), prediction sigmoid(W X(1) + c), mean squared loss against y in {0, 1}.

    `a`: the weights a1 (K), a2 (b), a3 (W), a4 (c).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(x):
        raise ValueError(f"expected x (samples, d) and y (samples,), got shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isin(y, (0, 1)).all()):
        raise ValueError("x must be finite and y must hold only 0 and 1; clean the data first")
    if len(np.unique(y)) < 2:
        raise ValueError(f"y must hold samples of both classes, got only {y[0]:g}")
    if min(*a, tau) <= 0:
        raise ValueError(f"the weights a and tau must be positive, or there is no limit to converge to; got {a}, {tau}")
    dimension = x.shape[1]

    def loss(readout: dict[str, Array], states: Array) -> Array:
        return jnp.mean((jax.nn.sigmoid(states @ readout["W"] + readout["c"]) - y) ** 2)

    return Problem(
        x=x,
        layer=lambda: Perceptron(dimension, activation),
        weights={"K": a[0], "b": a[1]},
        tau=tau,
        loss=loss,
        readout={"W": (dimension,), "c": ()},
        ridge={"W": a[2], "c": a[3]},
    )


class Objective:
    """E_n, or E_infinity: a problem with its weights on a basis and a discretisation, in whitened coordinates.

    The regulariser is |xi|^2 for the coordinates xi, at every depth: minimisation takes as many iterations for 256
    layers as for four. On `PiecewiseLinear(n)` with n steps of Euler the last node enters the regulariser alone, so
    minimisers and minima are those of the paper's n layers.
    """

    def __init__(self, problem: Problem, basis: Basis, solve: FixedGrid | Adaptive):
        if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
            raise RuntimeError('the deep limit is computed in float64; call jax.config.update("jax_enable_x64", True) first')
        self.problem, self.basis, self.solve = problem, basis, solve
        varying = nnx.eval_shape(lambda: DepthVarying(lambda rngs: problem.layer(), basis, rngs=nnx.Rngs(0), init=tied))
        self._graphdef, self._state = nnx.split(varying)
        self._shapes = {str(path[-1]): leaf.get_value().shape[1:] for path, leaf in nnx.to_flat_state(self._state)}
        if set(self._shapes) != set(problem.weights):
            raise ValueError(
                f"weights are given for {sorted(problem.weights)}, the layer has parameters {sorted(self._shapes)}"
            )
        start = depth_basis.evaluation(basis, np.zeros(1))[0]
        gram = depth_basis.stiffness(basis) + problem.tau * np.outer(start, start)
        self._whiten = np.linalg.cholesky(gram).T
        self._colour = np.linalg.inv(self._whiten)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return sum(int(np.prod(shape)) for _, shape, _ in self._blocks())

    def _blocks(self) -> Iterator[tuple[str, tuple[int, ...], float]]:
        """Name, shape and weight of every stretch of coordinates, in order."""
        for name, shape in self._shapes.items():
            yield name, (self.basis.size, *shape), self.problem.weights[name]
        for name, shape in self.problem.readout.items():
            yield name, shape, self.problem.ridge[name]

    def parameters(self, xi: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Coefficients of the weights (by name, first axis the basis) and the readout, from coordinates."""
        # NumPy in, NumPy out: nothing is compiled outside the energy itself.
        dot = np.tensordot if isinstance(xi, np.ndarray) else jnp.tensordot
        theta, readout, at = {}, {}, 0
        for name, shape, weight in self._blocks():
            count = int(np.prod(shape))
            block = xi[at : at + count].reshape(shape) / np.sqrt(weight)
            at += count
            if name in self._shapes:
                theta[name] = dot(self._colour, block, axes=1)
            else:
                readout[name] = block
        return theta, readout

    def coordinates(self, theta: Mapping[str, Any], readout: Mapping[str, Any]) -> np.ndarray:
        """The inverse of `parameters`."""
        parts = [
            (np.sqrt(self.problem.weights[name]) * np.tensordot(self._whiten, np.asarray(theta[name]), axes=1)).ravel()
            for name in self._shapes
        ]
        parts += [np.sqrt(self.problem.ridge[name]) * np.ravel(np.asarray(readout[name])) for name in self.problem.readout]
        return np.concatenate(parts)

    def layer(self, theta: Mapping[str, Array]) -> NeuralODE:
        """The network with these coefficients."""
        leaves = [theta[str(path[-1])] for path, _ in nnx.to_flat_state(self._state)]
        varying = nnx.merge(self._graphdef, jax.tree.unflatten(jax.tree.structure(self._state), leaves))
        return NeuralODE(varying, self.solve)

    def __call__(self, xi: Float[Array, " size"]) -> Array:
        """The energy."""
        theta, readout = self.parameters(xi)
        states = self.layer(theta)(jnp.asarray(self.problem.x))
        return self.problem.loss(readout, states) + jnp.sum(xi**2)


@dataclass(frozen=True)
class Minimum:
    """A minimiser: energy, weights on their basis, readout; and how it was reached."""

    energy: float
    basis: Basis
    theta: dict[str, np.ndarray]
    readout: dict[str, np.ndarray]
    gradient: float
    iterations: int

    def flat(self, matrix: np.ndarray) -> np.ndarray:
        """matrix @ coefficients, all weights side by side: (rows, parameters)."""
        return np.concatenate([(matrix @ c.reshape(len(c), -1)) for c in self.theta.values()], axis=1)


def minimise(objective: Objective, starts: Sequence[np.ndarray], *, tolerance: float = 1e-11) -> list[Minimum]:
    """Runs L-BFGS from every start, and returns the minima found, best first.

    L-BFGS ends where rounding hides the descent; Anderson's iteration, which sees the gradient alone, goes on from
    there to `tolerance`, the largest entry of the gradient in whitened coordinates (the curvature there is about two).
    """
    from scipy.optimize import minimize, root

    pull = jax.jit(jax.value_and_grad(objective))

    def value(xi: np.ndarray) -> tuple[float, np.ndarray]:
        energy, gradient = pull(xi)
        return float(energy), np.asarray(gradient, float)

    options = {"maxcor": 30, "maxiter": 2000, "maxfun": 4000, "ftol": 0.0, "gtol": 1e-7}
    polish = {"fatol": tolerance, "maxiter": 60, "line_search": None, "jac_options": {"alpha": -0.5, "M": 10}}
    found = []
    for start in starts:
        result = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
        with np.errstate(divide="ignore", invalid="ignore"):  # a start that is a minimum already
            polished = root(lambda xi: value(xi)[1], result.x, method="anderson", options=polish).x
        xi = min(polished, result.x, key=lambda xi: np.abs(value(xi)[1]).max())
        energy, gradient = value(xi)
        theta, readout = objective.parameters(xi)
        found.append(
            Minimum(
                energy=energy,
                basis=objective.basis,
                theta={name: np.asarray(value) for name, value in theta.items()},
                readout={name: np.asarray(value) for name, value in readout.items()},
                gradient=float(np.abs(gradient).max()),
                iterations=int(result.nit),
            )
        )
    return sorted(found, key=lambda m: m.energy)


def distinct(minima: Sequence[Minimum], tolerance: float = 1e-6) -> int:
    """How many different energies were met, to a relative tolerance."""
    energies = np.sort([m.energy for m in minima])
    return 1 + int((np.diff(energies) > tolerance * np.abs(energies[:-1])).sum())


def random_starts(objective: Objective, count: int, seed: int, scale: float = 0.3) -> list[np.ndarray]:
    """Normal draws in whitened coordinates."""
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal(objective.size) for _ in range(count)]


def discrete(problem: Problem, scheme: Any, depth: int) -> Objective:
    """E_n: n = `depth` steps of the scheme, weights piecewise linear between n + 1 nodes."""
    return Objective(problem, PiecewiseLinear(depth), FixedGrid(scheme, steps=depth, memory="full"))


def continuum(problem: Problem, terms: int = 16, steps: int = 128) -> Objective:
    """E_infinity on polynomials of degree < `terms` in depth, a spectral method, integrated by many steps of RK4.

    Fixed steps, because the derivative of an adaptive solve with respect to the fastest modes is less accurate than
    its tolerance; `adaptive_energy` checks the value.
    """
    return Objective(problem, Legendre(terms), FixedGrid(RK4(), steps=steps, memory="full"))


def adaptive_energy(problem: Problem, minimum: Minimum, tolerance: float = 1e-10) -> float:
    """The energy of these weights with their ODE solved adaptively."""
    objective = Objective(problem, minimum.basis, Adaptive(Tsit5(), rtol=tolerance, atol=tolerance))
    return float(jax.jit(objective)(objective.coordinates(minimum.theta, minimum.readout)))


def restarted(objective: Objective, minimum: Minimum) -> np.ndarray:
    """A minimum as a start at another depth: refined where the basis allows it, projected where not."""
    matrix = depth_basis.projection(minimum.basis, objective.basis)
    theta = {name: np.tensordot(matrix, value, axes=1) for name, value in minimum.theta.items()}
    return objective.coordinates(theta, minimum.readout)


def distances(minimum: Minimum, limit: Minimum) -> dict[str, float]:
    """How far a discrete minimiser on piecewise-linear weights is from the limit: see `DISTANCES`.

    sup: over the nodes i/n, i < n. TL2: with the coupling that carries each cell to its left node, which is optimal in
    depth alone; its part in time is 1/(sqrt(3) n) whatever the weights (our formulation of the paper's topology).
    """
    basis = minimum.basis
    nodes = basis.nodes
    inside, weights = np.polynomial.legendre.leggauss(6)
    widths = np.diff(nodes)
    depth = nodes[:-1, None] + widths[:, None] * (inside + 1) / 2
    weight = (widths[:, None] * weights / 2).ravel()
    points = depth.ravel()
    # The Gauss points of a cell lie inside it, so no knot is met from the wrong side.
    target = limit.flat(depth_basis.evaluation(limit.basis, points))
    line = minimum.flat(depth_basis.evaluation(basis, points))
    values = minimum.flat(np.eye(basis.size))
    held = np.repeat(values[:-1], len(inside), axis=0)
    slope = np.repeat(np.diff(values, axis=0) / widths[:, None], len(inside), axis=0)
    coefficients = limit.flat(np.eye(limit.basis.size))
    target_slope = 2 * np.polynomial.legendre.legval(2 * points - 1, np.polynomial.legendre.legder(coefficients)).T

    def norm(error: np.ndarray) -> float:
        return float(np.sqrt(weight @ (error**2).sum(axis=1)))

    shift = points - np.repeat(nodes[:-1], len(inside))
    return {
        "energy": abs(minimum.energy - limit.energy),
        "sup": float(np.abs(values - limit.flat(depth_basis.evaluation(limit.basis, nodes)))[:-1].max()),
        "l2": norm(line - target),
        "tl2": float(np.hypot(np.sqrt(weight @ shift**2), norm(held - target))),
        "h1": norm(slope - target_slope),
    }


def expected_order(scheme: Any, distance: str) -> int:
    """The order expected of a distance: TL2 and H1 are limited to one by the interpolant, whatever the scheme."""
    return 1 if isinstance(scheme, Euler) or distance in ("tl2", "h1") else 2


def fitted_order(depths: Sequence[int], errors: Sequence[float], least: int = _ASYMPTOTIC) -> float | None:
    """Minus the least-squares slope of log error against log depth over depths >= `least`; None for fewer than two."""
    pairs = [(n, e) for n, e in zip(depths, errors, strict=True) if n >= least and e > 0]
    if len(pairs) < 2:
        return None
    n, e = np.log(np.asarray(pairs, float)).T
    return float(-np.polyfit(n, e, 1)[0])


@dataclass(frozen=True)
class Row:
    """One discrete minimiser: its depth and scheme, how it was reached, and its distances to the limit."""

    scheme: str
    depth: int
    energy: float
    gradient: float
    iterations: int
    distances: dict[str, float]


@dataclass(frozen=True)
class Study:
    """Minimisers at many depths against one limit."""

    limit: Minimum
    rows: list[Row] = field(default_factory=list)
    weights: dict[tuple[str, int], Minimum] = field(default_factory=dict)
    limit_error: float = 0.0
    minima_discrete: int = 1
    minima_continuum: int = 1

    def orders(self) -> dict[str, dict[str, float | None]]:
        """Fitted orders by scheme and distance."""
        found: dict[str, dict[str, float | None]] = {}
        for name in dict.fromkeys(row.scheme for row in self.rows):
            rows = [row for row in self.rows if row.scheme == name]
            depths = [row.depth for row in rows]
            found[name] = {d: fitted_order(depths, [row.distances[d] for row in rows]) for d in DISTANCES}
        return found

    def record(self) -> dict[str, Any]:
        """All numbers of the study as plain data."""
        return {
            "limit": {
                "energy": self.limit.energy,
                "energy_against_adaptive": self.limit_error,
                "gradient": self.limit.gradient,
                "terms": self.limit.basis.size,
            },
            "distinct_minima": {"discrete": self.minima_discrete, "continuum": self.minima_continuum},
            "rows": [asdict(row) for row in self.rows],
            "orders": self.orders(),
        }


def study(
    problem: Problem, schemes: Mapping[str, Any], depths: Sequence[int], *, seed: int = 0, starts: int = 4
) -> Iterator[tuple[str, Study]]:
    """Minimises E_n for every scheme and depth, and E_infinity on its own; yields (what was done, study so far).

    The continuum starts from its own random draws. The discrete problems start from random draws at the smallest
    depth; every scheme then follows the best minimum from depth to depth. Runs lazily, one minimisation a step.
    """
    depths = sorted(set(depths))
    if not depths or depths[0] < 2:
        raise ValueError(f"depths must be whole numbers >= 2, got {depths}")
    whole = continuum(problem)
    limits = minimise(whole, random_starts(whole, max(2, starts // 2), seed + 1))
    error = abs(limits[0].energy - adaptive_energy(problem, limits[0]))
    done = Study(limit=limits[0], limit_error=error, minima_continuum=distinct(limits))
    yield f"continuum, {limits[0].iterations} iterations", done
    first = discrete(problem, next(iter(schemes.values())), depths[0])
    best = minimise(first, random_starts(first, starts, seed))
    done = replace(done, minima_discrete=distinct(best))
    for name, scheme in schemes.items():
        last = best[0]
        for depth in depths:
            objective = discrete(problem, scheme, depth)
            last = minimise(objective, [restarted(objective, last)])[0]
            done.rows.append(Row(name, depth, last.energy, last.gradient, last.iterations, distances(last, done.limit)))
            done.weights[name, depth] = last
            yield f"{name}, depth {depth}, {last.iterations} iterations", done


def verdict(
    found: Study, schemes: Mapping[str, Any], tolerance: Mapping[int, float] | None = None
) -> tuple[bool | None, list[str]]:
    """Whether the orders are those expected, and why, in sentences; None where depths are too few to tell.

    `tolerance`: by expected order; +-0.05 for order one, +-0.1 for order two.
    """
    tolerance = tolerance or {1: 0.05, 2: 0.1}
    sentences, agreed, judged = [], True, False
    for name, orders in found.orders().items():
        wrong = []
        for distance, order in orders.items():
            if order is None:
                continue
            judged = True
            want = expected_order(schemes[name], distance)
            if abs(order - want) > tolerance[want]:
                wrong.append(f"{distance} {order:.2f} instead of {want}")
        agreed &= not wrong
        said = "not as expected: " + ", ".join(wrong) if wrong else "as expected in every distance"
        sentences.append(f"{name}: {said}.")
    if not judged:
        return None, [f"No order can be fitted: give at least two depths of {_ASYMPTOTIC} or more."]
    return agreed, sentences
