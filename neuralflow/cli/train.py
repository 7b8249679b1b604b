"""`neuralflow train` and `neuralflow evaluate`: a classifier on a data set, under any discretisation."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuralflow import files
from neuralflow.cli.common import SCHEMES, UsageError, writable

ADAPTIVE = ("tsit5", "dopri5")
GENERATED = ("moons", "circles", "spirals", "annuli", "gaussians", "checkerboard")


@dataclass(frozen=True)
class Train:
    """Trains a classifier: a stem, a NeuralODE, a linear head. One option changes the discretisation.

    The data: scikit-learn's digits (the default), a generated set (moons, circles, spirals, annuli, gaussians,
    checkerboard), or the name of a prepared TFDS set with features image and label. Writes options, history and
    checkpoints into a folder; the same command with --resume goes on from there, to the same bits. Ends with status 0
    when it is trained, 1 where the loss stopped being finite, 2 for bad input and for folders that cannot be used.
    """

    data: str = "digits"
    """'digits', a generated set, or a TFDS name such as mnist or cifar10."""
    data_dir: Path | None = None
    """Folder of the prepared TFDS sets; TFDS's own by default."""
    train_split: str = "train"
    """TFDS split to train on, such as 'train[:90%]'."""
    test_split: str = "test"
    """TFDS split to evaluate on after every epoch, which also tells the best checkpoint; hold one out of the training
    split ('train[90%:]') where the test set is to stay unseen."""
    scheme: Literal["euler", "heun", "midpoint", "rk4", "tsit5", "dopri5"] = "euler"
    """Discretisation: fixed steps, or adaptive ones for tsit5 and dopri5."""
    steps: int = 4
    """Cells of the weights, and fixed steps."""
    tolerance: float | None = None
    """Relative and absolute tolerance of adaptive steps, 1e-3 by default; for tsit5 and dopri5 alone."""
    width: int = 32
    """Channels, or hidden dimension, of the state."""
    epochs: int = 15
    """Passes over the data."""
    batch: int = 64
    """Samples a step."""
    learning_rate: float = 3e-3
    """Peak of a cosine schedule for Adam, after a warm-up of a tenth."""
    depth_penalty: float = 0.0
    """Weight of int |theta'|^2 + |theta(0)|^2 over depth in the loss, under which growing depths have an ODE as limit."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the convolutions; weights, states and moments stay float32."""
    augment: bool = False
    """Random shifts (and mirrored images for cifar10)."""
    patience: int | None = None
    """Stop after so many epochs without a lower test loss."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    out: Path = Path("results/train")
    """Folder for options, history and checkpoints."""
    save_every: int | None = None
    """Steps between checkpoints within an epoch; one is written at the end of each anyway."""
    resume: bool = False
    """Go on from the last checkpoint in the folder, if there is one; with other --epochs on another cosine schedule."""
    parallel: bool = False
    """Spread batches over all devices."""
    coordinator: str | None = None
    """Address host:port of process 0, for several processes; 'auto' where the cluster's scheduler tells."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """The number of this one."""


@dataclass(frozen=True)
class Evaluate:
    """Loss and accuracy of what `neuralflow train` has left in a folder."""

    folder: Path = Path("results/train")
    """Folder of the training."""
    best: bool = True
    """The best checkpoint rather than the last."""
    split: str | None = None
    """Split; the test split of the training by default."""
    scheme: Literal["euler", "heun", "midpoint", "rk4", "tsit5", "dopri5"] | None = None
    """Another discretisation of the same weights."""
    data_dir: Path | None = None
    """Folder of the prepared TFDS sets; that of the training by default."""


def run(options: Train) -> int:
    """Trains; prints the last line of the history as the result."""
    import jax

    if options.tolerance is not None and options.scheme not in ADAPTIVE:
        raise UsageError(
            f"--tolerance is that of adaptive steps; {options.scheme} takes --steps {options.steps} whatever the error"
        )
    _join(options)
    from neuralflow import training
    from neuralflow.training.checkpoints import CheckpointError

    out = writable(options.out)
    try:
        train, test = (dataset(options, split) for split in ("train", "test"))
        model = build(options, train)
        _remember(options, train, out)
        steps = options.epochs * (len(train["y"]) // max(1, options.batch))
        fitted = training.fit(
            model,
            _loss(options),
            _optimiser(options, steps),
            train,
            epochs=options.epochs,
            batch=options.batch,
            validation=test,
            patience=options.patience,
            augment=_augment(options),
            seed=options.seed,
            mesh=jax.make_mesh((jax.device_count(),), ("data",))
            if options.parallel or options.coordinator
            else None,
            folder=out,
            save_every=options.save_every,
            resume=options.resume,
        )
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, ImportError, OSError, CheckpointError) as error:
        raise UsageError(str(error)) from None
    except training.TrainingError as error:
        print(f"neuralflow: {error}", file=sys.stderr, flush=True)
        if jax.process_count() > 1:
            os._exit(1)  # an orderly end would wait for processes that may be gone
        return 1
    if jax.process_index() == 0:
        history = fitted.history
        best = history["validation_accuracy"][fitted.best - 1]
        print(
            f"Test accuracy {history['validation_accuracy'][-1]:.2%}; {best:.2%} after epoch {fitted.best}, the best loss."
        )
        print(f"Options, history and checkpoints are in {options.out}.")
    return 0


def _join(options: Train) -> None:
    """Joins the processes of one training, if there are several."""
    import jax

    numbers = (options.processes, options.process)
    if options.coordinator is None:
        if numbers != (None, None):
            raise UsageError(
                "--processes and --process need --coordinator HOST:PORT, the address of process 0, or auto"
            )
        return
    if options.coordinator == "auto":
        arguments: tuple[Any, ...] = ()
    else:
        if ":" not in options.coordinator or options.processes is None or options.process is None:
            raise UsageError(
                f"--coordinator {options.coordinator} needs an address HOST:PORT, --processes and --process; or give auto "
                "where a scheduler tells them"
            )
        if not 0 <= options.process < options.processes:
            raise UsageError(
                f"--process must lie between 0 and {options.processes - 1}, got {options.process}"
            )
        arguments = (options.coordinator, options.processes, options.process)
    try:
        jax.distributed.initialize(*arguments)
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"the processes could not be joined ({str(error).splitlines()[0]}); check --coordinator"
        ) from None


def run_evaluate(options: Evaluate) -> int:
    """Restores and evaluates."""
    from neuralflow import training

    trained, model, test, step = restored(options)
    metrics = training.evaluate(model, _loss(trained), test)
    print(
        f"{trained.data}, {trained.scheme}, step {step}: loss {metrics['loss']:.6g}, accuracy {metrics['accuracy']:.2%}"
    )
    return 0


def restored(options: Evaluate) -> tuple[Train, Any, dict[str, np.ndarray], int]:
    """What a folder of `neuralflow train` holds: its options, the model, its test data, the step of the checkpoint."""
    from neuralflow import training
    from neuralflow.training.checkpoints import CheckpointError

    try:
        record = json.loads((options.folder / "options.json").read_text())
    except (OSError, ValueError) as error:
        why = (
            "holds no options.json"
            if isinstance(error, FileNotFoundError)
            else f"has an options.json that cannot be read ({error})"
        )
        raise UsageError(
            f"{options.folder} {why}; give the --out folder of neuralflow train"
        ) from None
    if (
        not isinstance(record, dict)
        or {"classes", "data", "scheme"} - set(record)
        or record["scheme"] not in SCHEMES
    ):
        raise UsageError(
            f"{options.folder}/options.json is not what neuralflow train has written; give its --out folder"
        )
    known = {field.name for field in dataclasses.fields(Train)}
    values: dict[str, Any] = {name: value for name, value in record.items() if name in known}
    paths = {name: Path(values[name]) for name in ("data_dir", "out") if values.get(name)}
    trained = Train(**{**values, **paths})
    changes: dict[str, Any] = {
        "scheme": options.scheme or trained.scheme,
        "data_dir": options.data_dir or trained.data_dir,
    }
    trained = dataclasses.replace(
        trained, **changes, test_split=options.split or trained.test_split
    )
    try:
        test = dataset(trained, "test")
        model = build(trained, test, record["classes"])
        return trained, model, test, training.restore(options.folder, model, best=options.best)
    except (ValueError, ImportError, OSError, CheckpointError) as error:
        raise UsageError(str(error)) from None


def dataset(options: Train, part: str) -> dict[str, np.ndarray]:
    """The training or test part of the data: x, y."""
    from neuralflow import data

    split = options.train_split if part == "train" else options.test_split
    if options.data == "digits":
        return data.digits(split)
    if options.data in GENERATED:
        if split != part:
            raise UsageError(
                f"{options.data} is generated, with one training and one test set; leave the split {split!r} out"
            )
        make = getattr(data, options.data)
        return (
            make(2000, seed=options.seed) if part == "train" else make(1000, seed=options.seed + 1)
        )
    features = data.load(options.data, split, data_dir=options.data_dir)
    if not {"image", "label"} <= set(features):
        raise UsageError(
            f"{options.data} has the features {', '.join(features)}; a classifier needs image and label"
        )
    return {"x": features["image"], "y": features["label"]}


def build(options: Train, data: dict[str, np.ndarray], classes: int | None = None) -> Any:
    """The classifier for data of this shape."""
    import jax.numpy as jnp
    from flax import nnx

    from neuralflow import models
    from neuralflow.solve import Adaptive, FixedGrid

    if options.width % 4:
        raise UsageError(f"--width must be a multiple of 4, got {options.width}")
    scheme = SCHEMES[options.scheme]()
    adaptive = options.scheme in ADAPTIVE
    tolerance = 1e-3 if options.tolerance is None else options.tolerance
    solve = (
        Adaptive(scheme, tolerance, tolerance)
        if adaptive
        else FixedGrid(scheme, steps=options.steps)
    )
    shape, count = data["x"].shape[1:], int(data["y"].max()) + 1 if classes is None else classes
    sizes: dict[str, Any] = {
        "width": options.width,
        "cells": options.steps,
        "rngs": nnx.Rngs(options.seed),
    }
    if len(shape) == 3:
        dtype = jnp.bfloat16 if options.precision == "bfloat16" else None
        return models.ImageClassifier(shape, count, solve, dtype=dtype, **sizes)
    if options.precision == "bfloat16":
        raise UsageError(f"--precision bfloat16 is that of convolutions; {options.data} has points")
    return models.PointClassifier(int(np.prod(shape)), count, solve, **sizes)


# What a resumed training may change: how long, where and on what it runs, not what it computes.
_FREE = {
    "epochs",
    "patience",
    "save_every",
    "data_dir",
    "out",
    "resume",
    "parallel",
    "coordinator",
    "processes",
    "process",
}


def _remember(options: Train, data: dict[str, np.ndarray], out: Path) -> None:
    """options.json: what `evaluate` needs to build the model again, and what a resumed training must not change."""
    import jax

    shown = {
        name: os.fspath(v) if isinstance(v, Path) else v
        for name, v in dataclasses.asdict(options).items()
    }
    shown["classes"] = int(data["y"].max()) + 1
    if options.resume and any((out / "checkpoints").glob("[0-9]*")):
        try:
            before = json.loads((out / "options.json").read_text())
        except (OSError, ValueError):
            before = shown
        changed = [
            name
            for name in shown
            if name not in _FREE and name in before and before[name] != shown[name]
        ]
        if changed:
            was = ", ".join(
                f"--{name.replace('_', '-')} {before[name]} (now {shown[name]})" for name in changed
            )
            raise UsageError(
                f"{options.out} was trained with {was}; resume with the same options, or give another --out"
            )
    elif any((out / "checkpoints").glob("[0-9]*")):
        return  # a training that nobody wants to resume: `fit` refuses, and its options stay as they were
    if jax.process_index() == 0:
        files.write(out / "options.json", files.as_json(shown))


def _loss(options: Train) -> Any:
    from neuralflow import models, regularisers

    a = options.depth_penalty
    if not 0 <= a < float("inf"):
        raise UsageError(f"--depth-penalty must not be negative, got {a}")
    if a == 0:
        return models.classification

    def penalised(model: Any, batch: Any) -> Any:
        value, metrics = models.classification(model, batch)
        energy = regularisers.depth_energy(model)
        return value + a * energy, {**metrics, "depth_energy": energy}

    return penalised


def _optimiser(options: Train, steps: int) -> Any:
    import optax

    if not options.learning_rate > 0:
        raise UsageError(f"--learning-rate must be positive, got {options.learning_rate}")
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, max(1, steps // 10), max(2, steps)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def _augment(options: Train) -> Any:
    from neuralflow import data

    if not options.augment:
        return None
    if options.data in GENERATED:
        raise UsageError(f"--augment moves images; {options.data} has none")
    return data.augment_images(
        shift=1 if options.data == "digits" else 2, flip=options.data.startswith("cifar")
    )
