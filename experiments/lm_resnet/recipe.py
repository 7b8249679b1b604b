"""The published training of ResNets on CIFAR.

Batches have 128 images with crops and flips. The optimiser is SGD with momentum, and the learning
rate is divided by ten twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import neuralflow as nf
from experiments.lm_resnet.model import Network
from neuralflow import data, training

# Mean and deviation of the training pixels, by channel, in units of the pixel range.
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "mnist": ((0.1307,), (0.3081,)),
}
PUBLISHED = {
    ("resnet", 20): 8.75,
    ("resnet", 110): 6.37,
    ("lm", 20): 8.33,
    ("lm", 56): 6.31,
    ("lm", 110): 6.16,
}
"""Test errors on CIFAR-10 in percent: LM as the authors give them, ResNet as He et al. do."""
SCHEDULES = {"cifar100": (150, 225, 300)}
"""Epochs after which the learning rate is cut, and the last epoch.

Other sets have (80, 120, 160).
"""


def images(name: str, split: str, folder: Any) -> dict[str, np.ndarray]:
    """Load x `(samples, height, width, channels)`, normalised float32, and y `(samples,)`."""
    return normalised(name, data.load(name, split, data_dir=folder))


def normalised(name: str, dataset: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return images and labels of a set as x, normalised float32, and y."""
    mean, deviation = (np.asarray(v, np.float32) for v in STATISTICS[name])
    return {
        "x": ((dataset["image"] / np.float32(255) - mean) / deviation).astype(np.float32),
        "y": dataset["label"],
    }


def schedule(rate: float, cuts: tuple[int, ...], steps: int) -> optax.Schedule:
    """Return the learning rate, divided by ten after each of the epochs in `cuts`."""
    return optax.piecewise_constant_schedule(rate, {epoch * steps: 0.1 for epoch in cuts})


def sgd(rate: Any, momentum: float = 0.9, decay: float = 1e-4) -> optax.GradientTransformation:
    """Return stochastic gradient descent with momentum.

    As published, the decay of all parameters is added to the gradient.
    """
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=momentum))


def train(
    network: Network,
    train_set: dict[str, np.ndarray],
    test_set: dict[str, np.ndarray],
    *,
    epochs: int,
    cuts: tuple[int, ...],
    rate: float = 0.1,
    batch: int = 128,
    flip: bool = True,
    seed: int = 0,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> training.Fitted:
    """Train a network by the published recipe."""
    steps = len(train_set["y"]) // batch
    return training.fit(
        network, nf.models.classification, sgd(schedule(rate, cuts, steps)), train_set,
        epochs=epochs, batch=batch, validation=test_set,
        augment=data.augment_images(shift=4, flip=flip), seed=seed, folder=folder, resume=resume,
        progress=progress,
    )  # fmt: skip


def flops(network: Network, batch: dict[str, Any]) -> float:
    """Return the floating-point operations of one training step, as the compiler counts them."""
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)

    def loss(params: Any, batch: Any) -> Any:
        return nf.models.classification(nnx.merge(graphdef, params, rest, copy=True), batch)[0]

    cost: Any = (
        jax.jit(jax.grad(loss))
        .lower(params, jax.tree.map(jnp.asarray, batch))
        .compile()
        .cost_analysis()
    )
    return float((cost[0] if isinstance(cost, list) else cost).get("flops", float("nan")))
