"""Convolution whose derivatives stay fast inside a loop over depth.

A solve gives this convolution to every plain `nnx.Conv` of its field.
`neuralflow.fields.ConvBlock` names it by hand.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError

__all__ = ["convolution"]
__docformat__ = "google"


def convolution(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """Convolve channels-last arrays, with derivatives that stay fast inside a loop over depth.

    The function stands in for `lax.conv_general_dilated` in
    `nnx.Conv(..., conv_general_dilated=convolution)`. The two functions have the same values.
    Depthwise convolutions have the same values up to rounding.

    Only the derivatives are laid out differently, and only in programs for CPUs. Automatic
    differentiation writes transposed convolutions. Inside a loop, XLA for CPUs computes transposed
    convolutions with a plain kernel. The plain kernel is 9 to 28 times slower than the kernel that
    XLA takes outside a loop (medians on two cores). XLA takes the fast kernel when the transposed
    convolutions are written with their operands transposed, as this function writes them.

    Depthwise convolutions with strides of one are computed as a sum of shifted products. All other
    grouped convolutions go to `lax.conv_general_dilated` unchanged.

    Inside a `neuralflow.NeuralODE`, a plain `nnx.Conv` with one group takes this function by
    itself. A depthwise `nnx.Conv` takes it only where it is named, because the last bits of its
    values change.

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

    Raises:
        InputError: The shapes of `x` and `kernel` do not belong together, or `strides` or `padding`
            are not those of the axes of space.
        InputTypeError: `x` or `kernel` is not an array of numbers.
    """
    _check(x, kernel, strides, padding, options.get("feature_group_count") or 1)
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


def _check(x: Any, kernel: Any, strides: Any, padding: Any, groups: Any) -> None:
    """Refuse arrays and options that do not belong together."""
    checks.array("x", x, "...", "space", "channels", kind=jnp.number)
    checks.array("kernel", kernel, "...", "window", "in", "out", kind=jnp.number)
    checks.whole("feature_group_count", groups)
    window = kernel.ndim - 2
    if x.ndim != kernel.ndim or x.shape[-1] != kernel.shape[-2] * groups:
        raise InputError(
            "x is (batch, *space, in) and kernel (*window, in / groups, out), got shapes "
            f"{x.shape} and {kernel.shape} for {groups} groups"
        )
    if not isinstance(strides, list | tuple | np.ndarray) or len(strides) != window:
        raise InputError(f"strides are {window} whole numbers, one an axis, got {strides!r}")
    for stride in strides:
        checks.whole("each of strides", stride)
    if isinstance(padding, str):
        checks.choice("padding", padding, ("SAME", "SAME_LOWER", "VALID"))
    elif not isinstance(padding, list | tuple | np.ndarray) or np.shape(padding) != (window, 2):
        raise InputError(
            f'padding is "SAME", "VALID" or {window} pairs (low, high), got {padding!r}'
        )
    else:
        for edge in np.asarray(padding).ravel().tolist():
            checks.whole("each entry of padding", edge, least=-(2**31))


def with_fast_derivatives(module: nnx.Module) -> nnx.Module:
    """Give every plain `nnx.Conv` in a module derivatives that stay fast inside a loop over depth.

    In a program that is otherwise the same, the values stay the same to the last bit. A convolution
    with several groups stays as it is, and so does a convolution with a function of its own in
    place of `lax.conv_general_dilated`.

    Args:
        module: The module, which is changed in place.

    Returns:
        The module.
    """
    for _, node in nnx.iter_graph(module):
        if (
            isinstance(node, nnx.Conv)
            and node.conv_general_dilated is lax.conv_general_dilated
            and node.feature_group_count == 1
        ):
            node.conv_general_dilated = convolution
    return module


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


def _plain(x: Array, kernel: Array, static: Any) -> Array:
    """Convolve channels-last arrays."""
    space = "0123"[: x.ndim - 2]
    return _lax(x, kernel, static, (f"N{space}C", f"{space}IO", f"N{space}C"))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, static: Any) -> Array:
    """Convolve channels-last arrays; the derivative is `_tangent`."""
    return _plain(x, kernel, static)


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _tangent(static: Any, primals: Any, tangents: Any) -> Any:
    """Differentiate `_convolve` in x and in the kernel.

    On CPUs, the operands of both terms are transposed such that the transpose of each term is a
    channels-last convolution again.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    space = "0123"[: x.ndim - 2]

    def in_x(dx, kernel):
        kernel = jnp.swapaxes(kernel, -1, -2)
        return _lax(dx, kernel, static, (f"N{space}C", f"{space}OI", f"N{space}C"))

    def in_kernel(x, dkernel):
        x, dkernel = jnp.swapaxes(x, 0, -1), jnp.moveaxis(dkernel, -2, 0)
        out = _lax(x, dkernel, static, (f"C{space}N", f"I{space}O", f"{space}NC"))
        return jnp.moveaxis(out, -2, 0)

    y = _convolve(x, kernel, static)
    out = jnp.zeros_like(y)
    plain = functools.partial(_plain, static=static)
    if not isinstance(dx, jax.custom_derivatives.SymbolicZero):
        out += lax.platform_dependent(dx, kernel, cpu=in_x, default=plain)
    if not isinstance(dkernel, jax.custom_derivatives.SymbolicZero):
        out += lax.platform_dependent(x, dkernel, cpu=in_kernel, default=plain)
    return y, out
