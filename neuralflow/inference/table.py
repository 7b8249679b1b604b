"""The table of what a trained model costs and gives under other discretisations and bases."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import jax
import numpy as np
from flax import nnx
from jax import core

from neuralflow import checks, console
from neuralflow.checks import InputError, InputTypeError
from neuralflow.inference.candidates import Candidate
from neuralflow.inference.measured import Program
from neuralflow.solve import Discretisation, SolveError
from neuralflow.statistics import interval

Cost = Literal["evaluations", "time"]
"""The names of what a choice costs: evaluations of the field, or the time of a batch."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What a model costs and gives with one candidate.

    The numbers are NaN where the candidate failed.

    Attributes:
        candidate: The candidate.
        loss: The mean cross-entropy of classes, or the mean square error of numbers.
        accuracy: The share of samples whose class is right; NaN for numbers.
        change: The 95% interval (Student's over samples) of the difference between the accuracy and
            that of the model as it was trained. For numbers, of the difference between the losses.
            Both run on the same samples, so what is hard for both does not widen the interval.
        disagreement: The share of samples whose class is another one than that of the model as it
            was trained. For numbers, the distance from the outputs of that model, relative to their
            norm.
        evaluations: The evaluations of velocity fields for a batch, of all layers together. NaN
            where the model calls its layers inside a transformation that hides them.
        seconds: The seconds of a batch, one for each round.
        time: The time of a batch as a multiple of that of the model as it was trained. The number
            is the median over rounds of the ratio of the two times in a round.
        memory: The bytes that the compiled model needs beside its weights, inputs and outputs. None
            where the compiler does not tell.
        weights: The number of numbers in the parameters.
        failure: Why the candidate failed, in a sentence. Empty where it did not.
    """

    candidate: Candidate
    loss: float = np.nan
    accuracy: float = np.nan
    change: tuple[float, float] = (np.nan, np.nan)
    disagreement: float = np.nan
    evaluations: float = np.nan
    seconds: np.ndarray = field(default_factory=lambda: np.full(1, np.nan))
    time: float = np.nan
    memory: int | None = None
    weights: int | None = None
    failure: str = ""

    @property
    def milliseconds(self) -> tuple[float, float, float]:
        """The lower quartile, the median and the upper quartile of milliseconds for a batch."""
        low, middle, high = np.percentile(1e3 * self.seconds, [25, 50, 75])
        return float(low), float(middle), float(high)


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """A table of choices. Printing the table shows the numbers, and which choices are best.

    Attributes:
        choices: The choices. The first one is the model as it was trained.
        classes: Whether the outputs are classes, and not numbers.
        samples: The number of samples.
        batch: The number of samples in a batch.
        device: The kind of the device that the times belong to.
    """

    choices: tuple[Choice, ...]
    classes: bool
    samples: int
    batch: int
    device: str

    def front(self, cost: Cost = "evaluations") -> tuple[Choice, ...]:
        """Return the best choices: every other choice costs more, or is worse.

        Args:
            cost: What a choice costs: "evaluations" of the field, or the "time" of a batch.

        Returns:
            The choices, from the cheapest to the best one.

        Raises:
            InputError: `cost` is no such name.
        """
        checks.choice("cost", cost, get_args(Cost))
        known = [c for c in self.choices if np.isfinite(getattr(c, cost))]
        best: list[Choice] = []
        for choice in sorted(known, key=lambda c: (getattr(c, cost), -self._quality(c))):
            if not best or self._quality(choice) > self._quality(best[-1]):
                best.append(choice)
        return tuple(best)

    def _quality(self, choice: Choice) -> float:
        """Return what is better the larger it is: the accuracy, or the negative loss of numbers."""
        return choice.accuracy if self.classes else -choice.loss

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table as text, the heads of its columns first.

        A dash stands for a number that is not known. Changes are 95% intervals, of accuracies in
        points. Milliseconds are medians with quartiles. A ratio of times is the median of the
        ratios in every round, so slow spells of the machine hardly change it.
        """
        names = ("accuracy, %", "disagree, %") if self.classes else ("loss", "off")
        quality = (names[0], "change", names[1])
        heads = ("choice", *quality, "evaluations", "ms a batch", "time ratio", "memory, bytes")
        best = {cost: self.front(cost) for cost in get_args(Cost)}
        rows = []
        for choice in self.choices:
            off, percent = choice.disagreement, 100 * choice.accuracy
            low, middle, high = choice.milliseconds
            numbers = (
                _text(percent, ".2f") if self.classes else _text(choice.loss, ".3e"),
                self._change(choice),
                _text(100 * off, ".2f") if self.classes else _text(off, ".1e"),
                _text(choice.evaluations, ".4g"),
                f"{middle:.3g} ({low:.3g}-{high:.3g})" if not choice.failure else "-",
                _text(choice.time, ".2f"),
                _text(choice.memory, ",d"),
                _text(choice.weights, ",d"),
                ", ".join(cost for cost in best if choice in best[cost]),
            )
            rows.append((str(choice.candidate), *numbers))
        return [(*heads, "weights", "best for its"), *rows]

    def _change(self, choice: Choice) -> str:
        """Return the interval of the change as text."""
        if choice is self.choices[0] or np.isnan(choice.change).any():
            return "-"
        factor, form = (100, "+.2f") if self.classes else (1, "+.1e")
        return " to ".join(format(factor * limit, form) for limit in choice.change)

    def __str__(self) -> str:
        rows = self.rows()
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for first, *numbers, last in rows:
            cells = [n.rjust(w) for n, w in zip(numbers, wide[1:-1], strict=True)]
            lines.append("  ".join([first.ljust(wide[0]), *cells, last]).rstrip())
        failed = [f"{c.candidate}: {c.failure}" for c in self.choices if c.failure]
        return "\n".join([*lines, *failed])

    def record(self) -> dict[str, Any]:
        """Return the table as plain data."""
        best = {cost: self.front(cost) for cost in get_args(Cost)}
        return {
            "outputs": "classes" if self.classes else "numbers",
            "samples": self.samples,
            "batch": self.batch,
            "device": self.device,
            "rounds": len(self.choices[0].seconds),
            "choices": [
                {
                    "choice": str(choice.candidate),
                    "solve": _shown(choice.candidate.solve),
                    "basis": _shown(choice.candidate.basis),
                    "loss": choice.loss,
                    "accuracy": choice.accuracy if self.classes else None,
                    "change": list(choice.change),
                    "disagreement": choice.disagreement,
                    "evaluations": choice.evaluations,
                    "milliseconds": list(choice.milliseconds),
                    "time": choice.time,
                    "memory": choice.memory,
                    "weights": choice.weights,
                    "best for its": [cost for cost in best if choice in best[cost]],
                    "failure": choice.failure or None,
                }
                for choice in self.choices
            ],
        }


def tradeoff(
    model: nnx.Module,
    data: Mapping[str, Any],
    candidates: Sequence[Candidate | Discretisation],
    *,
    batch: int = 512,
    rounds: int = 20,
    progress: bool = True,
) -> Tradeoff:
    """Compare what a trained model costs and gives under other discretisations and bases.

    Every candidate takes the place of the discretisation of all layers of the model, and of the
    basis of all its weights that vary with depth. The model is in evaluation mode. It does not
    change, and nothing is trained. A candidate that cannot carry the model, or whose outputs are
    not finite, is a row with the reason. The others go on.

    Whole numbers y `(samples,)` are classes, where the model has logits `(batch, classes)`; further
    axes of both in between are allowed. Numbers y in the shape of the outputs are targets.

    Times are those of one batch, with all inputs on the device. The candidates take turns in every
    round, and compilation comes before. The rounds go through the batches.

    Args:
        model: The model, a function from inputs `(batch, ...)` to outputs `(batch, ...)`, with
            `neuralflow.NeuralODE` layers anywhere inside.
        data: The inputs x `(samples, ...)` and the answers y `(samples, ...)`, by these names.
        candidates: What to compare with the model as it was trained: candidates, or
            discretisations that keep the weights.
        batch: The number of samples in a batch. The last batch is filled up with samples of the one
            before.
        rounds: How often every candidate is timed.
        progress: Whether to show the progress.

    Returns:
        The table. The first choice is the model as it was trained.

    Raises:
        InputError: `data` holds no x and y of numbers with one length, the answers are not finite
            or do not fit the outputs, or the outputs of the model as it was trained are not finite.
        InputError: The model has no `neuralflow.NeuralODE`, or cannot be evaluated on x.
        InputError: A number is less than 1.
        InputTypeError: An argument is of the wrong kind.
        SolveError: A solve of the model as it was trained failed.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=64))
        >>> x = jnp.ones((8, 2))
        >>> grids = [nf.FixedGrid(nf.RK4(), steps=n) for n in (1, 4)]
        >>> data = {"x": x, "y": jnp.e * x}
        >>> table = nf.inference.tradeoff(layer, data, grids, progress=False)
        >>> for choice in table.front("evaluations"):
        ...     print(choice.candidate, int(choice.evaluations))
        RK4, 1 step 4
        RK4, 4 steps 16
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    x, y = _checked(data)
    given = _candidates(candidates)
    checks.whole("batch", batch)
    checks.whole("rounds", rounds)
    checks.flag("progress", progress)
    size = min(int(batch), len(x))
    choices: list[Choice] = []
    programs: dict[int, Program] = {}
    with console.progress(len(given) + 2) if progress else console.silence() as done:
        own, expected = _run(Candidate(), model, x, size, programs, 0)
        first = _scores(expected, y)
        own = replace(own, **_means(first), change=(0.0, 0.0), disagreement=0.0)
        choices.append(own)
        done(f"as trained: {_told(own)}")
        for candidate in given:
            try:
                choice, outputs = _run(candidate, model, x, size, programs, len(choices))
                scores = _scores(outputs, y)
                choice = replace(
                    choice,
                    **_means(scores),
                    change=_change(scores, first),
                    disagreement=_disagreement(outputs, expected, "accuracy" in scores),
                )
                told = _told(choice)
            except (InputError, SolveError, jax.errors.JaxRuntimeError) as error:
                told = str(error).splitlines()[0]
                choice = Choice(candidate, failure=told)
            choices.append(choice)
            done(f"{candidate}: {told}")
        seconds = _times(programs, int(rounds))
        for k, runs in seconds.items():
            choices[k] = replace(choices[k], seconds=runs, time=float(np.median(runs / seconds[0])))
        done(f"times of {rounds} rounds")
    classes = not np.isnan(choices[0].accuracy)
    return Tradeoff(tuple(choices), classes, len(x), size, jax.devices()[0].device_kind)


def _run(
    candidate: Candidate,
    model: nnx.Module,
    x: np.ndarray,
    batch: int,
    programs: dict[int, Program],
    k: int,
) -> tuple[Choice, np.ndarray]:
    """Return what a candidate costs but its time, and its outputs; its program becomes number k."""
    changed = candidate.applied_to(model)
    program = Program(changed, x, batch)
    outputs, evaluations = program.outputs()
    programs[k] = program
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(nnx.state(changed, nnx.Param)))
    choice = Choice(candidate, evaluations=evaluations, memory=program.memory, weights=int(count))
    return choice, outputs


def _times(programs: Mapping[int, Program], rounds: int) -> dict[int, np.ndarray]:
    """Return the seconds of a batch for every program, which take turns in every round."""
    seconds: dict[int, list[float]] = {k: [] for k in programs}
    starts = programs[0].starts
    for r in range(rounds):
        inputs = jax.block_until_ready(programs[0].inputs(starts[r % len(starts)]))
        for k, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(inputs))
            seconds[k].append(time.perf_counter() - began)
    return {k: np.asarray(runs) for k, runs in seconds.items()}


def _scores(outputs: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return the loss of every output, and the accuracy of every output where they are classes."""
    if y.dtype.kind in "iu" and y.shape == outputs.shape[:-1] and outputs.shape[-1] > 1:
        classes = outputs.shape[-1]
        if y.min() < 0 or y.max() >= classes:
            raise InputError(
                f"data['y'] must lie between 0 and {classes - 1}, the {classes} classes of the "
                f"model, got {y.min()} to {y.max()}"
            )
        logits = outputs.astype(float)
        logits -= logits.max(axis=-1, keepdims=True)
        right = np.take_along_axis(logits, y[..., None], axis=-1)[..., 0]
        loss = np.log(np.exp(logits).sum(axis=-1)) - right
        return {"loss": loss, "accuracy": (outputs.argmax(axis=-1) == y).astype(float)}
    if y.shape == outputs.shape and y.dtype.kind in "fiu":
        if _is_one_hot(y):
            raise InputError(
                f"data['y'] must be classes, whole numbers, got one-hot rows {y.shape}, which "
                "would be targets of a regression; give y.argmax(axis=-1)"
            )
        return {"loss": (outputs.astype(float) - y) ** 2}
    raise InputError(
        "data['y'] must be classes, whole numbers with the leading axes of the logits, or targets "
        f"in the shape of the outputs, got {y.dtype} {y.shape} for outputs {outputs.shape}"
    )


def _is_one_hot(y: np.ndarray) -> bool:
    """Return whether rows of several numbers hold a single one each, and zeros beside it."""
    rows = y.ndim > 1 and y.shape[-1] > 1
    return rows and bool(((y == 0) | (y == 1)).all() and (y.sum(axis=-1) == 1).all())


def _means(scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: float(values.mean()) for name, values in scores.items()}


def _change(scores: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    """Return the interval of the difference between the last of two scores over samples."""
    name = list(scores)[-1]
    off = scores[name] - first[name]
    return interval(off.reshape(len(off), -1).mean(axis=1))


def _disagreement(outputs: np.ndarray, expected: np.ndarray, classes: bool) -> float:
    """Return the share of samples with another class, or the relative distance of numbers."""
    if classes:
        return float((outputs.argmax(axis=-1) != expected.argmax(axis=-1)).mean())
    return float(np.linalg.norm(outputs - expected) / (np.linalg.norm(expected) or np.nan))


def _told(choice: Choice) -> str:
    accuracy = "" if np.isnan(choice.accuracy) else f", accuracy {choice.accuracy:.2%}"
    return f"loss {choice.loss:.4g}{accuracy}"


def _text(value: float | None, form: str) -> str:
    """Return a number as text, and a dash where there is none."""
    return "-" if value is None or np.isnan(value) else format(value, form)


def _shown(part: Any) -> str | None:
    return None if part is None else repr(part)


def _checked(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and answers on the host, and refuse anything else."""
    if not isinstance(data, Mapping) or not {"x", "y"} <= set(data):
        held = list(data) if isinstance(data, Mapping) else type(data).__name__
        raise InputError(f"data must hold the inputs x and the answers y, it holds {held}")
    arrays = []
    for name in ("x", "y"):
        value = data[name]
        known = isinstance(value, np.ndarray) or (
            isinstance(value, jax.Array) and not isinstance(value, core.Tracer)
        )
        if not known or not checks.holds_numbers(value):
            raise InputTypeError(
                f"data[{name!r}] must be an array of numbers, got a {type(value).__name__}; "
                "make one with np.asarray"
            )
        arrays.append(np.asarray(value))
    x, y = arrays
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise InputError(
            "data must hold one y for every x along a leading axis, at least one, got shapes "
            f"{x.shape} and {y.shape}"
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise InputError("data['y'] must be finite, got numbers that are not; leave them out")
    return x, y


def _candidates(candidates: Any) -> list[Candidate]:
    """Return candidates, also of discretisations, and refuse anything else."""
    example = "a discretisation or a Candidate, such as nf.FixedGrid(nf.Euler(), steps=4)"
    given = []
    for one in checks.sequence("candidates", candidates, f"a list, each {example}"):
        checks.instance("each of candidates", one, Candidate | Discretisation, example)
        given.append(one if isinstance(one, Candidate) else Candidate(one))
    return given
