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
from jaxtyping import PyTree

from neuralflow.checks import InputTypeError

# The identity of a tangent. It refuses to be computed if `forward` is a text, and to be transposed
# if `backward` is one. Reverse mode transposes tangents and never computes them.
_marked = Primitive("marked")
# The identity of an array, whose tangent is marked. JAX drops the rules of custom derivatives in
# places, but not those of a primitive.
_marking = Primitive("marking")


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

    # Each array is marked alone, so that an array without a tangent gets none.
    def marked(leaf):
        if not eqx.is_inexact_array(leaf):
            return leaf
        return _marking.bind(leaf, forward=forward, backward=backward)

    return jax.tree.map(marked, tree)


def _marked_jvp(primals: Any, tangents: Any, **refusals: str) -> Any:
    # The innermost derivative alone is marked: forward mode over reverse mode is allowed.
    (primal,), (tangent,) = primals, tangents
    return primal, tangent if isinstance(tangent, ad.Zero) else _marked.bind(tangent, **refusals)


def _computed(tangent: Any, *, forward: str, backward: str) -> Any:
    if forward:
        raise InputTypeError(forward)
    return tangent


def _same(array: Any, **refusals: str) -> Any:
    return array


def _transposed(cotangent: Any, tangent: Any, *, forward: str, backward: str) -> Any:
    if backward:
        raise InputTypeError(backward)
    return [cotangent]


_marked.def_impl(_computed)
ad.deflinear2(_marked, _transposed)
mlir.register_lowering(_marked, mlir.lower_fun(_computed, multiple_results=False))
_marking.def_impl(_same)
ad.primitive_jvps[_marking] = _marked_jvp
mlir.register_lowering(_marking, mlir.lower_fun(_same, multiple_results=False))
for primitive in (_marked, _marking):
    primitive.def_abstract_eval(_same)
    batching.defvectorized(primitive)
