"""Certificates: evidence from a trained network itself on whether the network is an ODE.

A network is called an ODE here when two things hold. Its steps resolve the equation to which its
scheme converges. And the velocities of its steps are samples of a function that is regular in
depth, up to a few knots. `evidence` measures both, from states and velocities alone. The bounds are
ours.

Resolution is a matter of degree: more steps would resolve the same equation better. So a
certificate tells how many steps would do. Regularity separates: networks of 16 layers or more have
rho of 0.03 to 0.21 where their layers are samples of a smooth function, and of 1.3 to 1.5 where
their layers were drawn independently.

Source:
    Ott et al., ResNet after all?, arXiv 2007.15386, and Queiruga et al., arXiv 2008.02389, on
    finer steps. Sander et al., arXiv 2205.14612, on why smoothness in depth decides. The measures
    and their bounds are our formulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.labs.deep_limit.evidence import Measure, Regularity, Resolution, exact, measure
from neuralflow.layers import NeuralODE, _integrate
from neuralflow.refinement import evaluated
from neuralflow.solve import Discretisation, SolveError
from neuralflow.solve.system import all_digits


@dataclass(frozen=True)
class Certificate:
    """The evidence on whether a network is an ODE, and the verdict.

    Attributes:
        resolution: How well the steps resolve the equation, by the name of the NeuralODE.
        regularity: How much the velocity changes from step to step, by the name of the NeuralODE.
        scores: The score "as trained", and the score of "the exact flow" in place of every
            NeuralODE. The scores inform and decide nothing. The mapping is empty where no score was
            given.
        samples: The number of samples in the evidence.
    """

    resolution: Mapping[str, Resolution]
    regularity: Mapping[str, Regularity]
    scores: Mapping[str, float]
    samples: int

    @property
    def measures(self) -> dict[str, Measure]:
        """The numbers that decide, by name: of several NeuralODEs the worst.

        The names are "outputs", "path", "adjoint", "rho" and "nugget". They are explained at
        `Resolution` and `Regularity`.
        """
        order = ("pass", "undecided", "fail")
        worst: dict[str, Measure] = {}
        for _, what, one in self._all():
            held = worst.setdefault(what, one)
            if (order.index(one.verdict), one.value) > (order.index(held.verdict), held.value):
                worst[what] = one
        return worst

    @property
    def knots(self) -> dict[str, tuple[float, ...]]:
        """The normalised depths where velocities jump, by the name of the NeuralODE."""
        return {name: r.knots for name, r in self.regularity.items() if r.knots}

    @property
    def verdict(self) -> Literal["ODE", "undecided", "not an ODE"]:
        """The verdict. One number that fails decides, and then one that is undecided."""
        verdicts = {one.verdict for _, _, one in self._all()}
        if "fail" in verdicts:
            return "not an ODE"
        return "undecided" if "undecided" in verdicts else "ODE"

    @property
    def is_ode(self) -> bool:
        """Whether the verdict is "ODE". An undecided network is not called one."""
        return self.verdict == "ODE"

    @property
    def failures(self) -> list[str]:
        """The reasons against an ODE, in words and numbers; empty where no number fails."""
        return self._reasons("fail")

    @property
    def doubts(self) -> list[str]:
        """The numbers whose bound is within two standard errors, in words."""
        return self._reasons("undecided")

    def sentence(self) -> str:
        """Return the verdict and its reasons in one sentence."""
        if self.failures:
            return f"not an ODE: {'; '.join(self.failures)}."
        if self.doubts:
            return f"undecided, more samples may tell: {'; '.join(self.doubts)}."
        jumps = "; ".join(
            f"{_of(name, self.regularity)}velocity jumps at the normalised depths "
            f"{', '.join(f'{k:.3g}' for k in knots)}"
            for name, knots in self.knots.items()
        )
        kind = f"ODE in pieces ({jumps})" if jumps else "ODE"
        worst = self.measures
        return (
            f"{kind}: the steps are {worst['path'].value:.1%} off the exact flow of their equation "
            f"along the path, and their velocity changes by {worst['rho'].value:.2g} of its size "
            "from step to step."
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the evidence as a table.

        Returns:
            Rows (what, number, bound). A number that decides stands with two standard errors. A
            dash stands for the bound where the number decides nothing.
        """
        rows = []
        for name, resolution in self.resolution.items():
            regularity, of = self.regularity[name], _of(name, self.resolution)
            for what, one in {**_deciding(resolution), **_deciding(regularity)}.items():
                rows.append((f"{of}{_WORDS[what]}", str(one), f"<= {one.bound:g}"))
            if resolution.steps is not None:
                enough = "-" if resolution.enough is None else f"about {resolution.enough}"
                rows.append((f"{of}steps", str(resolution.steps), "-"))
                rows.append((f"{of}steps for 10% off outputs and path", enough, "-"))
            knots = ", ".join(f"{k:.3g}" for k in regularity.knots) or "none"
            rows.append((f"{of}knots of the velocity", knots, "-"))
            rows.append(
                (f"{of}total variation of the velocity", f"{regularity.variation:.3g}", "-")
            )
            hoelder = "-" if regularity.hoelder is None else f"{regularity.hoelder:.2f}"
            rows.append((f"{of}Hoelder exponent of the velocity", hoelder, "-"))
        rows += [(f"score, {what}", f"{score:.4f}", "-") for what, score in self.scores.items()]
        return rows

    def record(self) -> dict[str, Any]:
        """Return the evidence and the verdict as plain data."""
        return {
            "verdict": self.verdict,
            "is_ode": self.is_ode,
            "sentence": self.sentence(),
            "samples": self.samples,
            "scores": dict(self.scores),
            "layers": {
                name: {
                    **{
                        what: one._asdict() | {"verdict": one.verdict}
                        for what, one in {**_deciding(resolution), **_deciding(regularity)}.items()
                    },
                    "steps": resolution.steps,
                    "enough": resolution.enough,
                    "knots": list(regularity.knots),
                    "variation": regularity.variation,
                    "hoelder": regularity.hoelder,
                    "depths": regularity.depths.tolist(),
                    "changes": regularity.changes.tolist(),
                }
                for name, resolution in self.resolution.items()
                for regularity in [self.regularity[name]]
            },
        }

    def __str__(self) -> str:
        rows = [("evidence", "measured", "bound"), *self.rows()]
        wide = max(len(row[0]) for row in rows)
        return "\n".join([*(f"{a:<{wide}}  {b:>16}  {c:>8}" for a, b, c in rows), self.sentence()])

    def _all(self) -> Iterator[tuple[str, str, Measure]]:
        """Yield the name of a NeuralODE, the name of a measure, and the measure."""
        for kind in (self.resolution, self.regularity):
            for name, numbers in kind.items():
                for what, one in _deciding(numbers).items():
                    yield name, what, one

    def _reasons(self, verdict: str) -> list[str]:
        return [
            f"{_of(name, self.resolution)}{_WORDS[what]}: {one} where {one.bound:g} passes"
            + self._remedy(name, what)
            for name, what, one in self._all()
            if one.verdict == verdict
        ]

    def _remedy(self, name: str, what: str) -> str:
        """Return the number of steps that would do, where more steps are what is missing."""
        steps, enough = self.resolution[name].steps, self.resolution[name].enough
        if what not in ("outputs", "path") or steps is None or enough is None or enough <= steps:
            return ""
        return f" (about {enough} steps instead of {steps} would)"


_WORDS = {
    "outputs": "outputs off the exact flow",
    "path": "path off the exact flow",
    "adjoint": "adjoint off that of the exact flow",
    "rho": "change of the velocity from step to step (rho)",
    "nugget": "change of the velocity without a trend (nugget)",
}


def _deciding(numbers: Resolution | Regularity) -> dict[str, Measure]:
    """Return the measures of a layer by their names."""
    return {what: one for what, one in vars(numbers).items() if isinstance(one, Measure)}


def _of(name: str, layers: Mapping[str, Any]) -> str:
    """Return the beginning of a text on one NeuralODE, empty where there is only one."""
    return f"{name}: " if len(layers) > 1 else ""


def certify(
    model: nnx.Module,
    x: PyTree,
    *,
    score: Callable[[Array], Any] | None = None,
) -> Certificate:
    """Judge whether a model is an ODE, from the states and the velocities of its NeuralODEs.

    The weights stay as they are, and the model itself is not changed. Every evaluation is in
    evaluation mode. Each NeuralODE is judged on the states that it receives inside the model, and
    the worst of several NeuralODEs decides.

    *Resolution* asks whether the steps resolve the equation to which the scheme of the layer
    converges: x' = f(x, t) for most schemes, and another equation for some networks, such as
    `neuralflow.schemes.LMResNet`. The exact flow of this equation stands for many steps. The final
    states and the path may be 10% off it, relative to how far the flow moves the states. The
    adjoint, which carries gradients through depth, may be 25% off.

    *Regularity* asks whether the velocities of the steps are samples of one function of depth.
    The measures are rho, at most 0.5, and the nugget, at most 0.2; see `Regularity`. Where rho is
    larger, up to three jumps of the velocity may be knots, and the network is an ODE in pieces.

    A number passes or fails where its bound is more than two standard errors away. Otherwise the
    number is undecided, and so is the network unless another number fails. The standard errors are
    those over the samples.

    Matrices are multiplied in all digits of float32, also on accelerators, unless
    `jax.default_matmul_precision` names another precision.

    All numbers stay the same under what does not change the network: permuted hidden units, weights
    on a finer basis, another order of the samples. An axis of the state that is stretched weighs
    more, and changes them.

    A ResNet becomes a model for this function by `neuralflow.from_branches`. The exact flow is
    walked and differentiated, so that convolutions on a CPU take minutes: fewer samples do not help
    as much as fewer layers.

    Args:
        model: A model that holds one NeuralODE or more. Samples are independent of each other.
        x: A batch of the model's inputs, a hundred samples or more. model(x) must be one array
            `(samples, ...)`.
        score: A function from the outputs to one number, such as an accuracy on these samples. The
            score is reported with the layers as trained and with their exact flows, and decides
            nothing.

    Returns:
        The evidence. `.verdict`, `.is_ode` and `.sentence()` are the verdict, `.failures` and
        `.doubts` its reasons and `.rows()` the table. `.measures` are the numbers that decide.

    Raises:
        InputError: `model` holds no NeuralODE, or does not call one.
        InputError: The outputs are not finite, or the NeuralODEs do not move their states. Or a
            NeuralODE couples the entries of axis 0, as a graph network on nodes does.
        InputError: `x` holds fewer than two samples, or an empty array. Or the model cannot be
            evaluated on `x`; its error is the cause.
        InputError: `score` does not return one finite number.
        InputTypeError: `model` is no nnx.Module, `x` holds anything but arrays, or `score` is not a
            function of one argument.
        InputTypeError: model(x) is not one array with an axis of samples, or the states of a
            NeuralODE have none. Or a NeuralODE is called under `jax.vmap`.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from neuralflow.labs.deep_limit import certify
        >>> field = nf.from_function(lambda rate, x: rate * x, -1.0)
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=100))
        >>> evidence = certify(layer, jnp.linspace(-1.0, 1.0, 8)[:, None])
        >>> evidence.verdict, round(evidence.measures["outputs"].value, 4)
        ('ODE', 0.0029)
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    if score is not None:
        checks.function("score", score, 1)
    checks.arrays("x", x)
    if not all(leaf.size for leaf in jax.tree.leaves(x)):
        raise InputError("x must hold samples, some hundred, got an empty array")
    with all_digits():
        return _certified(model, x, score)


def _certified(model: nnx.Module, x: PyTree, score: Callable[[Array], Any] | None) -> Certificate:
    """Return the evidence on a model; see `certify`."""
    model = nnx.merge(*nnx.split(model), copy=True)
    model.eval()
    calls, outputs = _walked(model, x)
    if len(outputs) < 2:
        raise InputError(f"a verdict needs several samples, some hundred, got {len(outputs)}")
    evidence = {name: measure(*call) for name, call in calls.items()}
    resolution = {name: pair[0] for name, pair in evidence.items()}
    if not any(one.distance for one in resolution.values()):
        raise InputError(
            "the NeuralODEs of the model do not move their states: there is nothing to certify; "
            "train it first"
        )
    regularity = {name: pair[1] for name, pair in evidence.items()}
    scores = {}
    if score is not None:
        flows = _hooked(
            model, lambda name, layer, states, context: layer.with_solve(exact(layer, states))
        )
        with jax.disable_jit():
            scores = {
                "as trained": _scored(score, outputs),
                "the exact flow": _scored(score, np.asarray(flows(x))),
            }
    return Certificate(resolution, regularity, scores, len(outputs))


Hook = Callable[[str, NeuralODE, PyTree, PyTree], NeuralODE]


class _Hooked(NeuralODE):
    """A NeuralODE, its parts and its reverse, that ask a hook which layer walks in their place."""

    def __init__(self, name: str, layer: NeuralODE, hook: Hook):
        super().__init__(layer.field, layer.discretisation, layer.t0, layer.t1)
        self.backward, self.name, self.hook = layer.backward, name, hook

    def _copy(self, field: Any, solve: Discretisation, backward: bool) -> Any:
        return _Hooked(self.name, super()._copy(field, solve, backward), self.hook)

    def _run(self, function: Any, x: PyTree, depths: Any, context: PyTree) -> Any:
        # A loop over stacked layers hands the weights of each layer to one object.
        layer = super()._copy(nnx.clone(self.field), self.discretisation, self.backward)
        if function is _integrate:
            layer = self.hook(self.name, layer, x, context)
        with jax.disable_jit(False):
            return layer._run(function, x, depths, context)


def _hooked(model: nnx.Module, hook: Hook) -> Any:
    """Return a model whose NeuralODEs ask a hook, by their names. Call it under `disable_jit`.

    A compiled function inside the model would hide the states.
    """

    def exchanged(path: Any, node: Any) -> Any:
        name = ".".join(map(str, path)) or "layer"
        return _Hooked(name, node, hook) if isinstance(node, NeuralODE) else node

    return nnx.recursive_map(exchanged, model)


def _walked(
    model: nnx.Module, x: PyTree
) -> tuple[dict[str, tuple[NeuralODE, PyTree, PyTree]], np.ndarray]:
    """Walk a model, and return what each call of a NeuralODE gets, and the outputs.

    Returns:
        The layer, its states and its context, by the name of the layer, and the outputs.
    """
    if not any(isinstance(node, NeuralODE) for _, node in nnx.iter_graph(model)):
        raise InputError(
            f"there is no NeuralODE in this model, a {type(model).__name__}; the branches of a "
            "ResNet become one by nf.from_branches"
        )
    calls: dict[str, tuple[NeuralODE, PyTree, PyTree]] = {}

    def listen(name: str, layer: NeuralODE, states: PyTree, context: PyTree) -> NeuralODE:
        if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves((states, context))):
            raise InputTypeError(
                f"{name} is called under jax.vmap, jax.checkpoint or another transformation, "
                "where its states are not known; certify a model that calls it on a batch, whose "
                "axis 0 counts samples"
            )
        count = sum(key == name or key.startswith(f"{name}, call ") for key in calls)
        key = f"{name}, call {count + 1}" if count else name
        calls[key] = layer, jax.tree.map(jnp.asarray, states), context
        return layer

    with jax.disable_jit():
        try:
            outputs = evaluated(_hooked(model, listen), x)
        except SolveError:
            outputs = np.full((1,), np.nan)
    if not isinstance(outputs, jax.Array | np.ndarray) or not outputs.ndim:
        shown = jax.tree.map(jnp.shape, outputs)
        raise InputTypeError(
            f"model(x) must be one array with an axis of samples, got {shown}; wrap the model in "
            "one that returns it"
        )
    if not np.isfinite(outputs).all():
        raise InputError(
            "the model's outputs are not finite; look at the inputs and at the weights"
        )
    if not calls:
        raise InputError("model(x) calls none of its NeuralODEs ahead: there is nothing to certify")
    return calls, np.asarray(outputs)


def _scored(score: Callable[[Array], Any], outputs: np.ndarray) -> float:
    value = np.asarray(score(jnp.asarray(outputs)))
    if value.shape or value.dtype.kind not in "fiub" or not np.isfinite(value):
        raise InputError(
            "score(outputs) must be one finite number, such as an accuracy, got "
            f"{f'an array of shape {value.shape}' if value.shape else value}"
        )
    return float(value)
