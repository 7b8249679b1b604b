"""A residual network as a sum over paths, and what each length of path carries.

The functions here decompose the output and the gradient of the network u_N = prod_n (I + B_n) u_0,
where B_n is the matrix of layer n. Expanding the skips gives 2^N sub-paths. Exactly C(N, k) of
these sub-paths go through k residual branches. Expanding the products of matrices gives the paths
x_0, ..., x_N over coordinates. The path integral of the network's equation stands in `integral`.

Source:
    Yin, Li, Zhang & Wang, arXiv 1904.07568. That the output is a sum over all paths is stated
    there. The decompositions are our formulation.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jaxtyping import Array, Float, Int, PyTree

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.layers import NeuralODE
from neuralflow.transport import flat, samples

# The most numbers that `subpaths` and `amplitudes` write out.
_MOST = 2**22


# C(1030, 515) is above the largest number of float64.
_DEEPEST = 1029


def _floating(name: str, value: Any) -> Array:
    """Return the value as an array of finite floating-point numbers."""
    array = jnp.asarray(checks.numbers(name, value))
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


class Branches(NamedTuple):
    """A residual network of affine layers, x_{n+1} = x_n + B_n x_n + c_n for n = 0, ..., N - 1.

    `Branches.of` builds a network and checks its shapes. Axes that stand between the first axis and
    the axes of the coordinates count samples. With such axes, each sample has a network of its own.

    Attributes:
        matrices: The matrices B_n of the residual branches, `(N, ..., d, d)`.
        offsets: The offsets c_n of the residual branches, `(N, ..., d)`. The method `kernels` turns
            an affine layer into a linear one by a constant 1 behind the state.
    """

    matrices: Array
    offsets: Array

    @classmethod
    def of(cls, matrices: Any, offsets: Any = None) -> "Branches":
        """Build a network from matrices and offsets, with checked shapes.

        Args:
            matrices: The matrices B_n, real numbers of shape `(N, ..., d, d)`. Integers become
                floating-point numbers.
            offsets: The offsets c_n, real numbers of shape `(N, ..., d)`. Zeros by default.

        Returns:
            The network. Its two arrays have one common dtype.

        Raises:
            InputError: The matrices are not square, are empty or lack the axis of depth, the
                shape of the offsets does not fit, or a number is not finite.
            InputTypeError: The matrices or the offsets are not real numbers.
        """
        matrices = _floating("matrices", matrices)
        if matrices.ndim < 3 or matrices.shape[-1] != matrices.shape[-2] or not matrices.size:
            raise InputError(
                "the branches of a network are square matrices (depth, ..., d, d), got shape "
                f"{matrices.shape}"
            )
        offsets = (
            jnp.zeros(matrices.shape[:-1], matrices.dtype)
            if offsets is None
            else _floating("offsets", offsets)
        )
        if offsets.shape != matrices.shape[:-1]:
            raise InputError(
                f"matrices of shape {matrices.shape} take offsets of shape {matrices.shape[:-1]}, "
                f"got {offsets.shape}"
            )
        dtype = jnp.result_type(matrices, offsets)
        return cls(matrices.astype(dtype), offsets.astype(dtype))

    @property
    def depth(self) -> int:
        """The number of layers N."""
        return len(self.matrices)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Compute the network's output.

        Args:
            x: The states u_0, `(..., d)`. The leading axes broadcast against the sample axes of the
                network.

        Returns:
            The states u_N, of the shape to which x broadcasts.

        Raises:
            InputError: The last axis of x does not have d entries, its other axes do not
                broadcast against the samples of the network, or a number is not finite.
            InputTypeError: x is not made of real numbers.

        @public
        """

        def step(x, branch):
            return (x + _apply(branch[0], x) + branch[1], None)

        branches, x = _checked(self, "x", x)
        return lax.scan(step, x, (branches.matrices, branches.offsets))[0]

    def kernels(self) -> Array:
        """Return the matrices K_n that act on a state with a constant 1 behind it.

        The output is u_N = K_{N-1} ... K_0 u_0, where u_0 and u_N carry the constant 1 as their
        last coordinate. `amplitudes` and `sample` take such matrices.

        Returns:
            The matrices K_n, `(N, ..., d + 1, d + 1)`.
        """
        matrices, offsets = Branches.of(*self)
        d = matrices.shape[-1]
        block = jnp.concatenate([matrices, offsets[..., None]], axis=-1)
        block = jnp.concatenate([block, jnp.zeros_like(block[..., :1, :])], axis=-2)
        return jnp.eye(d + 1, dtype=block.dtype) + block


def _checked(branches: Any, name: str, x: Any) -> tuple[Branches, Array]:
    """Return a network, and a state that is broadcast against the network's sample axes."""
    checks.instance(
        "branches",
        branches,
        Branches,
        "nf.labs.paths.Branches, such as nf.labs.paths.linearised(layer, x)",
    )
    branches, x = Branches.of(*branches), _floating(name, x)
    own = branches.offsets.shape[1:]
    pairs = zip(x.shape[-2::-1], own[-2::-1], strict=False)
    if x.shape[-1:] != own[-1:] or not x.size or any(m != n and 1 not in (m, n) for m, n in pairs):
        raise InputError(
            f"{name} must be states (..., {own[-1]}) that broadcast against the network's samples "
            f"{own[:-1]}, at least one, got shape {x.shape}"
        )
    shape = jnp.broadcast_shapes(x.shape, own)
    return branches, jnp.broadcast_to(x, shape).astype(jnp.result_type(x, branches.matrices))


def linearised(layer: NeuralODE, x: PyTree) -> Branches:
    """Return the affine network that equals a layer on a fixed grid at x.

    Block n of the result is x_n + B_n x_n + c_n with the matrix B_n = D block_n - I. Here x_n is
    the layer's state before step n, and D block_n is the Jacobian of step n at x_n. A ReLU network
    becomes its gated linear network. The gated linear network equals the ReLU network in the whole
    linear piece around x. A smooth network becomes its linearisation along the trajectory of x,
    which equals the smooth network at x.

    Args:
        layer: A layer on a fixed grid, with a scheme that carries the state alone from step to
            step.
        x: The points, an array `(batch, ...)` or a pytree of such arrays. All axes behind axis 0
            count as the d coordinates of a sample.

    Returns:
        A network per sample: matrices `(steps, batch, d, d)` and offsets `(steps, batch, d)`. The
        network takes states `(batch, d)`.

    Raises:
        InputError: x holds no sample.
        InputTypeError: The layer is adaptive, its scheme carries more than the state, or x is not
            made of real arrays with one common axis of samples.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda _, x: jax.nn.relu(x))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2))
        >>> branches = nf.labs.paths.linearised(layer, jnp.asarray([[1.0, -1.0]]))
        >>> branches.matrices.shape
        (2, 1, 2, 2)
        >>> branches.matrices[0, 0].tolist()  # the ReLU of the second coordinate is off
        [[0.5, 0.0], [0.0, 0.0]]
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    checks.arrays("x", x)
    x = samples(x)
    if not all(leaf.size for leaf in jax.tree.leaves(x)):
        raise InputError("x must hold one sample at least, got an empty array")
    return layer.per_step(x, _affine)


def _affine(block: Callable[[Any], Any], x: PyTree) -> Branches:
    """Linearise one block at x: the matrix and the offset of the residual branch, per sample."""
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
    """Multiply matrices `(..., i, j)` by vectors `(..., j)`."""
    return jnp.einsum("...ij,...j->...i", matrix, x)


def counts(depth: int) -> list[int]:
    """Return how many of the 2^depth sub-paths go through 0, 1, ..., depth residual branches.

    Args:
        depth: The number of layers, from 1 to 1029. In deeper networks the largest count exceeds
            every number of float64, so that no arithmetic but that of whole numbers takes the
            counts. The shares C(depth, k) / 2^depth are a binomial distribution at any depth:
            `scipy.stats.binom.pmf(k, depth, 0.5)`.

    Returns:
        The binomial coefficients C(depth, k) for k = 0, ..., depth.

    Raises:
        InputError: The depth is below 1 or above 1029.
        InputTypeError: The depth is not a whole number.
    """
    checks.whole("depth", depth)
    if depth > _DEEPEST:
        raise InputError(
            f"depth must be at most {_DEEPEST}, beyond which float64 does not hold the counts, got "
            f"{depth}; their shares are scipy.stats.binom.pmf(k, depth, 0.5)"
        )
    depth = int(depth)
    return [math.comb(depth, k) for k in range(depth + 1)]


def contributions(
    branches: Branches, x: Float[Array, "*batch d"]
) -> Float[Array, "lengths *batch d"]:
    """Return what all sub-paths through k residual branches add to the output, for each k.

    The sum over k is the output of the network. The computation is dynamic programming over depth.
    N layers cost N^2 products with a matrix, so any depth is feasible.

    Args:
        branches: The network of N layers.
        x: The states u_0, `(..., d)`. The leading axes broadcast against the sample axes of the
            network.

    Returns:
        The contributions, `(N + 1, ..., d)`. Axis 0 counts the residual branches k = 0, ..., N.

    Raises:
        InputError: The last axis of x does not have d entries, its other axes do not broadcast
            against the samples of the network, or a number is not finite.
        InputTypeError: `branches` is not a `Branches`, or x is not made of real numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> branches = nf.labs.paths.Branches.of(jnp.ones((3, 1, 1)))  # B_n = 1 in three layers
        >>> parts = nf.labs.paths.contributions(branches, jnp.ones(1))
        >>> parts[:, 0].tolist()
        [1.0, 3.0, 3.0, 1.0]
        >>> branches(jnp.ones(1)).tolist()
        [8.0]
    """
    branches, x = _checked(branches, "x", x)
    start = jnp.zeros((branches.depth + 1, *x.shape), x.dtype).at[0].set(x)

    def step(parts: Array, branch: Any) -> tuple[Array, None]:
        matrix, offset = branch
        longer = _apply(matrix, parts[:-1]).at[0].add(offset)
        return parts.at[1:].add(longer), None

    return lax.scan(step, start, tuple(branches))[0]


def gradients(
    branches: Branches, cotangent: Float[Array, "*batch d"]
) -> Float[Array, "lengths *batch d"]:
    """Return what all paths through k residual branches add to the gradient at the input.

    The sum over k is the gradient of the loss at the input.

    Args:
        branches: The network of N layers.
        cotangent: The gradient of the loss at the output, `(..., d)`. The leading axes broadcast
            against the sample axes of the network.

    Returns:
        The parts of the gradient, `(N + 1, ..., d)`. Axis 0 counts the branches, k = 0, ..., N.

    Raises:
        InputError: The last axis of the cotangent does not have d entries, its other axes do not
            broadcast against the samples of the network, or a number is not finite.
        InputTypeError: `branches` is not a `Branches`, or the cotangent is not made of real
            numbers.
    """
    branches, cotangent = _checked(branches, "cotangent", cotangent)
    start = jnp.zeros((branches.depth + 1, *cotangent.shape), cotangent.dtype).at[0].set(cotangent)

    def step(parts, matrix):
        return (parts.at[1:].add(_apply(matrix.mT, parts[:-1])), None)

    return lax.scan(step, start, branches.matrices, reverse=True)[0]


def adjoints(
    branches: Branches, cotangent: Float[Array, "*batch d"], skip: bool = True
) -> Float[Array, "depths *batch d"]:
    """Return the gradients dLoss/du_k at all states u_0, ..., u_N.

    Args:
        branches: The network of N layers.
        cotangent: The gradient of the loss at the output, `(..., d)`. The leading axes broadcast
            against the sample axes of the network.
        skip: Whether the layers keep their skips. False gives the gradients of the plain network
            u_{n+1} = B_n u_n + c_n with the same branches.

    Returns:
        The gradients, `(N + 1, ..., d)`. Axis 0 counts the states k = 0, ..., N.

    Raises:
        InputError: The last axis of the cotangent does not have d entries, its other axes do not
            broadcast against the samples of the network, or a number is not finite.
        InputTypeError: `branches` is not a `Branches`, the cotangent is not made of real numbers,
            or `skip` is neither True nor False.
    """
    branches, cotangent = _checked(branches, "cotangent", cotangent)
    checks.flag("skip", skip)

    def step(a: Array, matrix: Array) -> tuple[Array, Array]:
        before = _apply(matrix.mT, a)
        before = a + before if skip else before
        return before, before

    earlier = lax.scan(step, cotangent, branches.matrices, reverse=True)[1]
    return jnp.concatenate([earlier, cotangent[None]])


def length_shares(parts: Float[Array, "lengths *batch d"]) -> Float[Array, " lengths"]:
    """Return the share that each length of path has in the norms of a decomposition.

    The share of length k is the norm of part k, added up over samples, divided by the sum over all
    lengths. Parts of different lengths may cancel. The shares therefore tell what flows along the
    paths, and not what is left in the sum.

    Args:
        parts: The parts by length, `(lengths, ..., d)`, from `contributions` or `gradients`.

    Returns:
        The shares, `(lengths,)`. The shares sum to one.

    Raises:
        InputError: `parts` has fewer than two axes, is empty, is not finite, or is zero throughout.
        InputTypeError: `parts` is not made of real numbers.
    """
    parts = _floating("parts", parts)
    if parts.ndim < 2 or not parts.size:
        raise InputError(f"parts must be vectors by length (lengths, ..., d), got {parts.shape}")
    if not isinstance(parts, core.Tracer) and not np.any(np.asarray(parts)):
        raise InputError("parts must not all be zero, or no length has a share")
    sizes = jnp.linalg.norm(parts, axis=-1).reshape(len(parts), -1).sum(axis=1)
    return sizes / sizes.sum()


def subpaths(
    branches: Branches, x: Float[Array, "*batch d"]
) -> tuple[Int[Array, " paths"], Float[Array, "paths *batch d"]]:
    """Return all 2^N sub-paths one by one.

    `contributions` sums the sub-paths by length, at any depth.

    Args:
        branches: The network of N layers.
        x: The states u_0, `(..., d)`. The leading axes broadcast against the sample axes of the
            network.

    Returns:
        The number of residual branches on each sub-path, `(2^N,)`, and what each sub-path adds to
        the output, `(2^N, ..., d)`. The first sub-path consists of skips alone.

    Raises:
        InputError: The sub-paths have more than 2^22 numbers in all, or the last axis of x does not
            have d entries, its other axes do not broadcast against the samples of the network, or
            a number is not finite.
        InputTypeError: `branches` is not a `Branches`, or x is not made of real numbers.
    """
    branches, x = _checked(branches, "x", x)
    _check_count(2**branches.depth * x.size, f"2^{branches.depth} sub-paths of {x.size} numbers")
    return _expanded(branches, x)


@jax.jit
def _expanded(branches: Branches, x: Array) -> tuple[Array, Array]:
    """Expand the skips layer by layer, which doubles the number of sub-paths each time."""
    lengths, parts = jnp.zeros(1, int), x[None]
    for matrix, offset in zip(*branches, strict=True):
        through = (
            _apply(matrix, parts).at[0].add(offset)
        )  # the first sub-path consists of skips alone
        lengths, parts = jnp.concatenate([lengths, lengths + 1]), jnp.concatenate([parts, through])
    return lengths, parts


def amplitudes(kernels: Float[Array, "n d d"], x: Float[Array, " d"]) -> Float[Array, "..."]:
    """Return the product prod_n K_n(x_{n+1}, x_n) u_0(x_0) of every path over coordinates.

    Each place x_n on a path is one of the d coordinates. The sum over all axes but the last is the
    output K_{N-1} ... K_0 u_0.

    Args:
        kernels: The matrices K_n of one network, `(N, d, d)`. `Branches.kernels` gives the matrices
            of a residual network.
        x: The state u_0, `(d,)`. For matrices of `Branches.kernels`, its last coordinate is the
            constant 1.

    Returns:
        The products, an array with N + 1 axes of length d, one axis for each of x_0, ..., x_N.

    Raises:
        InputError: The paths are more than 2^22, the shapes of `kernels` and `x` do not fit, or a
            number is not finite.
        InputTypeError: The matrices or the state are not made of real numbers.
    """
    kernels, x = _kernels(kernels, x)
    n, d = kernels.shape[:2]
    _check_count(d ** (n + 1), f"{d}^{n + 1} paths")
    weights = x
    for kernel in kernels:
        weights = weights[..., None] * kernel.T
    return weights


class Sampled(NamedTuple):
    """Random paths over coordinates that end in each of the d coordinates.

    Attributes:
        nodes: The coordinates x_0, ..., x_N on each path, `(count, d, N + 1)`. Axis 1 is the
            coordinate in which the path ends.
        weights: The weights of the paths, `(count, d)`. Their mean over axis 0 estimates the
            output.
    """

    nodes: Array
    weights: Array


def sample(
    kernels: Float[Array, "n d d"], x: Float[Array, " d"], key: Array, count: int
) -> Sampled:
    """Draw random paths over coordinates, with weights whose mean estimates the output.

    A path starts at its end x_N and goes backward. The place x_n is drawn with the probability
    |K_n(x_{n+1}, x_n)| / sum_x |K_n(x_{n+1}, x)|. The mean of the weights is an unbiased estimate
    of the output K_{N-1} ... K_0 u_0. `estimate` gives this mean and its standard error.

    Args:
        kernels: The matrices K_n of one network, `(N, d, d)`. `Branches.kernels` gives the matrices
            of a residual network.
        x: The state u_0, `(d,)`. For matrices of `Branches.kernels`, its last coordinate is the
            constant 1.
        key: The random key of the draws.
        count: The number of paths that end in each coordinate, at least one. All paths together
            pass at most 2^30 places.

    Returns:
        The paths and their weights.

    Raises:
        InputError: The shapes of `kernels` and `x` do not fit, a number is not finite, or `count`
            is below one or too large.
        InputTypeError: The matrices or the state are not made of real numbers, `key` is not one
            random key, or `count` is not a whole number.
    """
    kernels, x = _kernels(kernels, x)
    checks.key(key)
    checks.whole("count", count)
    d = len(x)
    checks.held(
        f"count = {count} paths to each of {d} coordinates",
        int(count) * d * (len(kernels) + 1),
        "draw fewer at a time, each time with another key",
    )
    rows = jnp.abs(kernels).sum(axis=-1)
    # Every path through a row of zeros gets the weight zero, so any probabilities serve there.
    logits = jnp.where(rows[..., None] > 0, jnp.log(jnp.abs(kernels)), 0.0)

    def step(carry: PyTree, layer: Any) -> tuple[Any, Array]:
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


def _kernels(kernels: Any, x: PyTree) -> tuple[Array, Array]:
    """Return matrices and a state of one common dtype, with checked shapes."""
    kernels, x = _floating("kernels", kernels), _floating("x", x)
    if kernels.ndim != 3 or kernels.shape[1:] != (*x.shape, *x.shape) or not kernels.size:
        raise InputError(
            "paths over coordinates are those of one network, kernels (n, d, d) and a state "
            f"x (d,), got shapes {kernels.shape} and {x.shape}; "
            "a state with offsets has a 1 behind it"
        )
    dtype = jnp.result_type(kernels, x)
    return kernels.astype(dtype), x.astype(dtype)


def _check_count(count: int, words: str) -> None:
    """Refuse to write out more than 2^22 numbers."""
    if count > _MOST:
        raise InputError(
            f"{words} are too many to write out (2^22 numbers at most); contributions() sums them "
            "by length"
        )
