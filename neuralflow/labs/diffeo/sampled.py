"""Maps Id + u and velocity fields on a regular grid of nodes, as image registration keeps them.

Id is the identity. The displacement u has the shape (n_1, ..., n_d, d), a vector at every node. The
unit is the spacing of the grid. Between the nodes u is linear in every axis. Beyond the edges the
vector of the nearest edge holds. All functions are pure, and open to jit, vmap and autodiff.

`neuralflow.labs.diffeo` holds the same operations for layers and functions.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jax import core, lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PyTree

from neuralflow import checks
from neuralflow.annotations import Real, Reals
from neuralflow.checks import InputError, InputTypeError
from neuralflow.solve import SolveError, Status

__docformat__ = "google"


def nodes(shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
    """Return the index of every node of a grid.

    Args:
        shape: The numbers of nodes, one for each of the d axes.
        dtype: The dtype of the indices. None stands for the default floating dtype of JAX.

    Returns:
        The indices, `(*shape, d)`.

    Raises:
        InputTypeError: `shape` is not a sequence of whole numbers, or `dtype` is not a dtype of
            real numbers.
        InputError: A number of nodes is below one, or there are 2^31 nodes or more.
    """
    shape = _grid(shape, 1)
    try:
        real = jnp.issubdtype(jnp.dtype(dtype or float), jnp.number)
    except TypeError:
        real = False
    if not real:
        raise InputTypeError(f"dtype must be a dtype of numbers such as float, got {dtype!r}")
    axes = [jnp.arange(n, dtype=dtype or jnp.result_type(float)) for n in shape]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)


def _grid(shape: Any, least: int) -> tuple[int, ...]:
    """Return the numbers of nodes, and refuse a grid that 32-bit indices cannot count."""
    shape = checks.wholes("shape", shape, least)
    if math.prod(shape) >= 2**31:
        raise InputError(f"shape must make fewer than 2^31 nodes, got {shape}")
    return shape


def interpolate(values: Float[Array, "..."], points: Float[Array, "... d"]) -> Array:
    """Interpolate values on a grid at points, linearly in every axis.

    Args:
        values: The values at the nodes, `(n_1, ..., n_d, *rest)`.
        points: The points `(..., d)`, in units of node indices. A point beyond the edges takes the
            value at the nearest edge.

    Returns:
        The values at the points, `(..., *rest)`.

    Raises:
        InputError: The grid has fewer axes than the points have coordinates, or fewer than two
            nodes an axis.
        InputTypeError: `points` is not an array of real floating-point numbers, or `values` is not
            an array.
    """
    checks.array("points", points, "...", "d")
    _check_values(values)
    dimension = points.shape[-1]
    shape = np.asarray(values.shape[:dimension])
    if len(shape) < dimension or (shape < 2).any():
        raise InputError(
            f"points of {dimension} coordinates need values on a grid of at least two nodes an "
            f"axis, got values of shape {values.shape}"
        )
    inside = jnp.clip(points, 0, jnp.asarray(shape - 1, points.dtype))
    return _blended(jnp.asarray(values, jnp.result_type(values, points)), inside)


@jax.custom_jvp
def _blended(values: Array, points: Array) -> Array:
    """Interpolate at points inside the grid.

    The rules for the tangents are the plain ones, in a form whose transposes compile to fast
    programs: one scatter of pairs of nodes, and no sums over the short axis of channels.
    """
    return _corners(values, points, None)


def _corners(values: Array, points: Array, axis: int | None) -> Array:
    """Sum the values at the corners of each cell times their weights.

    With an axis, the result is the derivative with respect to this coordinate of the points.
    """
    strides, first, part = _cells(values, points)
    rows = _rows(values, points)
    total = jnp.zeros((), values.dtype)
    for corner in itertools.product((0, 1), repeat=len(strides)):
        weight = jnp.ones((), part.dtype)
        for a, bit in enumerate(corner):
            if a == axis:
                weight = weight if bit else -weight
            else:
                weight = weight * (part[..., a] if bit else 1 - part[..., a])
        node = first + int(np.dot(corner, strides))
        total = total + _over(weight, rows) * rows.at[node].get(mode="promise_in_bounds")
    return total


def _cells(values: Array, points: Array) -> tuple[np.ndarray, Array, Array]:
    """Return where the points lie.

    These are the strides of the axes in the rows of nodes, the row of the first corner of each
    cell, and the share of the cell that lies before the point on every axis.
    """
    shape = np.asarray(values.shape[: points.shape[-1]])
    low = jnp.minimum(points.astype(jnp.int32), jnp.asarray(shape - 2, jnp.int32))
    strides = np.append(np.cumprod(shape[:0:-1])[::-1], 1).astype(np.int32)
    first = sum(low[..., a] * strides[a] for a in range(len(shape)))
    return strides, jnp.asarray(first), points - low.astype(points.dtype)


def _rows(values: Array, points: Array) -> Array:
    dimension = points.shape[-1]
    return values.reshape(math.prod(values.shape[:dimension]), *values.shape[dimension:])


def _over(weight: Array, rows: Array) -> Array:
    """Return weights with an axis of length one for every axis of a row."""
    return weight.reshape(*weight.shape, *[1] * (rows.ndim - 1))


def _along_values(tangent: Array, _: Array, values: Array, points: Array) -> Array:
    """Interpolate the tangent of the values.

    Neighbours on the last axis are read as one slice. The transpose is a single scatter.
    """
    strides, first, part = _cells(values, points)
    rows = _rows(tangent, points)
    weight = jnp.ones((*first.shape, 1), part.dtype)
    for a in range(len(strides)):
        pair = jnp.stack([1 - part[..., a], part[..., a]], axis=-1)
        weight = (weight[..., None] * pair[..., None, :]).reshape(*first.shape, 2 ** (a + 1))
    offsets = np.asarray(list(itertools.product((0, 1), repeat=len(strides) - 1)), np.int32)
    batch = first.ndim
    pairs = lax.gather(
        rows,
        (first[..., None] + offsets @ strides[:-1])[..., None],
        lax.GatherDimensionNumbers(
            offset_dims=tuple(range(batch + 1, batch + 1 + rows.ndim)),
            collapsed_slice_dims=(),
            start_index_map=(0,),
        ),
        (2, *rows.shape[1:]),
        mode="promise_in_bounds",
    )
    corners = pairs.reshape(*weight.shape, *rows.shape[1:])
    terms = lax.split(_over(weight, rows) * corners, [1] * 2 ** len(strides), axis=batch)
    return functools.reduce(jnp.add, terms).squeeze(batch)


def _along_points(tangent: Array, _: Array, values: Array, points: Array) -> Array:
    """Multiply the slopes of the interpolation by the tangent of the points."""
    batch = points.ndim - 1
    slopes = [_corners(values, points, a) for a in range(points.shape[-1])]
    slope = jnp.stack(slopes, axis=batch)
    every = tuple(range(batch))
    return lax.dot_general(
        tangent.astype(slope.dtype),
        slope,
        (((batch,), (batch,)), (every, every)),
        precision=lax.Precision.HIGHEST,
    )


_blended.defjvps(_along_values, _along_points)


def _check_values(values: Any) -> None:
    """Refuse values on a grid that are no array of numbers or booleans."""
    if not isinstance(values, Array | np.ndarray) or values.dtype.kind in "OUSM":
        raise InputTypeError(
            f"values must be an array of numbers, got {type(values).__name__}; write "
            "jnp.asarray(values)"
        )


def warp(values: Float[Array, "..."], u: Float[Array, "... d"]) -> Array:
    """Pull values on the grid back by the map Id + u.

    The result at a node is the value at the place to which Id + u takes the node.

    Args:
        values: The values at the nodes, such as an image, `(n_1, ..., n_d, *rest)`.
        u: The displacement, `(n_1, ..., n_d, d)`.

    Returns:
        The values at the displaced nodes, `(n_1, ..., n_d, *rest)`.

    Raises:
        InputError: `values` and `u` live on different grids, or `u` is no displacement.
        InputTypeError: `u` is not an array of floating numbers, or `values` is not an array.
    """
    shape = _checked("u", u)
    _check_values(values)
    if values.shape[: len(shape)] != shape:
        raise InputError(
            f"values and u live on one grid, channels last, got shapes {values.shape} and {u.shape}"
        )
    return interpolate(values, nodes(shape, u.dtype) + u)


def compose(u: Float[Array, "... d"], w: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Return the displacement of (Id + u) o (Id + w), which applies w first.

    Args:
        u: The displacement that is applied second, `(n_1, ..., n_d, d)`.
        w: The displacement that is applied first, `(n_1, ..., n_d, d)`.

    Returns:
        The displacement of the composed map, `(n_1, ..., n_d, d)`.

    Raises:
        InputError: `u` or `w` has no vector at every node of a grid, or the grids differ.
        InputTypeError: `u` or `w` is not an array of floating numbers.
    """
    if _checked("u", u) != _checked("w", w):
        raise InputError(f"u and w live on one grid, got shapes {u.shape} and {w.shape}")
    return w + warp(u, w)


def exponential(velocity: Float[Array, "... d"], squarings: int = 7) -> Float[Array, "... d"]:
    """Compute the displacement of exp(V) by scaling and squaring.

    With n = `squarings`, the map Id + V / 2^n is composed with itself n times. The composition
    takes n interpolations of the whole grid. A residual network takes 2^n blocks for the same map.
    The error of the first step is O(2^-n). The errors of the interpolations add up to
    O(spacing^2 log(1 / spacing)).

    Args:
        velocity: The velocity field V, `(n_1, ..., n_d, d)`.
        squarings: The number n of self-compositions. 0 returns V itself.

    Returns:
        The displacement u with Id + u = exp(V), `(n_1, ..., n_d, d)`.

    Raises:
        InputError: `velocity` has no vector at every node of a grid, or `squarings` is negative or
            above 64.
        InputTypeError: `velocity` is not an array of floating numbers, or `squarings` is not a
            whole number.

    Source:
        Arsigny et al. 2006.
    """
    _checked("velocity", velocity)
    checks.whole("squarings", squarings, least=0, most=64)
    if not squarings:
        return velocity

    # The gradient keeps the displacements alone. Keeping what leads to each of them takes longer
    # than computing it again.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def squared(u: Array, _: Any) -> tuple[Array, None]:
        return compose(u, u), None

    return lax.scan(squared, velocity / 2**squarings, None, squarings)[0]


def logarithm(u: Float[Array, "... d"], squarings: int = 7) -> Float[Array, "... d"]:
    """Compute the velocity field V with exponential(V, squarings) = u.

    The error is rounding times 2^squarings. The method takes square roots of Id + u one after the
    other. A root is the fixed point of w <- w + (u - w o w) / 2, where o stands for composition.
    The iteration contracts near the identity. The method replaces the iteration
    V <- V + (u - exponential(V)), which hardly ends beyond a displacement of two spacings.

    Args:
        u: The displacement, `(n_1, ..., n_d, d)`.
        squarings: The number of square roots.

    Returns:
        The velocity field V, `(n_1, ..., n_d, d)`. Inside a trace, NaN stands for a root that is
        not found.

    Raises:
        InputError: `u` has no vector at every node of a grid, is not finite, or `squarings` is
            negative or above 64.
        InputTypeError: `u` is not an array of floating numbers, or `squarings` is not a whole
            number.
        SolveError: A root is not found, as for a map that is no exponential.

    Source:
        Our formulation (inverse scaling and squaring).
    """
    _checked("u", u)
    checks.whole("squarings", squarings, least=0, most=64)
    velocity, failed = _roots(_finite(u), int(squarings))
    return _unless_failed(
        velocity,
        failed,
        u,
        (
            "Id + u has no logarithm that the iteration finds: it folds, "
            "or is too far from the identity"
        ),
    )


def inverse(u: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Compute the displacement w with (Id + u) o (Id + w) = Id at every node.

    The method is Newton's method at every node. The iteration starts from exp(-log(Id + u)). The
    interpolated map need not be near the identity, but the map must not fold.

    Args:
        u: The displacement, `(n_1, ..., n_d, d)`.

    Returns:
        The displacement w of the inverse, `(n_1, ..., n_d, d)`. Inside a trace, NaN stands for a
        failure.

    Raises:
        InputError: `u` has no vector at every node of a grid, or is not finite.
        InputTypeError: `u` is not an array of floating numbers.
        SolveError: The map folds, or the iteration does not converge.
    """
    _checked("u", u)
    value, failed = _newton(_finite(u))
    return _unless_failed(
        value, failed, u, "Id + u is not inverted: it folds, or bends too sharply"
    )


@jax.jit
def _newton(u: Array) -> tuple[Array, Array]:
    places, units = nodes(u.shape[:-1], u.dtype), jnp.eye(u.shape[-1], dtype=u.dtype)

    def step(w: Array, u: Array) -> Array:
        def push(unit):
            return jax.jvp(
                lambda p: interpolate(u, p), (places + w,), (jnp.broadcast_to(unit, w.shape),)
            )[1]

        slopes = jnp.moveaxis(jax.vmap(push)(units), 0, -1) + units
        return w - jnp.linalg.solve(slopes, (w + warp(u, w))[..., None])[..., 0]

    value, failed = _fixed(step, exponential(-_roots(u, 7)[0], 7), u)
    return value, failed | jnp.any(folded(u))


@functools.partial(jax.jit, static_argnums=1)
def _roots(u: Array, count: int) -> tuple[Array, Array]:
    """Return the velocity of the repeated square roots, and whether a root is missing.

    The first value is 2^count times (R - Id), where R is the 2^count-th root of Id + u.
    """

    def root(w, u):
        return w + (u - compose(w, w)) / 2

    def halve(carry: PyTree, _: Any) -> Any:
        u, failed = carry
        w, bad = _fixed(root, u / 2, u)
        return (w, failed | bad), None

    (w, failed), _ = lax.scan(halve, (u, jnp.asarray(False)), None, count)
    return 2**count * w, failed


def _fixed(step: Callable[[Array, Array], Array], start: Array, u: Array) -> tuple[Array, Array]:
    """Return the fixed point of step(., u), and whether the search failed."""
    eps = float(jnp.finfo(u.dtype).eps)
    size = float(max(u.shape))  # the rounding of an index grows with the index
    finder = optx.FixedPointIteration(rtol=4 * eps, atol=4 * eps * size, norm=optx.max_norm)
    adjoint = optx.ImplicitAdjoint(
        linear_solver=lx.GMRES(rtol=1e3 * eps, atol=1e3 * eps, stagnation_iters=100)
    )
    point = optx.fixed_point(step, finder, start, u, max_steps=512, throw=False, adjoint=adjoint)
    return point.value, point.result != optx.RESULTS.successful


def _finite(u: Array) -> Array:
    """Return u in the default precision of JAX, and refuse values that are not finite.

    The iterations of optimistix keep their own numbers in this precision.
    """
    if not isinstance(u, core.Tracer) and not bool(jnp.isfinite(u).all()):
        raise InputError("u holds values that are not finite; mend them first")
    return u.astype(jnp.result_type(float))


def _unless_failed(value: Array, failed: Array, u: Array, failure: str) -> Array:
    if not isinstance(failed, core.Tracer) and bool(failed):
        raise SolveError(f"{failure}; look at folded(u), or take a smaller u", Status.NOT_INVERTED)
    return jnp.where(failed, jnp.nan, value).astype(u.dtype)


def determinants(u: Float[Array, "... d"]) -> Float[Array, "..."]:
    """Compute det D(Id + u) at the corners of every cell.

    D(Id + u) is the Jacobian matrix of the interpolated map. In the plane the determinant is linear
    inside a cell. Its least value in a cell is therefore one of the values at the corners.

    Args:
        u: The displacement, `(n_1, ..., n_d, d)`.

    Returns:
        The determinants, `(n_1 - 1, ..., n_d - 1, 2^d)`.

    Raises:
        InputError: `u` has no vector at every node of a grid.
        InputTypeError: `u` is not an array of floating numbers.
    """
    shape, dimension = _checked("u", u), u.shape[-1]
    rises = []
    for a in range(dimension):
        slope = jnp.diff(u, axis=a) + jnp.zeros(dimension, u.dtype).at[a].set(1)
        corners = []
        for corner in itertools.product((0, 1), repeat=dimension):
            cut = tuple(
                slice(None) if b == a else slice(bit, n - 1 + bit)
                for b, (bit, n) in enumerate(zip(corner, shape, strict=True))
            )
            corners.append(slope[cut])
        rises.append(jnp.stack(corners, axis=-2))
    return jnp.linalg.det(jnp.stack(rises, axis=-1))


def folded(u: Float[Array, "... d"]) -> Bool[Array, "..."]:
    """Find the cells in which the map Id + u turns inside out or collapses.

    A cell counts if the determinant is not positive at one of its corners. The test is exact for
    the interpolated map in the plane. In space the test may miss folds inside a cell.

    A map that bends sharply within one spacing may fold once it is sampled, although the map itself
    does not. In this case take a finer grid, or take `neuralflow.labs.diffeo.jacobian` of the map.

    Args:
        u: The displacement, `(n_1, ..., n_d, d)`.

    Returns:
        The booleans, one for each cell, `(n_1 - 1, ..., n_d - 1)`.

    Raises:
        InputError: `u` has no vector at every node of a grid.
        InputTypeError: `u` is not an array of floating numbers.
    """
    return jnp.any(~(determinants(u) > 0), axis=-1)


def sample(
    mapping: Callable[[Any], Any], low: Real | Reals, high: Real | Reals, shape: tuple[int, ...]
) -> Array:
    """Sample a map of points as its displacement u on a grid over a box.

    Args:
        mapping: The map from points `(batch, d)` to points `(batch, d)`.
        low: The lower ends of the box, one number or `(d,)`.
        high: The upper ends of the box, one number or `(d,)`.
        shape: The numbers of nodes, one for each of the d axes.

    Returns:
        The displacement in units of the spacing, `(*shape, d)`.

    Raises:
        InputError: The box and the grid do not fit, or `mapping` does not give points `(batch, d)`.
        InputTypeError: `mapping` is not a function of one argument, or does not give real numbers.
        InputTypeError: `shape` does not consist of whole numbers, or the box of numbers.
    """
    checks.function("map", mapping, 1)
    shape = _grid(shape, 2)
    low, high = box(low, high, len(shape))
    index = nodes(shape)
    width = jnp.asarray((high - low) / (np.asarray(shape) - 1), index.dtype)
    y = mapping((jnp.asarray(low, index.dtype) + index * width).reshape(-1, len(shape)))
    checks.array("what the map gives", y, index.size // len(shape), len(shape))
    return ((y - jnp.asarray(low, index.dtype)) / width).reshape(index.shape) - index


def box(low: Real | Reals, high: Real | Reals, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of a box, and refuse numbers that are none.

    Args:
        low: The lower ends of the box, one number or `(d,)`.
        high: The upper ends of the box, one number or `(d,)`.
        dimension: The number d of coordinates.

    Returns:
        The two corners, `(d,)` each.

    Raises:
        InputError: The ends are not finite, not one number or `(d,)`, or `low` is not below `high`.
        InputTypeError: `low` or `high` does not consist of real numbers.
    """
    ends = [checks.known_numbers(name, end, "...") for name, end in (("low", low), ("high", high))]
    for name, end in zip(("low", "high"), ends, strict=True):
        if end.shape not in ((), (dimension,)):
            raise InputError(
                f"{name} is one number or {dimension}, one for each axis, got shape {end.shape}"
            )
    corners = np.broadcast_to(ends[0], dimension), np.broadcast_to(ends[1], dimension)
    if not (corners[0] < corners[1]).all():
        raise InputError(f"low must lie below high on every axis, got {low!r} and {high!r}")
    return corners


def _checked(name: str, u: Any) -> tuple[int, ...]:
    """Return the shape of the grid.

    The function refuses an array without one vector of d numbers at each node of a d-dimensional
    grid.
    """
    if not isinstance(u, Array | np.ndarray) or not jnp.issubdtype(u.dtype, jnp.floating):
        raise InputTypeError(
            f"{name}, a displacement, is an array of floating numbers, got "
            f"{u.dtype if isinstance(u, Array | np.ndarray) else type(u).__name__}; "
            f"jnp.asarray({name}, float)"
        )
    shape = np.shape(u)
    if not shape or len(shape) != shape[-1] + 1 or min(shape[:-1], default=0) < 2:
        raise InputError(
            f"{name}, a displacement on a grid, has shape (n_1, ..., n_d, d), at least two nodes "
            f"an axis, got {shape}; a batch goes through jax.vmap"
        )
    return shape[:-1]
