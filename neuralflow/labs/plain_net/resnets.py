"""Plain networks as residual networks that training can continue (Li & Shi, arXiv 1708.06257)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.fields import Activation
from neuralflow.labs.plain_net.decomposition import Decomposition, decompose, dimension
from neuralflow.labs.plain_net.embedding import (
    Constant,
    Embedded,
    activation_gates,
    activation_kinds,
    active_dimensions,
    by_precision,
    stacked_along_depth,
    straight_slopes,
    zero_padded,
)
from neuralflow.labs.plain_net.reading import identity, read
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.solve import FixedGrid


class Block(nnx.Module):
    """A residual branch of two layers, x -> M x + c + N z + W2 s(W1 z + b1).

    A step adds the branch to the state x (..., d). With one point, z is x, and the matrix N is
    absent. With several points, z is a start y of x: the state from which the motion of an
    activation reaches x. A table of straight pieces, one about each point, takes x to y. The piece
    about the nearest point is used.

    The arrays are M = `linear`, c = `shift`, N = `behind`, W1 = `inner`, b1 = `bias` and W2 =
    `outer`. The activation s is the sum of all activations, weighted by `gates`. Training changes
    all arrays except `gates` and `table`.

    Args:
        size: The dimension d.
        activations: The activations of the network.
        points: The number of points of the table.

    Raises:
        InputTypeError: `size` or `points` is not a whole number, or `activations` is not a sequence
            of functions.
        InputError: `size` is below 1 or above 8192, or `points` is below 1 or above 2^20.
    """

    def __init__(self, size: int, activations: Sequence[Activation], points: int):
        checks.whole("size", size, most=8192)
        checks.whole("points", points, most=2**20)
        if not isinstance(activations, Sequence):
            raise InputTypeError(
                f"activations must be a sequence of functions, got {type(activations).__name__}"
            )
        for activation in activations:
            checks.function("each of activations", activation, 1)

        def square():
            return nnx.Param(jnp.zeros((size, size)))

        self.linear, self.inner, self.outer = square(), square(), square()
        self.behind = square() if points > 1 else None
        self.shift, self.bias = nnx.Param(jnp.zeros(size)), nnx.Param(jnp.zeros(size))
        self.gates = Constant(jnp.zeros(len(activations)))
        self.table = Constant(jnp.ones((3, points))) if points > 1 else None
        self.activations = tuple(activations)

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Return what the step adds to x.

        Args:
            x: The states (..., d).

        Raises:
            InputTypeError: `x` is not an array of real floating-point numbers.
            InputError: `x` has another width.

        @public
        """
        checks.array("x", x, "...", self.shift.shape[-1])
        z = x
        if self.table is not None:
            places, values, slopes = self.table[...]
            near = jnp.argmin(jnp.abs(x[..., None] - places), axis=-1)
            z = values[near] + slopes[near] * (x - places[near])
        y = z @ self.inner[...].T + self.bias[...]
        moved = sum(
            (_gated(gate, s, y) for gate, s in zip(self.gates[...], self.activations, strict=True)),
            jnp.zeros_like(y),
        )
        out = x @ self.linear[...].T + self.shift[...] + moved @ self.outer[...].T
        return (out if self.behind is None else out + z @ self.behind[...].T).astype(x.dtype)


def _gated(gate: Array, activation: Callable[[Array], Array], y: Array) -> Array:
    """Return gate * activation(y), and zero under a gate of zero where the activation overflows."""
    return jnp.where(gate == 0, 0, gate * activation(jnp.where(gate == 0, 0, y)))


Linear = Literal["kept", "euler", "cayley"]
Activated = Literal["exact", "relaxed", "linearised"]


def as_resnet(
    model: nnx.Module | Sequence[Any],
    *,
    linear: Linear = "kept",
    activation: Activated = "exact",
    steps: int = 1,
    horizon: float = 20.0,
    about: Sequence[float] = (0.0,),
) -> Embedded:
    """Turn a plain network into a residual network of two-layer blocks, ready for further training.

    Every dense layer x -> s(W x + b) becomes blocks for its linear map, and then blocks for its
    activation.

    Args:
        model: The plain network, as for `read`.
        linear: The blocks of the linear map. "kept" is one block that adds (W - I) x + b. "euler"
            and "cayley" rotate, stretch and rotate in `steps` blocks each. The rotations are of
            first order with "euler", and of second order with "cayley". The stretching telescopes,
            so that the stretching is exact.
        activation: The blocks of the activation. "exact" moves in time-scaled blocks, without error
            for any number of blocks, and is for relu and leaky_relu. "relaxed" moves in equal
            blocks over `horizon` units of depth time, and is for relu. The error of "relaxed" tends
            to exp(-horizon) as `steps` grows. "linearised" is for every monotone activation, and
            takes x back to its start along straight pieces about the points `about`. The error of
            "linearised" does not vanish as `steps` grows: only more points make the error smaller.
        steps: The number of blocks for every motion that is discretised.
        horizon: The length of a relaxation in units of depth time. A relaxation needs at least
            `horizon` steps.
        about: The points of the linearisation.

    Returns:
        The residual network. Its `layer` is a field on a grid of Euler steps of length one.
        `neuralflow.to_branches` gives its blocks.

    Raises:
        InputError: `linear` or `activation` is not one of its choices, or `steps` is below 1 or
            above 2^16.
        InputError: `horizon` is not positive and finite, or `steps` is below `horizon` for a
            relaxation.
        InputError: `about` is empty, holds a number that is not finite, or has more than one axis.
        InputError: The activation of a layer has no blocks of the chosen kind.
        InputError: `read` refuses the weights or the activations of `model`.
        InputTypeError: `steps` is no whole number, `about` does not consist of numbers, or `read`
            refuses `model` because of its kind.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from neuralflow.labs.plain_net import as_resnet
        >>> weight, bias = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros(2)
        >>> resnet = as_resnet([(weight, bias, jax.nn.relu)])
        >>> x = jnp.array([[1.0, -1.0], [2.0, 1.0]])
        >>> bool(jnp.allclose(resnet(x), jax.nn.relu(x @ weight.T), atol=1e-4))
        True
        >>> len(nf.to_branches(resnet.layer))
        2

    Source:
        Li & Shi, arXiv 1708.06257.
    """
    layers = read(model)
    checks.choice("linear", linear, ("kept", "euler", "cayley"))
    checks.choice("activation", activation, ("exact", "relaxed", "linearised"))
    checks.whole("steps", steps, most=2**16)
    points = np.unique(checks.known_numbers("about", about, "points"))
    checks.positive("horizon", horizon, "the length of a relaxation in units of depth time")
    if activation == "relaxed" and steps < horizon:
        raise InputError(
            f"relaxation over {horizon:g} units of depth time takes at least as many steps, got "
            f"{steps}; longer ones overshoot"
        )
    kept = linear == "kept"
    size = max(max(layer.weight.shape) for layer in layers) if kept else dimension(layers)
    report = () if kept else tuple(decompose(layer.weight, size) for layer in layers)
    kinds = activation_kinds(layers)
    table = len(points) if activation == "linearised" else 1
    forms: list[dict[str, Any]] = []
    for k, layer in enumerate(layers):
        maps = (
            [zero_padded(layer.weight, size) - np.eye(size)]
            if kept
            else _discretised(report[k], steps, linear)
        )
        forms += [{"linear": m} for m in maps]
        forms[-1]["shift"] = zero_padded(layer.bias, size)
        if layer.activation is not identity:
            numbers = _activated(layer.activation, activation, steps, horizon, points)
            own = {"gates": activation_gates(layer, kinds)}
            forms += [{**own, **_spread(form, active_dimensions(layer, size))} for form in numbers]
    count = len(forms)
    resnet = NeuralODE(
        stacked_along_depth(Block(size, kinds, table), forms),
        FixedGrid(Euler(), steps=count),
        0.0,
        float(count),
    )
    return Embedded(resnet, (layers[0].weight.shape[1], size, len(layers[-1].weight)), report)


def _spread(form: dict[str, Any], active: np.ndarray) -> dict[str, Any]:
    """Return the numbers of a form as arrays on the active dimensions.

    Biases and shifts become vectors, and all other numbers become diagonal matrices. Tables stay as
    they are.
    """
    vectors = {name: value * active for name, value in form.items() if name in ("bias", "shift")}
    matrices = {
        name: value * np.diag(active)
        for name, value in form.items()
        if name not in ("bias", "shift", "table")
    }
    return {**form, **vectors, **matrices}


def _discretised(row: Decomposition, steps: int, linear: str) -> list[np.ndarray]:
    """Return what each step adds, as a matrix.

    The steps make the right rotation, then the stretching, then the left rotation.
    """
    eye, stretch = np.eye(len(row.scale)), row.scale - 1

    def turn(generator: np.ndarray) -> np.ndarray:
        small = generator / steps
        return (
            small if linear == "euler" else np.linalg.solve(eye - small / 2, eye + small / 2) - eye
        )

    stretches = [np.diag(stretch / (steps + k * stretch)) for k in range(steps)]
    return [turn(row.right)] * steps + stretches + [turn(row.left)] * steps


def _activated(
    s: Activation, kind: str, steps: int, horizon: float, points: np.ndarray
) -> list[dict[str, Any]]:
    """Return the blocks of an activation, each as numbers for the arrays of a `Block`."""
    name, slopes = getattr(s, "__name__", type(s).__name__), straight_slopes(s)
    exact = by_precision(1e-14, 1e-6)
    if kind == "linearised":
        return [_linearised(s, k / steps, 1 / steps, points) for k in range(steps)]
    if kind == "relaxed":
        if slopes is None or not np.allclose(slopes, (0, 1), rtol=0, atol=exact):
            raise InputError(
                f"relaxation comes to rest at s(x) for relu alone, got {name}; take "
                'activation="linearised"'
            )
        return [{"inner": -1.0, "outer": horizon / steps} for _ in range(steps)]
    if slopes is None or abs(slopes[1] - 1) > exact or not 0 <= slopes[0] < 1:
        raise InputError(
            f'exact blocks are for relu and leaky_relu, got {name}; take activation="linearised"'
        )
    low = slopes[0]
    # s(-x) + low x is (1 - low) relu(-x), which is the difference s(x) - x.
    weights = [1 / (steps + k * (low - 1)) for k in range(steps)]
    return [{"inner": -1.0, "outer": w, "linear": w * low} for w in weights]


def _linearised(s: Activation, t: float, h: float, points: np.ndarray) -> dict[str, Any]:
    """Return the block x + h (s(y) - y), with y = y0 + (x - x0) / J about each point y0.

    J = 1 - t + t s'(y0) is the derivative of the motion, and x0 = (1 - t) y0 + t s(y0) is its
    place.
    """
    at = jnp.asarray(points)
    values = np.asarray(s(at), float)
    slopes = 1 / (1 - t + t * np.asarray(jax.vmap(jax.grad(lambda y: s(y)))(at), float))
    places = (1 - t) * points + t * values
    if len(points) > 1:
        return {"table": np.stack([places, points, slopes]), "inner": 1.0, "outer": h, "behind": -h}
    offset = float(points[0] - slopes[0] * places[0])
    slope = float(slopes[0])
    return {"inner": slope, "bias": offset, "outer": h, "linear": -h * slope, "shift": -h * offset}
