"""Fields that are small networks: a perceptron, a convolutional branch, an antisymmetric layer."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError
from neuralflow.fields.activations import relu, tanh
from neuralflow.fields.convolution import convolution

Activation = Callable[[Array], Array]
"""A function that acts on every entry of an array, such as `jax.nn.tanh`."""
KERNEL = nnx.initializers.lecun_normal()
"""The default initialiser of kernels in flax."""


def _with_time(x: Array, t: Real | None) -> Array:
    """Append the depth time t to x as one more feature."""
    _check_time(t)
    return jnp.concatenate(
        [x, jnp.broadcast_to(jnp.asarray(t, x.dtype), (*x.shape[:-1], 1))], axis=-1
    )


def _check_time(t: Real | None) -> None:
    """Refuse what is no depth time, for a field that takes time."""
    if t is None:
        raise InputError("this field was built with time=True, so it needs f(x, t)")
    checks.number("t", t)


def check_types(dtype: Any, param_dtype: Any) -> None:
    """Refuse dtypes that are not those of floating-point numbers.

    Args:
        dtype: The dtype of computations, or None.
        param_dtype: The dtype of weights.

    Raises:
        InputTypeError: One of the dtypes is of another kind.
    """
    checks.dtype("param_dtype", param_dtype)
    if dtype is not None:
        checks.dtype("dtype", dtype)


class MLP(nnx.Module):
    """A multilayer perceptron on the last axis: dimension -> hidden -> ... -> dimension.

    Args:
        dimension: The size of the last axis of the state.
        hidden: The width of every hidden layer.
        layers: The number of hidden layers.
        activation: The function after every hidden layer. The output layer is linear.
        time: Whether depth time enters as one more input feature. The field is then called as
            f(x, t).
        dtype: The type in which the dense layers compute, such as bfloat16. By default it follows
            from x and the weights. The velocity has the dtype of x in any case.
        param_dtype: The type of the weights.
        out_kernel_init: The initialiser of the kernel of the output layer, which sets the size of
            the velocity at the start. The default is the default of `nnx.Linear`, which suits
            intervals of length one. Over a long interval it carries states far away. A small kernel
            such as `nnx.initializers.normal(1e-3)` lets the flow start near the identity.
        rngs: The random streams that draw the weights.

    Raises:
        InputError: A size is below 1, the weights would hold more than 2^30 numbers, or `rngs` has
            no stream for them.
        InputTypeError: A size is not a whole number, `activation` or `out_kernel_init` is not a
            function, `time` is not True or False, a dtype is not one of floating-point numbers, or
            `rngs` is not an `nnx.Rngs`.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> field = nf.fields.MLP(2, hidden=16, time=True, rngs=nnx.Rngs(0))
        >>> field(jnp.ones((5, 2)), 0.5).shape
        (5, 2)
        >>> small = nnx.initializers.normal(1e-3)
        >>> field = nf.fields.MLP(2, hidden=16, out_kernel_init=small, rngs=nnx.Rngs(0))
        >>> flow = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=50), 0.0, 25.0)
        >>> x = jnp.ones((5, 2))
        >>> bool(jnp.abs(flow(x) - x).max() < 0.5)
        True
    """

    def __init__(
        self,
        dimension: int,
        *,
        hidden: int,
        layers: int = 1,
        activation: Activation = tanh,
        time: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        out_kernel_init: nnx.Initializer = KERNEL,
        rngs: nnx.Rngs,
    ):
        for name, size in (("dimension", dimension), ("hidden", hidden), ("layers", layers)):
            checks.whole(name, size)
        checks.function("activation", activation, 1)
        checks.flag("time", time)
        check_types(dtype, param_dtype)
        checks.function("out_kernel_init", out_kernel_init, 3)
        checks.rngs(rngs, "params")
        checks.held(
            "an MLP of this dimension, hidden and layers",
            int(hidden) * (2 * int(dimension) + (int(layers) - 1) * int(hidden)),
            "take smaller ones",
        )
        widths = [dimension + time, *([hidden] * layers), dimension]
        inits = [KERNEL] * layers + [out_kernel_init]
        self.dense = nnx.List(
            nnx.Linear(a, b, dtype=dtype, param_dtype=param_dtype, kernel_init=init, rngs=rngs)
            for (a, b), init in zip(itertools.pairwise(widths), inits, strict=True)
        )
        self.activation = activation
        self.time = time

    def __call__(
        self, x: Inexact[Array, "*batch d"], t: Real | None = None
    ) -> Inexact[Array, "*batch d"]:
        """Return the velocity at x.

        Args:
            x: The state, of shape `(*batch, dimension)`.
            t: The depth time. Only a field with `time=True` uses it.

        Returns:
            The velocity, of the shape and dtype of x.

        Raises:
            InputError: x has another shape. Or the field has `time=True`, and `t` is missing or
                not finite.
            InputTypeError: x is not an array of floating-point numbers, or `t` is not a number.

        @public
        """
        checks.array("x", x, "...", self.dense[-1].out_features, kind=jnp.inexact)
        y = _with_time(x, t) if self.time else x
        for dense in self.dense[:-1]:
            y = self.activation(dense(y))
        return self.dense[-1](y).astype(x.dtype)


class ConvBlock(nnx.Module):
    """A pre-activation residual branch on channels-last images.

    The branch is norm, activation, convolution, and the same three once more. GroupNorm takes the
    place of batch normalisation. GroupNorm has no state.

    Args:
        channels: The number of channels, a multiple of `groups`.
        kernel: The side of the square convolutions in pixels. A callable builds another layer in
            place of each convolution. The callable is called as `kernel(inputs, outputs, dtype=...,
            param_dtype=..., rngs=...)` with the numbers of channels before and after the
            convolution.
        groups: The number of groups of each GroupNorm.
        activation: The function between each norm and its convolution.
        time: Whether depth time enters each convolution as one more channel. The field is then
            called as f(x, t).
        dtype: The type in which the layers compute, such as bfloat16. By default it follows from x
            and the weights. The velocity has the dtype of x in any case.
        param_dtype: The type of the weights.
        rngs: The random streams that draw the weights.

    Raises:
        InputError: A size is below 1, `channels` is not a multiple of `groups`, the convolutions
            would hold more than 2^30 numbers, or `rngs` has no stream for them.
        InputTypeError: A size is not a whole number, `activation` is not a function, `time` is not
            True or False, a dtype is not one of floating-point numbers, or `rngs` is not an
            `nnx.Rngs`.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> field = nf.fields.ConvBlock(8, groups=4, rngs=nnx.Rngs(0))
        >>> field(jnp.ones((2, 6, 6, 8))).shape
        (2, 6, 6, 8)

    Source:
        He et al., arXiv 1603.05027.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int | Callable[..., Any] = 3,
        groups: int = 4,
        activation: Activation = relu,
        time: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("channels", channels, most=2**30)
        checks.whole("groups", groups)
        checks.function("activation", activation, 1)
        checks.flag("time", time)
        check_types(dtype, param_dtype)
        checks.rngs(rngs, "params")
        if channels % groups:
            raise InputError(
                f"channels must be a multiple of groups, got {channels} channels in {groups} groups"
            )
        types = {"dtype": dtype, "param_dtype": param_dtype}
        self.norms = nnx.List(nnx.GroupNorm(channels, groups, rngs=rngs, **types) for _ in range(2))
        if not callable(kernel):
            checks.whole("kernel", kernel)
            checks.held(
                "convolutions of these channels and this kernel",
                2 * int(channels) ** 2 * int(kernel) ** 2,
                "take smaller ones",
            )
            kernel = functools.partial(
                nnx.Conv, kernel_size=(kernel, kernel), conv_general_dilated=convolution
            )
        self.convs = nnx.List(
            kernel(channels + time, channels, rngs=rngs, **types) for _ in range(2)
        )
        self.activation = activation
        self.time = time

    def __call__(
        self, x: Float[Array, "*batch h w c"], t: Real | None = None
    ) -> Float[Array, "*batch h w c"]:
        """Return the velocity at x.

        Args:
            x: The images, of shape `(*batch, height, width, channels)`.
            t: The depth time. Only a field with `time=True` uses it.

        Returns:
            The velocity, of the shape and dtype of x.

        Raises:
            InputError: x has another shape. Or the field has `time=True`, and `t` is missing or
                not finite.
            InputTypeError: x is not an array of floating-point numbers, or `t` is not a number.

        @public
        """
        scale: Any = self.norms[0].scale
        channels = scale.shape[-1]
        checks.array("x", x, "...", "height", "width", channels, kind=jnp.inexact)
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = self.activation(norm(y))
            y = conv(_with_time(y, t) if self.time else y)
        return y.astype(x.dtype)


class Antisymmetric(nnx.Module):
    """An antisymmetric layer x' = activation((W - W^T - damping I) x + b).

    The antisymmetric matrix W - W^T keeps the eigenvalues of the Jacobian near the imaginary axis.

    Args:
        dimension: The size d of the last axis of the state. W has the shape `(d, d)` and b the
            shape `(d,)`.
        damping: A number >= 0 that moves the eigenvalues to the left. A forward Euler step needs
            such damping.
        activation: The function on the outside.
        time: Whether the layer adds t * c inside the activation, where c is a learned vector of
            shape `(d,)`. The field is then called as f(x, t).
        param_dtype: The type of the weights.
        rngs: The random streams that draw the weights.

    Raises:
        InputError: `dimension` is below 1, `damping` is negative or not finite, the weights would
            hold more than 2^30 numbers, or `rngs` has no stream for them.
        InputTypeError: `dimension` is not a whole number, `damping` is not a number, `activation`
            is not a function, `time` is not True or False, `param_dtype` is not a dtype of
            floating-point numbers, or `rngs` is not an `nnx.Rngs`.

    Source:
        Haber & Ruthotto 2017.
    """

    def __init__(
        self,
        dimension: int,
        *,
        damping: float = 0.0,
        activation: Activation = tanh,
        time: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("dimension", dimension)
        checks.number("damping", damping, least=0)  # a negative one lets states grow
        checks.function("activation", activation, 1)
        checks.flag("time", time)
        checks.dtype("param_dtype", param_dtype)
        checks.rngs(rngs, "params")
        checks.held("weights of this dimension", int(dimension) ** 2, "take a smaller one")
        scale = dimension**-0.5
        self.weight = nnx.Param(
            scale * jax.random.normal(rngs.params(), (dimension, dimension), param_dtype)
        )
        self.bias = nnx.Param(jnp.zeros(dimension, param_dtype))
        self.drift = (
            nnx.Param(scale * jax.random.normal(rngs.params(), (dimension,), param_dtype))
            if time
            else None
        )
        self.damping = damping
        self.activation = activation

    def __call__(
        self, x: Float[Array, "*batch d"], t: Real | None = None
    ) -> Float[Array, "*batch d"]:
        """Return the velocity at x.

        Args:
            x: The state, of shape `(*batch, dimension)`.
            t: The depth time. Only a field with `time=True` uses it.

        Returns:
            The velocity, of the shape and dtype of x.

        Raises:
            InputError: x has another shape. Or the field has `time=True`, and `t` is missing or
                not finite.
            InputTypeError: x is not an array of floating-point numbers, or `t` is not a number.

        @public
        """
        weight = self.weight[...]
        checks.array("x", x, "...", len(weight), kind=jnp.inexact)
        y = x @ (weight - weight.T).T - self.damping * x + self.bias[...]
        if self.drift is not None:
            _check_time(t)
            y = y + jnp.asarray(t, x.dtype) * self.drift[...]
        return self.activation(y).astype(x.dtype)
