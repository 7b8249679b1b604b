"""Discretisations and schemes taken apart into a static form and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import PyTree


@dataclass(frozen=True)
class Form:
    """The static, hashable part of a pytree of options.

    Attributes:
        treedef: The structure of the pytree.
        leaves: The static leaves. None stands where an array or a variable goes.
    """

    treedef: Any
    leaves: tuple[Any, ...]

    def join(self, arrays: Sequence[Any]) -> Any:
        """Put arrays into the form.

        Args:
            arrays: The arrays and variables, in the order in which `split` returns them.

        Returns:
            The whole pytree.
        """
        rest = iter(arrays)
        return jax.tree.unflatten(
            self.treedef, [next(rest) if leaf is None else leaf for leaf in self.leaves]
        )

    def __deepcopy__(self, memo: Any) -> Form:
        return self  # The form is immutable, and tree definitions do not survive a deep copy.

    def __reduce__(self):
        # Nor do tree definitions survive pickling. The options themselves do.
        leaves = [_SLOT if leaf is None else leaf for leaf in self.leaves]
        return _form, (jax.tree.unflatten(self.treedef, leaves),)


class _Slot:
    """The place of an array in pickled options."""


_SLOT = _Slot()


def _form(tree: PyTree) -> Form:
    """Return the form of options with slots in place of arrays."""
    leaves, treedef = jax.tree.flatten(tree)
    return Form(treedef, tuple(None if isinstance(leaf, _Slot) else leaf for leaf in leaves))


def split(tree: PyTree) -> tuple[Form, list[Any]]:
    """Take a pytree apart into its static form and its arrays.

    Args:
        tree: A discretisation, a scheme, or another pytree of options.

    Returns:
        The static form, and a list of the arrays and NNX variables. Variables stay whole.
    """
    leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    form = Form(treedef, tuple(None if _is_array(leaf) else leaf for leaf in leaves))
    return form, [leaf for leaf in leaves if _is_array(leaf)]


def _is_array(leaf: PyTree) -> bool:
    """Return whether a leaf is an array or an NNX variable."""
    return isinstance(leaf, (jax.Array, np.ndarray, nnx.Variable))
