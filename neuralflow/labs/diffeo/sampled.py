"""Maps Id + u and fields on a regular grid of nodes, as image registration keeps them.

u (n_1, ..., n_d, d): a vector at every node, in units of the grid's spacing, linear between the nodes in every axis;
beyond the edges the nearest edge's vector holds. All functions are pure, open to jit, vmap and autodiff.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jax import core, lax
from jaxtyping import Array, Bool, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.solve import SolveError, Status


def nodes(shape: tuple[int, ...], dtype: Any = None) -> Array:
    """The index of every node, (*shape, d)."""
    axes = [jnp.arange(n, dtype=dtype or jnp.result_type(float)) for n in shape]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)


def interpolate(values: Float[Array, "..."], points: Float[Array, "... d"]) -> Array:
    """values (n_1, ..., n_d, *rest) at points (..., d) given as node indices: (..., *rest), linear in every axis."""
    dimension = points.shape[-1]
    shape = np.asarray(values.shape[:dimension])
    if len(shape) < dimension or (shape < 2).any():
        raise InputError(
            f"points of {dimension} coordinates need values on a grid of at least two nodes an axis, got {values.shape}"
        )
    points = jnp.clip(points, 0, jnp.asarray(shape - 1, points.dtype))
    low = jnp.minimum(points.astype(jnp.int32), jnp.asarray(shape - 2, jnp.int32))
    part = points - low.astype(points.dtype)
    strides = np.append(np.cumprod(shape[:0:-1])[::-1], 1).astype(np.int32)
    first = sum(low[..., a] * strides[a] for a in range(dimension))
    rows = values.reshape(int(shape.prod()), *values.shape[dimension:])
    spread = (..., *[None] * (values.ndim - dimension))
    total = jnp.zeros((), values.dtype)
    for corner in itertools.product((0, 1), repeat=dimension):
        weight = jnp.ones((), part.dtype)
        for a, bit in enumerate(corner):
            weight = weight * (part[..., a] if bit else 1 - part[..., a])
        offset = int(np.dot(corner, strides))
        total = total + weight[spread] * rows.at[first + offset].get(mode="promise_in_bounds")
    return total


def warp(values: Float[Array, "..."], u: Float[Array, "... d"]) -> Array:
    """values at the places to which Id + u takes the nodes: an image (n_1, ..., n_d, *rest) pulled back by the map."""
    shape = _checked(u)
    if jnp.shape(values)[: len(shape)] != shape:
        raise InputError(
            f"values and u live on one grid, channels last, got shapes {jnp.shape(values)} and {u.shape}"
        )
    return interpolate(values, nodes(shape, u.dtype) + u)


def compose(u: Float[Array, "... d"], w: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """The u of (Id + u) o (Id + w): w first."""
    return w + warp(u, w)


def exponential(velocity: Float[Array, "... d"], squarings: int = 7) -> Float[Array, "... d"]:
    """The u of exp(V) by scaling and squaring: Id + V / 2^n, composed with itself n = `squarings` times (Arsigny et al. 2006).

    n interpolations of the whole grid, where as many residual blocks would be 2^n. The first step's error is O(2^-n), those of
    the interpolations add up to O(spacing^2 log(1 / spacing)).
    """
    _checked(velocity)
    checks.whole("squarings", squarings, least=0)
    if not squarings:
        return velocity
    return lax.scan(lambda u, _: (compose(u, u), None), velocity / 2**squarings, None, squarings)[0]


def logarithm(u: Float[Array, "... d"], squarings: int = 7) -> Float[Array, "... d"]:
    """The V with exponential(V, squarings) = u, to rounding times 2^squarings: the square roots of Id + u, one after the other.

    A root is the fixed point w <- w + (u - w o w) / 2 (o: composition), which contracts near the identity; inverse scaling and squaring in
    place of the iteration V <- V + (u - exponential(V)), which hardly ends beyond a displacement of two spacings. Our formulation.
    SolveError where a root is not found, as for a map that is no exponential; NaN in a trace.
    """
    _checked(u)
    checks.whole("squarings", squarings, least=0)
    velocity, failed = _roots(_finite(u), squarings)
    return _unless_failed(
        velocity,
        failed,
        u,
        "Id + u has no logarithm that the iteration finds: it folds, or is too far from the identity",
    )


def inverse(u: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """The w with (Id + u) o (Id + w) = Id at every node, by Newton's method at every node, begun at exp(-log(Id + u)).

    The interpolated map need not be near the identity, but must not fold. SolveError where it does, or where the iteration does
    not end; NaN in a trace.
    """
    _checked(u)
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
    """2^count times the 2^count-th root of Id + u, less Id, and whether one of the roots was not found."""

    def root(w, u):
        return w + (u - compose(w, w)) / 2

    def halve(carry: Any, _: Any) -> Any:
        u, failed = carry
        w, bad = _fixed(root, u / 2, u)
        return (w, failed | bad), None

    (w, failed), _ = lax.scan(halve, (u, jnp.asarray(False)), None, count)
    return 2**count * w, failed


def _fixed(step: Callable[[Array, Array], Array], start: Array, u: Array) -> tuple[Array, Array]:
    """The fixed point of step(., u), and whether it was not found."""
    eps = float(jnp.finfo(u.dtype).eps)
    size = float(max(u.shape))  # indices are of this size, and so are their roundings
    finder = optx.FixedPointIteration(rtol=4 * eps, atol=4 * eps * size, norm=optx.max_norm)
    adjoint = optx.ImplicitAdjoint(
        linear_solver=lx.GMRES(rtol=1e3 * eps, atol=1e3 * eps, stagnation_iters=100)
    )
    point = optx.fixed_point(step, finder, start, u, max_steps=512, throw=False, adjoint=adjoint)
    return point.value, point.result != optx.RESULTS.successful


def _finite(u: Array) -> Array:
    """u in JAX's default precision, which optimistix's iterations have for their own numbers; ValueError for NaN."""
    if not isinstance(u, core.Tracer) and not bool(jnp.isfinite(u).all()):
        raise InputError("u holds values that are not finite; mend them first")
    return u.astype(jnp.result_type(float))


def _unless_failed(value: Array, failed: Array, u: Array, failure: str) -> Array:
    if not isinstance(failed, core.Tracer) and bool(failed):
        raise SolveError(f"{failure}; look at folded(u), or take a smaller u", Status.NOT_INVERTED)
    return jnp.where(failed, jnp.nan, value).astype(u.dtype)


def determinants(u: Float[Array, "... d"]) -> Float[Array, "..."]:
    """det D(Id + u) at the corners of every cell, (n_1 - 1, ..., n_d - 1, 2^d).

    In the plane the determinant of the interpolated map is linear inside a cell, so its least value is one of these.
    """
    shape, dimension = _checked(u), u.shape[-1]
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
    """The cells in which Id + u turns inside out or collapses: a determinant that is not positive at a corner.

    Exact for the interpolated map in the plane; in space it may miss folds inside a cell. A map that bends sharply within a spacing
    may fold once it is sampled although it does not itself: take a finer grid, or `jacobian` of the map.
    """
    return jnp.any(~(determinants(u) > 0), axis=-1)


def sample(mapping: Callable[[Any], Any], low: Any, high: Any, shape: tuple[int, ...]) -> Array:
    """A map of points (batch, d) as its u on a grid of `shape` nodes over the box from `low` to `high` (d,) each."""
    checks.function("map", mapping)
    low, high = np.broadcast_arrays(*(np.asarray(end, float) for end in (low, high)))
    if min(shape) < 2 or low.shape not in ((), (len(shape),)) or not (low < high).all():
        raise InputError(
            f"a grid of shape {shape} takes a box of low < high, one number or {len(shape)} each, got {low} and {high}"
        )
    low, high = (np.broadcast_to(end, len(shape)) for end in (low, high))
    index = nodes(shape)
    width = jnp.asarray((high - low) / (np.asarray(shape) - 1), index.dtype)
    y = mapping((jnp.asarray(low, index.dtype) + index * width).reshape(-1, len(shape)))
    if jnp.shape(y) != (index.size // len(shape), len(shape)):
        raise InputError(
            f"the map must take points (batch, {len(shape)}) to such points, got shape {jnp.shape(y)} for {index.size // len(shape)}"
        )
    return ((y - jnp.asarray(low, index.dtype)) / width).reshape(index.shape) - index


def _checked(u: Array) -> tuple[int, ...]:
    """The grid's shape; ValueError where u has not one vector of d numbers at the nodes of a d-dimensional grid."""
    if not isinstance(u, Array | np.ndarray) or not jnp.issubdtype(u.dtype, jnp.floating):
        raise InputTypeError(
            f"a displacement is an array of floating numbers, got {getattr(u, 'dtype', type(u).__name__)}; jnp.asarray(u, float)"
        )
    shape = jnp.shape(u)
    if not shape or len(shape) != shape[-1] + 1 or min(shape[:-1], default=0) < 2:
        raise InputError(
            f"a displacement on a grid has shape (n_1, ..., n_d, d), at least two nodes an axis, got {shape}; a batch goes through jax.vmap"
        )
    return shape[:-1]
