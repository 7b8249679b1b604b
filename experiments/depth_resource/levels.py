"""A ladder of depths against direct training of the deepest network, on part of Fashion-MNIST.

    python -m experiments.depth_resource.levels --data-dir FOLDER

FOLDER holds the data sets as TFDS writes them. A network is a linear lift of an image to a state of
width 32, residual blocks of a perceptron with steps of length 1/n, and a linear head. Its blocks
begin alike. Trainings of one seed have the same initial weights as functions of depth, and the same
order of images. All trainings have equally many epochs, by Adam with one cosine schedule of the
learning rate over all of them.

- direct: the deepest network from the start;
- shallow: the first network of the ladder to the end, to tell what depth itself is worth;
- carried: the ladder, as `nf.training.multilevel` climbs it;
- reset: the ladder, where Adam begins anew at every level, within the same schedule;
- copied: the ladder, where every new cell has the moments of its parent as they are.

The time of steps is that of the ladder over that of direct training. It is measured apart from the
trainings: in every round one epoch of each depth, all in one process, and the median over the
rounds. The time with compilation is that of all epochs of a training, without a cache of compiled
programs. Accuracy is that on all test images.
Intervals are Student's over the seeds, of differences and ratios to direct training. Writes
levels.json, or levels_SET.json for another set, beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array
from rich.table import Table

import neuralflow as nf
from experiments.benchmarks.measure import ratio
from experiments.benchmarks.training import by_fit
from experiments.deep_limit.images import Network, accuracy, cross_entropy
from neuralflow import data, files, training
from neuralflow.console import progress, screen, span
from neuralflow.statistics import over_seeds

HERE = Path(__file__).parent
COMMAND = "python -m experiments.depth_resource.levels --data-dir FOLDER --data "
WIDTH = 32


def flat(name: str, split: str, folder: Path) -> dict[str, np.ndarray]:
    """Load x `(samples, 784)`, float32 in [0, 1], and y `(samples,)`."""
    dataset = data.load(name, split, data_dir=folder)
    pixels = dataset["image"].reshape(len(dataset["label"]), -1)
    return {"x": (pixels / 255).astype(np.float32), "y": dataset["label"]}


def network(depth: int, seed: int) -> Network:
    """Return a network of a depth, whose blocks begin alike."""
    rngs = nnx.Rngs(seed)
    field = nf.DepthVarying(
        lambda rngs: nf.fields.MLP(WIDTH, hidden=WIDTH, activation=jax.nn.relu, rngs=rngs),
        nf.PiecewiseConstant(depth),
        rngs=rngs,
        init=nf.tied,
    )
    return Network(field, depth, WIDTH, rngs=rngs)


def loss(model: Network, batch: dict[str, Array]) -> Array:
    return cross_entropy(model(batch["x"]), batch["y"])


def reset(optimiser: optax.GradientTransformation, state: Any, old: Any, new: Any) -> Any:
    """Return the initial state of Adam, with the schedule where it is."""
    begun: Any = optimiser.init(nnx.state(new, nnx.Param))
    return begun[0], state[1]


def copied(optimiser: optax.GradientTransformation, state: Any, old: Any, new: Any) -> Any:
    """Return the state in which every new cell has the moments of its parent."""

    def repeated(a: Array, like: Array) -> Array:
        return a if a.shape == like.shape else jnp.repeat(a, len(like) // len(a), axis=0)

    return jax.tree.map(repeated, state, reset(optimiser, state, old, new))


def climbed(
    moments: Callable[..., Any],
    optimiser: optax.GradientTransformation,
    train_set: Any,
    seed: int,
    options: Any,
) -> tuple[Any, Any]:
    """Train level by level, with the state that `moments` makes of that of the level before."""
    model, fitted = network(options.levels[0], seed), None
    each = options.epochs // len(options.levels)
    for level, factor in enumerate((1, *factors(options.levels)), 1):
        if fitted is not None:
            finer = nf.refined(model, factor)
            state = moments(optimiser, fitted.optimiser, model, finer)
            model, fitted = finer, fitted._replace(optimiser=state)
        shared = {"batch": options.batch, "seed": seed, "progress": False, "after": fitted}
        fitted = training.fit(model, loss, optimiser, train_set, epochs=level * each, **shared)
    return model, fitted


def factors(levels: list[int]) -> list[int]:
    """Return the factors between levels."""
    return [b // a for a, b in itertools.pairwise(levels)]


def train(kind: str, seed: int, train_set: Any, options: Any) -> tuple[Any, Any]:
    """Train one network, and return it with its history."""
    levels, steps = options.levels, options.epochs * (len(train_set["y"]) // options.batch)
    optimiser = optax.adam(optax.cosine_decay_schedule(options.rate, steps))
    shared: dict[str, Any] = {"batch": options.batch, "seed": seed, "progress": False}
    if kind in ("direct", "shallow"):
        model = network(levels[-1 if kind == "direct" else 0], seed)
        return model, training.fit(
            model, loss, optimiser, train_set, epochs=options.epochs, **shared
        )
    if kind == "carried":
        epochs = (options.epochs // len(levels),) * len(levels)
        shared |= {"epochs": epochs, "factor": factors(levels)}
        return training.multilevel(network(levels[0], seed), loss, optimiser, train_set, **shared)
    return climbed({"reset": reset, "copied": copied}[kind], optimiser, train_set, seed, options)


def measured(kind: str, seed: int, train_set: Any, test_set: Any, options: Any) -> dict[str, Any]:
    """Train one network, and return its accuracy in percent, its loss and its times in seconds."""
    jax.clear_caches()  # Every training compiles all of its programs.
    model, fitted = train(kind, seed, train_set, options)
    seconds = fitted.history["seconds"]
    return {
        "accuracy": 100 * float(accuracy(model(jnp.asarray(test_set["x"])), test_set["y"])),
        "loss": float(fitted.history["loss"][-1]),
        "seconds with compilation": float(seconds.sum()),
        "losses": fitted.history["loss"].tolist(),
        "seconds by epoch": seconds.tolist(),
    }


def times(train_set: Any, options: Any) -> dict[str, Any]:
    """Return the seconds of an epoch by depth, and the time of the ladder over that of direct."""
    levels = options.levels
    epochs = [by_fit(network(depth, 0), train_set, options.batch) for depth in levels]
    seconds = np.zeros((options.rounds + 1, len(levels)))
    for k in range(options.rounds + 1):
        for i, epoch in enumerate(epochs):
            began = time.perf_counter()
            epoch(k)
            seconds[k, i] = time.perf_counter() - began
    warm = seconds[1:]  # The first round compiles.
    return {
        "ladder over direct": ratio(warm.mean(axis=1), warm[:, -1]),
        "seconds of an epoch": dict(zip(levels, np.median(warm, axis=0).tolist(), strict=True)),
    }


KINDS = ("direct", "shallow", "carried", "reset", "copied")


def compared(runs: dict[str, list[dict[str, Any]]], kind: str) -> dict[str, Any]:
    """Return the accuracy of a kind, and how it and its times differ from direct training."""

    def column(of: str, what: str) -> np.ndarray:
        return np.asarray([run[what] for run in runs[of]])

    def seconds(of: str) -> np.ndarray:
        return column(of, "seconds with compilation")

    return {
        "accuracy": over_seeds(column(kind, "accuracy")),
        "points lost": over_seeds(column("direct", "accuracy") - column(kind, "accuracy")),
        "final loss": over_seeds(column(kind, "loss")),
        "with compilation": over_seeds(seconds(kind) / seconds("direct")),
    }


def shown(summary: dict[str, Any]) -> str:
    return f"{summary['mean']:.2f} ({span(summary['interval'])})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of prepared TFDS sets")
    parser.add_argument("--data", choices=("mnist", "fashion_mnist"), default="fashion_mnist")
    parser.add_argument("--levels", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--epochs", type=int, default=16, help="a multiple of the levels")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20, help="rounds that measure times")
    options = parser.parse_args()
    console, began = screen(), time.perf_counter()
    train_set = flat(options.data, f"train[:{options.samples}]", options.data_dir)
    test_set = flat(options.data, "test", options.data_dir)
    taken = times(train_set, options)
    middle, low, high = taken["ladder over direct"].values()
    console.print(f"time of steps, ladder over direct: {middle:.2f} ({low:.2f} to {high:.2f})")
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with progress(options.seeds * len(KINDS), console) as done:
        for seed in range(options.seeds):
            for kind in KINDS:
                run = measured(kind, seed, train_set, test_set, options)
                runs[kind].append(run)
                done(
                    f"seed {seed}, {kind}: {run['accuracy']:.2f}%, "
                    f"{run['seconds with compilation']:.1f} s with compilation"
                )
    table = Table(
        title=f"{options.data}, {options.samples} images, levels {options.levels}, "
        f"{options.epochs} epochs; mean (95% over seeds, if roughly normal)"
    )
    rows = {kind: compared(runs, kind) for kind in KINDS}
    for column in ("training", *rows["direct"]):
        table.add_column(column, justify="left" if column == "training" else "right")
    for kind, row in rows.items():
        table.add_row(kind, *map(shown, row.values()))
    console.print(table)
    result: dict[str, Any] = {k: v for k, v in vars(options).items() if k != "data_dir"}
    result |= {"cores": os.cpu_count(), "device": jax.devices()[0].device_kind}
    result |= {"times": taken, "rows": rows}
    result |= {"runs": runs, "seconds": time.perf_counter() - began}
    name = "levels.json" if options.data == "fashion_mnist" else f"levels_{options.data}.json"
    files.write(HERE / name, files.as_json({"command": COMMAND + options.data, "result": result}))


if __name__ == "__main__":
    main()
