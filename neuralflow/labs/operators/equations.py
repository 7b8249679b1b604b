"""Velocity fields that are partial differential operators, and the operators of a network's convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying
from neuralflow.fields import Activation, ConvBlock, Gradient, Hamiltonian, Separable, convolution
from neuralflow.labs.operators.kernels import formula, stencil, to_operator

Boundary = Literal["dirichlet", "neumann", "periodic"]
_PADS = {"dirichlet": "constant", "neumann": "edge", "periodic": "wrap"}

TERMS = {1: ((0,), (1,), (2,)), 2: ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0))}
"""The derivatives of an operator of second order, by the number of dimensions: orders along (x,), or along (y, x)."""


class DifferentialOperator(nnx.Module):
    """(a + b . grad + D : grad grad) u with a matrix over the channels for every derivative: reaction, convection, diffusion.

    On channels-last arrays (..., w, in) or (..., h, w, in), by the stencils of three points: a convolution with 6 weights (1-D: 3) for
    every pair of channels where a free one has 9 (1-D: 3), to which it is assembled. As many channels out as in make it a
    velocity field by itself, u' = a u + b . grad u + D : grad grad u; `block` puts it into a residual branch.

    `coefficients` (terms, in, out): in the order of `TERMS`; drawn at random if not given, all terms with an equal part in the
    variance of the output on white noise. `spacing`: the distance of neighbouring points. `boundary`: "dirichlet" has zeros
    beyond the edge, as convolutions do, "neumann" repeats the edge, "periodic" goes round. Stencils and 1 x 1 mixes are stated in
    Yin et al. (arXiv 1904.07568) as a network built from differential operators; the form is ours.
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
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        checks.whole("inputs", inputs)
        checks.whole("outputs", outputs)
        checks.choice("dimension", dimension, (1, 2))
        checks.choice("boundary", boundary, tuple(_PADS))
        checks.positive("spacing", spacing, "the distance of neighbouring points")
        shape = (len(TERMS[dimension]), inputs, outputs)
        if coefficients is None:
            if not isinstance(rngs, nnx.Rngs):
                raise InputTypeError(
                    f"a DifferentialOperator takes its coefficients, or rngs=nnx.Rngs(seed) to draw them, got rngs={rngs!r}"
                )
            sizes = np.sqrt(
                (_stencils(dimension, spacing) ** 2).sum(axis=tuple(range(1, dimension + 1)))
            )
            scale = 1 / (sizes * math.sqrt(inputs * shape[0]))
            coefficients = (
                jax.random.normal(rngs.params(), shape, param_dtype)
                * jnp.asarray(scale, param_dtype)[:, None, None]
            )
        elif np.shape(coefficients) != shape:
            raise InputError(
                f"coefficients of {shape[0]} derivatives, {inputs} channels in and {outputs} out have shape {shape}, got "
                f"{np.shape(coefficients)}"
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
        """The kernel of the convolution that it is, (3, in, out) or (3, 3, in, out)."""
        values = self.coefficients[...]
        return jnp.tensordot(
            jnp.asarray(_stencils(self.dimension, self.spacing), values.dtype), values, ((0,), (0,))
        )

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        """The operator on x, of its dtype."""
        inputs = self.coefficients[...].shape[1]
        if (
            x.ndim < self.dimension + 1
            or x.shape[-1] != inputs
            or not x.size
            or not jnp.issubdtype(x.dtype, jnp.floating)
        ):
            raise InputError(
                f"this operator takes floating arrays with {self.dimension} axes of space and {inputs} channels behind them, got {x.dtype} of "
                f"shape {x.shape}"
            )
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
        """What channel `source` adds to the velocity of channel `target`, as "0.1 ∂xx + 0.1 ∂yy"."""
        values = np.asarray(self.coefficients[...], float)[:, source, target]
        written = np.zeros((3,) * self.dimension)
        for place, value in zip(TERMS[self.dimension], values, strict=True):
            written[place] = value
        return formula(written)


def _stencils(dimension: int, spacing: float) -> np.ndarray:
    """The kernels of TERMS, (terms, 3) or (terms, 3, 3)."""
    lines = [stencil(order) / spacing**order for order in range(3)]
    if dimension == 1:
        return np.stack(lines)
    return np.stack([np.multiply.outer(lines[q], lines[p]) for q, p in TERMS[2]])


def block(channels: int, *, rngs: nnx.Rngs, **options: Any) -> ConvBlock:
    """`nf.fields.ConvBlock` with a `DifferentialOperator` in the place of every convolution: 6 C^2 weights for 9 C^2.

    The residual branch of the operator network, a field for every scheme. `options` are those of ConvBlock.
    """
    return ConvBlock(channels, kernel=DifferentialOperator, rngs=rngs, **options)


class ConvolutionEnergy(nnx.Module):
    """E(x) = sum S(K x + b), K a convolution: its gradient K^T s(K x + b), s = S', is the symmetric layer of PDE networks.

    On channels-last images, one number a sample (axis 0). `hidden`: channels of K x, by default as many as x has. `potential`: S, smooth
    and convex; the default log cosh has s = tanh. With `periodic` the grid goes round; otherwise there are zeros beyond its edge.
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
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("channels", channels)
        checks.choice("dimension", dimension, (1, 2))
        checks.whole("kernel", kernel)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if hidden is not None:
            checks.whole("hidden", hidden)
        if potential is not None:
            checks.function("potential", potential)
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
        """The energy of every sample."""
        values = self.potential(self.convolution(x))
        return jnp.sum(values, axis=tuple(range(1, values.ndim)))


class KineticEnergy(nnx.Module):
    """|p|^2 / 2 of every sample (axis 0): its gradient is p."""

    def __call__(self, p: Float[Array, "batch *space"]) -> Float[Array, " batch"]:
        """The energy of every sample."""
        return jnp.sum(p**2, axis=tuple(range(1, p.ndim))) / 2


def log_cosh(x: Array) -> Array:
    """log cosh x, whose derivative is tanh, without overflow."""
    return jnp.logaddexp(x, -x) - math.log(2)


def parabolic(channels: int, *, rngs: nnx.Rngs, **options: Any) -> Gradient:
    """u' = -K^T s(K u + b): heat flow, of which the energy falls (Ruthotto & Haber, arXiv 1804.04272, there with a norm inside).

    `options` are those of `ConvolutionEnergy`. Explicit steps are stable up to h |K|^2 max s' = 2 with Euler: `check(layer)`.
    """
    return Gradient(ConvolutionEnergy(channels, rngs=rngs, **options))


def hyperbolic(channels: int, *, rngs: nnx.Rngs, **options: Any) -> Hamiltonian:
    """u'' = -K^T s(K u + b), a wave, as u' = p, p' = -K^T s(K u + b) on the pair (u, p) (Ruthotto & Haber, arXiv 1804.04272).

    `channels` are those of u; the state is a pair, or an array of 2 * channels. With RevNet a step is that of leapfrog, u_2 = 2 u_1 - u_0
    + h^2 u''. `options` are those of `ConvolutionEnergy`.
    """
    return Hamiltonian(
        Separable(KineticEnergy(), ConvolutionEnergy(channels, rngs=rngs, **options))
    )


def hamiltonian(channels: int, *, rngs: nnx.Rngs, **options: Any) -> Hamiltonian:
    """q' = K1^T s(K1 p + b1), p' = -K2^T s(K2 q + b2): the Hamiltonian network of Ruthotto & Haber (arXiv 1804.04272).

    `channels` are those of q; the state is a pair, or an array of 2 * channels. `options` are those of `ConvolutionEnergy`.
    """

    def make():
        return ConvolutionEnergy(channels, rngs=rngs, **options)

    return Hamiltonian(Separable(make(), make()))


def read(model: nnx.Module) -> dict[str, np.ndarray]:
    """ "What equation is this layer?": the coefficients of every `nnx.Conv` and `DifferentialOperator` in a model, by its place, as
    `to_operator` gives them.

    With the pixel as the unit of length, a dilation as the distance of the points. A convolution in a DepthVarying stands once for each
    of its nodes in depth, "field.convs.0 at 0.25". ValueError, naming the place, for even sizes, three dimensions, and stacks of kernels.
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    return dict(_read(model, (), "", ()))


def _read(
    node: Any, path: tuple[Any, ...], at: str, above: tuple[Any, ...]
) -> Iterator[tuple[str, np.ndarray]]:
    """The convolutions at a node and below it, in the order of the model's attributes; `above` are the nodes on the way."""
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
    """The coefficients of one convolution."""
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
