"""Is a trained network an ODE? Evidence from the network itself, and one verdict.

A network is called an ODE here when what it computes survives the passage to the limit: under finer steps and schemes
of higher order (Ott et al., ResNet after all?, arXiv 2007.15386; Queiruga et al., arXiv 2008.02389), and when weights
of neighbouring layers are exchanged for their mean, which costs nothing where they are samples of a smooth function of
depth and much where they are not (Sander et al., arXiv 2205.14612, on why smoothness in depth decides). The tests are
theirs or near theirs; the numbers below which a network passes are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.basis import Basis, Legendre, PiecewiseConstant, PiecewiseLinear, evaluation
from neuralflow.depth import DepthVarying
from neuralflow.layers import NeuralODE, Solve
from neuralflow.schemes import RK4, Dopri8, Euler, Heun
from neuralflow.solve import Adaptive, FixedGrid

CHANGE = 0.1
"""The largest change of the outputs, and the largest error of the gradient, with which a network passes."""
SCORE = 0.005
"""The largest loss of score (half a point of accuracy) with which a network passes."""


@dataclass(frozen=True)
class Smoothness:
    """One stack of weights theta(s) as a curve over normalised depth, relative to its root mean square norm.

    `lipschitz`: max |theta_(k+1) - theta_k| / step; `variation`: sum |theta_(k+1) - theta_k|; the norms are those of all
    weights of a layer together. `hoelder`: H of |theta(s + r) - theta(s)| ~ r^H in the mean, over strides r of one to a
    quarter of the layers: 1 for smooth weights, 1/2 for a random walk, 0 for layers drawn each on its own; None for fewer than eight
    layers, and where the weights are the same at every depth.
    """

    lipschitz: float
    variation: float
    hoelder: float | None


@dataclass(frozen=True)
class Certificate:
    """The evidence and its verdict.

    `changes`: how far the outputs move, a root mean square relative to their spread over the samples, when the network
    is walked in another way. `scores`: the score as it is, and under each of those; empty where no score was given.
    `halving`: the changes where the steps are cut in 2, in 4 and in 8, each against the one before. `smoothness`: by layer and stack.
    `gradients`: relative error of the loss's gradient with respect to the weights, by scheme and by how many steps stand for one,
    against the exact flow's.
    """

    changes: Mapping[str, float]
    scores: Mapping[str, float]
    halving: tuple[float, ...]
    smoothness: Mapping[str, Smoothness]
    gradients: Mapping[str, Mapping[int, float]]

    @property
    def failures(self) -> list[str]:
        """What speaks against an ODE, in words and numbers."""
        found = [f"{what}: outputs change by {change:.0%}" for what, change in self.changes.items() if not change <= CHANGE]
        if self.scores:
            base = self.scores["as trained"]
            lost = {what: base - score for what, score in self.scores.items()}
            found += [f"{what}: the score falls by {fall:.3f}" for what, fall in lost.items() if not fall <= SCORE]
        error = self.gradients["as trained"][1]
        if not error <= CHANGE:
            found.append(f"the gradient is {error:.0%} off that of the exact flow")
        if self.halving and not self.halving[-1] <= max(0.75 * self.halving[0], 1e-6):
            found.append(f"halving the steps again and again changes the outputs by {_list(self.halving)}")
        return found

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
    loss: Callable[[Array], Array] | None = None,
    *,
    score: Callable[[Array], Any] | None = None,
) -> Certificate:
    """Walks every NeuralODE in a model in other ways, with the weights as they are, and says whether it is an ODE.

    `x`: a batch of the model's inputs; model(x) is one array (samples, ...). `loss(outputs)`: the scalar whose gradient is compared, the
    mean square of the outputs by default. `score(outputs)`: a number that is better the larger, such as an accuracy.
    A fixed grid is walked with a scheme of higher order, with steps cut in 2, 4 and 8, and as the exact flow of its
    weights (RK4, eight steps for one); an adaptive solve with Dopri8 and with tighter tolerances. The model itself is
    not changed. Raises ValueError where there is no NeuralODE in the model.

    A ResNet comes in by `nf.from_branches(branches)`.
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    layers = {".".join(map(str, path)): n for path, n in nnx.iter_graph(model) if isinstance(n, NeuralODE)}
    if not layers:
        raise ValueError(
            f"there is no NeuralODE in this {type(model).__name__}; the branches of a ResNet become one by nf.from_branches"
        )
    loss = loss or (lambda outputs: jnp.mean(outputs**2))
    whole = {what: _outputs(_changed(model, change), x) for what, change in _CHANGES.items()}
    base = whole.pop("as trained")
    spread = float(np.sqrt(np.mean((base - base.mean(axis=0)) ** 2)))
    if not spread > 0:
        raise ValueError(f"the model's outputs are the same for all {len(base)} samples; give several different inputs")
    move = lambda a, b: float(np.nan_to_num(np.sqrt(np.mean((a - b) ** 2)) / spread, nan=np.inf))
    changes = {what: move(outputs, base) for what, outputs in whole.items()}
    fixed = all(isinstance(layer.discretisation, FixedGrid) for layer in layers.values())
    halving: tuple[float, ...] = ()
    if fixed:
        finer = [base, whole["steps cut in two"]]
        finer += [_outputs(_changed(model, lambda layer, k=k: (layer.field, _cut(layer.discretisation, k))), x) for k in (4, 8)]
        halving = tuple(move(a, b) for a, b in zip(finer[1:], finer, strict=False))
    smoothness = {
        f"{name}{'.' if name and where else ''}{where}" or "weights": _smoothness(stack)
        for name, layer in layers.items()
        for where, stack in _stacks(layer.field).items()
    }
    if any(_stacks(layer.field) for layer in layers.values()):
        averaged = _outputs(_changed(model, _averaged), x)
        changes["weights of neighbouring layers averaged"] = move(averaged, base)
        whole["weights of neighbouring layers averaged"] = averaged
    scores = {}
    if score is not None:
        scores = {what: float(score(jnp.asarray(outputs))) for what, outputs in {"as trained": base, **whole}.items()}
    return Certificate(changes, scores, halving, smoothness, _gradients(model, x, loss, fixed))


def _higher(solve: Solve) -> Solve:
    """The next better scheme on the same steps."""
    if isinstance(solve, Adaptive):
        return _tighter(solve, 1.0, Dopri8())
    better = {1: Heun(), 2: RK4()}
    return _cut(solve, 1, better.get(int(solve.scheme.order(None) or 0), Dopri8()))  # pyright: ignore[reportArgumentType]


def _cut(solve: Solve, parts: int, scheme: Any = None) -> Solve:
    """A fixed grid with every step cut into equal parts; an adaptive solve with tolerances a hundredth of what they were for each."""
    if isinstance(solve, Adaptive):
        return _tighter(solve, 10.0 ** (1 - parts))
    scheme = scheme or solve.scheme
    if solve.times is None:
        return FixedGrid(scheme, steps=parts * solve.grid.steps, memory=solve.memory)
    marks = np.arange(parts * (len(solve.times) - 1) + 1) / parts
    return FixedGrid(scheme, times=np.interp(marks, np.arange(len(solve.times)), solve.times), memory=solve.memory)


def _tighter(solve: Adaptive, factor: float, scheme: Any = None) -> Adaptive:
    least = 10 * float(jnp.finfo(jnp.result_type(float)).eps)
    to = lambda tolerance: max(float(np.asarray(tolerance)) * factor, least)
    return replace(solve, scheme=scheme or solve.scheme, rtol=to(solve.rtol), atol=to(solve.atol))


_CHANGES: dict[str, Callable[[NeuralODE], tuple[Any, Solve]]] = {
    "as trained": lambda layer: (layer.field, layer.discretisation),
    "a scheme of higher order": lambda layer: (layer.field, _higher(layer.discretisation)),
    "steps cut in two": lambda layer: (layer.field, _cut(layer.discretisation, 2)),
    "the exact flow": lambda layer: (layer.field, _exact(layer.discretisation)),
}


def _exact(solve: Solve) -> Solve:
    return _cut(solve, 8, RK4()) if isinstance(solve, FixedGrid) else _tighter(solve, 1e-3)


def _changed(model: nnx.Module, change: Callable[[NeuralODE], tuple[Any, Solve]]) -> nnx.Module:
    """The model with every NeuralODE's field and discretisation replaced."""

    def exchanged(path: Any, node: Any) -> Any:
        if not isinstance(node, NeuralODE):
            return node
        field, solve = change(node)
        layer = NeuralODE(field, solve, node.t0, node.t1)
        return layer.reverse() if node.backward else layer

    return nnx.recursive_map(exchanged, model)


def _outputs(model: nnx.Module, x: Any) -> np.ndarray:
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x), float)


def _stacks(field: nnx.Module) -> dict[str, DepthVarying]:
    """What varies with depth in a field."""
    found = {".".join(map(str, path)): n for path, n in nnx.iter_graph(field) if isinstance(n, DepthVarying)}
    return {where: stack for where, stack in found.items() if stack.basis.size > 1}


def _averaged(layer: NeuralODE) -> tuple[Any, Solve]:
    """The same walk with the weights of every two neighbouring nodes replaced by their mean."""

    def exchanged(path: Any, node: Any) -> Any:
        if not isinstance(node, DepthVarying) or node.basis.size < 2:
            return node
        return node.project(_halved(node.basis)).project(node.basis)

    return nnx.recursive_map(exchanged, layer.field), layer.discretisation


def _halved(basis: Basis) -> Basis:
    """Half the cells; two and three neighbouring ones together where the number is odd. Half the terms of a polynomial."""
    if isinstance(basis, Legendre):
        return Legendre((basis.terms + 1) // 2)
    knots = basis.knots
    odd = basis.count % 2
    return type(basis)(np.unique([0.0, *knots[: len(knots) - 2 * odd : 2], 1.0]))


def _smoothness(stack: DepthVarying) -> Smoothness:
    """The weights at the nodes as a curve."""
    basis, nodes = stack.basis, np.asarray(stack.basis.nodes)
    values = [np.asarray(leaf.get_value()) for _, leaf in nnx.to_flat_state(nnx.split(stack.stack, nnx.Param, ...)[1])]
    curve = np.concatenate([evaluation(basis, nodes) @ v.reshape(len(v), -1) for v in values], axis=1)
    size = float(np.sqrt(np.mean((curve**2).sum(axis=1)))) or 1.0
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1) / size
    hoelder = None
    if len(curve) >= 8 and steps.max() > 1e-12 and isinstance(basis, PiecewiseConstant | PiecewiseLinear):
        strides = np.unique(np.geomspace(1, len(curve) // 4, 6).astype(int))
        spans = [np.sqrt(np.mean(((curve[s:] - curve[:-s]) ** 2).sum(axis=1))) for s in strides]
        hoelder = float(np.polyfit(np.log(strides), np.log(spans), 1)[0]) if len(strides) > 1 else None
    return Smoothness(float((steps / np.diff(nodes)).max()), float(steps.sum()), hoelder)


def _gradients(model: nnx.Module, x: Any, loss: Callable[[Array], Array], fixed: bool) -> dict[str, dict[int, float]]:
    """Relative errors of the loss's gradient."""

    def gradient(change: Callable[[NeuralODE], tuple[Any, Solve]]) -> np.ndarray:
        graphdef, params, rest = nnx.split(_changed(model, change), nnx.Param, ...)
        value = lambda params, x: loss(nnx.merge(graphdef, params, rest)(x))
        leaves = jax.tree.leaves(jax.jit(jax.grad(value))(params, x))
        return np.concatenate([np.asarray(leaf, float).ravel() for leaf in leaves])

    exact = gradient(_CHANGES["the exact flow"])
    size = float(np.linalg.norm(exact))
    error = lambda change: float(np.nan_to_num(np.linalg.norm(gradient(change) - exact) / size, nan=np.inf))
    found = {"as trained": {1: error(_CHANGES["as trained"])}}
    if fixed:
        for name, scheme in (("Euler", Euler()), ("Heun", Heun())):
            found[name] = {
                k: error(lambda layer, k=k, s=scheme: (layer.field, _cut(layer.discretisation, k, s))) for k in (1, 2, 4)
            }
    return found


def _list(values: Any) -> str:
    return ", ".join(f"{value:.1%}" for value in values)
