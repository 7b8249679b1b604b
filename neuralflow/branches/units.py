"""Hidden units of a residual branch: what can be renumbered without a change of its function.

`hidden_units` finds the units of perceptrons, convolutional blocks, sequences of layers and
attention heads. Units of other branches are named by hand, as `HiddenUnits`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from neuralflow import checks
from neuralflow.branches.norms import Affine
from neuralflow.checks import InputError
from neuralflow.depth.varying import dotted, flatten
from neuralflow.fields import MLP, Attention, ConvBlock

_NORMS = (nnx.BatchNorm, nnx.GroupNorm, nnx.InstanceNorm, nnx.LayerNorm, nnx.RMSNorm, Affine)


@dataclass(frozen=True)
class HiddenUnits:
    """The hidden units of one layer of a branch, and what leaves the branch as it is.

    The branch does not change when its units are renumbered, in all `axes` at once. It does not
    change either when `incoming` parameters of a unit are multiplied by a factor and `outgoing`
    parameters are divided by it: by -1 where the activation is odd, by any positive factor where
    the activation is homogeneous.

    Args:
        axes: The parameters that the units index, by their dotted names in the branch, and the
            axis of the units in each of them. Batch statistics count as parameters.
        incoming: Names in `axes`: the parameters by which the value of a unit is multiplied.
        outgoing: Names in `axes`: the parameters that multiply the value of a unit after the
            activation.
        odd: Whether a unit may change its sign, as with tanh.
        homogeneous: Whether a unit may be multiplied by a positive factor, as with ReLU.
        groups: The number of groups of equal size that a `GroupNorm` makes of the units. Groups are
            renumbered as wholes, and units within their group.

    Raises:
        InputError: `incoming` or `outgoing` holds a name that is not in `axes`, or is empty where
            `odd` or `homogeneous` needs it. `groups` is less than one.
        InputTypeError: An argument is of the wrong kind.

    Example:
        >>> import neuralflow as nf
        >>> units = nf.HiddenUnits({"kernel1": 1, "bias1": 0, "kernel2": 0})
        >>> tanh = nf.HiddenUnits(
        ...     units.axes, incoming=("kernel1", "bias1"), outgoing=("kernel2",), odd=True
        ... )
    """

    axes: Mapping[str, int]
    incoming: tuple[str, ...] = ()
    outgoing: tuple[str, ...] = ()
    odd: bool = False
    homogeneous: bool = False
    groups: int = 1

    def __post_init__(self):
        checks.named("axes", self.axes, int, '{"kernel1": 1, "bias1": 0, "kernel2": 0}')
        for name in ("odd", "homogeneous"):
            checks.flag(name, getattr(self, name))
        checks.whole("groups", self.groups)
        for name in ("incoming", "outgoing"):
            names = checks.sequence(name, getattr(self, name), "a tuple of names in axes")
            odd = [entry for entry in names if entry not in self.axes]
            if odd or (not names and (self.odd or self.homogeneous)):
                raise InputError(
                    f"{name} names parameters in axes ({', '.join(self.axes)}), at least one where "
                    f"a factor is allowed, got {getattr(self, name)!r}"
                )

    def __str__(self) -> str:
        return ", ".join(f"{name} axis {axis}" for name, axis in self.axes.items())


def hidden_units(branch: nnx.Module) -> list[HiddenUnits]:
    """Return the hidden units that are known of a branch.

    Hidden units stand between two dense layers or two convolutions in a `neuralflow.fields.MLP`,
    a `neuralflow.fields.FeedForward`, a `neuralflow.fields.ConvBlock` or an `nnx.Sequential`,
    anywhere inside the branch. Activations and norms may stand between the two layers. The heads of
    a `neuralflow.fields.Attention` or an `nnx.MultiHeadAttention` are units too: whole heads are
    renumbered.

    Args:
        branch: A residual branch.

    Returns:
        The units, one entry for each hidden layer. The list is empty where nothing is known.

    Raises:
        InputTypeError: `branch` is not an `nnx.Module`.

    Example:
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> branch = nf.fields.MLP(2, hidden=8, rngs=nnx.Rngs(0))
        >>> [units] = nf.branches.hidden_units(branch)
        >>> sorted(units.axes.items())
        [('dense.0.bias', 0), ('dense.0.kernel', 1), ('dense.1.kernel', 0)]
        >>> units.odd, units.homogeneous
        (True, False)
    """
    checks.instance("branch", branch, nnx.Module, "an nnx.Module")
    found: list[HiddenUnits] = []
    for path, node in nnx.iter_graph(branch):
        if isinstance(node, nnx.MultiHeadAttention | Attention):
            found += _heads(path, node)
        else:
            found += _between(_chain(path, node))
    # Whoever else holds the parameters of a layer would see them in another order.
    variables = [
        leaf for leaf in jax.tree.leaves(branch, is_leaf=_is_variable) if _is_variable(leaf)
    ]
    places = Counter(map(id, variables))
    alone = {dotted(path) for path, leaf in nnx.iter_graph(branch) if places[id(leaf)] == 1}
    return [group for group in found if group.axes.keys() <= alone]


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)


Layer = tuple[tuple[Any, ...], Any]
"""A layer or a function of a chain, with its path in the branch."""


def _chain(path: tuple[Any, ...], node: Any) -> list[Layer]:
    """Return the layers and functions that a module applies one after the other."""
    if isinstance(node, nnx.Sequential):
        return [((*path, "layers", i), layer) for i, layer in enumerate(node.layers)]
    if isinstance(node, MLP):
        dense = [((*path, "dense", i), layer) for i, layer in enumerate(node.dense)]
        return [part for layer in dense for part in (((), node.activation), layer)][1:]
    if isinstance(node, ConvBlock):
        pairs = enumerate(zip(node.norms, node.convs, strict=True))
        return [
            part
            for i, (norm, conv) in pairs
            for part in (
                ((*path, "norms", i), norm),
                ((), node.activation),
                ((*path, "convs", i), conv),
            )
        ]
    return []


def _between(chain: Sequence[Layer]) -> Iterator[HiddenUnits]:
    """Yield the units between every two linear layers that follow each other in a chain."""
    linear = [i for i, (_, layer) in enumerate(chain) if _is_linear(layer)]
    for i, j in itertools.pairwise(linear):
        units = _units(chain[i], chain[i + 1 : j], chain[j])
        if units is not None:
            yield units


def _is_linear(layer: Any) -> bool:
    """Tell whether a layer is dense or a convolution of all channels, without a mask."""
    whole = type(layer) is nnx.Conv and layer.feature_group_count == 1 and layer.mask is None
    return type(layer) is nnx.Linear or whole


def _is_norm(layer: Any) -> bool:
    """Tell whether a layer is a norm whose weights belong to the last axis."""
    axis = getattr(layer, "axis", getattr(layer, "feature_axes", -1))
    return type(layer) in _NORMS and axis in (-1, (-1,))


def _units(first: Layer, between: Sequence[Layer], last: Layer) -> HiddenUnits | None:
    """Return the units that one linear layer makes and the next reads, or None if one mixes them.

    The factor of a unit enters at the last norm before the activations, and else at `first`.
    """
    axes = _axes(*first)
    incoming, groups, functions = list(axes), {1}, []
    for path, layer in between:
        if _is_norm(layer):
            held = _axes(path, layer)
            axes |= held
            names = {name.rsplit(".", 1)[-1]: name for name in held}
            incoming = [names[n] for n in ("scale", "bias") if n in names and "scale" in names]
            groups |= {layer.num_groups} if isinstance(layer, nnx.GroupNorm) else set()
            functions = []
        elif not isinstance(layer, nnx.Module) and _commutes(layer, lambda v: v[:, ::-1]):
            functions.append(layer)
        elif not isinstance(layer, nnx.Dropout):
            return None
    shape = last[1].kernel.shape
    if len(groups) > 2 or shape[-2] != first[1].kernel.shape[-1]:
        return None
    kernel = dotted((*last[0], "kernel"))
    axes[kernel] = len(shape) - 2
    return HiddenUnits(
        axes,
        tuple(incoming),
        (kernel,),
        odd=bool(incoming) and all(_commutes(f, lambda v: v * _SIGNS) for f in functions),
        homogeneous=bool(incoming) and all(_commutes(f, lambda v: v * _FACTORS) for f in functions),
        groups=max(groups),
    )


def _axes(path: tuple[Any, ...], layer: nnx.Module) -> dict[str, int]:
    """Return the names of the arrays of a layer, with the last axis of each."""
    paths, leaves = flatten(nnx.state(layer, nnx.Not(nnx.RngState)))
    return {
        dotted((*path, *inner)): leaf.ndim - 1 for inner, leaf in zip(paths, leaves, strict=True)
    }


def _heads(
    path: tuple[Any, ...], attention: nnx.MultiHeadAttention | Attention
) -> Iterator[HiddenUnits]:
    """Yield the heads of attention, where each has its own keys and values."""
    shapes = attention.query.kernel.shape, attention.key.kernel.shape
    if shapes[0][-2] != shapes[1][-2]:  # Several heads share keys and values.
        return
    axes = {dotted((*path, "out", "kernel")): 0}
    for name in ("query", "key", "value"):
        held = _axes((*path, name), getattr(attention, name))
        axes |= {array: axis - 1 for array, axis in held.items()}
    yield HiddenUnits(axes)


# Activations of two examples with as many units as factors.
_VALUES = np.stack([np.geomspace(0.01, 100, 6), -np.geomspace(30, 0.03, 6)])
_SIGNS = np.array([1, -1, -1, 1, -1, 1])
_FACTORS = np.array([1, 4, 2, 8, 0.5, 1])


def _commutes(function: Callable[..., Any], change: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Tell whether a function of all units does not see a change of the units."""
    try:
        before, after = np.asarray(function(_VALUES)), np.asarray(function(change(_VALUES)))
    except Exception:  # The function is the caller's, and may take something else.
        return False
    return before.shape == _VALUES.shape and np.allclose(
        after, change(before), rtol=1e-5, atol=1e-7
    )
