"""Is a trained network an ODE? Evidence from the network itself, and one verdict.

A network is called an ODE here when what it computes survives the passage to the limit: under finer steps and schemes
of higher order (Ott et al., ResNet after all?, arXiv 2007.15386; Queiruga et al., arXiv 2008.02389), and when weights
of neighbouring layers are exchanged for their mean, which costs nothing where they are samples of a smooth function of
depth and much where they are not (Sander et al., arXiv 2205.14612, on why smoothness in depth decides). The tests are
theirs or near theirs; the numbers below which a network passes are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, depth_bases
from neuralflow.depth.basis import evaluation
from neuralflow.layers import NeuralODE
from neuralflow.regularisers import whitened
from neuralflow.schemes import RK4, Dopri8, Euler, Heun, PerStep
from neuralflow.solve import Discretisation

CHANGE = 0.1
"""The largest change of the outputs with which a network passes."""
GRADIENT = 0.25
"""The largest error of the gradient with which a network passes."""
SCORE = 0.005
"""The largest loss of score (half a point of accuracy) with which a network passes."""
Change = Callable[[NeuralODE], tuple[Any, Discretisation]]
"""A field and a discretisation in place of a layer's own."""


@dataclass(frozen=True)
class Smoothness:
    """One stack of weights theta(s) as a curve over normalised depth, relative to its root mean square norm.

    `lipschitz`: max |theta_(k+1) - theta_k| / step; `variation`: sum |theta_(k+1) - theta_k|; the norms are those of all
    weights of a layer together. `spans`: by stride r, the mean |theta(s + r) - theta(s)| (root mean square), from one
    layer to a quarter of them. `hoelder`: H of spans ~ r^H: 1 for smooth weights, 1/2 for a random walk, 0 for layers drawn
    each on its own; None for fewer than eight layers, and where the weights are the same at every depth.
    """

    lipschitz: float
    variation: float
    spans: Mapping[float, float]
    hoelder: float | None


@dataclass(frozen=True)
class Certificate:
    """The evidence and its verdict.

    `changes`: how far the outputs move when the network is walked in another way, a root mean square relative to how far
    they move when its flows are left out; at most 10% passes. `scores`: the score as it is, and under each of those, of
    which half a point may be lost; empty where no score was given. `halving`: the changes where the steps are cut in 2, in
    4 and in 8, each against the one before, which must fall.

    `gradients`: relative error of a gradient with respect to the weights, against the exact flow's, by scheme and by how
    many steps stand for one; at most 25% passes. It is that of a random projection of the outputs, for the loss's own
    vanishes where training has converged, however the network is walked; in the norm dual to
    int |theta'|^2 + |theta(0)|^2 for weights that vary with depth.

    `smoothness`: by layer and stack. It is told, and decides nothing by itself: weights may be rough without a trace in
    the outputs. `samples`: how many were looked at.
    """

    changes: Mapping[str, float]
    scores: Mapping[str, float]
    halving: tuple[float, ...]
    smoothness: Mapping[str, Smoothness]
    gradients: Mapping[str, Mapping[int, float]]
    samples: int

    @property
    def least_score(self) -> float:
        """The least score with which the network passes: a single sample may always change sides."""
        return self.scores["as trained"] - max(SCORE, 1.5 / self.samples)

    @property
    def failures(self) -> list[str]:
        """What speaks against an ODE, in words and numbers; empty for an ODE."""
        reasons = [
            f"{what}: outputs change by {change:.0%}"
            for what, change in self.changes.items()
            if not change <= CHANGE
        ]
        if self.scores:
            base, least = self.scores["as trained"], self.least_score
            lost = {what: base - score for what, score in self.scores.items() if not score >= least}
            reasons += [f"{what}: the score falls by {fall:.3f}" for what, fall in lost.items()]
        error = self.gradients["as trained"][1]
        if not error <= GRADIENT:
            reasons.append(f"the gradient is {error:.0%} off that of the exact flow")
        if self.halving and not self.halving[-1] <= max(0.75 * self.halving[0], 1e-6):
            reasons.append(
                f"halving the steps again and again changes the outputs by {_list(self.halving)}"
            )
        return reasons

    @property
    def is_ode(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.failures

    def sentence(self) -> str:
        """The verdict with what it rests on."""
        if self.is_ode:
            most = max(self.changes, key=lambda what: self.changes[what])
            return f"ODE: no change of the walk moves the outputs by more than {self.changes[most]:.1%} ({most})."
        return f"not an ODE: {'; '.join(self.failures)}."

    def rows(self) -> list[tuple[str, str, str]]:
        """The evidence as (what, number, bound): a dash where a number decides nothing."""
        rows = [
            (f"outputs under {what}", f"{change:.2%}", f"<= {CHANGE:.0%}")
            for what, change in self.changes.items()
        ]
        for what, score in self.scores.items():
            trained = what == "as trained"
            rows.append(
                (
                    f"score {'' if trained else 'under '}{what}",
                    f"{score:.4f}",
                    "-" if trained else f">= {self.least_score:.4f}",
                )
            )
        if self.halving:
            rows.append(("outputs as steps are cut in 2, 4, 8", _list(self.halving), "falling"))
        for name, weights in self.smoothness.items():
            rows.append((f"{name}: Lipschitz constant in depth", f"{weights.lipschitz:.3g}", "-"))
            rows.append((f"{name}: total variation", f"{weights.variation:.3g}", "-"))
            rows.append(
                (
                    f"{name}: Hoelder exponent",
                    "-" if weights.hoelder is None else f"{weights.hoelder:.2f}",
                    "-",
                )
            )
        for name, errors in self.gradients.items():
            trained = name == "as trained"
            what = name if trained else f"{name}, steps cut in {', '.join(map(str, errors))}"
            rows.append(
                (
                    f"gradient error, {what}",
                    _list(errors.values()),
                    f"<= {GRADIENT:.0%}" if trained else "-",
                )
            )
        return rows

    def record(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "is_ode": self.is_ode,
            "verdict": self.sentence(),
            "changes": dict(self.changes),
            "scores": dict(self.scores),
            "halving": list(self.halving),
            "smoothness": {name: vars(s) for name, s in self.smoothness.items()},
            "gradients": {name: dict(errors) for name, errors in self.gradients.items()},
        }


def certify(
    model: nnx.Module,
    x: Any,
    *,
    score: Callable[[Array], Any] | None = None,
) -> Certificate:
    """Walks every NeuralODE in a model in other ways, with the weights as they are, and says whether it is an ODE.

    `x`: a batch of the model's inputs, some hundred; model(x) is one array (samples, ...). `score(outputs)`: a number that
    is better the larger, such as an accuracy on these samples. Read `.is_ode`, `.sentence()`, `.failures` and `.rows()`.

    A fixed grid is walked with a scheme of higher order, with steps cut in 2, 4 and 8, and as the exact flow of its
    weights (RK4, eight steps for one); an adaptive solve with Dopri8 and with tighter tolerances. The model itself is
    not changed, and is walked in evaluation mode. Raises ValueError where there is no NeuralODE in the model, where its
    flows do nothing, and for outputs and scores that tell nothing; TypeError for outputs that are not one array.

    A ResNet comes in by `nf.from_branches(branches)`.
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    if score is not None:
        checks.function("score", score)
    layers = {
        ".".join(map(str, path)): n for path, n in nnx.iter_graph(model) if isinstance(n, NeuralODE)
    }
    for name, layer in layers.items():
        if any(map(_is_row, jax.tree.leaves(layer.discretisation, is_leaf=_is_row))):
            raise InputTypeError(
                f"a certificate cuts steps, and the coefficients of {type(layer.discretisation.scheme).__name__} in {name or 'the layer'} "
                "belong to its steps; certify its weights under another scheme: layer.with_solve(nf.FixedGrid(nf.Euler(), ...))"
            )
    if not layers:
        raise InputError(
            f"there is no NeuralODE in this {type(model).__name__}; the branches of a ResNet become one by nf.from_branches"
        )
    stacks = {
        ".".join(part for part in (name, where) if part) or "weights": stack
        for name, layer in layers.items()
        for where, stack in _stacks(layer.field).items()
    }
    walk = _walker(model, x, list(layers.values()))
    base = walk(_AS_TRAINED).outputs
    if not np.isfinite(base).all():
        raise InputError(
            "the model's outputs are not finite; look at the inputs and at the weights"
        )
    if len(base) < 2:
        raise InputError(f"a verdict needs several samples, some hundred, got {len(base)}")
    size = float(np.sqrt(np.mean((base - walk(None).outputs) ** 2)))
    if not size > 0:
        raise InputError(
            "the model's outputs are the same without its NeuralODE: there is nothing to certify; train it first"
        )
    changes = {
        **_CHANGES,
        **({"weights of neighbouring layers averaged": _averaged} if stacks else {}),
    }
    outputs = {what: walk(change).outputs for what, change in changes.items()}

    def move(a, b):
        return float(np.nan_to_num(np.sqrt(np.mean((a - b) ** 2)) / size, nan=np.inf))

    fixed = all(layer.discretisation.planned for layer in layers.values())
    finer = [walk(_cutting(k)).outputs for k in (1, 2, 4, 8)] if fixed else []
    exact = walk(_EXACT).gradient
    steep = float(np.linalg.norm(exact)) or 1.0

    def error(change):
        return float(
            np.nan_to_num(np.linalg.norm(walk(change).gradient - exact) / steep, nan=np.inf)
        )

    gradients = {"as trained": {1: error(_AS_TRAINED)}}
    if fixed:
        gradients |= {
            type(s).__name__: {k: error(_cutting(k, s)) for k in (1, 2, 4)}
            for s in (Euler(), Heun())
        }
    return Certificate(
        changes={what: move(other, base) for what, other in outputs.items()},
        scores={what: _scored(score, y) for what, y in {"as trained": base, **outputs}.items()}
        if score
        else {},
        halving=tuple(move(a, b) for a, b in itertools.pairwise(finer)),
        smoothness={name: smoothness(stack) for name, stack in stacks.items()},
        gradients=gradients,
        samples=len(base),
    )


class _Walk(NamedTuple):
    """What a model computes, and the gradient of a random projection of it with respect to the weights."""

    outputs: np.ndarray
    gradient: np.ndarray


def _is_row(leaf: Any) -> bool:
    return isinstance(leaf, PerStep)


def _walker(
    model: nnx.Module, x: Any, layers: Sequence[NeuralODE]
) -> Callable[[Change | None], _Walk]:
    """Walks the model with its layers changed, or with none of them (None); the same walk is made once."""
    model = nnx.merge(*nnx.split(model), copy=True)
    model.eval()
    graph, state = nnx.split(model)
    out: Any = jax.eval_shape(lambda x: nnx.merge(graph, state, copy=True)(x), x)  # pyright: ignore[reportCallIssue]
    if not isinstance(out, jax.ShapeDtypeStruct) or not out.ndim:
        shown = jax.tree.map(jnp.shape, out)
        raise InputTypeError(
            f"model(x) must be one array with an axis of samples, got {shown}; wrap the model in one that returns it"
        )
    weights = np.random.default_rng(0).standard_normal(out.shape)
    walks: dict[Any, _Walk] = {}
    stacked = bool(depth_bases(model))

    def walk(change: Change | None) -> _Walk:
        key = (
            tuple(repr(change(layer)[1]) for layer in layers)
            if change not in (None, _averaged)
            else change
        )
        if key not in walks:
            walked = _without(model) if change is None else _changed(model, change)
            graphdef, params, rest = nnx.split(walked, nnx.Param, ...)

            def projected(params: Any, x: Any) -> tuple[Array, Array]:
                outputs = nnx.merge(graphdef, params, rest)(x)
                return jnp.sum(outputs * weights), outputs

            gradient, outputs = jax.jit(jax.grad(projected, has_aux=True))(params, x)
            if stacked:
                gradient = whitened(model, gradient)
            leaves = [np.asarray(leaf, float).ravel() for leaf in jax.tree.leaves(gradient)]
            walks[key] = _Walk(
                np.asarray(outputs, float), np.concatenate(leaves) if leaves else np.zeros(0)
            )
        return walks[key]

    return walk


def _higher(solve: Discretisation) -> Discretisation:
    """The next better scheme on the same steps."""
    order = int(solve.scheme.order(None) or 0)  # pyright: ignore[reportArgumentType]
    better = {1: Heun(), 2: RK4()} if solve.planned else {}
    return solve.refined(1, better.get(order, Dopri8()))


def _cutting(parts: int, scheme: Any = None) -> Change:
    return lambda layer: (layer.field, layer.discretisation.refined(parts, scheme))


def _exact(solve: Discretisation) -> Discretisation:
    return solve.refined(8, RK4()) if solve.planned else solve.refined(4)


def _AS_TRAINED(layer):
    return (layer.field, layer.discretisation)


def _EXACT(layer):
    return (layer.field, _exact(layer.discretisation))


_CHANGES: dict[str, Change] = {
    "a scheme of higher order": lambda layer: (layer.field, _higher(layer.discretisation)),
    "steps cut in two": _cutting(2),
    "the exact flow": _EXACT,
}


class _Identity(nnx.Module):
    """What stands where a flow was: x."""

    def __init__(self, layer: NeuralODE):
        self.layer = layer  # so that the model has the parameters it had

    def __call__(self, x: Any) -> Any:
        return x


def _without(model: nnx.Module) -> nnx.Module:
    """The model with its flows left out."""
    return nnx.recursive_map(
        lambda _, node: _Identity(node) if isinstance(node, NeuralODE) else node, model
    )


def _scored(score: Callable[[Array], Any], outputs: np.ndarray) -> float:
    value = np.asarray(score(jnp.asarray(outputs)))
    if value.shape or value.dtype.kind not in "fiub" or not np.isfinite(value):
        raise InputError(
            f"score(outputs) must be one finite number, such as an accuracy, got {value}"
        )
    return float(value)


def _changed(model: nnx.Module, change: Change) -> nnx.Module:
    """The model with every NeuralODE's field and discretisation replaced."""

    def exchanged(path: Any, node: Any) -> Any:
        if not isinstance(node, NeuralODE):
            return node
        field, solve = change(node)
        return node.with_field(field).with_solve(solve)

    return nnx.recursive_map(exchanged, model)


def _stacks(field: nnx.Module) -> dict[str, DepthVarying]:
    """What varies with depth in a field."""
    stacks = {
        ".".join(map(str, path)): n
        for path, n in nnx.iter_graph(field)
        if isinstance(n, DepthVarying)
    }
    return {where: stack for where, stack in stacks.items() if stack.basis.size > 1}


def _averaged(layer: NeuralODE) -> tuple[Any, Discretisation]:
    """The same walk with the weights of every two neighbouring nodes replaced by their mean."""

    def exchanged(path: Any, node: Any) -> Any:
        if not isinstance(node, DepthVarying) or node.basis.size < 2:
            return node
        return node.project(node.basis.halved()).project(node.basis)

    return nnx.recursive_map(exchanged, layer.field), layer.discretisation


def smoothness(stack: DepthVarying) -> Smoothness:
    """How smooth in depth the weights of a stack are: see `Smoothness`."""
    checks.instance("stack", stack, DepthVarying, "a DepthVarying")
    if stack.basis.size < 2:
        raise InputError(
            f"{stack.basis} has one set of weights for all depths; smoothness needs several"
        )
    basis, nodes = stack.basis, np.asarray(stack.basis.nodes)
    values = [
        np.asarray(leaf.get_value())
        for _, leaf in nnx.to_flat_state(nnx.split(stack.stack, nnx.Param, ...)[1])
    ]
    curve = np.concatenate(
        [evaluation(basis, nodes) @ v.reshape(len(v), -1) for v in values], axis=1
    )
    size = float(np.sqrt(np.mean((curve**2).sum(axis=1)))) or 1.0
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1) / size
    spans, hoelder = {}, None
    if len(curve) >= 8 and steps.max() > 1e-12 and basis.nodal:
        strides = np.unique(np.geomspace(1, len(curve) // 4, 6).astype(int))
        width = (nodes[-1] - nodes[0]) / (len(nodes) - 1)
        spans = {
            float(s * width): float(np.sqrt(np.mean(((curve[s:] - curve[:-s]) ** 2).sum(axis=1))))
            / size
            for s in strides
        }
        hoelder = float(np.polyfit(np.log(list(spans)), np.log(list(spans.values())), 1)[0])
    return Smoothness(float((steps / np.diff(nodes)).max()), float(steps.sum()), spans, hoelder)


def _list(values: Any) -> str:
    return ", ".join(f"{value:.2%}" for value in values)
