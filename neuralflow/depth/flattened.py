"""A field as a flat list of arrays, and for each the basis it varies on: how solves and laboratories see a field.

Which state of its own a field may change while it is evaluated (batch statistics, random streams) is said here too; what no solve can
carry is refused in `varying`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core
from jaxtyping import Array

from neuralflow.checks import InputError
from neuralflow.depth.basis import Basis, Side, locate, locate_traced
from neuralflow.depth.varying import DepthVarying, check_variables, dotted, flatten, raw

Local = Sequence[tuple[Any, Any]]
"""For every basis of a field a cell, and a local coordinate in it."""


def depth_bases(module: nnx.Module) -> dict[tuple[Any, ...], Basis]:
    """The basis of every parameter that varies with depth, by its path in the module's state."""
    bases = _bases_by_id(module)
    return {
        path: bases[id(leaf)]
        for path, leaf in nnx.iter_graph(module)
        if isinstance(leaf, nnx.Param) and id(leaf) in bases
    }


def _bases_by_id(module: nnx.Module) -> dict[int, Basis]:
    """The basis of every array that varies with depth, by the identity of what holds it."""
    bases: dict[int, Basis] = {}
    for _, node in nnx.iter_graph(module):
        if isinstance(node, DepthVarying):
            leaves = [leaf for _, leaf in nnx.iter_graph(node.stack) if _is_leaf(leaf)]
            bases.update(
                {id(leaf): node.basis for leaf in leaves if not isinstance(leaf, nnx.RngState)}
            )
    return bases


class FlatField:
    """A field flattened for a solve: an order of its arrays, and for each the basis it varies on.

    A `DepthVarying` anywhere in the field is replaced by the module it varies, so that the user's own code calls a
    plain module at every stage. `array_bases`: for every array its basis, None for what is constant in depth; `bases`: the
    different ones. Holds no tracer: the arrays themselves, `values`, are handed around beside it.
    """

    def __init__(self, field: nnx.Module):
        check_variables(field)
        bases = _bases_by_id(field)
        plain = _unwrap(field)
        by_path = {
            path: bases.get(id(leaf)) for path, leaf in nnx.iter_graph(plain) if _is_leaf(leaf)
        }
        self._graphdef, state = nnx.split(plain)
        self._paths, leaves = flatten(state)
        self._kinds = [leaf if isinstance(leaf, nnx.Variable) else None for leaf in leaves]
        self.array_bases = [by_path[path] for path in self._paths]
        self.bases: list[Basis] = list(
            dict.fromkeys(basis for basis in self.array_bases if basis is not None)
        )

    @staticmethod
    def values(field: nnx.Module) -> list[Array]:
        """The field's arrays, in the order of `array_bases`."""
        return [raw(leaf) for leaf in flatten(nnx.split(_unwrap(field))[1])[1]]

    def module(self, values: Sequence[Array]) -> nnx.Module:
        """The user's module with these arrays."""
        leaves = [
            value if kind is None else kind.replace(value)
            for kind, value in zip(self._kinds, values, strict=True)
        ]
        return nnx.merge(
            self._graphdef, nnx.from_flat_state(list(zip(self._paths, leaves, strict=True)))
        )

    def module_at(self, values: Sequence[Array], local: Local) -> nnx.Module:
        """The user's module at one depth, told in every basis."""
        places = dict(zip(self.bases, local, strict=True))
        pairs = zip(self.array_bases, values, strict=True)
        return self.module(
            [
                value if basis is None else basis.value(value, *places[basis])
                for basis, value in pairs
            ]
        )

    @staticmethod
    def variables(field: nnx.Module) -> list[Any]:
        """The field's own variables, in the order of `array_bases`: where new state is written to."""
        plain = _unwrap(field)
        held = {path: leaf for path, leaf in nnx.iter_graph(plain) if _is_leaf(leaf)}
        return [held[path] for path in flatten(nnx.split(plain)[1])[0]]

    @property
    def streams(self) -> list[bool]:
        """Which arrays are the keys of random streams."""
        return [isinstance(kind, nnx.RngKey) for kind in self._kinds]

    def changes(self, module: nnx.Module, values: Sequence[Array]) -> dict[int, Array]:
        """The state that a call has replaced in `module`, by its place; ValueError for what is not state of a field."""
        paths, leaves = flatten(nnx.split(module)[1])
        odd = sorted(set(paths) ^ set(self._paths))
        pairs = enumerate(zip(leaves, values, strict=True)) if not odd else []
        changed = {i: raw(leaf) for i, (leaf, value) in pairs if raw(leaf) is not value}
        odd += [
            paths[i]
            for i in changed
            if not isinstance(self._kinds[i], nnx.BatchStat | nnx.RngCount)
        ]
        if odd:
            raise InputError(
                f"the field changed its own state ('{dotted(odd[0])}') while it was evaluated, which a solve cannot carry; "
                "return what it computes instead, or keep such layers around the NeuralODE"
            )
        return changed

    def is_statistic(self, i: int) -> bool:
        """Whether an array is a batch statistic."""
        return isinstance(self._kinds[i], nnx.BatchStat)

    def name(self, i: int) -> str:
        """The name of an array in the field."""
        return dotted(self._paths[i])


def _is_leaf(node: Any) -> bool:
    return isinstance(node, (nnx.Variable, jax.Array, np.ndarray))


def _unwrap(field: nnx.Module) -> nnx.Module:
    """The field with every DepthVarying replaced by its stack."""
    return nnx.recursive_map(
        lambda _, node: node.stack if isinstance(node, DepthVarying) else node, field
    )


def field_at(field: nnx.Module, s: Any, side: Side = "right") -> nnx.Module:
    """The plain module with a field's weights at normalised depth s; at a knot `side` names the one-sided limit.

    A traced s is located by its value, from the right, and kept in [0, 1].
    """
    flat = FlatField(field)
    if isinstance(s, core.Tracer):
        local = [locate_traced(basis, s, jnp.asarray(basis.knots, s.dtype)) for basis in flat.bases]
    else:
        local = [locate(basis, np.asarray(s), side) for basis in flat.bases]
    return flat.module_at(FlatField.values(field), local)


def field_in_step(field: nnx.Module, local: Local) -> nnx.Module:
    """The plain module with a field's weights in a step of a plan: `local` is `Plan.local(share, k)`, whose cell is an integer."""
    return FlatField(field).module_at(FlatField.values(field), local)
