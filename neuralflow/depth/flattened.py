"""A field as a flat list of arrays, each with its basis: how solves and laboratories see a field.

`FlatField.changes` says which state of its own a field may change while the field is evaluated:
batch statistics and random streams. The module `varying` refuses the state that no solve can carry.
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

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError
from neuralflow.depth.basis import Basis, Side, locate, locate_traced
from neuralflow.depth.varying import (
    DepthVarying,
    annotate,
    check_variables,
    dotted,
    flatten,
    raw,
)

Local = Sequence[tuple[Any, Any]]
"""One depth, as a pair for every basis of a field: a cell and the local coordinate in the cell."""


def depth_bases(module: nnx.Module) -> dict[tuple[Any, ...], Basis]:
    """Return the basis of every parameter that varies with depth, by the path of the parameter.

    Args:
        module: A field or any other module, with `DepthVarying` anywhere inside.

    Returns:
        A dictionary from the path of a parameter in the state of `module` to the basis of the
        parameter.

    Raises:
        InputError: A parameter stands in two `DepthVarying` with different bases.
        InputTypeError: `module` is not an `nnx.Module`.
    """
    checks.instance("module", module, nnx.Module, "an nnx.Module")
    held = dict(nnx.iter_graph(module))
    bases = array_bases(module)
    return {path: basis for path, basis in bases.items() if isinstance(held[path], nnx.Param)}


def array_bases(module: nnx.Module) -> dict[tuple[Any, ...], Basis]:
    """Return the basis of every array that varies with depth, by the path of the array.

    Parameters and batch statistics are such arrays.

    Args:
        module: Any module, with `DepthVarying` anywhere inside.

    Raises:
        InputError: An array stands in two `DepthVarying` with different bases.
    """
    bases = _bases_by_id(module)
    return {path: bases[id(leaf)] for path, leaf in nnx.iter_graph(module) if id(leaf) in bases}


def _bases_by_id(module: nnx.Module) -> dict[int, Basis]:
    """Return the basis of every array that varies with depth, by the `id` of its variable."""
    bases: dict[int, Basis] = {}
    for _, node in nnx.iter_graph(module):
        if isinstance(node, DepthVarying):
            for path, leaf in nnx.iter_graph(node.stack):
                if not _is_leaf(leaf) or isinstance(leaf, nnx.RngState):
                    continue
                other = bases.setdefault(id(leaf), node.basis)
                if other != node.basis:
                    raise InputError(
                        f"the coefficients '{dotted(path)}' stand in two nf.DepthVarying of the "
                        f"model, on {other} and on {node.basis}; give both one basis, or each "
                        "coefficients of its own"
                    )
    return bases


class FlatField:
    """A field flattened for a solve: its arrays in a fixed order, and the basis of each array.

    A `DepthVarying` anywhere in the field is replaced by its stacked module. The code of the user
    therefore calls a plain module at every stage. A `FlatField` holds no tracer. The arrays
    (`values`) are passed around beside it.

    Args:
        field: The field, an NNX module with `DepthVarying` anywhere inside.

    Raises:
        InputError: The field holds state that no solve can carry (`nnx.Cache`,
            `nnx.Intermediate`). Or an array stands in two `DepthVarying` with different bases.
        InputTypeError: `field` is not an `nnx.Module`.

    Attributes:
        array_bases: The basis of every array, or None for an array that is constant in depth.
        bases: The different bases among `array_bases`.
    """

    def __init__(self, field: nnx.Module):
        checks.instance("field", field, nnx.Module, "an nnx.Module")
        check_variables(field)
        bases = _bases_by_id(field)
        plain = _unwrap(field)
        ids = {path: id(leaf) for path, leaf in nnx.iter_graph(plain) if _is_leaf(leaf)}
        normalised = _normalised(plain)
        self._graphdef, state = nnx.split(plain)
        self._paths, leaves = flatten(state)
        self.array_bases = [bases.get(ids[path]) for path in self._paths]
        self._kinds = [
            _at_one_depth(leaf, basis) if isinstance(leaf, nnx.Variable) else None
            for leaf, basis in zip(leaves, self.array_bases, strict=True)
        ]
        self._normalised = [ids[path] in normalised for path in self._paths]
        self.bases: list[Basis] = list(
            dict.fromkeys(basis for basis in self.array_bases if basis is not None)
        )

    @staticmethod
    def values(field: nnx.Module) -> list[Array]:
        """Return the arrays of a field, in the order of `array_bases`.

        Arrays of NumPy, such as weights from a file, become those of JAX: a traced cell cannot
        choose from an array of NumPy.

        Args:
            field: The field that was flattened, or a field of the same structure.
        """
        leaves = map(raw, flatten(nnx.split(_unwrap(field))[1])[1])
        return [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in leaves]

    def module(self, values: Sequence[Array]) -> nnx.Module:
        """Return the module of the user, with the given arrays in it.

        Args:
            values: One array for every entry of `array_bases`, in that order.
        """
        leaves = [
            value if kind is None else kind.replace(value)
            for kind, value in zip(self._kinds, values, strict=True)
        ]
        return nnx.merge(
            self._graphdef, nnx.from_flat_state(list(zip(self._paths, leaves, strict=True)))
        )

    def module_at(self, values: Sequence[Array], local: Local) -> nnx.Module:
        """Return the module of the user with the weights of one depth.

        Args:
            values: The arrays of the field, as `values` returns them.
            local: The depth, as a cell and a local coordinate for each of `bases`.

        Raises:
            InputError: A parameter has another number of coefficients than its basis, or `local`
                has another number of pairs than `bases`.
        """
        if not isinstance(local, list | tuple) or len(local) != len(self.bases):
            raise InputError(
                f"local must be a list of {len(self.bases)} pairs of a cell and a local "
                f"coordinate, one for each basis of the field, got {local!r}"
            )
        self.check(values)
        places = dict(zip(self.bases, local, strict=True))
        pairs = zip(self.array_bases, values, strict=True)
        return self.module(
            [
                value if basis is None else basis.value(value, *places[basis])
                for basis, value in pairs
            ]
        )

    def check(self, values: Sequence[Array]) -> None:
        """Refuse arrays with another number of coefficients than their bases have.

        Args:
            values: The arrays of the field, as `values` returns them.

        Raises:
            InputError: An array has another first axis.
        """
        for i, (basis, value) in enumerate(zip(self.array_bases, values, strict=True)):
            if basis is not None:
                basis.check(value, f"the coefficients '{self.name(i)}'")

    @staticmethod
    def variables(field: nnx.Module) -> list[Any]:
        """Return the variables of a field, in the order of `array_bases`.

        A layer writes new state into these variables.

        Args:
            field: The field that was flattened.
        """
        plain = _unwrap(field)
        held = {path: leaf for path, leaf in nnx.iter_graph(plain) if _is_leaf(leaf)}
        return [held[path] for path in flatten(nnx.split(plain)[1])[0]]

    @property
    def streams(self) -> list[bool]:
        """Whether each array is the key of a random stream, in the order of `array_bases`."""
        return [isinstance(kind, nnx.RngKey) for kind in self._kinds]

    def changes(self, module: nnx.Module, values: Sequence[Array]) -> dict[int, Array]:
        """Return the state that a call of a module has replaced.

        A call may replace batch statistics and the counts of random streams. What `nnx.WeightNorm`
        and `nnx.SpectralNorm` write into the weights of their layer belongs to the call alone.

        Args:
            module: The module after the call.
            values: The arrays that the module had before the call, in the order of `array_bases`.

        Returns:
            A dictionary from the index in `array_bases` to the new array.

        Raises:
            InputError: The call replaced another array, or added or removed one.
        """
        paths, leaves = flatten(nnx.split(module)[1])
        odd = sorted(set(paths) ^ set(self._paths))
        pairs = enumerate(zip(leaves, values, strict=True)) if not odd else []
        changed = {
            i: raw(leaf)
            for i, (leaf, value) in pairs
            if raw(leaf) is not value and not self._normalised[i]
        }
        odd += [
            paths[i]
            for i in changed
            if not isinstance(self._kinds[i], nnx.BatchStat | nnx.RngCount)
        ]
        if odd:
            raise InputError(
                f"the field changed its own state ('{dotted(odd[0])}') while it was evaluated, "
                "which a solve cannot carry; return what it computes instead, "
                "or keep such layers around the NeuralODE"
            )
        return changed

    def is_statistic(self, i: int) -> bool:
        """Return whether array `i` of `array_bases` is a batch statistic."""
        return isinstance(self._kinds[i], nnx.BatchStat)

    def name(self, i: int) -> str:
        """Return the dotted name in the field of array `i` of `array_bases`."""
        return dotted(self._paths[i])


def _at_one_depth(variable: nnx.Variable, basis: Basis | None) -> nnx.Variable:
    """Return a variable with the sharding annotation that it has at one depth."""
    if basis is None or not variable.get_metadata().get("out_sharding"):
        return variable
    copy = variable.copy()
    annotate(copy, lambda axes: axes[1:])
    return copy


def _normalised(module: nnx.Module) -> set[int]:
    """Return the `id` of every parameter that a norm of weights writes to when it is called."""
    norms = (nnx.WeightNorm, nnx.SpectralNorm)
    layers = [node.layer_instance for _, node in nnx.iter_graph(module) if isinstance(node, norms)]
    nodes = [node for layer in layers for _, node in nnx.iter_graph(layer)]
    return {id(node) for node in nodes if isinstance(node, nnx.Param)}


def _is_leaf(node: Any) -> bool:
    return isinstance(node, (nnx.Variable, jax.Array, np.ndarray))


def _unwrap(field: nnx.Module) -> nnx.Module:
    """Return the field with every `DepthVarying` replaced by its stacked module."""
    return nnx.recursive_map(
        lambda _, node: node.stack if isinstance(node, DepthVarying) else node, field
    )


def field_at(field: nnx.Module, s: Real, side: Side = "right") -> nnx.Module:
    """Return the plain module with the weights of a field at one depth.

    Args:
        field: The field, with `DepthVarying` anywhere inside.
        s: The normalised depth in [0, 1]. A traced depth outside [0, 1] is moved to the nearer end.
        side: Which one-sided limit to take at a knot. A traced depth takes the limit from the
            right.

    Raises:
        InputError: A concrete `s` lies outside [0, 1], or the field holds state that no solve can
            carry. A parameter has another number of coefficients than its basis.
        InputTypeError: `s` is not one number, or `field` is not an `nnx.Module`.
    """
    checks.number("s", s, least=0, most=1)
    checks.choice("side", side, ("left", "right"))
    flat = FlatField(field)
    if isinstance(s, core.Tracer):
        local = [locate_traced(basis, s, jnp.asarray(basis.knots, s.dtype)) for basis in flat.bases]
    else:
        local = [locate(basis, np.asarray(s), side) for basis in flat.bases]
    return flat.module_at(FlatField.values(field), local)


def field_in_step(field: nnx.Module, local: Local) -> nnx.Module:
    """Return the plain module with the weights of a field in one step of a plan.

    Args:
        field: The field, with `DepthVarying` anywhere inside.
        local: The place in the step, as `Plan.local(share, k)` returns it. Its cells are integers.

    Raises:
        InputError: `local` has another number of pairs than the field has bases. Or a parameter has
            another number of coefficients than its basis.
        InputTypeError: `field` is not an `nnx.Module`.
    """
    return FlatField(field).module_at(FlatField.values(field), local)
