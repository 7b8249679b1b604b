"""A ladder of depths against direct training of the deepest network.

    python -m experiments.depth_resource.levels --data-dir FOLDER
    python -m experiments.depth_resource.levels --data swirl --width 4 --hidden 8 --rate 0.02

The first command trains on part of Fashion-MNIST, where depth does not pay. FOLDER holds the data
sets as TFDS writes them. The second command trains on points in the plane, where depth pays: four
blocks as narrow as the deep network's are not enough.

A network is a linear lift to a narrow state, residual blocks of a perceptron with steps of length
1/n, and a linear head. Its blocks begin alike. Trainings of one seed have the same initial weights
as functions of depth, and the same order of samples. All trainings have equally many epochs, by
Adam with one cosine schedule of the learning rate over all of them.

- direct: the deepest network from the start;
- shallow: the first network of the ladder to the end, to tell what depth itself is worth;
- wide: the shallow network with more hidden units, so that its blocks have the weights of the
  deepest network (but for some biases), to tell depth from the number of weights;
- carried: the ladder, as `nf.training.multilevel` climbs it;
- reset: the ladder, where Adam begins anew at every level, within the same schedule;
- copied: the ladder, where every new cell has the moments of its parent as they are.

The time of steps is that of the ladder over that of direct training. It is measured apart from the
trainings: in every round one epoch of each depth, all in one process, and the median over the
rounds. The columns of the table are these:

- accuracy: the share of right answers on all test samples, in percent;
- points lost: the accuracy of direct training less that of the row, in points of percent;
- final loss: the mean loss of the last epoch of training;
- cold cache: the time of the whole training over that of direct training, where both compile all
  of their programs;
- warm cache: the same where both find all of their programs in JAX's persistent cache. Tracing is
  still to be done.

Accuracies, points and losses are means with Student's intervals over the seeds. The two columns of
times are medians with quartiles over the seeds. Every training runs twice in a row: with an empty
cache, and with the cache that the first run has filled. All trainings of one seed follow each
other, so that slow spells of the machine meet them alike. The time is that on the clock, from the
initial weights to the last step, with refinements between levels. Two lines below the table tell
from how many epochs on the ladder saves time in all. Writes levels.json, or levels_SET.json for
another set.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Array
from rich.table import Table

import neuralflow as nf
from experiments.benchmarks.measure import ratio
from experiments.benchmarks.training import by_fit
from experiments.deep_limit.images import Network, accuracy, cross_entropy
from experiments.program import Parser, count, positive
from neuralflow import data, training
from neuralflow.console import progress, screen, span
from neuralflow.statistics import over_seeds


def swirl(count: int, seed: int) -> dict[str, np.ndarray]:
    """Generate points of the unit disc, and the quadrants to which a flow takes them.

    The flow x' = 2 pi |x| J x, with J the turn by a right angle, turns a circle of radius r by r
    full turns in the time one. Returns x `(count, 2)`, float32, and y `(count,)`, from 0 to 3.
    """
    rng = np.random.default_rng(seed)
    radius, turns = np.sqrt(rng.uniform(size=count)), rng.uniform(size=count)
    x = radius * np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)])
    return {"x": x.T.astype(np.float32), "y": (4 * (turns + radius) % 4).astype(np.int32)}


def flat(name: str, split: str, folder: Path | None) -> dict[str, np.ndarray]:
    """Load x `(samples, 784)`, float32 in [0, 1], and y `(samples,)`."""
    dataset = data.load(name, split, data_dir=folder)
    pixels = dataset["image"].reshape(len(dataset["label"]), -1)
    return {"x": (pixels / 255).astype(np.float32), "y": dataset["label"]}


def points(options: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the training set and the test set."""
    if options.data == "swirl":
        return swirl(options.samples, 0), swirl(10_000, 1)
    train = flat(options.data, f"train[:{options.samples}]", options.data_dir)
    return train, flat(options.data, "test", options.data_dir)


def network(depth: int, seed: int, train_set: Any, options: Any, wider: int = 1) -> Network:
    """Return a network whose blocks begin alike, with `wider` times as many hidden units."""
    rngs, width, hidden = nnx.Rngs(seed), options.width, wider * options.hidden
    field = nf.DepthVarying(
        lambda rngs: nf.fields.MLP(width, hidden=hidden, activation=jax.nn.relu, rngs=rngs),
        nf.PiecewiseConstant(depth),
        rngs=rngs,
        init=nf.tied,
    )
    sizes = {"inputs": train_set["x"].shape[1], "classes": int(train_set["y"].max()) + 1}
    return Network(field, depth, width, **sizes, rngs=rngs)


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


MOMENTS = {"reset": reset, "copied": copied}


def climbed(
    moments: Callable[..., Any],
    optimiser: optax.GradientTransformation,
    train_set: Any,
    seed: int,
    options: Any,
) -> tuple[Any, Any]:
    """Train level by level, with the state that `moments` makes of that of the level before."""
    model, fitted = network(options.levels[0], seed, train_set, options), None
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
    """Train one network, and return it with what `fit` returns."""
    first, *_, last = levels = options.levels
    steps = options.epochs * (len(train_set["y"]) // options.batch)
    optimiser = optax.adam(optax.cosine_decay_schedule(options.rate, steps))
    if kind in MOMENTS:
        return climbed(MOMENTS[kind], optimiser, train_set, seed, options)
    depth, wider = {"direct": (last, 1), "wide": (first, last // first)}.get(kind, (first, 1))
    model = network(depth, seed, train_set, options, wider)
    shared: dict[str, Any] = {"batch": options.batch, "seed": seed, "progress": False}
    if kind == "carried":
        epochs = (options.epochs // len(levels),) * len(levels)
        shared |= {"epochs": epochs, "factor": factors(levels)}
        return training.multilevel(model, loss, optimiser, train_set, **shared)
    return model, training.fit(model, loss, optimiser, train_set, epochs=options.epochs, **shared)


def timed(kind: str, seed: int, train_set: Any, options: Any) -> tuple[Any, Any, float]:
    """Train one network in a process that has compiled nothing yet, and return the seconds too."""
    jax.clear_caches()
    began = time.perf_counter()
    model, fitted = train(kind, seed, train_set, options)
    return model, fitted, time.perf_counter() - began


def measured(kind: str, seed: int, train_set: Any, test_set: Any, options: Any) -> dict[str, Any]:
    """Train one network twice, and return its accuracy in percent, its loss and its times.

    Times are in seconds. The first training fills a cache of compiled programs for the second.
    """
    with tempfile.TemporaryDirectory() as folder:
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", folder)
        cold, warm = (timed(kind, seed, train_set, options) for _ in range(2))
        model, fitted, seconds = warm
        return {
            "accuracy": 100 * float(accuracy(model(jnp.asarray(test_set["x"])), test_set["y"])),
            "loss": float(fitted.history["loss"][-1]),
            "cold": cold[-1],
            "warm": seconds,
            "losses": fitted.history["loss"].tolist(),
            "seconds by epoch": fitted.history["seconds"].tolist(),
        }


def times(train_set: Any, options: Any) -> dict[str, Any]:
    """Return the seconds of an epoch by depth, and the time of the ladder over that of direct."""
    levels = options.levels
    models = [network(depth, 0, train_set, options) for depth in levels]
    epochs = [by_fit(model, train_set, options.batch) for model in models]
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


KINDS = ("direct", "shallow", "wide", "carried", "reset", "copied")


def compared(runs: dict[str, list[dict[str, Any]]], kind: str) -> dict[str, Any]:
    """Return the accuracy of a kind, and how it and its times differ from direct training."""

    def column(of: str, what: str) -> np.ndarray:
        return np.asarray([run[what] for run in runs[of]])

    return {
        "accuracy": over_seeds(column(kind, "accuracy")),
        "points lost": over_seeds(column("direct", "accuracy") - column(kind, "accuracy")),
        "final loss": over_seeds(column(kind, "loss")),
        "cold cache": ratio(column(kind, "cold"), column("direct", "cold")),
        "warm cache": ratio(column(kind, "warm"), column("direct", "warm")),
    }


def break_even(runs: dict[str, list[dict[str, Any]]], cache: str, options: Any) -> dict[str, Any]:
    """Return the number of epochs from which on the ladder takes less time in all.

    What a training takes beside its steps does not depend on the number of epochs. The steps of an
    epoch are those of the second training, without the first epoch of every level.
    """

    def seconds(kind: str) -> tuple[np.ndarray, np.ndarray]:
        epochs = np.asarray([run["seconds by epoch"] for run in runs[kind]])
        levels = epochs.reshape(len(epochs), len(options.levels), -1)[:, :, 1:]
        return np.asarray([run[cache] for run in runs[kind]]), np.median(levels, -1).mean(-1)

    (direct, each), (ladder, less) = seconds("direct"), seconds("carried")
    return ratio(ladder - direct + options.epochs * (each - less), each - less)


def shown(summary: dict[str, Any]) -> str:
    """Return a mean with its interval, or a median with its quartiles, as the table shows it."""
    middle, *spread = summary.values()
    return f"{middle:.2f} ({span(np.ravel(spread).tolist())})"


def table(rows: dict[str, dict[str, Any]], options: Any) -> Table:
    """Return the table of all trainings."""
    made = Table(
        title=f"{options.data}, {options.samples} samples, levels {options.levels}, "
        f"{options.epochs} epochs; mean (95% over seeds, if roughly normal); times over those of "
        "direct training, median (quartiles over seeds)"
    )
    for column in ("training", *rows["direct"]):
        made.add_column(column, justify="left" if column == "training" else "right")
    for kind, row in rows.items():
        made.add_row(kind, *map(shown, row.values()))
    return made


def parser() -> Parser:
    quick = {"data": "swirl", "width": 4, "hidden": 4, "levels": [2, 4], "epochs": 4}
    made = Parser(
        __file__, __doc__, seeds=5, data="taken",
        quick=quick | {"samples": 128, "seeds": 1, "rounds": 1},
    )  # fmt: skip
    sets = ("mnist", "fashion_mnist", "swirl")
    made.add_argument("--data", choices=sets, default="fashion_mnist")
    made.add_argument("--width", type=count, default=32, help="dimension of the state")
    made.add_argument("--hidden", type=count, default=32, help="hidden units of a block")
    made.add_argument("--levels", type=count, nargs="+", default=[4, 8, 16, 32])
    made.add_argument("--epochs", type=count, default=16, help="a multiple of the levels")
    made.add_argument("--samples", type=count, default=10_000)
    made.add_argument("--batch", type=count, default=64)
    made.add_argument("--rate", type=positive, default=2e-3)
    made.add_argument("--rounds", type=count, default=20, help="rounds that measure times of steps")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    run = parser().begin(arguments)
    options, console = run.options, screen()
    kinds = ("direct", "carried") if options.quick else KINDS
    # Many small programs add up: the cache keeps them too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    train_set, test_set = points(options)
    taken = times(train_set, options)
    console.print(f"time of steps, ladder over direct: {shown(taken['ladder over direct'])}")
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    with progress(options.seeds * len(kinds), console) as done:
        for seed in range(options.seeds):
            for kind in kinds:
                one = measured(kind, seed, train_set, test_set, options)
                runs[kind].append(one)
                done(
                    f"seed {seed}, {kind}: {one['accuracy']:.2f}%, "
                    f"{one['cold']:.1f} s with a cold cache, {one['warm']:.1f} s with a warm one"
                )
    rows = {kind: compared(runs, kind) for kind in kinds}
    console.print(table(rows, options))
    for cache in ("cold", "warm"):
        name = f"epochs to break even, {cache} cache"
        taken[name] = break_even(runs, cache, options)
        console.print(f"{name}: {shown(taken[name])}")
    name = "levels" if options.data == "fashion_mnist" else f"levels_{options.data}"
    run.write(name, {"result": {"times": taken, "rows": rows, "runs": runs}})


if __name__ == "__main__":
    main()
