"""The path integral of a residual block's equation: Gaussian steps, the action, and paths.

The equation is u_t = -v . grad u + D : grad grad u - V u, with the drift v, the diffusion D and the
potential V. A step of length dt has the kernel (4 pi dt)^(-d/2) det(D)^(-1/2) exp(-dt L). The
Lagrangian is L = (dx/dt - v)' D^-1 (dx/dt - v) / 4 + V. The solution u(x, T) is therefore the
integral over all paths with the weight exp(-S), where the action S is the integral of L over time.

`Equation` holds v, D and V. `composed` and `feynman_kac` solve the equation by sums over paths,
`spectral` solves it without paths, and `classical` finds the most probable path. Sums over the
paths of a network itself stand in `discrete`.

Source:
    Yin, Li, Zhang & Wang, arXiv 1904.07568. That the output of a ResNet is such an integral is
    stated there. The formulas are our formulation.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core, lax
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.annotations import Real, Reals
from neuralflow.checks import InputError, InputTypeError
from neuralflow.solve import SolveError, Status
from neuralflow.solve.collocation import by_columns
from neuralflow.statistics import Estimate, estimate

Convention = Literal["new", "midpoint", "old"]
_CHUNK = 2**15
_MOST_NODES = 4096
_MOST_IMAGES = 2**14
_MOST_STEPS = 2**36


class Equation(eqx.Module):
    """The equation u_t = -v . grad u + D : grad grad u - V u on points of d coordinates.

    Args:
        diffusion: The diffusion D, a positive number or a symmetric positive definite matrix
            `(d, d)`. Only a positive D gives the paths Gaussian weights. D is not checked where one
            of the three terms is traced.
        drift: The drift v, a number, numbers `(d,)`, or a function that maps points `(..., d)` to
            `(..., d)`.
        potential: The potential V, a number or a function that maps points `(..., d)` to `(...,)`.
        dimension: The number d of coordinates. By default, the shapes of `diffusion` and `drift`
            determine d, and d is one where both are numbers.

    Raises:
        InputError: The diffusion is not finite, symmetric and positive definite, a constant is not
            finite, the shapes do not fit one dimension, or the dimension is above 4096.
        InputTypeError: The dimension is not a whole number, a term is neither numbers nor a
            function of one argument, or the diffusion is a function.

    Attributes:
        drift: The drift v, numbers `(d,)` or the function.
        diffusion: The diffusion D as a matrix `(d, d)`.
        potential: The potential V, a number or the function.
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

        def constant(name: str, value: Any) -> Any:
            """Return the numbers of a term that is constant, and None for a function."""
            if not callable(value) or isinstance(value, nnx.Variable):
                array = checks.numbers(name, value)
                return array if isinstance(array, core.Tracer) else np.asarray(array, float)
            checks.function(name, value, 1)
            return None

        if dimension is not None:
            checks.whole("dimension", dimension, most=_MOST_NODES)
        matrix, known = constant("diffusion", diffusion), constant("drift", drift)
        killed = constant("potential", potential)
        if matrix is None:
            raise InputTypeError("diffusion must be a number or a matrix (d, d), got a function")
        sizes = {
            *matrix.shape,
            *(() if known is None else known.shape),
            *(() if dimension is None else (dimension,)),
        }
        if len(sizes) > 1 or matrix.ndim not in (0, 2) or (known is not None and known.ndim > 1):
            raise InputError(
                "diffusion is a number or (d, d), a constant drift (d,), in dimension d: got "
                f"shapes {matrix.shape} and "
                f"{None if known is None else known.shape}, dimension {dimension}"
            )
        d = sizes.pop() if sizes else 1
        checks.whole("dimension", d)
        matrix = matrix * np.eye(d) if matrix.ndim == 0 else matrix
        if not traced:
            _check_diffusion(np.asarray(matrix))
        if killed is not None and killed.ndim:
            raise InputError(
                f"potential is one number or a function of points, got shape {killed.shape}"
            )
        self.drift = drift if known is None else jnp.broadcast_to(jnp.asarray(known), (d,))
        self.diffusion = jnp.asarray(matrix)
        self.potential = potential if killed is None else jnp.asarray(killed)

    @classmethod
    def of(cls, coefficients: Any) -> "Equation":
        """Build the equation of a differential operator on one channel.

        The operator (a + b . grad + D : grad grad) u has the drift v = -b and the potential V = -a.
        Points of the equation are `(x,)` or `(y, x)`.

        Args:
            coefficients: The coefficients of a
                `neuralflow.labs.operators.DifferentialOperator`, `(terms, 1, 1)` or `(terms,)`.
                Their order is (1, x, xx) in one dimension and (1, x, y, xx, xy, yy) in two
                dimensions. Traced coefficients are differentiable, and their diffusion is not
                checked to be positive.

        Returns:
            The equation, in one or two dimensions.

        Raises:
            InputError: There are neither 3 nor 6 coefficients, the operator has several channels,
                or its diffusion is not positive definite.
            InputTypeError: `coefficients` is a module, or is not made of real numbers.
        """
        if isinstance(coefficients, nnx.Module):
            raise InputTypeError(
                f"an equation is made of numbers, got a {type(coefficients).__name__}; give "
                "operator.coefficients[...]"
            )
        values = checks.numbers("coefficients", coefficients)
        values = values if isinstance(values, core.Tracer) else np.asarray(values, float)
        if values.shape[:1] not in ((3,), (6,)) or values.ndim not in (1, 3):
            raise InputError(
                "coefficients of an operator of second order are 3 (1, x, xx) or 6 (1, x, y, xx, "
                f"xy, yy), (terms,) or (terms, 1, 1), got shape {values.shape}; "
                "give operator.coefficients[...]"
            )
        if values.shape[1:] not in ((), (1, 1)):
            raise InputError(
                "coefficients of a path integral are those of one channel, got an operator from "
                f"{values.shape[1]} to {values.shape[2]}; "
                "with several, paths have matrices for weights"
            )
        c = values.reshape(-1)
        if len(c) == 3:
            return cls(c[2:, None], -c[1:2], -c[0])
        matrix = c[np.asarray([[5, 4], [4, 3]])] * np.asarray([[1, 0.5], [0.5, 1]])
        return cls(matrix, -c[np.asarray([2, 1])], -c[0])

    def _points(self, x: Any, name: str = "x") -> Array:
        """Return x as floating-point points of this equation, with checked shape."""
        x = jnp.asarray(checks.numbers(name, x, finite=False))
        if x.shape[-1:] != self.diffusion.shape[:1] or not x.size:
            raise InputError(
                f"{name} must be points of {self.dimension} coordinates on the last axis, one "
                f"point at least, got shape {x.shape}"
            )
        return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)

    @property
    def dimension(self) -> int:
        """The number of coordinates of a point."""
        return len(self.diffusion)

    def velocity(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Return the drift v at points.

        Args:
            x: The points, `(..., d)`.

        Returns:
            The drift, `(..., d)`.

        Raises:
            InputError: The points do not have d coordinates, or the drift's function returns
                another shape.
            InputTypeError: The points, or the values of the function, are not real numbers.
        """
        x = self._points(x)
        return _at("drift", self.drift, x, x.shape)

    def killing(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Return the potential V at points.

        Args:
            x: The points, `(..., d)`.

        Returns:
            The potential, `(...,)`.

        Raises:
            InputError: The points do not have d coordinates, or the potential's function returns
                another shape.
            InputTypeError: The points, or the values of the function, are not real numbers.
        """
        x = self._points(x)
        return _at("potential", self.potential, x, x.shape[:-1])

    def lagrangian(
        self, x: Float[Array, "*batch d"], rate: Float[Array, "*batch d"]
    ) -> Float[Array, "*batch"]:
        """Return the Lagrangian L(x, dx/dt) = (dx/dt - v)' D^-1 (dx/dt - v) / 4 + V.

        Args:
            x: The points, `(..., d)`.
            rate: The rates dx/dt, `(..., d)`.

        Returns:
            The Lagrangian, `(...,)`.

        Raises:
            InputError: The points or the rates do not have d coordinates, or their other axes do
                not broadcast.
            InputTypeError: The points or the rates are not real numbers.
        """
        rate, x = _alike(rate=self._points(rate, "rate"), x=self._points(x))
        gap = rate - self.velocity(x)
        return jnp.einsum(
            "...i,ij,...j->...", gap, jnp.linalg.inv(self.diffusion), gap
        ) / 4 + self.killing(x)

    def action(
        self, path: Float[Array, "*batch n d"], time: Real, at: Convention = "new"
    ) -> Float[Array, "*batch"]:
        """Return the action S of paths, the sum of dt L over their steps.

        The product of the kernels of a path's steps is exp(-S), times the normalisations of the
        kernels.

        Args:
            path: The points of the paths at equal times, `(..., n, d)` with n >= 2. The first point
                belongs to time zero.
            time: The time of the last point.
            at: The point of a step where v and V are evaluated: "new", "midpoint" or "old".

        Returns:
            The actions, `(...,)`.

        Raises:
            InputError: A path has fewer than two points, its points do not have d coordinates, the
                time is not positive, or `at` is none of the three names.
            InputTypeError: The points or the time are not real numbers.
        """
        path = self._points(path, "path")
        checks.number("time", time, above=0.0)
        if path.ndim < 2 or path.shape[-2] < 2:
            raise InputError(
                f"a path must have at least two points, (..., n, {self.dimension}), got shape "
                f"{path.shape}"
            )
        old, new = path[..., :-1, :], path[..., 1:, :]
        dt = time / (path.shape[-2] - 1)
        return jnp.asarray(dt) * jnp.sum(
            self.lagrangian(_place(old, new, at), (new - old) / dt), axis=-1
        )

    def kernel(self, new: Array, old: Array, dt: Real, at: Convention = "new") -> Array:
        """Return the weight of a step from old points to new points: exp(-dt L), normalised.

        With v at the new point, the composed steps solve the equation as it stands, up to an error
        of O(dt). With v at the old point, the composed steps solve u_t = -div(v u) + ... instead.
        With v at the midpoint, the composed steps solve the mean of the two equations.

        Args:
            new: The points where the step ends, `(..., d)`.
            old: The points where the step starts, `(..., d)`.
            dt: The length of the step in time.
            at: The point of the step where v and V are evaluated: "new", "midpoint" or "old".

        Returns:
            The weights, `(...,)`.

        Raises:
            InputError: The points do not have d coordinates, or their other axes do not broadcast.
                The step is not positive, or `at` is none of the three names.
            InputTypeError: The points or the step are not real numbers.
        """
        new, old = _alike(new=self._points(new, "new"), old=self._points(old, "old"))
        checks.number("dt", dt, above=0.0)
        scale = jnp.sqrt((4 * jnp.pi * dt) ** self.dimension * jnp.linalg.det(self.diffusion))
        return jnp.exp(-dt * self.lagrangian(_place(old, new, at), (new - old) / dt)) / scale


def _check_diffusion(matrix: np.ndarray) -> None:
    """Refuse a matrix that is not finite, symmetric and positive definite."""
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
        raise InputError(
            f"diffusion is a finite symmetric matrix, got {matrix.tolist()}; take its symmetric "
            "part, which is all that D : grad grad sees"
        )
    if np.linalg.eigvalsh(matrix).min() <= 0:
        raise InputError(
            "paths have weights exp(-S) only where the diffusion is positive (definite), got "
            f"{matrix.tolist()}; without diffusion the solution "
            "runs along characteristics: nf.transport"
        )


def _alike(**points: Array) -> tuple[Array, ...]:
    """Return points as they are, and refuse points that do not broadcast."""
    shapes = [p.shape for p in points.values()]
    try:
        jnp.broadcast_shapes(*shapes)
    except ValueError:
        raise InputError(f"{' and '.join(points)} must broadcast, got shapes {shapes}") from None
    return tuple(points.values())


def _at(name: str, term: Any, x: Array, shape: tuple[int, ...]) -> Array:
    """Return a term at the points x: a function's values, or the constant, in the given shape."""
    value = (
        jnp.asarray(checks.numbers(f"what the {name} returns", cast(Any, term)(x), finite=False))
        if callable(term)
        else term
    )
    if callable(term) and value.ndim and value.shape != shape:
        raise InputError(f"the {name} maps points of shape {x.shape} to {shape}, got {value.shape}")
    return jnp.broadcast_to(value, shape).astype(x.dtype)


def _place(old: Array, new: Array, at: Convention) -> Array:
    """Return the point of a step where the drift and the potential are evaluated."""
    checks.choice("at", at, get_args(Convention))
    return new if at == "new" else old if at == "old" else (old + new) / 2


def composed(
    equation: Equation,
    values: PyTree,
    period: float,
    time: float,
    steps: int,
    at: Convention = "new",
) -> Array:
    """Solve the equation on a periodic grid by composing Gaussian kernels.

    `steps` kernels follow one another. The result is the sum over all paths through the points of
    the grid.

    Args:
        equation: The equation, made of numbers and not of traced arrays. Its drift and its
            potential have the period of the grid.
        values: The values of u_0 at equally spaced points from 0 to `period` along every axis. The
            array has as many axes as the equation has coordinates, and at most 4096 entries. The
            point at `period` itself is left out.
        period: The length of the grid along every axis.
        time: The time that passes.
        steps: The number of kernels.
        at: The point of a step where v and V are evaluated: "new", "midpoint" or "old". Only "new"
            solves the equation as it stands where v varies; see `Equation.kernel`.

    Returns:
        The values of u(., time), in the shape of `values`.

    Raises:
        InputError: The grid does not resolve the kernel, because sqrt(2 D dt) is below the spacing
            of the grid, with dt = time / steps. The same error refuses values of another shape or
            more than 4096 values, a period or a time that is not positive, more than 2^20 steps,
            a step that reaches round the grid thousands of times, and an `at` that is none of the
            three names.
        InputTypeError: The equation is no `Equation` or is traced, the values are not real numbers,
            or `steps` is not a whole number.
    """
    values, d = _grid(equation, values, period), equation.dimension
    checks.whole("steps", steps, most=2**20)
    checks.number("time", time, above=0.0)
    checks.choice("at", at, get_args(Convention))
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
            f"the grid does not resolve a step: its kernel is {spreads[0]:.3g} wide, the points "
            f"are {spacing:.3g} apart; take "
            f"{' or '.join(ways or ['both fewer steps and more points'])}"
        )
    axes = [period * np.arange(n) / n for n in values.shape]
    points = jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d))
    with jax.ensure_compile_time_eval():
        moved = float(jnp.abs(equation.velocity(points)).max()) * dt
    reach = 1 + math.ceil((9 * spreads[-1] + moved) / period)
    if (2 * reach + 1) ** d > _MOST_IMAGES:
        raise InputError(
            f"a step of time / steps = {dt:.3g} reaches {reach} times round the period "
            f"{period:.3g}; take more steps"
        )
    images = period * jnp.asarray(
        list(itertools.product(range(-reach, reach + 1), repeat=d)), float
    )
    matrix = _summed(equation, points, images, dt, at)
    matrix = matrix * (period**d / values.size)
    return lax.fori_loop(0, steps, lambda _, u: matrix @ u, values.ravel()).reshape(values.shape)


def _grid(equation: Any, values: PyTree, period: Any) -> Array:
    """Return values on the grid of an equation of numbers as a floating array."""
    checks.instance("equation", equation, Equation, "a nf.labs.paths.Equation")
    if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(equation)):
        raise InputTypeError(
            "equation must be an equation of numbers, since a grid is planned on the host; "
            "feynman_kac takes traced ones"
        )
    checks.number("period", period, above=0.0)
    values = jnp.asarray(checks.numbers("values", values))
    if values.ndim != equation.dimension or not values.size:
        raise InputError(
            f"values must stand on a grid of {equation.dimension} axes, got shape {values.shape}"
        )
    return values.astype(float)


@eqx.filter_jit
def _summed(equation: Equation, points: Array, images: Array, dt: Real, at: Convention) -> Array:
    """Return the kernels between all points, `(new, old)`, summed over the periodic images."""

    def add(total: Array, shift: Array) -> tuple[Array, None]:
        # With "new" and "old", v and V are evaluated at the end that is not shifted.
        new, old = (points, points + shift) if at == "new" else (points - shift, points)
        return total + equation.kernel(new[:, None], old[None], dt, at), None

    return lax.scan(add, jnp.zeros((len(points), len(points))), images)[0]


def spectral(equation: Equation, values: PyTree, period: float, time: Real) -> Array:
    """Solve the equation on a periodic grid by Fourier series.

    The solution is exact for a constant drift and a constant potential.

    Args:
        equation: The equation, with constant drift and constant potential.
        values: The values of u_0 at equally spaced points from 0 to `period` along every axis. The
            array has as many axes as the equation has coordinates. The point at `period` itself is
            left out.
        period: The length of the grid along every axis.
        time: The time that passes, zero or more.

    Returns:
        The values of u(., time), in the shape of `values`.

    Raises:
        InputError: The period is not positive, the time is negative, or the values have another
            number of axes or are not finite.
        InputTypeError: The equation is no `Equation` or is traced, its drift or its potential is a
            function, or the values or the time are not real numbers.
    """
    values = _grid(equation, values, period)
    checks.number("time", time, least=0.0)
    if callable(equation.drift) or callable(equation.potential):
        raise InputTypeError(
            "equation must have constant drift and potential, for which the Fourier series of the "
            "solution is known; composed() takes functions"
        )
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
    time: Real,
    *,
    steps: int,
    count: int,
    key: Array,
) -> Estimate:
    """Estimate the solution u(x, time) by the mean over random paths from x.

    The random paths follow dX = -v dt + sqrt(2 D) dB from X_0 = x. The mean of
    exp(-int V dt) u_0(X_time) is u(x, time). Every point has paths of its own. The result is
    differentiable in x, in the time and in the equation.

    Args:
        equation: The equation. Traced equations are allowed.
        initial: The initial values u_0, a function that maps points `(..., d)` to numbers `(...,)`.
        x: The points, `(..., d)`.
        time: The time that passes, zero or more.
        steps: The number of steps of the Euler-Maruyama scheme on each path. The steps cause a bias
            of O(time / steps) where v or V vary, and no bias where both are constant.
        count: The number of paths from each point, at least two. All paths together take at most
            2^36 steps.
        key: The random key of the paths.

    Returns:
        The mean and its standard error, `(...,)` each.

    Raises:
        InputError: The points do not have d coordinates, the time is negative or not finite,
            `initial` does not return one number for each point, `steps` is below one, `count` is
            below two, or there are too many paths or steps.
        InputTypeError: The equation is no `Equation`, `initial` is not a function of one argument
            that returns real numbers, the points or the time are not real numbers, `key` is not
            one random key, or `steps` or `count` is not a whole number.
    """
    checks.instance("equation", equation, Equation, "a nf.labs.paths.Equation")
    checks.function("initial", initial, 1)
    checks.whole("steps", steps)
    checks.whole("count", count, least=2)
    checks.key(key)
    x = equation._points(x)
    checks.number("time", time, least=0.0)
    paths = int(count) * (x.size // equation.dimension)
    checks.held(
        f"the noise of steps = {steps} on {min(count, _CHUNK)} paths at a time",
        min(int(count), _CHUNK) * int(steps) * equation.dimension,
        "take fewer steps",
    )
    if paths * int(steps) > _MOST_STEPS:
        raise InputError(
            f"{paths} paths (count at every point) of steps = {steps} take more than 2^36 steps; "
            "take fewer, and average over several calls with other keys"
        )

    def valued(points: Array) -> Any:
        return checks.numbers("what initial returns", initial(points), finite=False)

    values = jax.eval_shape(valued, jax.ShapeDtypeStruct((2, equation.dimension), x.dtype))
    if np.shape(values) != (2,):
        raise InputError(
            f"initial maps points (..., {equation.dimension}) to one number each, (...,); of two "
            f"points it made {np.shape(values)}"
        )
    return _feynman_kac(
        equation, initial, x, jnp.asarray(time, x.dtype), int(steps), int(count), key
    )


@eqx.filter_jit
def _feynman_kac(
    equation: Equation, initial: PyTree, x: Array, time: Array, steps: int, count: int, key: Array
) -> Estimate:
    """Compute the mean and the standard error for every point, `_CHUNK` paths at a time."""
    dt = time / steps
    root = jnp.linalg.cholesky(2 * equation.diffusion).astype(x.dtype)

    def path(start: Array, key: Array) -> Array:
        def step(carry: PyTree, noise: Array) -> tuple[Any, None]:
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
    """The most probable path between two points.

    Attributes:
        times: The times, `(m,)`, equally spaced from zero to the end.
        points: The points of the path at these times, `(m, d)`.
        action: The action S of the path.
    """

    times: np.ndarray
    points: np.ndarray
    action: float


def classical(
    equation: Equation,
    start: Reals,
    end: Reals,
    time: float,
    *,
    points: int = 129,
    guess: Array | np.ndarray | None = None,
) -> Classical:
    """Find the path between two points on which the action is stationary.

    This path is the most probable one near the guess. The function solves Hamilton's equations
    x' = v + 2 D p and p' = -(grad v)' p + grad V, with the momentum p, as a boundary-value problem.
    scipy solves the problem to the tolerance 1e-9. The action is the integral of
    `Equation.lagrangian` along a smooth path.

    Args:
        equation: The equation.
        start: The point at time zero, `(d,)`.
        end: The point at `time`, `(d,)`.
        time: The time between the two points.
        points: The number of points that are returned, at least two.
        guess: The path from which the solver starts, points `(m, d)` at equal times with m >= 2. By
            default, the path through 65 points with the least action near the straight line.

    Returns:
        The path and its action.

    Raises:
        SolveError: The solver finds no path.
        RuntimeError: jax_enable_x64 is off.
        InputError: An end or the guess has another shape or is not finite, the time is not
            positive, or `points` is below two or above 2^20.
        InputTypeError: The equation is no `Equation`, an end or the guess is not made of real
            numbers, or `points` is not a whole number.
    """
    from scipy.integrate import solve_bvp

    checks.instance("equation", equation, Equation, "a nf.labs.paths.Equation")
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise RuntimeError(
            "a classical path is computed in float64; "
            'call jax.config.update("jax_enable_x64", True) first'
        )
    d = equation.dimension
    checks.number("time", time, above=0.0)
    checks.whole("points", points, least=2, most=2**20)
    ends = [
        np.asarray(checks.numbers(name, value), float).reshape(-1)
        for name, value in {"start": start, "end": end}.items()
    ]
    if any(e.shape != (d,) for e in ends):
        raise InputError(
            f"start and end must be two points ({d},) of this equation, got shapes "
            f"{ends[0].shape} and {ends[1].shape}"
        )

    def energy(x, p):
        """Compute the Hamiltonian at the point x with the momentum p."""
        return equation.velocity(x) @ p + p @ equation.diffusion @ p - equation.killing(x)

    @jax.jit
    @jax.vmap
    def motion(state: Array) -> Array:
        """Compute the rates of the point, the momentum and the accumulated action."""
        x, p = state[:d], state[d : 2 * d]
        dx, dp = jax.grad(energy, argnums=1)(x, p), -jax.grad(energy)(x, p)
        return jnp.concatenate([dx, dp, equation.lagrangian(x, dx)[None]])

    line = (
        _rough(equation, ends, time)
        if guess is None
        else np.asarray(checks.numbers("guess", guess), float)
    )
    if line.ndim != 2 or line.shape[1] != d or len(line) < 2:
        raise InputError(
            f"guess must be a path of points (m, {d}), at least two, got shape {line.shape}"
        )
    times = np.linspace(0, time, len(line))
    rates = np.gradient(line, times, axis=0)
    momenta = (
        (rates - np.asarray(equation.velocity(jnp.asarray(line))))
        @ np.linalg.inv(np.asarray(equation.diffusion))
        / 2
    )
    states = np.concatenate([line, momenta, np.zeros((len(line), 1))], axis=1).T
    with np.errstate(all="ignore"):  # the result reports any overflow on the way
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
            f"no classical path was found ({solution.message.rstrip('.')}); give a guess, or a "
            "shorter time",
            Status.FAILED,
        )
    times = np.linspace(0, time, points)
    return Classical(times, solution.sol(times)[:d].T, float(solution.y[-1, -1]))


def _rough(
    equation: Equation, ends: Sequence[np.ndarray], time: float, points: int = 65
) -> np.ndarray:
    """Return the path of least action near the straight line, through `points` points.

    Where the minimisation diverges, the result is the straight line itself.
    """
    from scipy.optimize import minimize

    line = np.linspace(ends[0], ends[1], points)

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
