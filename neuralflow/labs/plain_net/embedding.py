"""What flows and residual networks of plain nets share: extra dimensions, weights in cells of depth, activations as motions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from flax import nnx
from jaxtyping import Array, Float

from neuralflow.checks import InputError
from neuralflow.depth import DepthVarying, PiecewiseConstant
from neuralflow.fields import Activation
from neuralflow.labs.plain_net.decomposition import Decomposition
from neuralflow.labs.plain_net.reading import Dense, identity
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Tsit5
from neuralflow.solve import Adaptive, Discretisation


class Embedded(nnx.Module):
    """A flow on more dimensions than its data: zeros are appended to x (..., inputs), the first outputs are read.

    `layer`: the NeuralODE, on `size` dimensions. `report`: a Decomposition for every dense layer; empty where linear maps
    were kept whole.
    """

    def __init__(
        self, layer: NeuralODE, sizes: tuple[int, int, int], report: tuple[Decomposition, ...] = ()
    ):
        self.layer = layer
        self.inputs, self.size, self.outputs = sizes
        self.report = nnx.static(report)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """What the plain net gives for x."""
        return self.layer(self.embed(x))[..., : self.outputs]

    def embed(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch size"]:
        """x with zeros for the dimensions that were added."""
        if x.shape[-1] != self.inputs:
            raise InputError(
                f"this net takes {self.inputs} numbers a sample, got x of shape {x.shape}"
            )
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.size - self.inputs)])

    def with_solve(self, solve: Discretisation) -> Embedded:
        """The same flow under another discretisation."""
        return Embedded(
            self.layer.with_solve(solve), (self.inputs, self.size, self.outputs), self.report
        )

    def table(self) -> str:
        """The report in words, a line a layer."""
        lines = [
            f"layer {k}: rank {row.rank} of {self.size}, {row.added} dimensions added, rotations by up to {row.angles[0]:.3f} and "
            f"{row.angles[1]:.3f} radians, {row.flipped} flipped"
            for k, row in enumerate(self.report)
        ]
        return "\n".join(lines) or "linear maps are kept whole"


class Constant(nnx.Variable):
    """What belongs to the form of a flow and is not trained."""


def straight_slopes(activation: Activation) -> tuple[float, float] | None:
    """The slopes at either side of zero of an activation of two straight pieces; None for any other."""
    grid = np.asarray([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    with jax.ensure_compile_time_eval():
        values = np.asarray(activation(jnp.asarray(grid)))
    low, high = float(-values[1]), float(values[5])
    straight = np.where(grid < 0, low, high) * grid
    return (low, high) if np.allclose(values, straight, rtol=1e-6, atol=0) else None


def pulled_back(
    activation: Activation, x: Float[Array, "*shape"], s: Any
) -> Float[Array, "*shape"]:
    """The y with (1 - s) y + s activation(y) = x, 0 <= s < 1: where the straight line through x at time s began."""
    pieces = straight_slopes(activation)
    if pieces is not None:
        return x / (1 + s * (jnp.where(x < 0, *pieces) - 1))
    s = jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape)
    start = activation(jnp.zeros((), x.dtype))
    # The activation never falls, so the line that ignores its rise bounds the root.
    bound = (x - s * start) / (1 - s)
    finder = optx.Bisection(
        rtol=4 * float(jnp.finfo(x.dtype).eps), atol=4 * float(jnp.finfo(x.dtype).eps), flip=False
    )

    def root(x: Array, s: Array, bound: Array) -> Array:
        def gap(y, args):
            return (1 - args[1]) * y + args[1] * activation(y) - args[0]

        ends = {"lower": jnp.minimum(bound, 0) - 1e-3, "upper": jnp.maximum(bound, 0) + 1e-3}
        return optx.root_find(
            gap, finder, x, (x, s), options=ends, max_steps=256, throw=False
        ).value

    return jax.vmap(root)(
        x.reshape(-1), s.reshape(-1), jax.lax.stop_gradient(bound.reshape(-1))
    ).reshape(x.shape)


def default_solve() -> Adaptive:
    """Adaptive steps to 1e-8, or to 1e-5 in float32."""
    tolerance = by_precision(1e-8, 1e-5)
    return Adaptive(Tsit5(), tolerance, tolerance, max_steps=1 << 14)


def by_precision(double: float, single: float) -> float:
    """The first where floating-point numbers are float64 by default, else the second."""
    return double if jnp.zeros(()).dtype == jnp.float64 else single


def activation_kinds(layers: Sequence[Dense]) -> tuple[Activation, ...]:
    """The different activations of a net, in their order; the identity is none."""
    return tuple(
        dict.fromkeys(layer.activation for layer in layers if layer.activation is not identity)
    )


def activation_gates(layer: Dense, kinds: tuple[Activation, ...]) -> np.ndarray:
    """One for the activation of a layer, zero for the others."""
    return np.asarray([float(kind is layer.activation) for kind in kinds])


def active_dimensions(layer: Dense, size: int) -> np.ndarray:
    """One for the dimensions that a layer gives, zero for the others."""
    return (np.arange(size) < len(layer.bias)).astype(float)


def stacked_along_depth(module: nnx.Module, forms: Sequence[dict[str, Any]]) -> DepthVarying:
    """A module's copies along depth: its own arrays, but for those that a form names."""
    for name, leaf in vars(module).items():
        if isinstance(leaf, nnx.Variable):
            own = np.asarray(leaf.get_value())
            rows = [np.broadcast_to(form.get(name, own), own.shape) for form in forms]
            leaf.set_value(jnp.asarray(np.stack(rows)))
    return DepthVarying.from_stack(module, PiecewiseConstant(len(forms)))


def zero_padded(array: np.ndarray, size: int) -> np.ndarray:
    """The array with zeros behind it, up to `size` on every axis."""
    return np.pad(array, [(0, size - n) for n in array.shape])
