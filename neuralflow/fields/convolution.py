"""Convolution whose derivatives stay fast inside a loop over depth."""

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
    """`lax.conv_general_dilated` on channels-last arrays; for `nnx.Conv(..., conv_general_dilated=convolution)`.

    x (batch, *space, in), kernel (*window, in, out). The same values (depthwise ones up to rounding); only the derivatives are laid out differently.
    Inside a loop XLA for CPUs takes its plain kernel for the transposed convolutions that automatic differentiation
    writes, ten to twenty times slower than the one it takes outside; written with their operands transposed, it does not.
    Depthwise convolutions in steps of one are a sum of shifted products; other grouped ones go to `lax.conv_general_dilated` as
    they are.
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
    """A kernel (*window, 1, channels) for each channel alone, tap by tap."""
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
    return tuple(value) if isinstance(value, list) else value


def _lax(x: Array, kernel: Array, static: Any, specs: tuple[str, str, str]) -> Array:
    strides, padding, options = static
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=specs, **dict(options)
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, static: Any) -> Array:
    space = "0123"[: x.ndim - 2]
    return _lax(x, kernel, static, (f"N{space}C", f"{space}IO", f"N{space}C"))


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _tangent(static: Any, primals: Any, tangents: Any) -> Any:
    """Both terms with operands transposed such that their own transposes are channels-last convolutions again."""
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
