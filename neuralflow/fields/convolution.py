"""Convolution whose derivatives stay fast inside a loop over depth.

`ConvBlock` (`fields/networks.py`) uses this convolution by default.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array


def convolution(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """Convolve channels-last arrays, with derivatives that stay fast inside a loop over depth.

    The function stands in for `lax.conv_general_dilated` in
    `nnx.Conv(..., conv_general_dilated=convolution)`. The two functions have the same values.
    Depthwise convolutions have the same values up to rounding.

    Only the derivatives are laid out differently. Automatic differentiation writes transposed
    convolutions. Inside a loop, XLA for CPUs computes transposed convolutions with a plain kernel.
    The plain kernel is ten to twenty times slower than the kernel that XLA takes outside a loop.
    XLA takes the fast kernel when the transposed convolutions are written with their operands
    transposed, as this function writes them.

    Depthwise convolutions with strides of one are computed as a sum of shifted products. All other
    grouped convolutions go to `lax.conv_general_dilated` unchanged.

    Args:
        x: The input, of shape `(batch, *space, in)`.
        kernel: The weights, of shape `(*window, in, out)`. A depthwise convolution has the shape
            `(*window, 1, channels)`.
        strides: One stride for each axis of space.
        padding: "SAME", "VALID", or one pair (low, high) for each axis of space.
        **options: Further arguments of `lax.conv_general_dilated`. `dimension_numbers` must
            describe channels-last arrays, as those of `nnx.Conv` do.

    Returns:
        The convolution, of shape `(batch, *space, out)`.
    """
    extras = {
        name: value
        for name, value in options.items()
        if value is not None and name != "dimension_numbers"
    }
    plain = all(
        set(np.ravel(extras.get(name, 1))) == {1} for name in ("lhs_dilation", "rhs_dilation")
    ) and set(strides) == {1}
    plain = (
        plain
        and (isinstance(padding, str) or np.min(padding) >= 0)
        and "preferred_element_type" not in extras
    )
    if plain and extras.get("feature_group_count", 1) == x.shape[-1] == kernel.shape[-1] > 1:
        return _shifted(x, kernel, padding)
    if extras.pop("feature_group_count", 1) != 1 or set(extras) - {
        "lhs_dilation",
        "rhs_dilation",
        "precision",
    }:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    fixed = padding if isinstance(padding, str) else tuple(map(tuple, padding))
    return _convolve(
        x,
        kernel,
        (tuple(strides), fixed, tuple(sorted((k, _frozen(v)) for k, v in extras.items()))),
    )


def _shifted(x: Array, kernel: Array, padding: Any) -> Array:
    """Convolve every channel alone with a kernel `(*window, 1, channels)`, tap by tap."""
    window = kernel.shape[:-2]
    edges = (
        lax.padtype_to_pads(x.shape[1:-1], window, (1,) * len(window), padding)
        if isinstance(padding, str)
        else padding
    )
    space = [n + sum(edge) - k + 1 for n, edge, k in zip(x.shape[1:-1], edges, window, strict=True)]
    dtype = x.dtype
    # Sums of many products in bfloat16 would lose what a convolution keeps.
    x, kernel = (
        a.astype(jnp.promote_types(dtype, jnp.float32))
        for a in (jnp.pad(x, ((0, 0), *edges, (0, 0))), kernel)
    )
    taps = itertools.product(*map(range, window))
    parts = (
        x[:, *(slice(i, i + n) for i, n in zip(tap, space, strict=True))] * kernel[(*tap, 0)]
        for tap in taps
    )
    return functools.reduce(jnp.add, parts).astype(dtype)


def _frozen(value: Any) -> Any:
    """Return a list as a tuple, which is hashable, and any other value as it is."""
    return tuple(value) if isinstance(value, list) else value


def _lax(x: Array, kernel: Array, static: Any, specs: tuple[str, str, str]) -> Array:
    """Call `lax.conv_general_dilated` with static arguments and the given dimension numbers."""
    strides, padding, options = static
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=specs, **dict(options)
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, static: Any) -> Array:
    """Convolve channels-last arrays; the derivative is `_tangent`."""
    space = "0123"[: x.ndim - 2]
    return _lax(x, kernel, static, (f"N{space}C", f"{space}IO", f"N{space}C"))


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _tangent(static: Any, primals: Any, tangents: Any) -> Any:
    """Differentiate `_convolve` in x and in the kernel.

    The operands of both terms are transposed such that the transpose of each term is a
    channels-last convolution again.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    space = "0123"[: x.ndim - 2]
    y = _convolve(x, kernel, static)
    out = jnp.zeros_like(y)
    if not isinstance(dx, jax.custom_derivatives.SymbolicZero):
        swapped = jnp.swapaxes(kernel, -1, -2)
        out += _lax(dx, swapped, static, (f"N{space}C", f"{space}OI", f"N{space}C"))
    if not isinstance(dkernel, jax.custom_derivatives.SymbolicZero):
        turned, first = jnp.swapaxes(x, 0, -1), jnp.moveaxis(dkernel, -2, 0)
        out += jnp.moveaxis(
            _lax(turned, first, static, (f"C{space}N", f"I{space}O", f"{space}NC")), -2, 0
        )
    return y, out
