"""Plain networks as flows, and flows of different widths one behind the other (Li & Shi, arXiv 1708.06257).

A dense layer x -> s(W x + b) is five motions, each of one unit of depth time: the rotation V^T, the stretching by the
singular values, the rotation U, the shift b, and the activation, which moves on a straight line from y to s(y). That a layer is
such a flow in a space of enough dimensions is stated in the paper; the formulas of the motions are our formulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.depth import DepthVarying, PiecewiseConstant
from neuralflow.fields import Activation, evaluate, takes_time
from neuralflow.labs.plain_net.decomposition import decompose, dimension
from neuralflow.labs.plain_net.embedding import (
    Constant,
    Embedded,
    activation_gates,
    activation_kinds,
    active_dimensions,
    by_precision,
    default_solve,
    pulled_back,
    stacked_along_depth,
    zero_padded,
)
from neuralflow.labs.plain_net.reading import read
from neuralflow.layers import NeuralODE
from neuralflow.solve import Discretisation

MOTIONS = ("rotation", "stretch", "rotation", "shift", "activation")
"""What a dense layer does, in units of depth time."""


class _Motion(nnx.Module):
    """One of a layer's five motions as a velocity; weights of the others are zero."""

    def __init__(self, size: int, activations: tuple[Activation, ...], cutoff: float):
        self.start = Constant(jnp.zeros(()))
        self.generator = nnx.Param(jnp.zeros((size, size)))
        self.stretch = nnx.Param(jnp.zeros(size))
        self.shift = nnx.Param(jnp.zeros(size))
        self.active = Constant(jnp.zeros((len(activations), size)))
        self.activations, self.cutoff = activations, cutoff

    def __call__(self, x: Float[Array, "*batch d"], t: Any) -> Float[Array, "*batch d"]:
        # Singular ends are stopped short of: there what becomes zero would be divided by zero.
        s = jnp.clip(t - self.start[...], 0, 1 - self.cutoff).astype(x.dtype)
        stretch = self.stretch[...]
        v = x @ self.generator[...].T + self.shift[...] + stretch * x / (1 + s * stretch)
        for activation, active in zip(self.activations, self.active[...], strict=True):
            y = pulled_back(activation, x, jnp.where(active.any(), s, 0))
            v = v + active * (activation(y) - y)
        return v.astype(x.dtype)


def as_flow(
    model: Any, *, cutoff: float | None = None, solve: Discretisation | None = None
) -> Embedded:
    """A plain net as one flow: five units of depth time a layer, glued one behind the other.

    `model`: as for `read`. Motions that end in a point where several meet (zero singular values, the folded side of ReLU,
    saturated activations) are singular at their end, and stopped at `cutoff` before it, which leaves an error in proportion to
    the cutoff: 1e-6 by default, 1e-4 in float32, which knows depth no better. `solve`: Adaptive(Tsit5()) by default, to 1e-8, or 1e-5 in
    float32; FixedGrid(Euler(), steps=5 n L) is a residual network whose
    stretching, shift and activation are exact and whose rotations are of first order in 1 / n.
    """
    layers = read(model)
    cutoff = by_precision(1e-6, 1e-4) if cutoff is None else cutoff
    if not isinstance(cutoff, int | float) or not 0 < cutoff < 1:
        raise InputError(
            f"cutoff is a small positive part of a unit of depth time, got {cutoff!r}; for example 1e-6"
        )
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
    field = stacked_along_depth(_Motion(size, kinds, cutoff), forms)
    layer = NeuralODE(field, solve or default_solve(), 0.0, float(len(forms)))
    return Embedded(layer, (layers[0].weight.shape[1], size, len(layers[-1].weight)), report)


class _Glued(nnx.Module):
    """Fields of different dimensions, each in its own cell of depth; dimensions that end are drawn to zero first."""

    def __init__(
        self,
        fields: Sequence[nnx.Module],
        widths: Sequence[int],
        place: DepthVarying,
        cutoff: float,
    ):
        for field in fields:
            takes_time(field)  # refuses what is called in another way
        self.fields, self.widths, self.cutoff = nnx.List(fields), tuple(widths), cutoff
        self.place = place

    def __call__(self, x: Float[Array, "*batch d"], t: Any) -> Float[Array, "*batch d"]:
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
    """Flows of different dimensions, one behind the other, as one flow of the largest.

    `layers`: NeuralODEs on x (..., widths[k]), walked forward, a unit of depth time each. A flow that is wider than the one before
    starts with zeros in the new dimensions. Where a flow is narrower than the one before and a wider one follows, one more unit
    of depth time draws the dimensions that end to zero, up to `cutoff`. Weights that vary with depth keep their place in their
    flow; they must stand on PiecewiseConstant. `cutoff`, `solve`: as for `as_flow`. On a fixed grid take Euler where dimensions end:
    its steps there are exact, those of higher order leave a remainder.
    """
    if not len(layers) or len(layers) != len(widths):
        raise InputError(
            f"glue takes layers and as many widths, at least one, got {len(layers)} layers and {len(widths)} widths"
        )
    for k, (layer, width) in enumerate(zip(layers, widths, strict=True)):
        checks.instance(f"layer {k}", layer, NeuralODE, "a NeuralODE")
        checks.whole(f"width {k}", width)
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
    field = _Glued(fields, widths, place, by_precision(1e-6, 1e-4) if cutoff is None else cutoff)
    glued = NeuralODE(field, solve or default_solve(), 0.0, float(len(rows)))
    return Embedded(glued, (widths[0], max(widths), widths[-1]))


def _placed(field: nnx.Module, start: int, count: int) -> nnx.Module:
    """A field whose weights along depth stand in the cell `start` of `count`; outside they are those of its ends."""

    def place(_: Any, node: Any) -> Any:
        if not isinstance(node, DepthVarying):
            return node
        if not isinstance(node.basis, PiecewiseConstant):
            raise InputError(
                f"weights on {node.basis} cannot be glued; bring them to nf.PiecewiseConstant with project()"
            )
        inner = (start + node.basis.knots[1:-1]) / count
        modules = [node.at(s) for s in node.basis.nodes]
        return DepthVarying.from_modules(modules, PiecewiseConstant((0.0, *inner.tolist(), 1.0)))

    return nnx.recursive_map(place, field)
