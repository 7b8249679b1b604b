"""Batch norms without state: running statistics become an affine map."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.depth import raw


class Affine(nnx.Module):
    """The map x -> scale * x + bias with one scale and one bias for each feature.

    `frozen` puts this map in the place of an `nnx.BatchNorm`. The call takes the arguments of the
    batch norm, so that the code around it stays as it is.

    Args:
        scale: The factors, `(features,)`.
        bias: The summands, `(features,)`.
        axis: The axis of the features in x.
        dtype: The type of the result. By default it follows from x and the weights.

    Raises:
        InputTypeError: `scale` or `bias` is not an array of floating-point numbers, `axis` is not a
            whole number, or `dtype` is not a dtype of floating-point numbers.
        InputError: `scale` and `bias` have different shapes.
    """

    def __init__(self, scale: Array, bias: Array, *, axis: int = -1, dtype: Any = None):
        checks.array("scale", scale, "...", "features")
        checks.array("bias", bias, *scale.shape)
        checks.whole("axis", axis, least=-(2**31))
        if dtype is not None:
            checks.dtype("dtype", dtype)
        self.scale, self.bias = nnx.Param(scale), nnx.Param(bias)
        self.axis, self.dtype = axis, dtype

    def __call__(
        self, x: Array, use_running_average: bool | None = None, *, mask: Any = None
    ) -> Float[Array, "..."]:
        """Return scale * x + bias.

        Args:
            x: The features, an array of any shape.
            use_running_average: Ignored.
            mask: Ignored.

        Raises:
            InputError: x has another number of features.
            InputTypeError: x is not an array of floating-point numbers.

        @public
        """
        checks.array("x", x, "...", kind=jnp.inexact)
        features = self.scale.shape[-1]
        if not -x.ndim <= self.axis < x.ndim or x.shape[self.axis] != features:
            raise InputError(f"x must have {features} features in axis {self.axis}, got {x.shape}")
        shape = [1] * x.ndim
        shape[self.axis] = -1
        scale, bias = (jnp.reshape(p[...], shape) for p in (self.scale, self.bias))
        y = x * scale + bias
        return y if self.dtype is None else y.astype(self.dtype)


def frozen(module: nnx.Module) -> nnx.Module:
    """Return a module whose batch norms are affine maps.

    In evaluation mode, a batch norm maps x to (x - mean) / sqrt(var + epsilon) * scale + bias. The
    new module computes the same values up to rounding, with a `neuralflow.branches.Affine` in the
    place of every `nnx.BatchNorm`. It has no batch statistics, so its weights can vary with depth
    on any basis. The affine maps stay as they are in training mode.

    Args:
        module: A residual branch or any other module, with `nnx.BatchNorm` anywhere inside, also
            below a `neuralflow.DepthVarying`. It is not changed.

    Returns:
        The new module. It shares no arrays that change with `module`.

    Raises:
        InputTypeError: `module` is not an `nnx.Module`.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> branch = nnx.Sequential(nnx.BatchNorm(3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs))
        >>> plain = nf.frozen(branch)
        >>> branch.eval()
        >>> x = jnp.ones((2, 3))
        >>> bool(jnp.allclose(plain(x), branch(x), atol=1e-6))
        True
    """
    checks.instance("module", module, nnx.Module, "an nnx.Module")
    return nnx.recursive_map(
        lambda _, node: _affine(node) if isinstance(node, nnx.BatchNorm) else node,
        nnx.clone(module),
    )


def _affine(norm: nnx.BatchNorm) -> Affine:
    """Return the affine map that a batch norm computes in evaluation mode."""
    factor = 1 / jnp.sqrt(raw(norm.var) + norm.epsilon)
    if norm.scale is not None:
        factor = factor * raw(norm.scale)
    bias = -raw(norm.mean) * factor
    if norm.bias is not None:
        bias = bias + raw(norm.bias)
    return Affine(
        factor.astype(norm.param_dtype),
        bias.astype(norm.param_dtype),
        axis=norm.axis,
        dtype=norm.dtype,
    )
