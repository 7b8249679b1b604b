"""A residual network as a sum over paths: what each length of path carries, of the output and of the gradient.

u_N = prod_n (I + B_n) u_0. Expanding the skips gives 2^N sub-paths, of which C(N, k) go through k residual branches; expanding the matrix
products gives the paths x_0, ..., x_N over coordinates. That the output is a sum over all paths is stated by Yin, Li, Zhang & Wang
(arXiv 1904.07568); the decompositions here are our formulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.layers import NeuralODE
from neuralflow.transport import flat, samples

# More sub-paths, or paths over coordinates, than this are not written out.
_MOST = 2**22


def _floating(value: Any) -> Array:
    """The value as an array of real floating numbers."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise InputTypeError("networks and states are real here, got complex numbers")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


class Branches(NamedTuple):
    """The residual network x_{n+1} = x_n + B_n x_n + c_n, n = 0, ..., N - 1.

    `matrices` (N, ..., d, d): the B_n. `offsets` (N, ..., d): the c_n, which a state with a constant 1 beside x would carry. Axes in the middle
    are those of samples, each with a network of its own.
    """

    matrices: Array
    offsets: Array

    @classmethod
    def of(cls, matrices: Any, offsets: Any = None) -> Branches:
        """Branches of given matrices (N, ..., d, d) and offsets (N, ..., d), zeros by default."""
        matrices = _floating(matrices)
        if matrices.ndim < 3 or matrices.shape[-1] != matrices.shape[-2] or not matrices.size:
            raise InputError(
                f"the branches of a network are square matrices (depth, ..., d, d), got shape {matrices.shape}"
            )
        offsets = (
            jnp.zeros(matrices.shape[:-1], matrices.dtype)
            if offsets is None
            else _floating(offsets)
        )
        if offsets.shape != matrices.shape[:-1]:
            raise InputError(
                f"matrices of shape {matrices.shape} take offsets of shape {matrices.shape[:-1]}, got {offsets.shape}"
            )
        dtype = jnp.result_type(matrices, offsets)
        return cls(matrices.astype(dtype), offsets.astype(dtype))

    @property
    def depth(self) -> int:
        """The number of layers N."""
        return len(self.matrices)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """The network's output."""

        def step(x, branch):
            return (x + _apply(branch[0], x) + branch[1], None)

        return lax.scan(step, self._state(x), (self.matrices, self.offsets))[0]

    def kernels(self) -> Array:
        """K_n of the state with a constant 1 behind it, (N, ..., d + 1, d + 1): u_N = K_{N-1} ... K_0 u_0."""
        d = self.matrices.shape[-1]
        block = jnp.concatenate([self.matrices, self.offsets[..., None]], axis=-1)
        block = jnp.concatenate([block, jnp.zeros_like(block[..., :1, :])], axis=-2)
        return jnp.eye(d + 1, dtype=block.dtype) + block

    def _state(self, x: Any) -> Array:
        x = _floating(x)
        shape = self.offsets.shape[1:]
        if x.shape[-1:] != shape[-1:]:
            raise InputError(f"this network takes states (..., {shape[-1]}), got shape {x.shape}")
        return jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, shape)).astype(
            jnp.result_type(x, self.matrices)
        )


def _checked(branches: Any, x: Any) -> Array:
    """The state x of a network of branches."""
    checks.instance(
        "branches",
        branches,
        Branches,
        "nf.labs.paths.Branches, such as nf.labs.paths.linearised(layer, x)",
    )
    return branches._state(x)


def linearised(layer: NeuralODE, x: Any) -> Branches:
    """The linear network that a layer on a fixed grid is at x (batch, ...): block by block, x_n + B_n x_n + c_n with B_n = D block - I.

    A ReLU network becomes its gated linear one, which is the network itself in the whole piece around x; a smooth one its
    linearisation along the way of x, equal to it at x. Matrices (steps, batch, d, d), all that is behind axis 0 of x as d coordinates.
    TypeError for adaptive layers and schemes that carry more than the state.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    return layer.per_step(samples(x), _affine)


def _affine(block: Callable[[Any], Any], x: Any) -> Branches:
    points, back = flat(x)

    def residual(p):
        return flat(block(back(p)))[0] - p

    value, push = jax.linearize(residual, points)
    columns = jax.vmap(lambda unit: push(jnp.broadcast_to(unit, points.shape)))(
        jnp.eye(points.shape[1], dtype=points.dtype)
    )
    matrix = jnp.moveaxis(columns, 0, -1)
    return Branches(matrix, value - _apply(matrix, points))


def _apply(matrix: Array, x: Array) -> Array:
    return jnp.einsum("...ij,...j->...i", matrix, x)


def counts(depth: int) -> list[int]:
    """How many of the 2^depth sub-paths go through 0, 1, ..., depth residual branches."""
    checks.whole("depth", depth)
    return [math.comb(depth, k) for k in range(depth + 1)]


def contributions(
    branches: Branches, x: Float[Array, "*batch d"]
) -> Float[Array, "lengths *batch d"]:
    """What all sub-paths through k residual branches add to the output, k = 0, ..., N along axis 0; their sum is the output.

    By dynamic programming over depth, N^2 products with a matrix: any depth.
    """
    x = _checked(branches, x)
    start = jnp.zeros((branches.depth + 1, *x.shape), x.dtype).at[0].set(x)

    def step(parts: Array, branch: Any) -> tuple[Array, None]:
        matrix, offset = branch
        longer = _apply(matrix, parts[:-1]).at[0].add(offset)
        return parts.at[1:].add(longer), None

    return lax.scan(step, start, tuple(branches))[0]


def gradients(
    branches: Branches, cotangent: Float[Array, "*batch d"]
) -> Float[Array, "lengths *batch d"]:
    """The gradient of the input by the length of the paths on which it came: sums over sub-paths through k branches, k along axis 0.

    `cotangent`: the gradient of the loss at the output. Their sum is the gradient at the input.
    """
    cotangent = _checked(branches, cotangent)
    start = jnp.zeros((branches.depth + 1, *cotangent.shape), cotangent.dtype).at[0].set(cotangent)

    def step(parts, matrix):
        return (parts.at[1:].add(_apply(matrix.mT, parts[:-1])), None)

    return lax.scan(step, start, branches.matrices, reverse=True)[0]


def adjoints(
    branches: Branches, cotangent: Float[Array, "*batch d"], skip: bool = True
) -> Float[Array, "depths *batch d"]:
    """dLoss/du_k for the states u_0, ..., u_N along axis 0; without `skip` those of the plain network u_{n+1} = B_n u_n + c_n."""
    cotangent = _checked(branches, cotangent)

    def step(a: Array, matrix: Array) -> tuple[Array, Array]:
        before = _apply(matrix.mT, a)
        before = a + before if skip else before
        return before, before

    earlier = lax.scan(step, cotangent, branches.matrices, reverse=True)[1]
    return jnp.concatenate([earlier, cotangent[None]])


def length_shares(parts: Float[Array, "lengths *batch d"]) -> Float[Array, " lengths"]:
    """The norms of `contributions` or `gradients`, added up over samples, over their sum: the share of each length of path.

    Parts of different lengths may cancel: the norms tell what flows, not what is left in the end.
    """
    sizes = jnp.linalg.norm(parts, axis=-1).reshape(len(parts), -1).sum(axis=1)
    return sizes / sizes.sum()


def subpaths(
    branches: Branches, x: Float[Array, "*batch d"]
) -> tuple[Int[Array, " paths"], Float[Array, "paths *batch d"]]:
    """All 2^N sub-paths one by one: the number of residual branches of each, and what it adds to the output.

    ValueError for more than 2^22 numbers; `contributions` sums them by length at any depth.
    """
    x = _checked(branches, x)
    _check_count(2**branches.depth * x.size, f"2^{branches.depth} sub-paths of {x.size} numbers")
    return _expanded(branches, x)


@jax.jit
def _expanded(branches: Branches, x: Array) -> tuple[Array, Array]:
    lengths, parts = jnp.zeros(1, int), x[None]
    for matrix, offset in zip(*branches, strict=True):
        through = (
            _apply(matrix, parts).at[0].add(offset)
        )  # the first path is the one of skips alone
        lengths, parts = jnp.concatenate([lengths, lengths + 1]), jnp.concatenate([parts, through])
    return lengths, parts


def amplitudes(kernels: Float[Array, "n d d"], x: Float[Array, " d"]) -> Float[Array, "..."]:
    """prod_n K_n(x_{n+1}, x_n) u_0(x_0) of every path over coordinates, with an axis for each of x_0, ..., x_N.

    Summed over all axes but the last it is the output K_{N-1} ... K_0 u_0. `Branches.kernels` gives those of a residual network. ValueError
    for more than 2^22 paths.
    """
    kernels, x = _kernels(kernels, x)
    n, d = kernels.shape[:2]
    _check_count(d ** (n + 1), f"{d}^{n + 1} paths")
    weights = x
    for kernel in kernels:
        weights = weights[..., None] * kernel.T
    return weights


class Sampled(NamedTuple):
    """Random paths that end in each coordinate: `nodes` (count, d, N + 1) from x_0 to x_N, `weights` (count, d), whose mean is the output."""

    nodes: Array
    weights: Array


def sample(
    kernels: Float[Array, "n d d"], x: Float[Array, " d"], key: Array, count: int
) -> Sampled:
    """Paths over coordinates, drawn from their ends backward with probabilities |K_n(x_{n+1}, .)| / sum, and their weights.

    The mean of the weights is an unbiased estimate of the output K_{N-1} ... K_0 u_0; see `estimate`.
    """
    kernels, x = _kernels(kernels, x)
    checks.whole("count", count)
    d = len(x)
    rows = jnp.abs(kernels).sum(axis=-1)
    # A row of zeros ends all its paths with weight zero, wherever they go.
    logits = jnp.where(rows[..., None] > 0, jnp.log(jnp.abs(kernels)), 0.0)

    def step(carry: Any, layer: Any) -> tuple[Any, Array]:
        node, weight = carry
        kernel, row, logit, key = layer
        before = jax.random.categorical(key, logit[node])
        return (before, weight * row[node] * jnp.sign(kernel[node, before])), before

    last = jnp.broadcast_to(jnp.arange(d), (count, d))
    layers = (kernels, rows, logits, jax.random.split(key, len(kernels)))
    (first, weight), nodes = lax.scan(
        step, (last, jnp.ones((count, d), x.dtype)), layers, reverse=True
    )
    return Sampled(jnp.moveaxis(jnp.concatenate([nodes, last[None]]), 0, -1), weight * x[first])


def _kernels(kernels: Any, x: Any) -> tuple[Array, Array]:
    kernels, x = _floating(kernels), _floating(x)
    if kernels.ndim != 3 or kernels.shape[1:] != (*x.shape, *x.shape) or not kernels.size:
        raise InputError(
            f"paths over coordinates are those of one network, kernels (n, d, d) and a state (d,), got shapes {kernels.shape} and {x.shape}; "
            "a state with offsets has a 1 behind it"
        )
    dtype = jnp.result_type(kernels, x)
    return kernels.astype(dtype), x.astype(dtype)


def _check_count(count: int, words: str) -> None:
    if count > _MOST:
        raise InputError(
            f"{words} are too many to write out (2^22 numbers at most); contributions() sums them by length"
        )
