"""Plain networks as flows, and flows as residual networks (Li & Shi, arXiv 1708.06257).

A dense layer x -> s(W x + b) is five motions, each of one unit of depth time: the rotation V^T, the stretching by the
singular values, the rotation U, the shift b, and the activation, which moves on a straight line from y to s(y). That a layer is
such a flow in a space of enough dimensions is stated in the paper; the formulas of the motions are our formulation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from flax import nnx
from jaxtyping import Array, Float
from scipy.linalg import schur

from neuralflow import checks
from neuralflow.basis import PiecewiseConstant
from neuralflow.depth import DepthVarying
from neuralflow.fields import Activation, takes_time
from neuralflow.layers import NeuralODE, Solve
from neuralflow.schemes import Euler, Tsit5
from neuralflow.solve import Adaptive, FixedGrid

MOTIONS = ("rotation", "stretch", "rotation", "shift", "activation")


def identity(x: Any) -> Any:
    """The activation of a layer that has none."""
    return x


class Dense(NamedTuple):
    """One plain layer, x -> activation(weight @ x + bias): `weight` (out, in), `bias` (out,), float64 on the host."""

    weight: np.ndarray
    bias: np.ndarray
    activation: Activation = identity


def read(model: Any) -> list[Dense]:
    """The dense layers of a plain network, checked.

    `model`: an nnx.Sequential, or a sequence of nnx.Linear modules and activations in their order, or of (W, b, activation)
    with W (out, in). Activations are functions of one number that never fall. TypeError or ValueError for anything else.
    """
    given = model.layers if isinstance(model, nnx.Sequential) else model
    if not isinstance(given, Sequence | nnx.List) or isinstance(given, str) or not len(given):
        raise TypeError(
            f"a plain net is an nnx.Sequential or a sequence of nnx.Linear and activations, got {type(model).__name__}; "
            "give its layers in their order: [model.inner, jax.nn.relu, model.outer]"
        )
    layers: list[Dense] = []
    for k, item in enumerate(given):
        if isinstance(item, nnx.Linear):
            bias = np.zeros(item.out_features) if item.bias is None else item.bias.get_value()
            layers.append(_dense(k, item.kernel.get_value().T, bias))
        elif isinstance(item, tuple) and len(item) == 3:
            layers.append(_dense(k, item[0], item[1])._replace(activation=_activation(k, item[2])))
        elif callable(item) and not isinstance(item, nnx.Module) and layers and layers[-1].activation is identity:
            layers[-1] = layers[-1]._replace(activation=_activation(k, item))
        else:
            raise TypeError(
                f"layer {k} of a plain net is an nnx.Linear, an activation behind one, or (W, b, activation), got {type(item).__name__}"
            )
    for k, (a, b) in enumerate(itertools.pairwise(layers)):
        if len(a.weight) != b.weight.shape[1]:
            raise ValueError(f"dense layer {k} gives {len(a.weight)} numbers, but the next one takes {b.weight.shape[1]}")
    return layers


def _dense(k: int, weight: Any, bias: Any) -> Dense:
    named = ("W", np.asarray(weight), "(out, in)"), ("b", np.asarray(bias), "(out,)")
    for axes, (name, array, form) in zip((2, 1), named, strict=True):
        if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
            raise TypeError(f"{name} of layer {k} must be real numbers, got {array.dtype}; a flow moves real points")
        if array.ndim != axes or not array.size:
            raise ValueError(f"{name} of layer {k} must have shape {form}, got {array.shape}")
        array = array.astype(float)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} of layer {k} holds {int((~np.isfinite(array)).sum())} values that are not finite")
    if len(np.asarray(bias)) != len(np.asarray(weight)):
        raise ValueError(f"b of layer {k} holds {len(np.asarray(bias))} numbers, but W gives {len(np.asarray(weight))}")
    return Dense(np.asarray(weight, float), np.asarray(bias, float))


def _activation(k: int, activation: Any) -> Activation:
    """The activation, if it is a function of one number that never falls."""
    checks.function(f"the activation of layer {k}", activation)
    grid = np.linspace(-30, 30, 6001)
    values = np.asarray(activation(jnp.asarray(grid)))
    alone = np.asarray([activation(jnp.asarray([x]))[0] for x in grid[2900:3100:40]])
    name = getattr(activation, "__name__", type(activation).__name__)
    if values.shape != grid.shape or not np.allclose(alone, values[2900:3100:40], rtol=1e-5, atol=1e-6):
        raise ValueError(
            f"the activation of layer {k}, {name}, is no function of single numbers; take relu, tanh, softplus, ..."
        )
    falls = np.diff(values) < -1e-5 * np.abs(values[1:]).clip(1e-3)
    if falls.any() or not np.isfinite(values).all():
        raise ValueError(
            f"the activation of layer {k}, {name}, falls near {grid[falls.argmax()]:.3g}, so it is no flow of the line: two points would "
            "meet; take a monotone one (relu, leaky_relu, tanh, sigmoid, softplus)"
        )
    return activation


def logarithm(rotation: np.ndarray) -> np.ndarray:
    """The real skew A (d, d) with exp(A) the given proper rotation, its angles in (-pi, pi].

    From the real Schur form, the eigenvalues -1 taken in pairs as rotations by pi: a general matrix logarithm is complex
    there. ValueError for what is not orthogonal, and for a reflection, which has no real logarithm.
    """
    rotation = np.asarray(rotation, float)
    if rotation.ndim != 2 or not np.allclose(rotation @ rotation.T, np.eye(len(rotation)), rtol=0, atol=1e-8):
        raise ValueError(
            f"a rotation is a square orthogonal matrix, got shape {rotation.shape} with columns that are not orthonormal"
        )
    form, basis = schur(rotation, output="real")[:2]
    generator = np.zeros_like(form)
    turned: list[int] = []
    i = 0
    while i < len(form):
        if i + 1 < len(form) and form[i + 1, i] != 0:
            _turn(generator, i, i + 1, np.arctan2(form[i + 1, i] - form[i, i + 1], form[i, i] + form[i + 1, i + 1]))
            i += 2
            continue
        if form[i, i] < 0:
            turned.append(i)
        i += 1
    if len(turned) % 2:
        raise ValueError(
            "this orthogonal matrix is a reflection (determinant -1), and no flow of rotations reaches it; flip an axis"
        )
    for a, b in zip(turned[::2], turned[1::2], strict=True):
        _turn(generator, a, b, np.pi)
    return basis @ generator @ basis.T


def _turn(generator: np.ndarray, i: int, j: int, angle: float) -> None:
    generator[j, i], generator[i, j] = angle, -angle


@dataclass(frozen=True, eq=False)
class Decomposition:
    """W = exp(left) diag(scale) exp(right) in d dimensions, and what was done for it.

    `rank`; `flipped`: "nothing", "null vectors" or "a matched pair" of singular vectors, to make both factors proper
    rotations; `angles`: the largest angle of each rotation, right and left, in radians; `added`: dimensions beyond the layer's
    own larger width.
    """

    right: np.ndarray
    scale: np.ndarray
    left: np.ndarray
    rank: int
    flipped: str
    angles: tuple[float, float]
    added: int


def dimension(layers: Sequence[Dense]) -> int:
    """The least dimension in which every layer is a flow: the largest width, and one more if a layer of that width has
    determinant below zero."""
    most = max(max(layer.weight.shape) for layer in layers)
    square = [layer.weight for layer in layers if layer.weight.shape == (most, most)]
    return most + any(_rank(np.linalg.svd(w, compute_uv=False)) == most and np.linalg.slogdet(w)[0] < 0 for w in square)


def _rank(scale: np.ndarray) -> int:
    return int((scale > len(scale) * np.finfo(float).eps * scale.max(initial=0)).sum())


def decompose(weight: np.ndarray, size: int) -> Decomposition:
    """A weight (out, in), padded with zeros to (size, size), as rotation, stretching and rotation.

    Singular vectors are flipped where a factor would be a reflection: in the null space, where that changes nothing, or as a
    pair. ValueError for a weight of full rank and determinant below zero, which needs one dimension more.
    """
    out, inputs = weight.shape
    if size < max(out, inputs):
        raise ValueError(f"a weight {weight.shape} does not fit into {size} dimensions; give at least {max(out, inputs)}")
    padded = np.zeros((size, size))
    padded[:out, :inputs] = weight
    u, scale, vt = np.linalg.svd(padded)
    rank = _rank(scale)
    scale = np.where(np.arange(size) < rank, scale, 0.0)
    mirrored = np.linalg.det(u) < 0, np.linalg.det(vt) < 0
    flipped = "nothing"
    if rank < size:
        flipped = "null vectors" if any(mirrored) else flipped
        u[:, -1] *= -1 if mirrored[0] else 1
        vt[-1] *= -1 if mirrored[1] else 1
    elif all(mirrored):
        flipped = "a matched pair"
        u[:, -1], vt[-1] = -u[:, -1], -vt[-1]
    elif any(mirrored):
        raise ValueError(f"a weight of full rank with determinant below zero is no flow in {size} dimensions; give {size + 1}")
    right, left = logarithm(vt), logarithm(u)
    angles = float(np.linalg.norm(right, 2)), float(np.linalg.norm(left, 2))
    return Decomposition(right, scale, left, rank, flipped, angles, size - max(out, inputs))


def _slopes(activation: Activation) -> tuple[float, float] | None:
    """The slopes at either side of zero of an activation of two straight pieces; None for any other."""
    grid = np.asarray([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    with jax.ensure_compile_time_eval():
        values = np.asarray(activation(jnp.asarray(grid)))
    low, high = float(-values[1]), float(values[5])
    straight = np.where(grid < 0, low, high) * grid
    return (low, high) if np.allclose(values, straight, rtol=1e-6, atol=0) else None


def pulled_back(activation: Activation, x: Float[Array, "*shape"], s: Any) -> Float[Array, "*shape"]:
    """The y with (1 - s) y + s activation(y) = x, 0 <= s < 1: where the straight line through x at time s began."""
    slopes = _slopes(activation)
    if slopes is not None:
        return x / (1 + s * (jnp.where(x < 0, *slopes) - 1))
    s = jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape)
    start = activation(jnp.zeros((), x.dtype))
    # The activation never falls, so the line that ignores its rise bounds the root.
    bound = (x - s * start) / (1 - s)
    finder = optx.Bisection(rtol=4 * float(jnp.finfo(x.dtype).eps), atol=4 * float(jnp.finfo(x.dtype).eps), flip=False)

    def root(x: Array, s: Array, bound: Array) -> Array:
        gap = lambda y, args: (1 - args[1]) * y + args[1] * activation(y) - args[0]
        ends = {"lower": jnp.minimum(bound, 0) - 1e-3, "upper": jnp.maximum(bound, 0) + 1e-3}
        return optx.root_find(gap, finder, x, (x, s), options=ends, max_steps=256, throw=False).value

    return jax.vmap(root)(x.reshape(-1), s.reshape(-1), jax.lax.stop_gradient(bound.reshape(-1))).reshape(x.shape)


class Constant(nnx.Variable):
    """What belongs to the form of a flow and is not trained."""


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


class Embedded(nnx.Module):
    """A flow on more dimensions than its data: zeros are appended to x (..., inputs), the first outputs are read.

    `layer`: the NeuralODE, on `size` dimensions. `report`: a Decomposition for every dense layer; empty where linear maps
    were kept whole.
    """

    def __init__(self, layer: NeuralODE, sizes: tuple[int, int, int], report: tuple[Decomposition, ...] = ()):
        self.layer = layer
        self.inputs, self.size, self.outputs = sizes
        self.report = nnx.static(report)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """What the plain net gives for x."""
        return self.layer(self.embed(x))[..., : self.outputs]

    def embed(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch size"]:
        """x with zeros for the dimensions that were added."""
        if x.shape[-1] != self.inputs:
            raise ValueError(f"this net takes {self.inputs} numbers a sample, got x of shape {x.shape}")
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.size - self.inputs)])

    def with_solve(self, solve: Solve) -> Embedded:
        """The same flow under another discretisation."""
        return Embedded(self.layer.with_solve(solve), (self.inputs, self.size, self.outputs), self.report)

    def table(self) -> str:
        """The report in words, a line a layer."""
        lines = [
            f"layer {k}: rank {row.rank} of {self.size}, {row.added} dimensions added, rotations by up to {row.angles[0]:.3f} and "
            f"{row.angles[1]:.3f} radians, {row.flipped} flipped"
            for k, row in enumerate(self.report)
        ]
        return "\n".join(lines) or "linear maps are kept whole"


def as_flow(model: Any, *, cutoff: float | None = None, solve: Solve | None = None) -> Embedded:
    """A plain net as one flow: five units of depth time a layer, glued one behind the other.

    `model`: as for `read`. Motions that end in a point where several meet (zero singular values, the folded side of ReLU,
    saturated activations) are singular at their end, and stopped at `cutoff` before it, which leaves an error in proportion to
    the cutoff: 1e-6 by default, 1e-4 in float32, which knows depth no better. `solve`: Adaptive(Tsit5()) by default, to 1e-8, or 1e-5 in
    float32; FixedGrid(Euler(), steps=5 n L) is a residual network whose
    stretching, shift and activation are exact and whose rotations are of first order in 1 / n.
    """
    layers = read(model)
    cutoff = _by_precision(1e-6, 1e-4) if cutoff is None else cutoff
    if not isinstance(cutoff, int | float) or not 0 < cutoff < 1:
        raise ValueError(f"cutoff is a small positive part of a unit of depth time, got {cutoff!r}; for example 1e-6")
    size = dimension(layers)
    kinds = _kinds(layers)
    report = tuple(decompose(layer.weight, size) for layer in layers)
    forms: list[dict[str, Any]] = []
    for layer, row in zip(layers, report, strict=True):
        forms += [{"generator": row.right}, {"stretch": row.scale - 1}, {"generator": row.left}]
        forms += [{"shift": _padded(layer.bias, size)}, {"active": _gates(layer, kinds)[:, None] * _active(layer, size)}]
    forms = [{"start": float(k), **form} for k, form in enumerate(forms)]
    field = _stacked(_Motion(size, kinds, cutoff), forms)
    layer = NeuralODE(field, solve or _adaptive(), 0.0, float(len(forms)))
    return Embedded(layer, (layers[0].weight.shape[1], size, len(layers[-1].weight)), report)


def _adaptive() -> Adaptive:
    tolerance = _by_precision(1e-8, 1e-5)
    return Adaptive(Tsit5(), tolerance, tolerance, max_steps=1 << 14)


def _by_precision(double: float, single: float) -> float:
    """The first where floating-point numbers are float64 by default, else the second."""
    return double if jnp.zeros(()).dtype == jnp.float64 else single


def _kinds(layers: Sequence[Dense]) -> tuple[Activation, ...]:
    return tuple(dict.fromkeys(layer.activation for layer in layers if layer.activation is not identity))


def _gates(layer: Dense, kinds: tuple[Activation, ...]) -> np.ndarray:
    """One for the activation of a layer, zero for the others."""
    return np.asarray([float(kind is layer.activation) for kind in kinds])


def _active(layer: Dense, size: int) -> np.ndarray:
    """One for the dimensions that a layer gives, zero for the others."""
    return (np.arange(size) < len(layer.bias)).astype(float)


def _stacked(module: nnx.Module, forms: Sequence[dict[str, Any]]) -> DepthVarying:
    """A module's copies along depth: its own arrays, but for those that a form names."""
    for name, leaf in vars(module).items():
        if isinstance(leaf, nnx.Variable):
            own = np.asarray(leaf.get_value())
            rows = [np.broadcast_to(form.get(name, own), own.shape) for form in forms]
            leaf.set_value(jnp.asarray(np.stack(rows)))
    return DepthVarying.from_stack(module, PiecewiseConstant(len(forms)))


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    return np.pad(array, [(0, size - n) for n in array.shape])


class Block(nnx.Module):
    """A residual branch, x -> M x + c + N z + W2 s(W1 z + b1), that a step x + branch(x) adds to x (..., d).

    z is x, or, with `points`, x taken back to y by a table of straight pieces, one about each point (the nearest is taken).
    All arrays are trained, but for the table.
    """

    def __init__(self, size: int, activations: tuple[Activation, ...], points: int):
        square = lambda: nnx.Param(jnp.zeros((size, size)))
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
        moved = sum((gate * s(y) for gate, s in zip(self.gates[...], self.activations, strict=True)), jnp.zeros_like(y))
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
        raise ValueError(f"about is a sequence of finite numbers, at least one, got {about!r}")
    if not isinstance(horizon, int | float) or not 0 < horizon < np.inf:
        raise ValueError(f"horizon is a positive length of depth time, got {horizon!r}")
    if activation == "relaxed" and steps < horizon:
        raise ValueError(
            f"relaxation over {horizon:g} units of depth time takes at least as many steps, got {steps}; longer ones overshoot"
        )
    kept = linear == "kept"
    size = max(max(layer.weight.shape) for layer in layers) if kept else dimension(layers)
    report = () if kept else tuple(decompose(layer.weight, size) for layer in layers)
    kinds = _kinds(layers)
    table = len(points) if activation == "linearised" else 1
    forms: list[dict[str, Any]] = []
    for k, layer in enumerate(layers):
        maps = [_padded(layer.weight, size) - np.eye(size)] if kept else _discretised(report[k], steps, linear)
        forms += [{"linear": m} for m in maps]
        forms[-1]["shift"] = _padded(layer.bias, size)
        if layer.activation is not identity:
            numbers = _activated(layer.activation, activation, steps, horizon, points)
            own = {"gates": _gates(layer, kinds)}
            forms += [{**own, **_spread(form, _active(layer, size))} for form in numbers]
    count = len(forms)
    resnet = NeuralODE(_stacked(Block(size, kinds, table), forms), FixedGrid(Euler(), steps=count), 0.0, float(count))
    return Embedded(resnet, (layers[0].weight.shape[1], size, len(layers[-1].weight)), report)


def _spread(form: dict[str, Any], active: np.ndarray) -> dict[str, Any]:
    """Numbers for every active dimension as the vectors and diagonal matrices that they stand for; tables as they are."""
    vectors = {name: value * active for name, value in form.items() if name in ("bias", "shift")}
    matrices = {name: value * np.diag(active) for name, value in form.items() if name not in ("bias", "shift", "table")}
    return {**form, **vectors, **matrices}


def _discretised(row: Decomposition, steps: int, linear: str) -> list[np.ndarray]:
    """What each step adds, as a matrix: the right rotation, the stretching, the left rotation."""
    eye, stretch = np.eye(len(row.scale)), row.scale - 1

    def turn(generator: np.ndarray) -> np.ndarray:
        small = generator / steps
        return small if linear == "euler" else np.linalg.solve(eye - small / 2, eye + small / 2) - eye

    stretches = [np.diag(stretch / (steps + k * stretch)) for k in range(steps)]
    return [turn(row.right)] * steps + stretches + [turn(row.left)] * steps


def _activated(s: Activation, kind: str, steps: int, horizon: float, points: np.ndarray) -> list[dict[str, Any]]:
    """The blocks of an activation, each as numbers for the arrays of a Block."""
    name, slopes = getattr(s, "__name__", type(s).__name__), _slopes(s)
    if kind == "linearised":
        return [_linearised(s, k / steps, 1 / steps, points) for k in range(steps)]
    if kind == "relaxed":
        if slopes is None or not np.allclose(slopes, (0, 1)):
            raise ValueError(f'relaxation comes to rest at s(x) for relu alone, got {name}; take activation="linearised"')
        return [{"inner": -1.0, "outer": horizon / steps} for _ in range(steps)]
    if slopes is None or not np.isclose(slopes[1], 1) or not 0 <= slopes[0] < 1:
        raise ValueError(f'exact blocks are for relu and leaky_relu, got {name}; take activation="linearised"')
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


class _Glued(nnx.Module):
    """Fields of different dimensions, each in its own cell of depth; dimensions that end are drawn to zero first."""

    def __init__(self, fields: Sequence[nnx.Module], widths: Sequence[int], place: DepthVarying, cutoff: float):
        self.timed = tuple(map(takes_time, fields))
        self.fields, self.widths, self.cutoff = nnx.List(fields), tuple(widths), cutoff
        self.place = place

    def __call__(self, x: Float[Array, "*batch d"], t: Any) -> Float[Array, "*batch d"]:
        place: Any = self.place
        number, start, span, first = place.row[...]
        size = x.shape[-1]
        local = first + (t - start).astype(x.dtype) * span

        def part(k: int) -> Callable[[Array], Array]:
            def moved(x: Array) -> Array:
                field: Any = self.fields[k]
                here = x[..., : self.widths[k]]
                v = span * (field(here, local) if self.timed[k] else field(here))
                return jnp.pad(v, [(0, 0)] * (x.ndim - 1) + [(0, size - self.widths[k])]).astype(x.dtype)

            return moved

        def collapse(x: Array) -> Array:
            gone = jnp.arange(size) >= span
            return jnp.where(gone, -x / jnp.maximum(1 - (t - start), self.cutoff), 0).astype(x.dtype)

        return jax.lax.switch(number.astype(int), [*map(part, range(len(self.fields))), collapse], x)


class _Row(nnx.Module):
    def __init__(self, *numbers: float):
        self.row = Constant(jnp.asarray(numbers))


def glue(
    layers: Sequence[NeuralODE], widths: Sequence[int], *, cutoff: float | None = None, solve: Solve | None = None
) -> Embedded:
    """Flows of different dimensions, one behind the other, as one flow of the largest.

    `layers`: NeuralODEs on x (..., widths[k]), walked forward, a unit of depth time each. A flow that is wider than the one before
    starts with zeros in the new dimensions. Where a flow is narrower than the one before and a wider one follows, one more unit
    of depth time draws the dimensions that end to zero, up to `cutoff`. Weights that vary with depth keep their place in their
    flow; they must stand on PiecewiseConstant. `cutoff`, `solve`: as for `as_flow`. On a fixed grid take Euler where dimensions end:
    its steps there are exact, those of higher order leave a remainder.
    """
    if not len(layers) or len(layers) != len(widths):
        raise ValueError(
            f"glue takes layers and as many widths, at least one, got {len(layers)} layers and {len(widths)} widths"
        )
    for k, (layer, width) in enumerate(zip(layers, widths, strict=True)):
        checks.instance(f"layer {k}", layer, NeuralODE, "a NeuralODE")
        checks.whole(f"width {k}", width)
        if layer.backward:
            raise ValueError(f"layer {k} walks backward; give forward layers")
    rows: list[tuple[float, float, float, float]] = []
    for k, layer in enumerate(layers):
        t0, t1 = float(layer.t0), float(layer.t1)
        rows.append((k, len(rows), t1 - t0, t0))
        if k + 1 < len(layers) and widths[k + 1] < widths[k] and max(widths[k + 1 :]) > widths[k + 1]:
            rows.append((len(layers), len(rows), widths[k + 1], 0.0))
    place = DepthVarying.from_modules([_Row(*row) for row in rows], PiecewiseConstant(len(rows)))
    starts = [int(row[1]) for row in rows if row[0] < len(layers)]
    fields = [_placed(layer.field, start, len(rows)) for layer, start in zip(layers, starts, strict=True)]
    field = _Glued(fields, widths, place, _by_precision(1e-6, 1e-4) if cutoff is None else cutoff)
    glued = NeuralODE(field, solve or _adaptive(), 0.0, float(len(rows)))
    return Embedded(glued, (widths[0], max(widths), widths[-1]))


def _placed(field: nnx.Module, start: int, count: int) -> nnx.Module:
    """A field whose weights along depth stand in the cell `start` of `count`; outside they are those of its ends."""

    def place(_: Any, node: Any) -> Any:
        if not isinstance(node, DepthVarying):
            return node
        if not isinstance(node.basis, PiecewiseConstant):
            raise ValueError(f"weights on {node.basis} cannot be glued; bring them to nf.PiecewiseConstant with project()")
        inner = (start + node.basis.knots[1:-1]) / count
        modules = [node.at(s) for s in node.basis.nodes]
        return DepthVarying.from_modules(modules, PiecewiseConstant((0.0, *inner.tolist(), 1.0)))

    return nnx.recursive_map(place, field)
