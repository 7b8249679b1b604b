"""The context of a solve: what the field is called with beside the state, and is not integrated."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError


def as_arrays(context: PyTree) -> Any:
    """Return a context with arrays in place of its numbers.

    Args:
        context: A pytree of arrays of any dtype and of numbers.

    Raises:
        InputTypeError: A leaf is neither an array nor a number.
    """
    return jax.tree.map_with_path(_as_array, context)


def _as_array(path: Any, leaf: Any) -> Any:
    """Return a leaf of a context as an array, and refuse what is no array and no number."""
    if isinstance(leaf, jax.Array) or checks.holds_numbers(leaf):
        return leaf
    if isinstance(leaf, bool | int | float | complex):
        return jnp.asarray(leaf)
    where = f" at {keystr(path)}" if path else ""
    raise InputTypeError(
        f"a context is a pytree of arrays and numbers, got {leaf!r}{where}; keep what is no "
        "array in the field itself"
    )


def check_axes(axes: Any) -> None:
    """Refuse axes of a context other than 0 and None.

    Args:
        axes: The axes, a pytree.

    Raises:
        InputError: A leaf is neither 0 nor None.
    """
    leaves = jax.tree.leaves(axes)
    if any(isinstance(axis, bool) or not isinstance(axis, int) or axis for axis in leaves):
        raise InputError(
            "context_axes is 0 where axis 0 counts the samples, None where the samples share an "
            f"array, or a pytree of these, got {axes!r}"
        )


def leaf_axes(axes: Any, context: PyTree, count: int) -> list[int | None]:
    """Return the axis of every array of a context along which its samples lie.

    Args:
        axes: The axes, a prefix of the context.
        context: The context, a pytree of arrays.
        count: The number of samples.

    Returns:
        0 or None for every array, in the order of `jax.tree.leaves`.

    Raises:
        InputError: `axes` is no prefix of the context, or an array with axis 0 does not have
            `count` entries.
    """
    each: list[int | None] = []
    try:
        jax.tree.map(
            lambda axis, part: each.extend([axis] * len(jax.tree.leaves(part))),
            axes,
            context,
            is_leaf=lambda axis: axis is None,
        )
    except ValueError:
        raise InputError(
            "context_axes must be a prefix of the context, as in_axes of jax.vmap, got "
            f"{axes!r} for a context of the structure {jax.tree.structure(context)}"
        ) from None
    for (path, leaf), axis in zip(jax.tree.leaves_with_path(context), each, strict=True):
        if axis == 0 and (not leaf.ndim or leaf.shape[0] != count):
            where = f" at {keystr(path)}" if path else ""
            raise InputError(
                f"the solve splits the context{where} into {count} samples along axis 0, "
                f"but its shape is {leaf.shape}; give context_axes=None for what samples share"
            )
    return each
