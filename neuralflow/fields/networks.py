"""Fields that are small networks: a perceptron, a convolutional residual branch, an antisymmetric layer."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.fields.convolution import convolution

Activation = Callable[[Array], Array]


def _with_time(x: Array, t: Array | float | None) -> Array:
    """x with depth time as one more feature."""
    if t is None:
        raise InputError("this field was built with time=True, so it needs f(x, t)")
    return jnp.concatenate(
        [x, jnp.broadcast_to(jnp.asarray(t, x.dtype), (*x.shape[:-1], 1))], axis=-1
    )


class MLP(nnx.Module):
    """A multilayer perceptron on the last axis: dimension -> hidden -> ... -> dimension.

    `layers`: number of hidden layers. `time`: depth time enters as one more input feature. `dtype`: the arithmetic
    of the dense layers (bfloat16, say); the velocity has the dtype of x.
    """

    def __init__(
        self,
        dimension: int,
        *,
        hidden: int,
        layers: int = 1,
        activation: Activation = jax.nn.tanh,
        time: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        for name, size in (("dimension", dimension), ("hidden", hidden), ("layers", layers)):
            checks.whole(name, size)
        checks.function("activation", activation)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        widths = [dimension + time, *([hidden] * layers), dimension]
        self.dense = nnx.List(
            nnx.Linear(a, b, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            for a, b in itertools.pairwise(widths)
        )
        self.activation = activation
        self.time = time

    def __call__(self, x: Float[Array, "*batch d"], t: Any = None) -> Float[Array, "*batch d"]:
        """Velocity at x, of the shape and dtype of x."""
        y = _with_time(x, t) if self.time else x
        for dense in self.dense[:-1]:
            y = self.activation(dense(y))
        return self.dense[-1](y).astype(x.dtype)


class ConvBlock(nnx.Module):
    """A pre-activation residual branch (He et al., arXiv 1603.05027) on channels-last images: twice norm, activation, conv.

    GroupNorm, which has no state, takes the place of batch normalisation. `kernel`: the size of the convolutions, or what to
    build in their place, called as kernel(inputs, outputs, dtype=..., param_dtype=..., rngs=...). `time`: depth time enters the
    convolutions as one more channel. `channels` must be a multiple of `groups`.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int | Callable[..., Any] = 3,
        groups: int = 4,
        activation: Activation = jax.nn.relu,
        time: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("channels", channels)
        checks.whole("groups", groups)
        checks.function("activation", activation)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if channels % groups:
            raise InputError(
                f"channels must be a multiple of groups, got {channels} channels in {groups} groups"
            )
        types = {"dtype": dtype, "param_dtype": param_dtype}
        self.norms = nnx.List(nnx.GroupNorm(channels, groups, rngs=rngs, **types) for _ in range(2))
        if not callable(kernel):
            checks.whole("kernel", kernel)
            kernel = functools.partial(
                nnx.Conv, kernel_size=(kernel, kernel), conv_general_dilated=convolution
            )
        self.convs = nnx.List(
            kernel(channels + time, channels, rngs=rngs, **types) for _ in range(2)
        )
        self.activation = activation
        self.time = time

    def __call__(
        self, x: Float[Array, "*batch h w c"], t: Any = None
    ) -> Float[Array, "*batch h w c"]:
        """Velocity at x, of the shape and dtype of x."""
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = self.activation(norm(y))
            y = conv(_with_time(y, t) if self.time else y)
        return y.astype(x.dtype)


class Antisymmetric(nnx.Module):
    """x' = activation((W - W^T - damping I) x + b): eigenvalues near the imaginary axis (Haber & Ruthotto 2017).

    `damping` >= 0 moves them to the left, which a forward Euler step needs. `time`: adds t * c inside the activation.
    """

    def __init__(
        self,
        dimension: int,
        *,
        damping: float = 0.0,
        activation: Activation = jax.nn.tanh,
        time: bool = False,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("dimension", dimension)
        checks.function("activation", activation)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if not damping >= 0:
            raise InputError(
                f"damping must be >= 0, got {damping}: a negative one lets states grow"
            )
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

    def __call__(self, x: Float[Array, "*batch d"], t: Any = None) -> Float[Array, "*batch d"]:
        """Velocity at x, of the shape and dtype of x."""
        weight = self.weight[...]
        y = x @ (weight - weight.T).T - self.damping * x + self.bias[...]
        if self.drift is not None:
            if t is None:
                raise InputError("this field was built with time=True, so it needs f(x, t)")
            y = y + jnp.asarray(t, x.dtype) * self.drift[...]
        return self.activation(y).astype(x.dtype)
