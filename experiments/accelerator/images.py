"""ResNet-20 and LM-ResNet-20 on CIFAR-10 in bfloat16, by the published recipe or a short form.

`cases` trains both networks for as many epochs as the time allows, and moves the cuts of the
learning rate with the number of epochs. `recipe_cases` trains for the published number of epochs,
with checkpoints.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import neuralflow as nf
from experiments.accelerator import arrays
from experiments.accelerator.machine import peak
from experiments.accelerator.plan import Plan
from experiments.accelerator.work import operations
from experiments.lm_resnet import recipe
from experiments.lm_resnet.model import Model, Network
from experiments.stages.stage import Add, Case, LeftOut, Row
from neuralflow.training.loop import Run

MODELS: tuple[Model, ...] = ("resnet", "lm")
BATCH, RATE, CUTS, EPOCHS = 128, 0.1, (80, 120), 160
Images = dict[str, np.ndarray]


def cases(plan: Plan) -> Iterator[Case]:
    train_set, test_set = _sets(plan)
    most = 2 if plan.quick else EPOCHS

    def case(model: Model, later: int, add: Add) -> None:
        nonlocal most
        now = time.time()
        until = now + (plan.until - now) / (1 + later)
        most = stretched(model, _network(model, plan), train_set, test_set, most, until, add)

    models = MODELS[-1:] if plan.quick else MODELS
    for later, model in zip(range(len(models))[::-1], models, strict=True):
        yield model, lambda add, model=model, later=later: case(model, later, add)


def recipe_cases(plan: Plan) -> Iterator[Case]:
    train_set, test_set = _sets(plan)
    epochs = 2 if plan.quick else EPOCHS

    def case(model: Model, add: Add) -> None:
        folder = Path(plan.out) / "recipe" / model
        network = _network(model, plan)
        try:
            recipe.train(
                network, train_set, test_set, epochs=epochs, cuts=CUTS, rate=RATE,
                batch=_batch(train_set), folder=folder, resume=plan.resume,
            )  # fmt: skip
        finally:
            history = folder / "history.jsonl"
            lines = history.read_text().splitlines() if history.exists() else []
            if rows := [json.loads(line) for line in lines]:
                add(_summary(model, network, train_set, test_set, rows, epochs))

    for model in MODELS[-1:] if plan.quick else MODELS:
        yield model, lambda add, model=model: case(model, add)


def stretched(
    model: Model,
    network: Network,
    train_set: Images,
    test_set: Images,
    most: int,
    until: float,
    add: Add,
) -> int:
    """Train for as many epochs as fit before `until`, and for `most` epochs at most.

    The first two epochs tell how many epochs there will be. The first one also compiles. The
    learning rate is cut at the same parts of the training as published.

    Returns:
        The number of epochs.
    """
    run = Run(
        network, nf.models.classification, optax.inject_hyperparams(recipe.sgd)(rate=RATE),
        train_set, _batch(train_set), test_set, nf.data.augment_images(shift=4), 0, None,
    )  # fmt: skip
    state, rows, epochs = run.start(), [], most
    for epoch in itertools.count():
        began = time.time()
        held: Any = state.optimiser
        rate = jnp.asarray(RATE * 0.1 ** sum(epoch >= cut for cut in _cuts(epochs)), jnp.float32)
        held = held._replace(hyperparams={**held.hyperparams, "rate": rate})
        state = state._replace(optimiser=held)
        for moved, _ in run.epoch(state, epoch, 0, None):
            state = moved
        seconds = time.time() - began
        if int(state.broken) >= 0:
            raise FloatingPointError(f"{model} stopped being finite in epoch {epoch + 1}")
        rows.append(
            {
                **run.means(state),
                **run.evaluate(state),
                "samples_per_second": run.steps * run.batch / seconds,
            }
        )
        state = run.reset(state)
        left, whole = until - time.time(), time.time() - began
        if epoch == 1:
            # A tenth is kept for epochs that take longer than this one.
            epochs = min(most, 2 + max(0, int(0.9 * left / whole)))
        add(
            {
                "case": f"{model}, epoch by epoch",
                "epoch": epoch + 1,
                "of": epochs if epoch else None,
                "loss": rows[-1]["loss"],
                "test error, percent": 100 * (1 - rows[-1]["validation_accuracy"]),
                "images a second": rows[-1]["samples_per_second"],
            }
        )
        if epoch + 1 >= epochs or left < 0:
            break
    add(_summary(model, network, train_set, test_set, rows, epochs))
    return epochs


def _cuts(epochs: int) -> tuple[int, ...]:
    """Return the epochs after which the rate is cut, for a number of epochs in all."""
    return tuple(max(1, round(cut * epochs / EPOCHS)) for cut in CUTS)


def _summary(
    model: Model,
    network: Network,
    train_set: Images,
    test_set: Images,
    rows: list[dict[str, Any]],
    epochs: int,
) -> Row:
    """Say what a training has reached, and how much of the device it used."""
    # The first epoch also compiles.
    speed = float(np.median([row["samples_per_second"] for row in rows[1:] or rows]))
    # The gradient takes about two more passes.
    work = 3 * operations(lambda network, x: network(x), network, train_set["x"][:1])
    most = peak(jax.devices()[0].device_kind)
    return {
        "model": model,
        "test error, percent": 100 * (1 - rows[-1]["validation_accuracy"]),
        "published after 160 epochs on 50000 images, percent": recipe.PUBLISHED[model, 20],
        "epochs": len(rows),
        "epochs of the schedule": epochs,
        "rate cut after epochs": " and ".join(map(str, _cuts(epochs))),
        "training images": len(train_set["y"]),
        "test images": len(test_set["y"]),
        "images a second": speed,
        "MFLOP an image": work / 1e6,
        "share of the peak in bfloat16": None if most is None else work * speed / most,
    }


def _network(model: Model, plan: Plan) -> Network:
    sizes: dict[str, Any] = {"width": 2, "blocks": 2} if plan.quick else {}
    return Network(20, model, dtype=jnp.bfloat16, rngs=nnx.Rngs(0), **sizes)


def _batch(train_set: Images) -> int:
    return min(BATCH, len(train_set["y"]) // 2)


def _sets(plan: Plan) -> tuple[Images, Images]:
    """Return the training and the test images, in a quick run a few of them or random ones."""
    if plan.arrays is None and not plan.quick:
        raise LeftOut("it needs images: give --arrays, a folder of experiments.accelerator.arrays")
    held = arrays.drawn(64) if plan.arrays is None else arrays.read(Path(plan.arrays))
    few = 64 if plan.quick else None
    parts = ({key: a[:few] for key, a in held[split].items()} for split in ("train", "test"))
    train_set, test_set = (recipe.normalised("cifar10", part) for part in parts)
    return train_set, test_set
