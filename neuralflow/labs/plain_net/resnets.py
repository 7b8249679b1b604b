"""Plain networks as residual networks to train on from (Li & Shi, arXiv 1708.06257)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.fields import Activation
from neuralflow.labs.plain_net.decomposition import Decomposition, decompose, dimension
from neuralflow.labs.plain_net.embedding import (
    Constant,
    Embedded,
    activation_gates,
    activation_kinds,
    active_dimensions,
    stacked_along_depth,
    straight_slopes,
    zero_padded,
)
from neuralflow.labs.plain_net.reading import identity, read
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.solve import FixedGrid


class Block(nnx.Module):
    """A residual branch, x -> M x + c + N z + W2 s(W1 z + b1), that a step x + branch(x) adds to x (..., d).

    z is x, or, with `points`, x taken back to y by a table of straight pieces, one about each point (the nearest is taken).
    All arrays are trained, but for the table.
    """

    def __init__(self, size: int, activations: tuple[Activation, ...], points: int):
        def square():
            return nnx.Param(jnp.zeros((size, size)))

        self.linear, self.inner, self.outer = square(), square(), square()
        self.behind = square() if points > 1 else None
        self.shift, self.bias = nnx.Param(jnp.zeros(size)), nnx.Param(jnp.zeros(size))
        self.gates = Constant(jnp.zeros(len(activations)))
        self.table = Constant(jnp.ones((3, points))) if points > 1 else None
        self.activations = activations

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """What the step adds to x."""
        z = x
        if self.table is not None:
            places, values, slopes = self.table[...]
            near = jnp.argmin(jnp.abs(x[..., None] - places), axis=-1)
            z = values[near] + slopes[near] * (x - places[near])
        y = z @ self.inner[...].T + self.bias[...]
        moved = sum(
            (gate * s(y) for gate, s in zip(self.gates[...], self.activations, strict=True)),
            jnp.zeros_like(y),
        )
        out = x @ self.linear[...].T + self.shift[...] + moved @ self.outer[...].T
        return (out if self.behind is None else out + z @ self.behind[...].T).astype(x.dtype)


Linear = Literal["kept", "euler", "cayley"]
Activated = Literal["exact", "relaxed", "linearised"]


def as_resnet(
    model: Any,
    *,
    linear: Linear = "kept",
    activation: Activated = "exact",
    steps: int = 1,
    horizon: float = 20.0,
    about: Sequence[float] = (0.0,),
) -> Embedded:
    """A plain net as a residual network of two-layer blocks, from which training can go on.

    `steps`: blocks for every motion that is discretised. `linear`: "kept" is one block that adds (W - I) x + b; "euler" and
    "cayley" turn and stretch in `steps` blocks each, to first and second order (stretching telescopes, and is exact).
    `activation`: "exact" (relu, leaky_relu) moves in time-scaled blocks, without error for any number of them; "relaxed" (relu) in
    equal ones over `horizon` units of time, with an error of exp(-horizon) as steps grow; "linearised" (any monotone one) takes x
    back to its start along the straight pieces about the points `about`. The error of a linearisation stays as steps
    grow: only more points make it smaller.

    The result's `layer` is a field on a grid of Euler steps of length one; `nf.to_branches(result.layer)` are its Blocks.
    """
    layers = read(model)
    checks.choice("linear", linear, ("kept", "euler", "cayley"))
    checks.choice("activation", activation, ("exact", "relaxed", "linearised"))
    checks.whole("steps", steps)
    points = np.unique(np.asarray(about, float))
    if points.ndim != 1 or not points.size or not np.isfinite(points).all():
        raise InputError(f"about is a sequence of finite numbers, at least one, got {about!r}")
    if not isinstance(horizon, int | float) or not 0 < horizon < np.inf:
        raise InputError(f"horizon is a positive length of depth time, got {horizon!r}")
    if activation == "relaxed" and steps < horizon:
        raise InputError(
            f"relaxation over {horizon:g} units of depth time takes at least as many steps, got {steps}; longer ones overshoot"
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
    """Numbers for every active dimension as the vectors and diagonal matrices that they stand for; tables as they are."""
    vectors = {name: value * active for name, value in form.items() if name in ("bias", "shift")}
    matrices = {
        name: value * np.diag(active)
        for name, value in form.items()
        if name not in ("bias", "shift", "table")
    }
    return {**form, **vectors, **matrices}


def _discretised(row: Decomposition, steps: int, linear: str) -> list[np.ndarray]:
    """What each step adds, as a matrix: the right rotation, the stretching, the left rotation."""
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
    """The blocks of an activation, each as numbers for the arrays of a Block."""
    name, slopes = getattr(s, "__name__", type(s).__name__), straight_slopes(s)
    if kind == "linearised":
        return [_linearised(s, k / steps, 1 / steps, points) for k in range(steps)]
    if kind == "relaxed":
        if slopes is None or not np.allclose(slopes, (0, 1)):
            raise InputError(
                f'relaxation comes to rest at s(x) for relu alone, got {name}; take activation="linearised"'
            )
        return [{"inner": -1.0, "outer": horizon / steps} for _ in range(steps)]
    if slopes is None or not np.isclose(slopes[1], 1) or not 0 <= slopes[0] < 1:
        raise InputError(
            f'exact blocks are for relu and leaky_relu, got {name}; take activation="linearised"'
        )
    low = slopes[0]
    # s(-x) + low x is (1 - low) relu(-x): what x lacks to s(x), once.
    weights = [1 / (steps + k * (low - 1)) for k in range(steps)]
    return [{"inner": -1.0, "outer": w, "linear": w * low} for w in weights]


def _linearised(s: Activation, t: float, h: float, points: np.ndarray) -> dict[str, Any]:
    """x + h (s(y) - y) with y = y0 + (x - x0) / J about each y0, J = 1 - t + t s'(y0)."""
    at = jnp.asarray(points)
    values = np.asarray(s(at), float)
    slopes = 1 / (1 - t + t * np.asarray(jax.vmap(jax.grad(lambda y: s(y)))(at), float))
    places = (1 - t) * points + t * values
    if len(points) > 1:
        return {"table": np.stack([places, points, slopes]), "inner": 1.0, "outer": h, "behind": -h}
    offset = float(points[0] - slopes[0] * places[0])
    slope = float(slopes[0])
    return {"inner": slope, "bias": offset, "outer": h, "linear": -h * slope, "shift": -h * offset}
