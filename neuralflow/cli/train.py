"""`neuralflow train` and `neuralflow evaluate`: a classifier under any discretisation.

The options become data, model, loss and optimiser here. The training itself stands in `training`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuralflow import checks, data, files
from neuralflow.checks import InputError
from neuralflow.cli.common import SCHEMES, writable

ADAPTIVE = ("tsit5", "dopri5")
GENERATED = {
    "moons": data.moons,
    "circles": data.circles,
    "spirals": data.spirals,
    "annuli": data.annuli,
    "gaussians": data.gaussians,
    "checkerboard": data.checkerboard,
}


@dataclass(frozen=True)
class Train:
    """Train a classifier: a stem, a NeuralODE and a linear head.

    The option --scheme changes the discretisation. The data is scikit-learn's digits (the default),
    a generated set (moons, circles, spirals, annuli, gaussians, checkerboard), or a prepared TFDS
    set with the features image and label.

    The command writes options, history and checkpoints into a folder. With --resume, the same
    command goes on from there, to the same bits.

    The exit status is 0 after a finished training, and 1 for a training that could not go on, such
    as one whose loss stopped being finite. The exit status is 2 for bad input and for folders that
    cannot be used.
    """

    data: str = "digits"
    """The data: 'digits', a generated set, or a TFDS name such as mnist or cifar10."""
    data_dir: Path | None = None
    """The folder of the prepared TFDS sets. The default is the folder of TFDS itself."""
    train_split: str = "train"
    """The TFDS split to train on, such as 'train[:90%]'."""
    test_split: str = "test"
    """The TFDS split to evaluate on after every epoch.
    This split also decides which checkpoint is the best.
    Hold out a part of the training split ('train[90%:]') if the test set is to stay unseen."""
    scheme: Literal["euler", "heun", "midpoint", "rk4", "tsit5", "dopri5"] = "euler"
    """The discretisation. tsit5 and dopri5 take adaptive steps, the others fixed steps."""
    steps: int = 4
    """The number of cells of the weights, and of fixed steps."""
    levels: tuple[int, ...] = ()
    """Numbers of cells and steps in place of --steps, such as 4 8 16 32.
    The network begins with the first number and is refined to the next ones on the way.
    Each number is a multiple of the one before. The epochs are shared out evenly.
    A resumed training keeps its number of epochs."""
    tolerance: float | None = None
    """The relative and absolute tolerance of adaptive steps, for tsit5 and dopri5 only.
    The default is 1e-3."""
    width: int = 32
    """The number of channels of the state for images, or the dimension of the state for points.
    The width is a multiple of 4."""
    epochs: int = 15
    """The number of passes over the data."""
    batch: int = 64
    """The number of samples in a step."""
    learning_rate: float = 3e-3
    """The peak of the learning rate of Adam.
    The rate rises over the first tenth of the steps, then falls as a cosine."""
    depth_penalty: float = 0.0
    """The weight of int |theta'|^2 + |theta(0)|^2 over depth in the loss.
    With this penalty, networks of growing depth have an ODE as limit."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The arithmetic of the convolutions. Weights, states and moments stay float32."""
    augment: bool = False
    """Shift images at random, and mirror half of them for cifar10 and cifar100."""
    patience: int | None = None
    """Stop after this number of epochs without a lower test loss."""
    seed: int = 0
    """The seed of weights, order and augmentation, and of generated data."""
    out: Path = Path("results/train")
    """The folder for options, history and checkpoints."""
    save_every: int | None = None
    """The number of steps between checkpoints within an epoch.
    A checkpoint at the end of every epoch is written anyway."""
    resume: bool = False
    """Go on from the last checkpoint in the folder, if there is one.
    Another number of --epochs changes the cosine schedule."""
    parallel: bool = False
    """Spread every batch over all devices."""
    coordinator: str | None = None
    """The address host:port of process 0, for a training with several processes.
    'auto' takes the address and the numbers of the processes from the cluster's scheduler."""
    processes: int | None = None
    """The number of processes."""
    process: int | None = None
    """The number of this process, counted from 0."""
    timeout: int = 60
    """The seconds for which a process waits for the others, with --coordinator."""


@dataclass(frozen=True)
class Evaluate:
    """Print loss and accuracy of the network that `neuralflow train` has left in a folder.

    With --tradeoff, the command compares the network with fewer steps, with other schemes and with
    weights that are projected on fewer coefficients, without training. The table shows accuracy,
    disagreement with the network as it was trained, evaluations, milliseconds, memory and weights.
    The results are tradeoff.json and tradeoff.png.
    """

    folder: Path = Path("results/train")
    """The folder of the training."""
    best: bool = True
    """Take the best checkpoint instead of the last one."""
    split: str | None = None
    """The split to evaluate on. The default is the test split of the training."""
    scheme: Literal["euler", "heun", "midpoint", "rk4", "tsit5", "dopri5"] | None = None
    """Another discretisation of the same weights. The default is the scheme of the training."""
    data_dir: Path | None = None
    """The folder of the prepared TFDS sets. The default is the data folder of the training."""
    tradeoff: bool = False
    """Compare cheaper ways to run the network."""
    out: Path | None = None
    """The folder for the results of --tradeoff. The default is the folder of the training."""


def run(options: Train) -> int:
    """Run `neuralflow train`: train, and print the last and the best test accuracy.

    Args:
        options: The options of the command.

    Returns:
        The exit status: 0 after a finished training, 1 if the training could not go on.

    Raises:
        InputError: An option, the data or the folder is wrong.
        DataMissing: The TFDS set is not prepared.
        CheckpointError: The folder holds another training, or cannot hold checkpoints.
        ExtraMissing: A package that the data needs is not installed.
    """
    import jax

    if options.tolerance is not None and options.scheme not in ADAPTIVE:
        raise InputError(
            f"--tolerance is that of adaptive steps; {options.scheme} takes "
            f"--steps {options.steps} whatever the error"
        )
    checks.seed("--seed", options.seed)
    _join(options)
    from neuralflow import training

    _check_levels(options)
    out = writable(options.out)
    try:
        train, test = (dataset(options, split) for split in ("train", "test"))
        model = build(options, train, steps=options.levels[0] if options.levels else None)
        settings = _remember(options, train, out)
        steps = options.epochs * (len(train["y"]) // max(1, options.batch))
        mesh = None
        if options.parallel or options.coordinator:
            mesh = jax.make_mesh((jax.device_count(),), ("data",))
        arguments = (model, _loss(options), _optimiser(options, steps), train)
        shared: dict[str, Any] = {
            "batch": options.batch,
            "validation": test,
            "augment": _augment(options),
            "seed": options.seed,
            "mesh": mesh,
            "folder": out,
            "save_every": options.save_every,
            "resume": options.resume,
            "settings": settings,
        }
        if options.levels:
            epochs, factors = _shares(options)
            _, fitted = training.multilevel(*arguments, epochs=epochs, factor=factors, **shared)
        else:
            limits = {"epochs": options.epochs, "patience": options.patience}
            fitted = training.fit(*arguments, **limits, **shared)
    except training.TrainingError as error:
        print(f"neuralflow: {error}", file=sys.stderr, flush=True)
        if jax.process_count() > 1:
            os._exit(1)  # an orderly end would wait for processes that may be gone
        return 1
    if jax.process_index() == 0:
        history = fitted.history
        best = history["validation_accuracy"][fitted.best - 1]
        print(
            f"Test accuracy {history['validation_accuracy'][-1]:.2%}; "
            f"{best:.2%} after epoch {fitted.best}, the best loss."
        )
        print(f"Options, history and checkpoints are in {options.out}.")
    return 0


def _check_levels(options: Train) -> None:
    """Refuse levels that cannot be refined one into the next, and options that exclude levels."""
    levels = options.levels
    if not levels:
        return
    shown = f"--levels {' '.join(map(str, levels))}"
    growing = all(0 < a < b and b % a == 0 for a, b in itertools.pairwise(levels))
    if levels[0] < 1 or not growing:
        raise InputError(
            f"{shown} must be numbers of steps, each a multiple of the one before, such as 4 8 16"
        )
    if options.steps not in (Train.steps, levels[-1]):
        raise InputError(f"{shown} take the place of --steps {options.steps}; give one of the two")
    if options.patience is not None:
        raise InputError(f"{shown} have numbers of epochs of their own; leave --patience out")
    if options.epochs < len(levels):
        raise InputError(
            f"--epochs must be at least one for each level of {shown}, got {options.epochs}"
        )


def _shares(options: Train) -> tuple[list[int], list[int]]:
    """Return the epochs of every level, the first levels one more, and the factors between them."""
    levels = options.levels
    each, more = divmod(options.epochs, len(levels))
    epochs = [each + (k < more) for k in range(len(levels))]
    return epochs, [b // a for a, b in itertools.pairwise(levels)]


def _join(options: Train) -> None:
    """Join the processes of one training, if there are several, within --timeout seconds."""
    numbers = (options.processes, options.process)
    if options.coordinator is None:
        if numbers != (None, None):
            raise InputError(
                "--processes and --process need --coordinator HOST:PORT, "
                "the address of process 0, or auto"
            )
        return
    if options.timeout < 1:
        raise InputError(f"--timeout must be at least 1 second, got {options.timeout}")
    given: dict[str, Any] = {}
    if options.coordinator != "auto":
        port = options.coordinator.rpartition(":")[2]
        if (
            not port.isdigit()
            or not 0 < int(port) < 2**16
            or options.processes is None
            or options.process is None
        ):
            raise InputError(
                f"--coordinator {options.coordinator} needs an address HOST:PORT, "
                "--processes and --process; or give auto where a scheduler tells them"
            )
        if not 0 <= options.process < options.processes:
            raise InputError(
                f"--process must lie between 0 and {options.processes - 1}, got {options.process}"
            )
        given = {
            "coordinator_address": options.coordinator,
            "num_processes": options.processes,
            "process_id": options.process,
            "coordinator_bind_address": options.coordinator if options.process == 0 else None,
        }
        if options.process == 0:
            _check_address(options.coordinator)
    # JAX ends the process without a word of its own when its timeout is over. Ours comes first.
    late = threading.Thread(
        target=_initialise, args=(given, 2 * options.timeout, failed := []), daemon=True
    )
    began = time.monotonic()
    late.start()
    while late.is_alive() and (waited := time.monotonic() - began) < options.timeout:
        late.join(min(5.0, options.timeout - waited))
        if late.is_alive():
            print(
                f"waiting for all processes at {options.coordinator}: "
                f"{time.monotonic() - began:.0f} of {options.timeout} s",
                flush=True,
            )
    if late.is_alive():
        print(
            f"neuralflow: not all of the {options.processes or ''} processes met at "
            f"{options.coordinator} within {options.timeout} s; start the missing ones at the same "
            "address, or give a longer --timeout",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)  # an orderly end would wait for the others
    if failed:
        raise InputError(
            f"the processes could not be joined ({str(failed[0]).splitlines()[0]}); "
            "check --coordinator"
        )


def _check_address(address: str) -> None:
    """Refuse an address that process 0 cannot listen at."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen at --coordinator {address} ({error.strerror}); "
            "give a free port of the machine of process 0"
        ) from None


def _initialise(given: dict[str, Any], timeout: int, failed: list[Exception]) -> None:
    """Join the processes through JAX, and note an error."""
    import jax

    try:
        jax.distributed.initialize(**given, initialization_timeout=timeout)
    except (ValueError, RuntimeError) as error:
        failed.append(error)


def run_evaluate(options: Evaluate) -> int:
    """Run `neuralflow evaluate`: restore a network and print its test loss and accuracy.

    With `options.tradeoff`, print the table of cheaper networks and write it with its picture.

    Args:
        options: The options of the command.

    Returns:
        The exit status 0.

    Raises:
        InputError: An option is wrong, or the folder holds no training that can be read.
        DataMissing: The TFDS set is not prepared.
        CheckpointError: The checkpoint is missing, damaged, or of another model.
        ExtraMissing: A package that the data needs is not installed.
    """
    from neuralflow import training
    from neuralflow.cli import tradeoff

    if options.tradeoff and options.scheme is not None:
        raise InputError(
            "--tradeoff compares schemes with that of the training; "
            f"leave --scheme {options.scheme} out"
        )
    if options.out is not None and not options.tradeoff:
        raise InputError("--out is the folder for the results of --tradeoff; give both or none")
    if options.out is not None:
        writable(options.out)
    trained, model, test, step = restored(options)
    if options.tradeoff:
        out = writable(options.out or options.folder)
        print(f"{trained.data}, {trained.scheme}, step {step}:")
        return tradeoff.run(model, test, trained.scheme, out)
    metrics = training.evaluate(model, _loss(trained), test)
    print(
        f"{trained.data}, {trained.scheme}, step {step}: loss {metrics['loss']:.6g}, "
        f"accuracy {metrics['accuracy']:.2%}"
    )
    return 0


def restored(options: Evaluate) -> tuple[Train, Any, dict[str, np.ndarray], int]:
    """Read what a folder of `neuralflow train` holds.

    Args:
        options: The folder, and what to change against the training: split, scheme, data folder.

    Returns:
        The options of the training with these changes, the restored model, the test data, and the
        number of training steps behind the checkpoint.

    Raises:
        InputError: The folder holds no options of a training, or the data cannot be read.
        DataMissing: The TFDS set is not prepared.
        CheckpointError: The checkpoint is missing, damaged, or of another model.
        ExtraMissing: A package that the data needs is not installed.
    """
    from neuralflow import training
    from neuralflow.training.log import existing

    record = _recorded(options.folder)
    if record is None:
        raise InputError(
            f"{options.folder} holds no options.json; give the --out folder of neuralflow train"
        )
    classes = record["classes"]
    values: dict[str, Any] = {name: value for name, value in record.items() if name != "classes"}
    paths = {name: Path(values[name]) for name in ("data_dir", "out") if values.get(name)}
    trained = Train(**{**values, **paths, "levels": tuple(values.get("levels", ()))})
    changes: dict[str, Any] = {
        "scheme": options.scheme or trained.scheme,
        "data_dir": options.data_dir or trained.data_dir,
    }
    trained = dataclasses.replace(
        trained, **changes, test_split=options.split or trained.test_split
    )
    test = dataset(trained, "test")
    model = build(trained, test, classes)
    step = training.restore(options.folder, model, best=options.best)
    kept = existing(options.folder)
    _, seen = kept.newest(False, kept.read_record)
    settings = _settings(record)
    if seen is not None and settings != {k: seen["run"]["settings"].get(k) for k in settings}:
        raise InputError(
            f"{options.folder}/options.json is not that of the checkpoints beside it; "
            "put back the one that neuralflow train has written"
        )
    return trained, model, test, step


def dataset(options: Train, part: str) -> dict[str, np.ndarray]:
    """Read or generate one part of the data.

    Args:
        options: The options of the training.
        part: "train" or "test".

    Returns:
        The inputs x `(samples, ...)` and the labels y `(samples,)`.

    Raises:
        InputError: The split is unknown, or the set has no image and label.
        DataMissing: The TFDS set is not prepared.
        ExtraMissing: A package that the data needs is not installed.
    """
    split = options.train_split if part == "train" else options.test_split
    if options.data == "digits":
        return data.digits(split)
    if options.data in GENERATED:
        if split != part:
            raise InputError(
                f"{options.data} is generated, with one training and one test set; "
                f"leave the split {split!r} out"
            )
        make, other = GENERATED[options.data], (options.seed + 1) % 2**32
        return make(2000, seed=options.seed) if part == "train" else make(1000, seed=other)
    features = data.load(options.data, split, data_dir=options.data_dir)
    if not {"image", "label"} <= set(features):
        raise InputError(
            f"{options.data} has the features {', '.join(features)}; "
            "a classifier needs image and label"
        )
    return {"x": features["image"], "y": features["label"]}


def build(
    options: Train,
    data: dict[str, np.ndarray],
    classes: int | None = None,
    steps: int | None = None,
) -> Any:
    """Build the classifier for data of a given shape.

    Args:
        options: The options of the training.
        data: The inputs x `(samples, ...)` and the labels y `(samples,)`.
        classes: The number of classes. The default is the largest label plus one.
        steps: The number of cells and steps. The default is that of the trained network: the last
            of --levels, or --steps without levels.

    Returns:
        An ImageClassifier for images, a PointClassifier for other data.

    Raises:
        InputError: The width is no multiple of 4, or --precision bfloat16 is given for points.
    """
    import jax.numpy as jnp
    from flax import nnx

    from neuralflow import models
    from neuralflow.solve import Adaptive, FixedGrid

    if options.width % 4 or options.width < 4:
        raise InputError(f"--width must be a positive multiple of 4, got {options.width}")
    if steps is None:
        steps = options.levels[-1] if options.levels else options.steps
    if steps < 1:
        raise InputError(f"--steps must be at least 1, got {steps}")
    scheme = SCHEMES[options.scheme]()
    adaptive = options.scheme in ADAPTIVE
    tolerance = 1e-3 if options.tolerance is None else options.tolerance
    solve = Adaptive(scheme, tolerance, tolerance) if adaptive else FixedGrid(scheme, steps=steps)
    shape, count = data["x"].shape[1:], int(data["y"].max()) + 1 if classes is None else classes
    sizes: dict[str, Any] = {
        "width": options.width,
        "cells": steps,
        "rngs": nnx.Rngs(options.seed),
    }
    if len(shape) == 3:
        dtype = jnp.bfloat16 if options.precision == "bfloat16" else None
        return models.ImageClassifier(shape, count, solve, dtype=dtype, **sizes)
    if options.precision == "bfloat16":
        raise InputError(f"--precision bfloat16 is that of convolutions; {options.data} has points")
    return models.PointClassifier(int(np.prod(shape)), count, solve, **sizes)


# The options that a resumed training may change: how long, where and on what the training runs,
# but not what the training computes.
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
    "timeout",
}


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """Return the options that decide what a training computes.

    With levels, the number of epochs says where a network is refined.
    """
    free = _FREE - {"epochs"} if record.get("levels") else _FREE
    return {name: value for name, value in record.items() if name not in free}


def _recorded(folder: Path) -> dict[str, Any] | None:
    """Read options.json with its number of classes, or return None if there is no such file.

    A file that is not as `neuralflow train` wrote it is refused.
    """
    checks.path("--folder", folder)
    try:
        record = files.unseal(json.loads((folder / "options.json").read_text()))
        known = {field.name for field in dataclasses.fields(Train)} | {"classes"}
        if set(record) != known:
            raise ValueError("another version of neuralflow wrote it")
        return record
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}/options.json is not what neuralflow train has written ({error}); "
            "put that file back, or give another folder"
        ) from None


def _remember(options: Train, data: dict[str, np.ndarray], out: Path) -> dict[str, Any]:
    """Write options.json, and refuse a resumed training with other options.

    `evaluate` builds the model again from options.json. The result is what identifies the training.
    """
    import jax

    from neuralflow.training.log import differences

    shown = {
        name: os.fspath(v) if isinstance(v, Path) else v
        for name, v in dataclasses.asdict(options).items()
    }
    shown["levels"] = list(options.levels)
    shown["classes"] = int(data["y"].max()) + 1
    kept = (out, *out.glob("level-*"))
    if any(path for folder in kept for path in (folder / "checkpoints").glob("[0-9]*")):
        if not options.resume:  # `fit` refuses this folder, and its options stay as they were
            return _settings(shown)
        before = _recorded(out)
        changed = differences(_settings(before or shown), _settings(shown))
        if changed:
            was = ", ".join(
                f"--{name.replace('_', '-')} {old} (now {new})" for name, old, new in changed
            )
            raise InputError(
                f"{options.out} was trained with {was}; "
                "resume with the same options, or give another --out"
            )
    if jax.process_index() == 0:
        files.write(out / "options.json", files.as_json(files.seal(shown)))
    return _settings(shown)


def _loss(options: Train) -> Any:
    """Return the loss: the cross-entropy, plus the penalty over depth if there is one."""
    from neuralflow import models, regularisers

    a = options.depth_penalty
    if not 0 <= a < float("inf"):
        raise InputError(f"--depth-penalty must not be negative, got {a}")
    if a == 0:
        return models.classification

    def penalised(model: Any, batch: Any) -> Any:
        value, metrics = models.classification(model, batch)
        energy = regularisers.depth_energy(model)
        return value + a * energy, {**metrics, "depth_energy": energy}

    return penalised


def _optimiser(options: Train, steps: int) -> Any:
    """Return Adam with clipped gradients, a warm-up and a cosine schedule over so many steps."""
    import optax

    if not 0 < options.learning_rate < float("inf"):
        raise InputError(
            f"--learning-rate must be positive and finite, got {options.learning_rate}"
        )
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, max(1, steps // 10), max(2, steps)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def _augment(options: Train) -> Any:
    """Return the augmentation of images, or None without --augment."""
    if not options.augment:
        return None
    if options.data in GENERATED:
        raise InputError(f"--augment moves images; {options.data} has none")
    return data.augment_images(
        shift=1 if options.data == "digits" else 2, flip=options.data.startswith("cifar")
    )
