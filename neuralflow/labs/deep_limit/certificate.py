"""Certificates: evidence from a trained network itself on whether the network is an ODE.

A network is called an ODE here when its outputs survive the passage to the limit. Two kinds of
change test this. The first kind solves the network with finer steps and with schemes of higher
order. The second kind exchanges the weights of neighbouring layers for their mean. The exchange
costs nothing where the weights are samples of a smooth function of depth, and costs much where the
weights are not.

The tests are taken from the papers below, or are near to tests of these papers. The thresholds
`CHANGE`, `GRADIENT` and `SCORE` are ours. `certify` makes the tests, and `Certificate.failures`
judges the numbers.

Source:
    Ott et al., ResNet after all?, arXiv 2007.15386, and Queiruga et al., arXiv 2008.02389, on finer
    steps and other schemes. Sander et al., arXiv 2205.14612, on why smoothness in depth decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractSolver
from flax import nnx
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, depth_bases
from neuralflow.depth.basis import evaluation
from neuralflow.layers import NeuralODE
from neuralflow.regularisers import whitened
from neuralflow.schemes import RK4, Dopri8, Euler, Heun, PerStep
from neuralflow.solve import Discretisation

CHANGE = 0.1
"""The largest relative change of the outputs with which a network passes."""
GRADIENT = 0.25
"""The largest relative error of the gradient with which a network passes."""
SCORE = 0.005
"""The largest loss of score with which a network passes: half a point of accuracy."""
Change = Callable[[NeuralODE], tuple[Any, Discretisation]]
"""A function from a layer to the field and the discretisation that replace the layer's own."""


@dataclass(frozen=True)
class Smoothness:
    """How smooth one stack of weights theta(s) is as a curve over normalised depth s in [0, 1].

    All numbers are relative to the root mean square over depth of |theta(s)|. The norm |.| takes
    all weights of a layer together.

    Attributes:
        lipschitz: The Lipschitz constant: the maximum over k of |theta_(k+1) - theta_k| divided by
            the distance of the two nodes in normalised depth.
        variation: The total variation: the sum over k of |theta_(k+1) - theta_k|.
        spans: The root mean square of |theta(s + r) - theta(s)|, by the distance r in normalised
            depth. The distances reach from one layer to a quarter of all layers. The mapping is
            empty where `hoelder` is None.
        hoelder: The Hoelder exponent H of spans ~ r^H. H is 1 for smooth weights, 1/2 for a random
            walk, and 0 for layers that are drawn independently. H is None for fewer than eight
            layers, for weights that are the same at every depth, and for a basis whose coefficients
            are not values at nodes.
    """

    lipschitz: float
    variation: float
    spans: Mapping[float, float]
    hoelder: float | None


@dataclass(frozen=True)
class Certificate:
    """The evidence on whether a network is an ODE, and the verdict.

    A walk is one evaluation of the network, with a field and a discretisation for every NeuralODE.

    Attributes:
        changes: How far the outputs move in another walk, by the name of the walk. The number is a
            root mean square. The number is relative to how far the outputs move when all NeuralODEs
            are left out. At most 10% passes.
        scores: The score "as trained", and the score in each walk of `changes`. A walk may lose
            half a point, or 1.5 samples where that is more. The mapping is empty where no score was
            given.
        halving: The changes of the outputs when the steps are cut in 2, in 4 and in 8, each against
            the walk before. The last change must be at most three quarters of the first, or at most
            1e-6. The tuple is empty where a NeuralODE is solved adaptively.
        smoothness: The smoothness of the weights, by layer and stack. The smoothness informs and
            decides nothing: weights may be rough without a trace in the outputs.
        gradients: The relative error of a gradient with respect to the weights, against the
            gradient of the exact flow. The outer key is "as trained" or the name of a scheme. The
            inner key is the number of steps that replace one step. At most 25% passes for the
            network as trained. The gradient is taken of a random projection of the outputs, because
            the gradient of the loss vanishes where training has converged. For weights that vary
            with depth, the error is measured in the norm dual to int |theta'|^2 + |theta(0)|^2.
        samples: The number of samples in the evidence.
    """

    changes: Mapping[str, float]
    scores: Mapping[str, float]
    halving: tuple[float, ...]
    smoothness: Mapping[str, Smoothness]
    gradients: Mapping[str, Mapping[int, float]]
    samples: int

    @property
    def least_score(self) -> float:
        """The least score with which the network passes.

        A single sample may always change sides, so that the allowed loss is at least 1.5 samples.
        """
        return self.scores["as trained"] - max(SCORE, 1.5 / self.samples)

    @property
    def failures(self) -> list[str]:
        """The reasons against an ODE, in words and numbers; empty for an ODE."""
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
        """Whether the network is an ODE: whether `failures` is empty."""
        return not self.failures

    def sentence(self) -> str:
        """Return the verdict and its reasons in one sentence."""
        if self.is_ode:
            most = max(self.changes, key=lambda what: self.changes[what])
            return (
                "ODE: no change of the walk moves the outputs by more than "
                f"{self.changes[most]:.1%} ({most})."
            )
        return f"not an ODE: {'; '.join(self.failures)}."

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the evidence as a table.

        Returns:
            Rows (what, number, bound). A dash stands for the bound where the number decides
            nothing.
        """
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
        """Return the evidence and the verdict as plain data."""
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
    x: PyTree,
    *,
    score: Callable[[Array], Any] | None = None,
) -> Certificate:
    """Judge whether a model is an ODE, by solving each of its NeuralODEs in other ways.

    The weights stay as they are, and the model itself is not changed. Every evaluation is in
    evaluation mode. A NeuralODE on a fixed grid is solved with a scheme of higher order, with its
    steps cut in 2, 4 and 8, and as the exact flow of its weights. RK4 with eight steps in place of
    one stands for the exact flow. A NeuralODE with an adaptive solve is solved with Dopri8 and with
    tighter tolerances. Where weights vary with depth, one more test replaces the weights of two
    neighbouring nodes by their mean. Each test changes all NeuralODEs at once.

    The model is an ODE where the outputs, the gradient and the score all pass. The outputs may
    change by 10% of the distance that the NeuralODEs move them (`CHANGE`). The gradient of a random
    projection of the outputs, with respect to the weights, may be 25% off that of the exact flow
    (`GRADIENT`). The score may fall by half a point (`SCORE`), or by 1.5 samples where that is
    more. The changes must fall as the steps are cut.

    A ResNet becomes a model for this function by `nf.from_branches(branches)`.

    Args:
        model: A model that holds one NeuralODE or more.
        x: A batch of the model's inputs, a hundred samples or more. model(x) must be one array
            `(samples, ...)`.
        score: A function from the outputs to one number that is better the larger, such as an
            accuracy on these samples. Without a function, the outputs and the gradient decide
            alone.

    Returns:
        The evidence. `.is_ode` and `.sentence()` are the verdict, `.failures` its reasons and
        `.rows()` the table. `.changes` and the other attributes of a `Certificate` are the numbers.

    Raises:
        InputError: `model` holds no NeuralODE.
        InputError: The outputs are not finite, or do not depend on the NeuralODEs.
        InputError: `x` holds fewer than two samples, or an empty array.
        InputError: `score` does not return one finite number.
        InputTypeError: `model` is no nnx.Module, `x` holds anything but arrays, or `score` is not a
            function of one argument.
        InputTypeError: model(x) is not one array with an axis of samples.
        InputTypeError: The scheme of a NeuralODE has coefficients that belong to its steps.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from neuralflow.labs.deep_limit import certify
        >>> field = nf.from_function(lambda rate, x: rate * x, -1.0)
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=100))
        >>> evidence = certify(layer, jnp.linspace(-1.0, 1.0, 8)[:, None])
        >>> evidence.is_ode, round(evidence.changes["steps cut in two"], 3)
        (True, 0.001)
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    if score is not None:
        checks.function("score", score, 1)
    checks.arrays("x", x)
    if not all(leaf.size for leaf in jax.tree.leaves(x)):
        raise InputError("x must hold samples, some hundred, got an empty array")
    layers = {
        ".".join(map(str, path)): n for path, n in nnx.iter_graph(model) if isinstance(n, NeuralODE)
    }
    for name, layer in layers.items():
        if any(map(_is_row, jax.tree.leaves(layer.discretisation, is_leaf=_is_row))):
            raise InputTypeError(
                "a certificate cuts steps, and the coefficients of "
                f"{type(layer.discretisation.scheme).__name__} in {name or 'the layer'} "
                "belong to its steps; certify its weights under another scheme: "
                "layer.with_solve(nf.FixedGrid(nf.Euler(), ...))"
            )
    if not layers:
        raise InputError(
            f"there is no NeuralODE in this model, a {type(model).__name__}; the branches of a "
            "ResNet become one by nf.from_branches"
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
            "the model's outputs are the same without its NeuralODE: there is nothing to certify; "
            "train it first"
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
    """The outputs of a model, and the gradient of a random projection of them by the weights."""

    outputs: np.ndarray
    gradient: np.ndarray


def _is_row(leaf: PyTree) -> bool:
    return isinstance(leaf, PerStep)


def _walker(
    model: nnx.Module, x: PyTree, layers: Sequence[NeuralODE]
) -> Callable[[Change | None], _Walk]:
    """Return a function that walks the model with its layers changed.

    The change None walks the model without its layers. The function makes equal walks only once.
    """
    model = nnx.merge(*nnx.split(model), copy=True)
    model.eval()
    graph, state = nnx.split(model)
    out: Any = jax.eval_shape(lambda x: nnx.merge(graph, state, copy=True)(x), x)  # pyright: ignore[reportCallIssue]
    if not isinstance(out, jax.ShapeDtypeStruct) or not out.ndim:
        shown = jax.tree.map(jnp.shape, out)
        raise InputTypeError(
            f"model(x) must be one array with an axis of samples, got {shown}; wrap the model in "
            "one that returns it"
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

            def projected(params: PyTree, x: PyTree) -> tuple[Array, Array]:
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
    """Return the same steps under the next better scheme."""
    order = int(solve.scheme.order(None) or 0)  # pyright: ignore[reportArgumentType]
    better = {1: Heun(), 2: RK4()} if solve.planned else {}
    return solve.refined(1, better.get(order, Dopri8()))


def _cutting(parts: int, scheme: AbstractSolver | None = None) -> Change:
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
    """The identity x -> x, in the place of a NeuralODE."""

    def __init__(self, layer: NeuralODE):
        self.layer = layer  # The model keeps all of its parameters.

    def __call__(self, x: PyTree) -> Any:
        return x


def _without(model: nnx.Module) -> nnx.Module:
    """Return the model with its NeuralODEs left out."""
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
    """Return the model with the field and discretisation of every NeuralODE replaced."""

    def exchanged(path: Any, node: Any) -> Any:
        if not isinstance(node, NeuralODE):
            return node
        field, solve = change(node)
        return node.with_field(field).with_solve(solve)

    return nnx.recursive_map(exchanged, model)


def _stacks(field: nnx.Module) -> dict[str, DepthVarying]:
    """Return the stacks of a field that vary with depth, by dotted name."""
    stacks = {
        ".".join(map(str, path)): n
        for path, n in nnx.iter_graph(field)
        if isinstance(n, DepthVarying)
    }
    return {where: stack for where, stack in stacks.items() if stack.basis.size > 1}


def _averaged(layer: NeuralODE) -> tuple[Any, Discretisation]:
    """Return the walk with the weights of every two neighbouring nodes replaced by their mean."""

    def exchanged(path: Any, node: Any) -> Any:
        if not isinstance(node, DepthVarying) or node.basis.size < 2:
            return node
        return node.project(node.basis.halved()).project(node.basis)

    return nnx.recursive_map(exchanged, layer.field), layer.discretisation


def smoothness(stack: DepthVarying) -> Smoothness:
    """Measure how smooth in depth the weights of a stack are.

    Args:
        stack: A field or a part of a field whose weights vary with depth.

    Returns:
        The measures that `Smoothness` explains.

    Raises:
        InputError: The basis of `stack` has one set of weights for all depths.
        InputTypeError: `stack` is no DepthVarying.
    """
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


def _list(values: PyTree) -> str:
    return ", ".join(f"{value:.2%}" for value in values)
