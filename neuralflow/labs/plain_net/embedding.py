"""What flows and residual networks of plain networks share.

The module holds added dimensions, weights in cells of depth, and activations as motions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from flax import nnx
from jax import core
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, PiecewiseConstant
from neuralflow.fields import Activation
from neuralflow.labs.plain_net.decomposition import Decomposition
from neuralflow.labs.plain_net.reading import PROBES, Dense, activation_values, identity
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Tsit5
from neuralflow.solve import Adaptive, Discretisation


class Embedded(nnx.Module):
    """A flow on more dimensions than its data.

    Zeros are appended to the inputs x (..., inputs), and the first dimensions of the final state
    are the outputs.

    Args:
        layer: The NeuralODE on all dimensions.
        sizes: The number of inputs, the number of all dimensions, and the number of outputs.
        report: A decomposition for every dense layer; empty where linear maps are kept whole.

    Raises:
        InputTypeError: `layer` is not a NeuralODE, `sizes` are not whole numbers, or `report` is
            not a sequence of decompositions.
        InputError: `sizes` are not three, or there are more inputs or outputs than dimensions.
    """

    def __init__(
        self, layer: NeuralODE, sizes: tuple[int, int, int], report: tuple[Decomposition, ...] = ()
    ):
        checks.instance("layer", layer, NeuralODE, "a NeuralODE")
        numbers = checks.wholes("sizes", sizes)
        if len(numbers) != 3 or max(numbers) > numbers[1]:
            raise InputError(
                "sizes are the numbers of inputs, of all dimensions, and of outputs, and the "
                f"second is the largest, got {numbers}"
            )
        if not isinstance(report, Sequence) or not all(
            isinstance(row, Decomposition) for row in report
        ):
            raise InputTypeError(
                "report must be a sequence of decompositions, as decompose() returns them, got "
                f"{type(report).__name__}"
            )
        self.layer = layer
        self.inputs, self.size, self.outputs = numbers
        self.report = nnx.static(tuple(report))

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Return the outputs of the plain network.

        Args:
            x: The inputs (..., inputs).

        Returns:
            The outputs (..., outputs).

        Raises:
            InputTypeError: `x` is not an array of real floating-point numbers.
            InputError: `x` does not have `inputs` numbers a sample.

        @public
        """
        return self.layer(self.embed(x))[..., : self.outputs]

    def embed(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch size"]:
        """Return x with zeros for the added dimensions.

        Args:
            x: The inputs (..., inputs).

        Returns:
            The embedded inputs (..., size).

        Raises:
            InputTypeError: `x` is not an array of real floating-point numbers.
            InputError: `x` does not have `inputs` numbers a sample.
        """
        checks.array("x", x, "...", self.inputs)
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.size - self.inputs)])

    def with_solve(self, solve: Discretisation) -> Embedded:
        """Return the same flow under another discretisation.

        Args:
            solve: The discretisation.

        Raises:
            InputTypeError: `solve` is not a discretisation.
        """
        checks.instance("solve", solve, Discretisation, "a FixedGrid or an Adaptive")
        return Embedded(
            self.layer.with_solve(solve), (self.inputs, self.size, self.outputs), self.report
        )

    def table(self) -> str:
        """Return the report in words, with one line for each dense layer."""
        lines = [
            f"layer {k}: rank {row.rank} of {self.size}, {row.added} dimensions added, "
            f"rotations by up to {row.angles[0]:.3f} and "
            f"{row.angles[1]:.3f} radians, {row.flipped} flipped"
            for k, row in enumerate(self.report)
        ]
        return "\n".join(lines) or "linear maps are kept whole"


class Constant(nnx.Variable):
    """A variable that belongs to the form of a flow and is not trained."""


def straight_slopes(activation: Activation) -> tuple[float, float] | None:
    """Return the slopes on both sides of zero of an activation of two straight pieces.

    The pieces meet at zero. They are straight if they are so at all `PROBES`, up to rounding. An
    activation that never falls and leaves its piece between two neighbouring probes lies within a
    hundredth of the piece there.

    Args:
        activation: The activation.

    Returns:
        The slopes left and right of zero, or None for every other activation.
    """
    with jax.ensure_compile_time_eval():
        points = np.asarray(jnp.asarray(PROBES))
        values = activation_values("the activation", activation, points)
    low, high = float(-values[points == -1].item()), float(values[points == 1].item())
    if not np.isfinite((low, high)).all():
        return None
    away = np.abs(values - np.where(points < 0, low, high) * points)
    rounding = 32 * float(jnp.finfo(values.dtype).eps) * max(abs(low), abs(high))
    return (low, high) if (away <= rounding * np.abs(points)).all() else None


def pulled_back(
    activation: Activation, x: Float[Array, "*shape"], s: Real
) -> Float[Array, "*shape"]:
    """Return the start y of the straight motion from y to activation(y) that is at x at time s.

    The start solves (1 - s) y + s activation(y) = x. Activations of two straight pieces that
    meet at zero have a closed form. All other activations are solved by bisection.

    Args:
        activation: An activation that never falls.
        x: The states at time s, of any shape.
        s: The time in [0, 1), in units of depth time.

    Returns:
        The starts y, of the shape of `x`.

    Raises:
        InputTypeError: `activation` is not a function that gives a real number for each number, or
            `x` is not an array of real floating-point numbers.
        InputError: `s` is not a number from 0 on and below 1.
    """
    checks.function("activation", activation, 1)
    checks.array("x", x, "...")
    checks.number("s", s)
    if not isinstance(s, core.Tracer) and not 0 <= s < 1:
        raise InputError(f"s is a time from 0 on and below 1, got {s}")
    pieces = straight_slopes(activation)
    if pieces is not None:
        return x / (1 + s * (jnp.where(x < 0, *pieces) - 1))
    s = jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape)
    start = activation(jnp.zeros((), x.dtype))
    # The activation never falls, so that the line without its rise bounds the root.
    bound = (x - s * start) / (1 - s)
    finder = optx.Bisection(
        rtol=4 * float(jnp.finfo(x.dtype).eps), atol=4 * float(jnp.finfo(x.dtype).eps), flip=False
    )

    def root(x: Array, s: Array, bound: Array) -> Array:
        def gap(y, args):
            gap = (1 - args[1]) * y + args[1] * activation(y) - args[0]
            # An activation that is no number at y is so because y is too far from zero.
            return jnp.where(jnp.isnan(gap), y, gap)

        ends = {"lower": jnp.minimum(bound, 0) - 1e-3, "upper": jnp.maximum(bound, 0) + 1e-3}
        return optx.root_find(
            gap, finder, x, (x, s), options=ends, max_steps=256, throw=False
        ).value

    return jax.vmap(root)(
        x.reshape(-1), s.reshape(-1), jax.lax.stop_gradient(bound.reshape(-1))
    ).reshape(x.shape)


def default_solve() -> Adaptive:
    """Return Tsit5 with adaptive steps, to the tolerance 1e-8 in float64 and 1e-5 in float32."""
    tolerance = by_precision(1e-8, 1e-5)
    return Adaptive(Tsit5(), tolerance, tolerance, max_steps=1 << 14)


def checked_cutoff(cutoff: float | None) -> float:
    """Return a cutoff in depth time, or the default in place of None.

    Args:
        cutoff: A number between 0 and 1. None stands for 1e-6, and for 1e-4 in float32.

    Raises:
        InputError: `cutoff` is not a number between 0 and 1.
    """
    if cutoff is None:
        return by_precision(1e-6, 1e-4)
    if not checks.is_number(cutoff) or not 0 < cutoff < 1:
        raise InputError(
            f"cutoff is a small positive part of a unit of depth time, got {cutoff!r}; for example "
            "1e-6"
        )
    return float(cutoff)


def by_precision(double: float, single: float) -> float:
    """Return the number for the default precision of JAX.

    Args:
        double: The number for float64.
        single: The number for float32.
    """
    return double if jnp.zeros(()).dtype == jnp.float64 else single


def activation_kinds(layers: Sequence[Dense]) -> tuple[Activation, ...]:
    """Return the different activations of a network, in their order, without the identity.

    Args:
        layers: The dense layers.
    """
    return tuple(
        dict.fromkeys(layer.activation for layer in layers if layer.activation is not identity)
    )


def activation_gates(layer: Dense, kinds: tuple[Activation, ...]) -> np.ndarray:
    """Return 1 for the activation of a layer and 0 for all others, (kinds,).

    Args:
        layer: The dense layer.
        kinds: The activations of the network.
    """
    return np.asarray([float(kind is layer.activation) for kind in kinds])


def active_dimensions(layer: Dense, size: int) -> np.ndarray:
    """Return 1 for the dimensions that a layer outputs and 0 for all others, (size,).

    Args:
        layer: The dense layer.
        size: The number of all dimensions.
    """
    return (np.arange(size) < len(layer.bias)).astype(float)


def stacked_along_depth(module: nnx.Module, forms: Sequence[dict[str, Any]]) -> DepthVarying:
    """Return copies of a module along depth, each in a cell of its own.

    Args:
        module: The module. The function replaces its arrays by the stacked arrays.
        forms: One mapping for each copy, from the names of arrays to their values. A copy keeps
            those arrays of the module that its mapping does not name.

    Returns:
        The module with piecewise-constant weights on as many equal cells as there are copies.
    """
    for name, leaf in vars(module).items():
        if isinstance(leaf, nnx.Variable):
            own = np.asarray(leaf.get_value())
            rows = [np.broadcast_to(form.get(name, own), own.shape) for form in forms]
            leaf.set_value(jnp.asarray(np.stack(rows)))
    return DepthVarying.from_stack(module, PiecewiseConstant(len(forms)))


def zero_padded(array: np.ndarray, size: int) -> np.ndarray:
    """Return the array with zeros behind its entries, up to the given size on every axis.

    Args:
        array: The array.
        size: The size of every axis.
    """
    return np.pad(array, [(0, size - n) for n in array.shape])
