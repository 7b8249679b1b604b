"""Plain networks as flows, and flows of different widths joined into one (Li & Shi).

A dense layer x -> s(W x + b) with W = U S V^T is five motions. Each motion takes one unit of depth
time: the rotation V^T, the stretching by the singular values S, the rotation U, the shift b, and
the activation s. The activation moves every point on a straight line from y to s(y).

Source:
    Li & Shi, arXiv 1708.06257. That a layer is such a flow in a space of enough dimensions is
    stated there. The formulas of the motions are our formulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, PiecewiseConstant
from neuralflow.fields import Activation, evaluate, takes_time
from neuralflow.labs.plain_net.decomposition import decompose, dimension
from neuralflow.labs.plain_net.embedding import (
    Constant,
    Embedded,
    activation_gates,
    activation_kinds,
    active_dimensions,
    checked_cutoff,
    default_solve,
    pulled_back,
    stacked_along_depth,
    zero_padded,
)
from neuralflow.labs.plain_net.reading import read
from neuralflow.layers import NeuralODE
from neuralflow.solve import Discretisation

MOTIONS = ("rotation", "stretch", "rotation", "shift", "activation")
"""The motions of a dense layer in their order, one unit of depth time each."""


class Motion(nnx.Module):
    """One of the five motions of a layer as a velocity.

    The weights of the other four motions are zero.

    Args:
        size: The dimension d.
        activations: The activations of the network.
        cutoff: The depth time before a singular end at which the time is held.
    """

    def __init__(self, size: int, activations: tuple[Activation, ...], cutoff: float):
        self.start = Constant(jnp.zeros(()))
        self.generator = nnx.Param(jnp.zeros((size, size)))
        self.stretch = nnx.Param(jnp.zeros(size))
        self.shift = nnx.Param(jnp.zeros(size))
        self.active = Constant(jnp.zeros((len(activations), size)))
        self.activations, self.cutoff = activations, cutoff

    def __call__(self, x: Float[Array, "*batch d"], t: Real) -> Float[Array, "*batch d"]:
        """Return the velocity at x.

        Args:
            x: The states (..., d).
            t: The depth time.
        """
        # The time stops short of a singular end, where zero would be divided by zero.
        s = jnp.clip(t - self.start[...], 0, 1 - self.cutoff).astype(x.dtype)
        stretch = self.stretch[...]
        v = x @ self.generator[...].T + self.shift[...] + stretch * x / (1 + s * stretch)
        for activation, active in zip(self.activations, self.active[...], strict=True):
            # States of other motions and dimensions may lie where the activation overflows.
            own = jnp.where(active > 0, x, 0)
            y = pulled_back(activation, own, jnp.where(active.any(), s, 0))
            v = v + active * (activation(y) - y)
        return v.astype(x.dtype)


def as_flow(
    model: nnx.Module | Sequence[Any],
    *,
    cutoff: float | None = None,
    solve: Discretisation | None = None,
) -> Embedded:
    """Turn a plain network into one flow, with five units of depth time for each dense layer.

    Some motions end where several points meet. Examples are zero singular values, the folded side
    of ReLU, and saturated activations. The velocity of such a motion is singular at the end of the
    motion. The formula of the velocity therefore holds its time fixed from `cutoff` before the end.
    This leaves an error in proportion to `cutoff`.

    With `FixedGrid(Euler(), steps=5 n L)` for L layers, the flow is a residual network. The
    stretching, the shift and the activation of this network are exact. The rotations are of first
    order in 1 / n.

    Args:
        model: The plain network, as for `read`.
        cutoff: The depth time before a singular end at which the time in the velocity is held. The
            default is 1e-6, and 1e-4 in float32, whose precision in depth is no better.
        solve: The discretisation of the flow. The default is Adaptive(Tsit5()) to the tolerance
            1e-8, and 1e-5 in float32.

    Returns:
        The flow, with its decompositions in `report`.

    Raises:
        InputError: `cutoff` does not lie between 0 and 1.
        InputError: `read` refuses the weights or the activations of `model`.
        InputTypeError: `read` refuses `model` because of its kind, or `solve` is not a
            discretisation.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from neuralflow.labs.plain_net import as_flow
        >>> weight, bias = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros(2)
        >>> solve = nf.FixedGrid(nf.Euler(), steps=5000)
        >>> flow = as_flow([(weight, bias, jax.nn.relu)], solve=solve)
        >>> x = jnp.array([[1.0, -1.0], [2.0, 1.0]])
        >>> flow.size, bool(jnp.allclose(flow(x), jax.nn.relu(x @ weight.T), atol=0.1))
        (3, True)

    Source:
        Li & Shi, arXiv 1708.06257.
    """
    layers = read(model)
    cutoff = checked_cutoff(cutoff)
    size = dimension(layers)
    kinds = activation_kinds(layers)
    report = tuple(decompose(layer.weight, size) for layer in layers)
    forms: list[dict[str, Any]] = []
    for layer, row in zip(layers, report, strict=True):
        forms += [{"generator": row.right}, {"stretch": row.scale - 1}, {"generator": row.left}]
        forms += [
            {"shift": zero_padded(layer.bias, size)},
            {"active": activation_gates(layer, kinds)[:, None] * active_dimensions(layer, size)},
        ]
    forms = [{"start": float(k), **form} for k, form in enumerate(forms)]
    field = stacked_along_depth(Motion(size, kinds, cutoff), forms)
    solve = default_solve() if solve is None else solve
    layer = NeuralODE(field, solve, 0.0, float(len(forms)))
    return Embedded(layer, (layers[0].weight.shape[1], size, len(layers[-1].weight)), report)


class _Glued(nnx.Module):
    """Fields of different dimensions, each in its own cell of depth.

    Dimensions that end are drawn to zero first.
    """

    def __init__(
        self,
        fields: Sequence[nnx.Module],
        widths: Sequence[int],
        place: DepthVarying,
        cutoff: float,
    ):
        for field in fields:
            takes_time(field)  # Refuse fields with other arguments.
        self.fields, self.widths, self.cutoff = nnx.List(fields), tuple(widths), cutoff
        self.place = place

    def __call__(self, x: Float[Array, "*batch d"], t: Real) -> Float[Array, "*batch d"]:
        place: Any = self.place
        number, start, span, first = place.row[...]
        size = x.shape[-1]
        local = first + (t - start).astype(x.dtype) * span

        def part(k: int) -> Callable[[Array], Array]:
            def moved(x: Array) -> Array:
                v = span * evaluate(self.fields[k], x[..., : self.widths[k]], local)
                return jnp.pad(v, [(0, 0)] * (x.ndim - 1) + [(0, size - self.widths[k])]).astype(
                    x.dtype
                )

            return moved

        def collapse(x: Array) -> Array:
            gone = jnp.arange(size) >= span
            return jnp.where(gone, -x / jnp.maximum(1 - (t - start), self.cutoff), 0).astype(
                x.dtype
            )

        return jax.lax.switch(
            number.astype(int), [*map(part, range(len(self.fields))), collapse], x
        )


class _Row(nnx.Module):
    def __init__(self, *numbers: float):
        self.row = Constant(jnp.asarray(numbers))


def glue(
    layers: Sequence[NeuralODE],
    widths: Sequence[int],
    *,
    cutoff: float | None = None,
    solve: Discretisation | None = None,
) -> Embedded:
    """Join flows of different dimensions, one behind the other, into one flow.

    The joined flow has the largest dimension. Each flow takes one unit of depth time. A flow that
    is wider than the flow before starts with zeros in the new dimensions. One more unit of depth
    time is inserted where a flow is narrower than the flow before and a later flow is wider than
    the narrow flow. In this unit, the dimensions that end are drawn to zero, up to an error in
    proportion to `cutoff`. Weights that vary with depth keep their place in their flow.

    On a fixed grid, take Euler where dimensions end. The steps of Euler are exact there, and steps
    of higher order leave a remainder.

    Args:
        layers: NeuralODEs on states (..., widths[k]), which are walked forward. Weights that vary
            with depth must stand on `neuralflow.PiecewiseConstant`.
        widths: The dimension of each flow.
        cutoff: The depth time before the end of a unit at which the time in the velocity is held,
            as for `as_flow`.
        solve: The discretisation of the joined flow, as for `as_flow`.

    Returns:
        The joined flow, from `widths[0]` inputs to `widths[-1]` outputs.

    Raises:
        InputError: There is no layer, or the numbers of layers and of widths differ.
        InputError: A width is below 1, or a layer walks backward.
        InputError: `cutoff` does not lie between 0 and 1.
        InputError: Weights that vary with depth do not stand on `neuralflow.PiecewiseConstant`.
        InputTypeError: `layers` is no sequence, a layer is no NeuralODE, or a width is no whole
            number.
        InputTypeError: `solve` is not a discretisation.
        InputTypeError: A field is not callable as f(x) or f(x, t).
    """
    if not isinstance(layers, Sequence | nnx.List) or isinstance(layers, str):
        raise InputTypeError(
            f"layers must be a sequence of NeuralODEs, got {type(layers).__name__}"
        )
    widths, cutoff = checks.wholes("widths", widths), checked_cutoff(cutoff)
    if len(layers) != len(widths):
        raise InputError(
            f"layers and widths belong together, got {len(layers)} layers and {len(widths)} widths"
        )
    for k, layer in enumerate(layers):
        checks.instance(f"layer {k}", layer, NeuralODE, "a NeuralODE")
        if layer.backward:
            raise InputError(f"layer {k} walks backward; give forward layers")
    rows: list[tuple[float, float, float, float]] = []
    for k, layer in enumerate(layers):
        t0, t1 = float(layer.t0), float(layer.t1)
        rows.append((k, len(rows), t1 - t0, t0))
        if (
            k + 1 < len(layers)
            and widths[k + 1] < widths[k]
            and max(widths[k + 1 :]) > widths[k + 1]
        ):
            rows.append((len(layers), len(rows), widths[k + 1], 0.0))
    place = DepthVarying.from_modules([_Row(*row) for row in rows], PiecewiseConstant(len(rows)))
    starts = [int(row[1]) for row in rows if row[0] < len(layers)]
    fields = [
        _placed(layer.field, start, len(rows)) for layer, start in zip(layers, starts, strict=True)
    ]
    field = _Glued(fields, widths, place, cutoff)
    solve = default_solve() if solve is None else solve
    glued = NeuralODE(field, solve, 0.0, float(len(rows)))
    return Embedded(glued, (widths[0], max(widths), widths[-1]))


def _placed(field: nnx.Module, start: int, count: int) -> nnx.Module:
    """Return a field whose weights along depth stand in the cell `start` of `count` equal cells.

    Outside this cell the weights are those at the ends of the field's own depth.
    """

    def place(_: Any, node: Any) -> Any:
        if not isinstance(node, DepthVarying):
            return node
        if not isinstance(node.basis, PiecewiseConstant):
            raise InputError(
                f"weights on {node.basis} cannot be glued; bring them to nf.PiecewiseConstant with "
                "project()"
            )
        inner = (start + node.basis.knots[1:-1]) / count
        modules = [node.at(s) for s in node.basis.nodes]
        return DepthVarying.from_modules(modules, PiecewiseConstant((0.0, *inner.tolist(), 1.0)))

    return nnx.recursive_map(place, field)
