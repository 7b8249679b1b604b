"""Velocity fields that are partial differential operators, and operators read from networks.

`DifferentialOperator` and `block` build networks of operators. `parabolic`, `hyperbolic` and
`hamiltonian` build the equations of PDE networks. `read` returns the operators of all convolutions
in a model. The module `kernels` holds the translation between kernels and derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying
from neuralflow.fields import Activation, ConvBlock, Gradient, Hamiltonian, Separable, convolution
from neuralflow.labs.operators.kernels import formula, stencil, to_operator

Boundary = Literal["dirichlet", "neumann", "periodic"]
_PADS = {"dirichlet": "constant", "neumann": "edge", "periodic": "wrap"}

TERMS = {1: ((0,), (1,), (2,)), 2: ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0))}
"""The derivatives of an operator of second order, by the number of dimensions.

An entry gives the orders along (x,), or along (y, x).
"""


class DifferentialOperator(nnx.Module):
    """A linear differential operator of second order, with matrices over the channels.

    The operator is (a + b . grad + D : grad grad) u. Each component of the coefficients a, b and D
    is a matrix over the channels. The coefficient a is the reaction, b the convection and D the
    diffusion. The input is a channels-last array `(..., w, in)` or `(..., h, w, in)`.

    Each derivative uses a stencil of three points. The operator is assembled to one convolution.
    For every pair of channels the operator has 6 weights, where a free 3 x 3 convolution has 9. In
    one dimension the operator and the convolution have 3 weights each.

    With as many channels out as in, the operator is a velocity field
    u' = a u + b . grad u + D : grad grad u. `block` puts the operator into a residual branch.

    Args:
        inputs: The number of channels in.
        outputs: The number of channels out.
        dimension: The number of axes in space, 1 or 2.
        spacing: The distance of neighbouring points.
        boundary: What lies beyond the edge. "dirichlet" puts zeros there, as convolutions do.
            "neumann" repeats the edge. "periodic" goes round.
        coefficients: The coefficients `(terms, in, out)`, in the order of `TERMS`. None draws them
            at random. Each term then has an equal part in the variance of the output on white
            noise.
        dtype: The dtype of the arithmetic. None stands for the dtype of the input.
        param_dtype: The dtype of the coefficients.
        rngs: The random streams for the coefficients, needed if `coefficients` is None.

    Raises:
        InputError: `dimension` is not 1 or 2, `boundary` is unknown, or `spacing` is not a positive
            number.
        InputError: `inputs` or `outputs` is below one or too large, or `coefficients` have another
            shape or are not finite.
        InputTypeError: `inputs` or `outputs` is not a whole number, `coefficients` are not real
            numbers, or a dtype is not one of floating-point numbers.
        InputTypeError: Both `coefficients` and `rngs` are missing.

    Source:
        Yin et al., arXiv 1904.07568, stated there: stencils and 1 x 1 mixes, as a network built
        from differential operators. The form is ours.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dimension: int = 2,
        spacing: float = 1.0,
        boundary: Boundary = "dirichlet",
        coefficients: Any = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        checks.whole("inputs", inputs)
        checks.whole("outputs", outputs)
        checks.choice("dimension", dimension, (1, 2))
        checks.choice("boundary", boundary, tuple(_PADS))
        checks.number("spacing", spacing, above=0.0)
        if dtype is not None:
            checks.dtype("dtype", dtype, jnp.floating)
        checks.dtype("param_dtype", param_dtype, jnp.floating)
        shape = (len(TERMS[dimension]), int(inputs), int(outputs))
        _check_weights("inputs and outputs", shape)
        if coefficients is None:
            if not isinstance(rngs, nnx.Rngs):
                raise InputTypeError(
                    "a DifferentialOperator takes its coefficients, or rngs=nnx.Rngs(seed) to draw "
                    f"them, got rngs={None if rngs is None else type(rngs).__name__}"
                )
            sizes = np.sqrt(
                (_stencils(dimension, spacing) ** 2).sum(axis=tuple(range(1, dimension + 1)))
            )
            scale = 1 / (sizes * math.sqrt(inputs * shape[0]))
            coefficients = (
                jax.random.normal(rngs.params(), shape, param_dtype)
                * jnp.asarray(scale, param_dtype)[:, None, None]
            )
        else:
            coefficients = checks.numbers("coefficients", coefficients)
            if coefficients.shape != shape:
                raise InputError(
                    f"coefficients of {shape[0]} derivatives, {inputs} channels in and {outputs} "
                    f"out have shape {shape}, got {coefficients.shape}"
                )
        self.coefficients = nnx.Param(jnp.asarray(coefficients, param_dtype))
        self.dimension, self.spacing, self.boundary, self.dtype = (
            dimension,
            spacing,
            boundary,
            dtype,
        )

    @property
    def kernel(self) -> Array:
        """The kernel of the convolution to which the operator is assembled.

        The shape is `(3, in, out)` or `(3, 3, in, out)`.
        """
        values = self.coefficients[...]
        return jnp.tensordot(
            jnp.asarray(_stencils(self.dimension, self.spacing), values.dtype), values, ((0,), (0,))
        )

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        """Apply the operator to x.

        Args:
            x: A floating array, `(..., w, in)` or `(..., h, w, in)`.

        Returns:
            The result, `(..., w, out)` or `(..., h, w, out)`, in the dtype of x.

        Raises:
            InputError: `x` has another number of channels or axes, is empty, or is not floating.
            InputTypeError: `x` is not an array.

        @public
        """
        _check_images("x", x, self.dimension, self.coefficients[...].shape[1])
        kernel = self.kernel.astype(self.dtype or x.dtype)
        space = x.shape[-1 - self.dimension :]
        y = x.reshape(-1, *space).astype(kernel.dtype)
        edges = ((0, 0), *((1, 1),) * self.dimension, (0, 0))
        if self.boundary == "dirichlet":
            y = convolution(y, kernel, (1,) * self.dimension, edges[1:-1])
        else:
            y = convolution(
                jnp.pad(y, edges, mode=_PADS[self.boundary]), kernel, (1,) * self.dimension, "VALID"
            )
        return y.reshape(*x.shape[:-1], kernel.shape[-1]).astype(x.dtype)

    def formula(self, source: int = 0, target: int = 0) -> str:
        """Write what channel `source` adds to the velocity of channel `target`.

        Args:
            source: The channel that is read.
            target: The channel whose velocity changes.

        Returns:
            The formula, such as "0.1 ∂xx + 0.1 ∂yy".

        Raises:
            InputError: `source` or `target` is no channel of the operator.
            InputTypeError: `source` or `target` is not a whole number.
        """
        _, inputs, outputs = self.coefficients[...].shape
        checks.whole("source", source, least=0, most=inputs - 1)
        checks.whole("target", target, least=0, most=outputs - 1)
        values = np.asarray(self.coefficients[...], float)[:, source, target]
        written = np.zeros((3,) * self.dimension)
        for place, value in zip(TERMS[self.dimension], values, strict=True):
            written[place] = value
        return formula(written)


def _check_images(name: str, x: Any, dimension: int, channels: int | None = None) -> None:
    """Refuse anything but a floating array with axes of space and channels behind them."""
    checks.instance(name, x, jax.Array | np.ndarray, "a floating array")
    if (
        x.ndim < dimension + 1
        or (channels is not None and x.shape[-1] != channels)
        or not x.size
        or not jnp.issubdtype(x.dtype, jnp.floating)
    ):
        behind = "channels" if channels is None else f"{channels} channels"
        raise InputError(
            f"{name} must be a floating array with {dimension} axes of space and {behind} behind "
            f"them, got {x.dtype} of shape {x.shape}"
        )


def _check_weights(name: str, shape: tuple[int, ...]) -> None:
    checks.held(f"{name}: weights of shape {shape}", math.prod(shape), "take fewer channels")


def _stencils(dimension: int, spacing: float) -> np.ndarray:
    """Return the kernels of `TERMS`, `(terms, 3)` or `(terms, 3, 3)`."""
    lines = [stencil(order) / spacing**order for order in range(3)]
    if dimension == 1:
        return np.stack(lines)
    return np.stack([np.multiply.outer(lines[q], lines[p]) for q, p in TERMS[2]])


def block(channels: int, *, rngs: nnx.Rngs, **options: Any) -> ConvBlock:
    """Build a residual branch with a `DifferentialOperator` in the place of every convolution.

    The branch is a `neuralflow.fields.ConvBlock`, the residual branch of the operator network. The
    branch is a field for every scheme. With C channels, an operator has 6 C^2 weights where a free
    3 x 3 convolution has 9 C^2.

    Args:
        channels: The number C of channels.
        rngs: The random streams for the weights.
        **options: Further options of `neuralflow.fields.ConvBlock`, except `kernel`.

    Returns:
        The branch, a field on channels-last images.

    Raises:
        InputError: `channels` is no multiple of `groups`.
    """
    return ConvBlock(channels, kernel=DifferentialOperator, rngs=rngs, **options)


class ConvolutionEnergy(nnx.Module):
    """The energy E(x) = sum S(K x + b) of a convolution K, one number a sample.

    S is a smooth, convex potential, and s is its derivative S'. The gradient K^T s(K x + b) of the
    energy is the symmetric layer of PDE networks. The input is a channels-last image with samples
    on axis 0.

    Args:
        channels: The number of channels of x.
        hidden: The number of channels of K x. None stands for `channels`.
        kernel: The size of the convolution's kernel.
        dimension: The number of axes in space, 1 or 2.
        potential: The potential S. None stands for log cosh, which has s = tanh.
        periodic: Whether the grid goes round. Otherwise there are zeros beyond the edge.
        param_dtype: The dtype of the weights.
        rngs: The random streams for the weights.

    Raises:
        InputError: `channels`, `hidden` or `kernel` is below one or too large, or `dimension` is
            not 1 or 2.
        InputTypeError: A number is not whole, `potential` is not a function of one argument,
            `periodic` is neither True nor False, `param_dtype` is no floating-point dtype, or
            `rngs` is not an nnx.Rngs.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int | None = None,
        kernel: int = 3,
        dimension: int = 2,
        potential: Activation | None = None,
        periodic: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("channels", channels)
        checks.choice("dimension", dimension, (1, 2))
        checks.whole("kernel", kernel)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if hidden is not None:
            checks.whole("hidden", hidden)
        if potential is not None:
            checks.function("potential", potential, 1)
        checks.flag("periodic", periodic)
        checks.dtype("param_dtype", param_dtype, jnp.floating)
        _check_weights(
            "channels, hidden and kernel",
            (*(int(kernel),) * dimension, int(channels), int(hidden or channels)),
        )
        self.convolution = nnx.Conv(
            channels,
            channels if hidden is None else hidden,
            (kernel,) * dimension,
            padding="CIRCULAR" if periodic else "SAME",
            param_dtype=param_dtype,
            conv_general_dilated=convolution,
            rngs=rngs,
        )
        self.potential = log_cosh if potential is None else potential

    def __call__(self, x: Float[Array, "batch *space c"]) -> Float[Array, " batch"]:
        """Return the energy of every sample.

        Args:
            x: The images, `(batch, w, channels)` or `(batch, h, w, channels)`.

        Returns:
            The energies, `(batch,)`.

        Raises:
            InputError: `x` has another number of channels or axes, is empty, or is not floating.
            InputTypeError: `x` is not an array, or the potential does not return real numbers.

        @public
        """
        inputs = self.convolution
        _check_images("x", x, len(inputs.kernel_size) + 1, inputs.in_features)
        if x.ndim != len(inputs.kernel_size) + 2:
            raise InputError(f"x must be images with samples on axis 0, got shape {x.shape}")
        convolved = self.convolution(x)
        values = checks.numbers("what potential returns", self.potential(convolved), finite=False)
        if values.shape != convolved.shape:
            raise InputError(
                f"what potential returns must have the shape {convolved.shape} of its argument, "
                f"got {values.shape}"
            )
        return jnp.sum(values, axis=tuple(range(1, values.ndim)))


class KineticEnergy(nnx.Module):
    """The energy |p|^2 / 2 of every sample, whose gradient is p.

    Samples lie on axis 0.
    """

    def __call__(self, p: Float[Array, "batch *space"]) -> Float[Array, " batch"]:
        """Return the energy of every sample.

        Args:
            p: The momenta, `(batch, ...)`.

        Returns:
            The energies, `(batch,)`.

        Raises:
            InputError: `p` has no axis but that of the samples, is empty, or is not floating.
            InputTypeError: `p` is not an array.

        @public
        """
        _check_images("p", p, 1)
        return jnp.sum(p**2, axis=tuple(range(1, p.ndim))) / 2


def log_cosh(x: Array) -> Array:
    """Return log cosh x without overflow, whose derivative is tanh x.

    Args:
        x: The values, of any shape.

    Raises:
        InputTypeError: `x` is not made of real numbers.
    """
    x = jnp.asarray(checks.numbers("x", x, finite=False))
    return jnp.logaddexp(x, -x) - math.log(2)


def parabolic(channels: int, *, rngs: nnx.Rngs, **options: Any) -> Gradient:
    """Build the field of the heat flow u' = -K^T s(K u + b), along which the energy falls.

    K is a convolution, and s is the derivative of the potential of `ConvolutionEnergy`. Explicit
    Euler steps of length h are stable up to h |K|^2 max s' = 2. `check(layer)` tests this
    condition.

    Args:
        channels: The number of channels of u.
        rngs: The random streams for the weights.
        **options: Further options of `ConvolutionEnergy`.

    Returns:
        The field on channels-last images.

    Source:
        Ruthotto & Haber, arXiv 1804.04272, there with a norm inside.
    """
    return Gradient(ConvolutionEnergy(channels, rngs=rngs, **options))


def hyperbolic(channels: int, *, rngs: nnx.Rngs, **options: Any) -> Hamiltonian:
    """Build the field of the wave u'' = -K^T s(K u + b).

    The field is u' = p, p' = -K^T s(K u + b) on the pair (u, p). K is a convolution, and s is the
    derivative of the potential of `ConvolutionEnergy`. With RevNet, a step is the leapfrog step
    u_2 = 2 u_1 - u_0 + h^2 u'' of length h.

    Args:
        channels: The number of channels of u. The state is a pair, or an array of 2 * channels.
        rngs: The random streams for the weights.
        **options: Further options of `ConvolutionEnergy`.

    Returns:
        The field on pairs of channels-last images.

    Source:
        Ruthotto & Haber, arXiv 1804.04272.
    """
    return Hamiltonian(
        Separable(KineticEnergy(), ConvolutionEnergy(channels, rngs=rngs, **options))
    )


def hamiltonian(channels: int, *, rngs: nnx.Rngs, **options: Any) -> Hamiltonian:
    """Build the field q' = K1^T s(K1 p + b1), p' = -K2^T s(K2 q + b2), a Hamiltonian network.

    K1 and K2 are convolutions, and s is the derivative of the potential of `ConvolutionEnergy`.

    Args:
        channels: The number of channels of q. The state is a pair, or an array of 2 * channels.
        rngs: The random streams for the weights.
        **options: Further options of `ConvolutionEnergy`.

    Returns:
        The field on pairs of channels-last images.

    Source:
        Ruthotto & Haber, arXiv 1804.04272.
    """

    def make():
        return ConvolutionEnergy(channels, rngs=rngs, **options)

    return Hamiltonian(Separable(make(), make()))


def read(model: nnx.Module) -> dict[str, np.ndarray]:
    """Read the equation of a model: the coefficients of all its convolutions, by place.

    Every `nnx.Conv` and `DifferentialOperator` appears under its place in the model. The pixel is
    the unit of length. A dilation counts as the distance of the points. A convolution in a
    `neuralflow.DepthVarying` appears once for each node in depth, as in "field.convs.0 at 0.25".

    Args:
        model: The model to read.

    Returns:
        The coefficients by place, in the form of `to_operator`.

    Raises:
        InputError: A kernel has an even size or three dimensions, or is part of a stack of kernels.
            The message names the place.
        InputTypeError: `model` is not an nnx.Module.
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    return dict(_read(model, (), "", ()))


def _read(
    node: Any, path: tuple[Any, ...], at: str, above: tuple[Any, ...]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the convolutions at a node and below it, in the order of the model's attributes.

    `above` holds the nodes on the way to this node.
    """
    if any(node is other for other in above):
        return
    if isinstance(node, DepthVarying):
        for s in node.basis.nodes:
            yield from _read(node.at(float(s)), path, f" at {float(s):.4g}", above)
    elif isinstance(node, nnx.Conv | DifferentialOperator):
        name = (".".join(map(str, path)) or type(node).__name__) + at
        try:
            yield name, _operator(node)
        except ValueError as error:
            raise InputError(f"the convolution '{name}': {error}") from None
    elif isinstance(node, nnx.Module | nnx.List | nnx.Dict | list | tuple | dict):
        for name, child in _children(node):
            yield from _read(child, (*path, name), at, (*above, node))


def _operator(node: Any) -> np.ndarray:
    """Return the coefficients of one convolution."""
    if isinstance(node, DifferentialOperator):
        return to_operator(node.kernel)
    kernel = node.kernel[...]
    if kernel.ndim != len(node.kernel_size) + 2:
        raise InputError(
            f"it is a stack of kernels, of shape {kernel.shape}; read its parts one by one"
        )
    return to_operator(kernel, 1.0 if node.kernel_dilation is None else node.kernel_dilation)


def _children(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, dict | nnx.Dict):
        return list(node.items())
    if isinstance(node, list | tuple | nnx.List):
        return list(enumerate(node))
    return list(vars(node).items())
