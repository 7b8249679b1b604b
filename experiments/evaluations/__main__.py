"""Fewer evaluations of an adaptive layer by penalties on its paths, on part of MNIST.

    python -m experiments.evaluations --data-dir FOLDER

FOLDER holds MNIST as TFDS writes it. Every image is averaged to 14 x 14 pixels, which are the state
of a flow. The field is a perceptron of the pixels and of time. A linear head reads the state at the
end. An adaptive Tsit5 computes the flow. The loss is the cross-entropy plus a weight times the mean
of an integral along the paths: the squared speed, or the squared total derivative of order 2 or 3.
The integral is divided by the number of pixels.

Trainings of one seed have the same initial weights and the same batches. Accuracy and evaluations
of the field are those on all test images, in batches of 500, at the tolerances of the table. The
intervals are Student's over the seeds, of differences and ratios to the training without a penalty.
One more training without a penalty has half of the learning rate. It tells whether a lower rate
does what a penalty does. Writes results.json, in some ten minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array
from rich.table import Table

import neuralflow as nf
from experiments.deep_limit.images import CLASSES, cross_entropy, images
from experiments.program import Parser, count
from neuralflow import regularisers, training, transport
from neuralflow.console import progress, screen, span
from neuralflow.statistics import over_seeds

BATCH, SIDE = 128, 14
TOLERANCES = (1e-3, 1e-4, 1e-5)
RATE = 2e-2


class Kind(NamedTuple):
    """A way to train: a penalty with its weight, and the learning rate."""

    penalty: transport.Rate | None = None
    weight: float = 0.0
    rate: float = RATE


KINDS = {
    "none": Kind(),
    "speed": Kind(regularisers.kinetic_energy, 0.1),
    "order 2": Kind(regularisers.total_derivative(2), 0.1),
    "order 3": Kind(regularisers.total_derivative(3), 0.03),
    "none, half the rate": Kind(rate=RATE / 2),
}


class Classifier(nnx.Module):
    """A classifier of small images by the flow of a perceptron in an adaptive layer."""

    def __init__(self, hidden: int, *, rngs: nnx.Rngs):
        field = nf.fields.MLP(SIDE**2, hidden=hidden, time=True, rngs=rngs)
        self.flow = nf.NeuralODE(field, adaptive(TOLERANCES[0]))
        self.head = nnx.Linear(SIDE**2, CLASSES, rngs=rngs)


def small(split: str, folder: Path) -> dict[str, np.ndarray]:
    """Load x `(samples, SIDE * SIDE)`, means of squares of pixels in [0, 1], and y `(samples,)`."""
    flat = images(split, folder)
    fine = flat["x"].reshape(-1, SIDE, 28 // SIDE, SIDE, 28 // SIDE)
    return {"x": fine.mean((2, 4)).reshape(-1, SIDE**2), "y": flat["y"]}


def adaptive(tolerance: float) -> nf.Adaptive:
    """Return the solve with both tolerances alike, as data that compile nothing anew."""
    return nf.Adaptive(nf.Tsit5(), jnp.asarray(tolerance), jnp.asarray(tolerance))


def loss_of(kind: Kind) -> Any:
    """Return the loss of a model on a batch: the cross-entropy, and the penalty if there is one."""
    rates = () if kind.penalty is None else (kind.penalty,)

    def loss(model: Any, batch: dict[str, Array]) -> Array:
        y, integrals = transport.along(model.flow, batch["x"], *rates)
        penalty = sum(map(jnp.mean, integrals), jnp.zeros(())) / SIDE**2
        return cross_entropy(model.head(y), batch["y"]) + kind.weight * penalty

    return loss


@nnx.jit
def answers(model: Any, x: Array) -> tuple[Array, Array]:
    """Return the predicted classes, and the evaluations of the field."""
    solution = model.flow.solve(x)
    return jnp.argmax(model.head(solution.states), axis=-1), solution.evaluations


def measured(model: Classifier, test: dict[str, np.ndarray], size: int = 500) -> dict[str, Any]:
    """Return accuracy in percent and mean evaluations on the test images, at every tolerance."""
    rows, x = {}, jnp.asarray(test["x"])
    for tolerance in TOLERANCES:
        model.flow = model.flow.with_solve(adaptive(tolerance))
        parts = [answers(model, x[i : i + size]) for i in range(0, len(x), size)]
        classes = np.concatenate([np.asarray(found) for found, _ in parts])
        rows[f"{tolerance:g}"] = {
            "accuracy": 100 * float(np.mean(classes == test["y"])),
            "evaluations": float(np.mean([count for _, count in parts])),
        }
    return rows


def train(name: str, seed: int, train_set: Any, test_set: Any, options: Any) -> dict[str, Any]:
    """Train one classifier, and measure it."""
    kind, model = KINDS[name], Classifier(options.hidden, rngs=nnx.Rngs(seed))
    steps = options.epochs * (len(train_set["y"]) // BATCH)
    fitted = training.fit(
        model,
        loss_of(kind),
        optax.adam(optax.cosine_decay_schedule(kind.rate, steps)),
        train_set,
        epochs=options.epochs,
        batch=BATCH,
        seed=seed,
        progress=False,
    )
    return {
        "test": measured(model, test_set),
        "loss": float(fitted.history["loss"][-1]),
        "seconds": float(np.sum(fitted.history["seconds"])),
    }


def compared(runs: dict[str, list[dict[str, Any]]], name: str, tolerance: str) -> dict[str, Any]:
    """Return accuracy, evaluations, and how both differ from those without a penalty."""

    def column(of: str, what: str) -> np.ndarray:
        return np.asarray([run["test"][tolerance][what] for run in runs[of]])

    evaluations, plain = column(name, "evaluations"), column("none", "evaluations")
    return {
        "accuracy": over_seeds(column(name, "accuracy")),
        "evaluations": over_seeds(evaluations),
        "points lost": over_seeds(column("none", "accuracy") - column(name, "accuracy")),
        "evaluations saved, %": over_seeds(100 * (1 - evaluations / plain)),
    }


def shown(summary: dict[str, Any]) -> str:
    return f"{summary['mean']:.2f} ({span(summary['interval'])})"


def table(rows: dict[str, Any], title: str) -> Table:
    """Return the table of one tolerance."""
    made = Table(title=f"{title}; mean (95% over seeds, if roughly normal)")
    for column in ("penalty", *rows["none"]):
        made.add_column(column, justify="left" if column == "penalty" else "right")
    for name, row in rows.items():
        made.add_row(name, *map(shown, row.values()))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    quick = {"seeds": 1, "samples": 256, "tests": 500, "epochs": 1, "hidden": 4}
    parser = Parser(__file__, __doc__, seeds=3, data="needed", quick=quick)
    parser.add_argument("--samples", type=count, default=4_096)
    parser.add_argument("--tests", type=count, default=10_000, help="test images")
    parser.add_argument("--epochs", type=count, default=20)
    parser.add_argument("--hidden", type=count, default=64)
    run = parser.begin(arguments)
    options, console = run.options, screen()
    train_set = small(f"train[:{options.samples}]", options.data_dir)
    test_set = small(f"test[:{options.tests}]", options.data_dir)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
    with progress(options.seeds * len(KINDS), console) as done:
        for seed in range(options.seeds):
            for name in KINDS:
                runs[name].append(train(name, seed, train_set, test_set, options))
                last = runs[name][-1]["test"][f"{TOLERANCES[-1]:g}"]
                done(
                    f"seed {seed}, {name}: {last['accuracy']:.2f}%, "
                    f"{last['evaluations']:.1f} evaluations"
                )
    kinds = {n: {"weight": kind.weight, "learning rate": kind.rate} for n, kind in KINDS.items()}
    tolerances = {}
    for tolerance in map("{:g}".format, TOLERANCES):
        rows = tolerances[tolerance] = {name: compared(runs, name, tolerance) for name in KINDS}
        title = f"MNIST, {options.samples} images, test at tolerances {tolerance}"
        console.print(table(rows, title))
    run.write("results", {"result": {"kinds": kinds, "tolerances": tolerances, "runs": runs}})


if __name__ == "__main__":
    main()
