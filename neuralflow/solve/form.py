"""A discretisation, or a scheme, taken apart: what is static of it, and its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx


@dataclass(frozen=True)
class Form:
    """The static part of a pytree of options, hashable: None stands where an array or a variable goes."""

    treedef: Any
    leaves: tuple[Any, ...]

    def join(self, arrays: Sequence[Any]) -> Any:
        """The whole with these arrays, in the order of `split`."""
        rest = iter(arrays)
        return jax.tree.unflatten(
            self.treedef, [next(rest) if leaf is None else leaf for leaf in self.leaves]
        )

    def __deepcopy__(self, memo: Any) -> Form:
        return self  # immutable, and tree definitions do not survive a deep copy


def split(tree: Any) -> tuple[Form, list[Any]]:
    """The static form of a pytree, and its arrays and variables; variables stay whole."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    form = Form(treedef, tuple(None if _is_array(leaf) else leaf for leaf in leaves))
    return form, [leaf for leaf in leaves if _is_array(leaf)]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, nnx.Variable))
