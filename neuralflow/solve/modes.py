"""Marks on arrays that refuse a mode of differentiation in our own words.

A solve with its own backward pass has no forward-mode derivatives, and its backward pass may have
no reverse-mode derivatives. JAX finds both out late, in words that name no remedy.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from neuralflow.checks import InputTypeError

# The identity of a tangent. It refuses to be computed if `forward` is a text, and to be transposed
# if `backward` is one. Reverse mode transposes tangents and never computes them.
_marked = Primitive("marked")


def reverse_only(tree: PyTree, refusal: str) -> Any:
    """Return arrays whose derivatives exist in reverse mode alone.

    Args:
        tree: A pytree. Leaves that are not floating arrays stay as they are.
        refusal: The text of the error in forward mode.

    Returns:
        The same arrays. A forward-mode derivative of them raises `InputTypeError`, at the latest
        when it is computed.
    """
    return _mark(tree, refusal, "")


def forward_only(tree: PyTree, refusal: str) -> Any:
    """Return arrays whose derivatives exist in forward mode alone.

    Args:
        tree: A pytree. Leaves that are not floating arrays stay as they are.
        refusal: The text of the error in reverse mode.

    Returns:
        The same arrays. A reverse-mode derivative of them raises `InputTypeError`.
    """
    return _mark(tree, "", refusal)


def _mark(tree: PyTree, forward: str, backward: str) -> Any:
    """Return arrays whose tangents are marked."""

    @jax.custom_jvp
    def same(array: Array) -> Array:
        return array

    @same.defjvp
    def rule(primals, tangents):
        return primals[0], _marked.bind(tangents[0], forward=forward, backward=backward)

    # Each array is marked alone, so that an array without a tangent gets none.
    return jax.tree.map(lambda leaf: same(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


def _computed(tangent: Any, *, forward: str, backward: str) -> Any:
    if forward:
        raise InputTypeError(forward)
    return tangent


def _transposed(cotangent: Any, tangent: Any, *, forward: str, backward: str) -> Any:
    if backward:
        raise InputTypeError(backward)
    return [cotangent]


_marked.def_impl(_computed)
_marked.def_abstract_eval(lambda tangent, **_: tangent)
ad.deflinear2(_marked, _transposed)
batching.defvectorized(_marked)
mlir.register_lowering(_marked, mlir.lower_fun(_computed, multiple_results=False))
