"""The path integral of a residual block's equation: Gaussian steps, the action, random and most probable paths.

u_t = -v . grad u + D : grad grad u - V u. A step of length dt has the kernel
(4 pi dt)^(-d/2) det(D)^(-1/2) exp(-dt L), L = (dx/dt - v)' D^-1 (dx/dt - v) / 4 + V, so that u(x, T) is the integral over all paths with
the weight exp(-S), S = int L dt. That the output of a ResNet is such an integral is stated by Yin, Li, Zhang & Wang (arXiv 1904.07568);
the formulas are our formulation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core, lax
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.solve import SolveError, Status
from neuralflow.solve.collocation import by_columns
from neuralflow.statistics import Estimate, estimate

Convention = Literal["new", "midpoint", "old"]
_CHUNK = 2**15
_MOST_NODES = 4096


class Equation(eqx.Module):
    """u_t = -v . grad u + D : grad grad u - V u on points of `dimension` coordinates.

    `drift`: v, numbers (d,) or a function of points (..., d) -> (..., d). `diffusion`: D, a positive number, or a symmetric positive
    definite matrix (d, d). `potential`: V, a number or a function (..., d) -> (...,). ValueError for a diffusion that is not
    positive: then no Gaussian weighs the paths.
    """

    drift: Any
    diffusion: Array
    potential: Any

    def __init__(
        self,
        diffusion: Any,
        drift: Any = 0.0,
        potential: Any = 0.0,
        *,
        dimension: int | None = None,
    ):
        traced = any(isinstance(value, core.Tracer) for value in (diffusion, drift, potential))

        def numbers(value):
            return (
                jnp.asarray(value) if isinstance(value, core.Tracer) else np.asarray(value, float)
            )

        matrix, known = numbers(diffusion), None if callable(drift) else numbers(drift)
        sizes = {
            *matrix.shape,
            *(() if known is None else known.shape),
            *(() if dimension is None else (dimension,)),
        }
        if len(sizes) > 1 or matrix.ndim not in (0, 2):
            raise InputError(
                f"diffusion is a number or (d, d), a constant drift (d,), in dimension d: got shapes {matrix.shape} and "
                f"{None if known is None else known.shape}, dimension {dimension}"
            )
        d = sizes.pop() if sizes else 1
        checks.whole("dimension", d)
        matrix = matrix * np.eye(d) if matrix.ndim == 0 else matrix
        if not traced:
            _check_diffusion(np.asarray(matrix))
        constants = [
            value
            for value in (known, None if callable(potential) else numbers(potential))
            if value is not None
        ]
        if not traced and not all(np.isfinite(value).all() for value in constants):
            raise InputError(
                f"drift and potential are finite numbers or functions of points, got {drift!r} and {potential!r}"
            )
        self.drift = drift if known is None else jnp.broadcast_to(jnp.asarray(known), (d,))
        self.diffusion = jnp.asarray(matrix)
        self.potential = potential if callable(potential) else jnp.asarray(numbers(potential))

    @classmethod
    def of(cls, coefficients: Any) -> Equation:
        """The equation of an operator on one channel, (a + b . grad + D : grad grad) u: v = -b, V = -a. Points are (x,) or (y, x).

        `coefficients`: those of a `DifferentialOperator` of `nf.labs.operators`, (terms, 1, 1) or (terms,), in the order 1, x, xx or 1, x, y, xx, xy,
        yy. Of traced ones too, whose gradient it hands on; whether their diffusion is positive is not looked at then.
        """
        if isinstance(coefficients, nnx.Module):
            raise InputTypeError(
                f"an equation is made of numbers, got a {type(coefficients).__name__}; give operator.coefficients[...]"
            )
        values = (
            coefficients
            if isinstance(coefficients, core.Tracer)
            else np.asarray(coefficients, float)
        )
        if values.shape[:1] not in ((3,), (6,)) or values.ndim not in (1, 3):
            raise InputError(
                f"an operator of second order has 3 coefficients (1, x, xx) or 6 (1, x, y, xx, xy, yy), (terms,) or (terms, 1, 1), got shape {values.shape}; "
                "give operator.coefficients[...]"
            )
        if values.shape[1:] not in ((), (1, 1)):
            raise InputError(
                f"a path integral in numbers is that of one channel, got an operator from {values.shape[1]} to {values.shape[2]}; "
                "with several, paths have matrices for weights"
            )
        c = values.reshape(-1)
        if len(c) == 3:
            return cls(c[2:, None], -c[1:2], -c[0])
        matrix = c[np.asarray([[5, 4], [4, 3]])] * np.asarray([[1, 0.5], [0.5, 1]])
        return cls(matrix, -c[np.asarray([2, 1])], -c[0])

    def _points(self, x: Any) -> Array:
        """x as floating points of this equation."""
        x = jnp.asarray(x)
        if x.shape[-1:] != self.diffusion.shape[:1] or jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise InputError(
                f"points of this equation have {self.dimension} coordinates on the last axis, real numbers; got {x.dtype} of shape {x.shape}"
            )
        return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)

    @property
    def dimension(self) -> int:
        """The number of coordinates of a point."""
        return len(self.diffusion)

    def velocity(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """v at points."""
        x = self._points(x)
        return _at("drift", self.drift, x, x.shape)

    def killing(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """V at points."""
        x = self._points(x)
        return _at("potential", self.potential, x, x.shape[:-1])

    def lagrangian(
        self, x: Float[Array, "*batch d"], rate: Float[Array, "*batch d"]
    ) -> Float[Array, "*batch"]:
        """L(x, dx/dt) = (dx/dt - v)' D^-1 (dx/dt - v) / 4 + V."""
        gap = self._points(rate) - self.velocity(x)
        return jnp.einsum(
            "...i,ij,...j->...", gap, jnp.linalg.inv(self.diffusion), gap
        ) / 4 + self.killing(x)

    def action(
        self, path: Float[Array, "*batch n d"], time: Any, at: Convention = "new"
    ) -> Float[Array, "*batch"]:
        """S of a path through n points at equal times from 0 to `time`: the sum of dt L, with v and V where `at` says.

        The product of the kernels of its steps is exp(-S), times their normalisation.
        """
        path = self._points(path)
        if path.ndim < 2 or path.shape[-2] < 2:
            raise InputError(
                f"a path has at least two points, (..., n, {self.dimension}), got shape {path.shape}"
            )
        old, new = path[..., :-1, :], path[..., 1:, :]
        dt = time / (path.shape[-2] - 1)
        return dt * jnp.sum(self.lagrangian(_place(old, new, at), (new - old) / dt), axis=-1)

    def kernel(self, new: Any, old: Any, dt: Any, at: Convention = "new") -> Array:
        """The weight of a step from points `old` to points `new`, (..., d) each: exp(-dt L), normalised.

        With v at the new point ("new") the composed steps solve the equation as it stands, to O(dt); with v at the old one u_t = -div(v u) + ...
        instead, and with v in the middle the mean of the two.
        """
        new, old = self._points(new), self._points(old)
        scale = jnp.sqrt((4 * jnp.pi * dt) ** self.dimension * jnp.linalg.det(self.diffusion))
        return jnp.exp(-dt * self.lagrangian(_place(old, new, at), (new - old) / dt)) / scale


def _check_diffusion(matrix: np.ndarray) -> None:
    """ValueError unless a matrix is symmetric and positive definite."""
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
        raise InputError(
            f"diffusion is a finite symmetric matrix, got {matrix.tolist()}; take its symmetric part, which is all that D : grad grad sees"
        )
    if np.linalg.eigvalsh(matrix).min() <= 0:
        raise InputError(
            f"paths have weights exp(-S) only where the diffusion is positive (definite), got {matrix.tolist()}; without diffusion the solution "
            "runs along characteristics: nf.transport"
        )


def _at(name: str, term: Any, x: Array, shape: tuple[int, ...]) -> Array:
    """A function's value at points x, or the numbers that stand for it, in a shape."""
    value = jnp.asarray(cast(Any, term)(x)) if callable(term) else term
    if callable(term) and value.ndim and value.shape != shape:
        raise InputError(f"the {name} maps points of shape {x.shape} to {shape}, got {value.shape}")
    return jnp.broadcast_to(value, shape).astype(x.dtype)


def _place(old: Array, new: Array, at: Convention) -> Array:
    checks.choice("at", at, ("new", "midpoint", "old"))
    return new if at == "new" else old if at == "old" else (old + new) / 2


def composed(
    equation: Equation, values: Any, period: float, time: float, steps: int, at: Convention = "new"
) -> Array:
    """u(., time) on a periodic grid: `steps` Gaussian kernels one behind the other, the sum over all paths through its points.

    `values`: u_0 at equally spaced points from 0 to `period` along every axis, as many axes as the equation has coordinates. Drift and potential
    have that period too. ValueError where the grid does not resolve the kernel: sqrt(2 D dt) below its spacing.
    """
    values, d = _grid(equation, values, period), equation.dimension
    checks.whole("steps", steps)
    checks.positive("time", time, "the time that passes")
    if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(equation)):
        raise InputTypeError(
            "composed() plans its kernel on the host and takes an equation of numbers; feynman_kac takes traced ones"
        )
    if values.size > _MOST_NODES:
        raise InputError(
            f"values stand on a grid of at most {_MOST_NODES} points, got shape {values.shape}"
        )
    dt = time / steps
    spreads = np.sqrt(2 * dt * np.linalg.eigvalsh(np.asarray(equation.diffusion)))
    spacing = period / min(values.shape)
    if spreads[0] < spacing:
        fewer, finer = (
            math.floor(steps * (spreads[0] / spacing) ** 2),
            math.ceil(period / spreads[0]),
        )
        ways = [f"{fewer} steps or fewer"] * (fewer > 0) + [f"{finer} points an axis"] * (
            finer**d <= _MOST_NODES
        )
        raise InputError(
            f"the grid does not resolve a step: its kernel is {spreads[0]:.3g} wide, the points are {spacing:.3g} apart; take "
            f"{' or '.join(ways or ['both fewer steps and more points'])}"
        )
    axes = [period * np.arange(n) / n for n in values.shape]
    points = jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d))
    with jax.ensure_compile_time_eval():
        moved = float(jnp.abs(equation.velocity(points)).max()) * dt
    reach = 1 + math.ceil((9 * spreads[-1] + moved) / period)
    images = period * jnp.asarray(
        list(itertools.product(range(-reach, reach + 1), repeat=d)), float
    )
    matrix = _summed(equation, points, images, dt, at)
    matrix = matrix * (period**d / values.size)
    return lax.fori_loop(0, steps, lambda _, u: matrix @ u, values.ravel()).reshape(values.shape)


def _grid(equation: Any, values: Any, period: Any) -> Array:
    """Values on a periodic grid as floating numbers, checked."""
    checks.instance("equation", equation, Equation, "a nf.labs.paths.Equation")
    checks.positive("period", period, "the length after which all repeats")
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        raise InputTypeError(
            "values are real numbers, got complex ones; take real and imaginary parts one by one"
        )
    if values.ndim != equation.dimension or not values.size:
        raise InputError(
            f"values stand on a grid of {equation.dimension} axes, got shape {values.shape}"
        )
    return values.astype(float)


@eqx.filter_jit
def _summed(equation: Equation, points: Array, images: Array, dt: Any, at: Convention) -> Array:
    """The kernels from all points to all points (new, old), over all periodic images of the old ones."""

    def add(total: Array, shift: Array) -> tuple[Array, None]:
        # What varies is looked up where it is known, in the first period.
        new, old = (points, points + shift) if at == "new" else (points - shift, points)
        return total + equation.kernel(new[:, None], old[None], dt, at), None

    return lax.scan(add, jnp.zeros((len(points), len(points))), images)[0]


def spectral(equation: Equation, values: Any, period: float, time: Any) -> Array:
    """u(., time) on a periodic grid by Fourier series: exact where drift and potential are constant, TypeError elsewhere."""
    if callable(equation.drift) or callable(equation.potential):
        raise InputTypeError(
            "the Fourier series of the solution is known for constant drift and potential; composed() takes functions"
        )
    values = _grid(equation, values, period)
    waves = [2j * np.pi / period * np.fft.fftfreq(n, 1 / n) for n in values.shape]
    k = np.stack(np.meshgrid(*waves, indexing="ij"), axis=-1)
    rate = -k @ np.asarray(equation.drift) + np.einsum(
        "...i,ij,...j->...", k, np.asarray(equation.diffusion), k
    )
    return jnp.real(
        jnp.fft.ifftn(jnp.fft.fftn(values) * jnp.exp(time * (rate - equation.potential)))
    )


def feynman_kac(
    equation: Equation,
    initial: Callable[[Array], Array],
    x: Float[Array, "*points d"],
    time: Any,
    *,
    steps: int,
    count: int,
    key: Array,
) -> Estimate:
    """u(x, time) as the mean of exp(-int V dt) u_0(X_time) over `count` random paths dX = -v dt + sqrt(2 D) dB from x.

    `initial`: u_0, a function of points (..., d) -> (...,). `steps` of Euler and Maruyama: a bias of O(time / steps) where v or V vary, none for constant
    v and V. Every point has paths of its own. Returns mean and standard error, (*points,) each; differentiable in x, time and the equation.
    """
    checks.instance("equation", equation, Equation, "a nf.labs.paths.Equation")
    checks.function("initial", initial)
    checks.whole("steps", steps)
    checks.whole("count", count, least=2)
    x = equation._points(x)
    if not isinstance(time, core.Tracer) and not 0 <= float(time) < math.inf:
        raise InputError(f"time is what passes, a number from zero on, got {time!r}")
    values = jax.eval_shape(initial, jax.ShapeDtypeStruct((2, equation.dimension), x.dtype))
    if jnp.shape(values) != (2,):
        raise InputError(
            f"initial maps points (..., {equation.dimension}) to one number each, (...,); of two points it made {jnp.shape(values)}"
        )
    return _feynman_kac(
        equation, initial, x, jnp.asarray(time, x.dtype), int(steps), int(count), key
    )


@eqx.filter_jit
def _feynman_kac(
    equation: Equation, initial: Any, x: Array, time: Array, steps: int, count: int, key: Array
) -> Estimate:
    dt = time / steps
    root = jnp.linalg.cholesky(2 * equation.diffusion).astype(x.dtype)

    def path(start: Array, key: Array) -> Array:
        def step(carry: Any, noise: Array) -> tuple[Any, None]:
            place, weight = carry
            after = place - equation.velocity(place) * dt + jnp.sqrt(dt) * (root @ noise)
            return (
                after,
                weight + dt * (equation.killing(place) + equation.killing(after)) / 2,
            ), None

        noise = jax.random.normal(key, (steps, equation.dimension), x.dtype)
        (end, weight), _ = lax.scan(step, (start, jnp.zeros((), x.dtype)), noise)
        return jnp.exp(-weight) * initial(end)

    def mean(start: Array, key: Array) -> Estimate:
        return estimate(
            lax.map(
                lambda i: path(start, jax.random.fold_in(key, i)),
                jnp.arange(count),
                batch_size=min(count, _CHUNK),
            )
        )

    points = x.reshape(-1, equation.dimension)
    estimates = lax.map(lambda pair: mean(*pair), (points, jax.random.split(key, len(points))))
    return jax.tree.map(lambda a: a.reshape(x.shape[:-1]), estimates)


class Classical(NamedTuple):
    """The most probable path: `times` (m,), `points` (m, d), and its action S."""

    times: np.ndarray
    points: np.ndarray
    action: float


def classical(
    equation: Equation, start: Any, end: Any, time: float, *, points: int = 129, guess: Any = None
) -> Classical:
    """The path from `start` (d,) to `end` (d,) in `time` on which the action is stationary, the most probable one near the guess.

    Solves Hamilton's equations x' = v + 2 D p, p' = -(grad v)' p + grad V as a boundary-value problem (scipy, tolerance 1e-9) from `guess`
    (m, d), places at equal times; by default from the path through 65 points with the least action near the straight line. The action is that
    of smooth paths. SolveError where none is found; RuntimeError without jax_enable_x64.
    """
    from scipy.integrate import solve_bvp

    checks.instance("equation", equation, Equation, "a nf.labs.paths.Equation")
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise RuntimeError(
            'a classical path is computed in float64; call jax.config.update("jax_enable_x64", True) first'
        )
    d = equation.dimension
    ends = np.asarray(start, float).reshape(-1), np.asarray(end, float).reshape(-1)
    if any(e.shape != (d,) for e in ends):
        raise InputError(
            f"a path of this equation joins two points ({d},), got {start!r} and {end!r}"
        )
    checks.positive("time", time, "the time that passes")
    checks.whole("points", points, least=2)

    def energy(x, p):
        return equation.velocity(x) @ p + p @ equation.diffusion @ p - equation.killing(x)

    @jax.jit
    @jax.vmap
    def motion(state: Array) -> Array:
        x, p = state[:d], state[d : 2 * d]
        dx, dp = jax.grad(energy, argnums=1)(x, p), -jax.grad(energy)(x, p)
        return jnp.concatenate([dx, dp, equation.lagrangian(x, dx)[None]])

    line = _rough(equation, ends, time) if guess is None else np.asarray(guess, float)
    if line.ndim != 2 or line.shape[1] != d or len(line) < 2 or not np.isfinite(line).all():
        raise InputError(
            f"a guess is a path of finite points (m, {d}), at least two, got shape {line.shape}"
        )
    times = np.linspace(0, time, len(line))
    rates = np.gradient(line, times, axis=0)
    momenta = (
        (rates - np.asarray(equation.velocity(jnp.asarray(line))))
        @ np.linalg.inv(np.asarray(equation.diffusion))
        / 2
    )
    states = np.concatenate([line, momenta, np.zeros((len(line), 1))], axis=1).T
    with np.errstate(all="ignore"):  # what overflows on the way is told by the result
        solution = solve_bvp(
            lambda t, y: by_columns(motion, y),
            lambda a, b: np.concatenate([a[:d] - ends[0], b[:d] - ends[1], a[-1:]]),
            times,
            states,
            tol=1e-9,
            max_nodes=20_000,
        )
    if not solution.success:
        raise SolveError(
            f"no classical path was found ({solution.message.rstrip('.')}); give a guess, or a shorter time",
            Status.FAILED,
        )
    times = np.linspace(0, time, points)
    return Classical(times, solution.sol(times)[:d].T, float(solution.y[-1, -1]))


def _rough(
    equation: Equation, ends: tuple[np.ndarray, np.ndarray], time: float, points: int = 65
) -> np.ndarray:
    """The path through so many points with the least action near the straight line; that line where it runs away."""
    from scipy.optimize import minimize

    line = np.linspace(*ends, points)

    def inside(flat):
        return jnp.concatenate([line[:1], flat.reshape(points - 2, -1), line[-1:]])

    cost = jax.jit(jax.value_and_grad(lambda flat: equation.action(inside(flat), time, "midpoint")))
    best = minimize(
        lambda flat: tuple(map(np.asarray, cost(flat))),
        line[1:-1].ravel(),
        jac=True,
        method="L-BFGS-B",
    )
    return (
        np.asarray(inside(jnp.asarray(best.x)))
        if np.isfinite(best.fun) and np.isfinite(best.x).all()
        else line
    )
