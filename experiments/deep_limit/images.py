"""MNIST as flat floats, and the network of these experiments.

The network is a linear lift, a flow of depth n, and a linear head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

import neuralflow as nf
from neuralflow import data

CLASSES, PIXELS = 10, 784


def images(split: str, folder: Path) -> dict[str, np.ndarray]:
    """Load x `(samples, 784)`, float32 in [0, 1], and y `(samples,)`."""
    dataset = data.load("mnist", split, data_dir=folder)
    return {
        "x": (dataset["image"].reshape(-1, PIXELS) / 255).astype(np.float32),
        "y": dataset["label"],
    }


class Network(nnx.Module):
    """A network from flat images, or other rows of numbers, to logits.

    `field` is the velocity field of the flow, of the given width.
    """

    def __init__(
        self,
        field: nnx.Module,
        steps: int,
        width: int,
        t1: float = 1.0,
        *,
        inputs: int = PIXELS,
        classes: int = CLASSES,
        rngs: nnx.Rngs,
    ):
        self.stem = nnx.Linear(inputs, width, rngs=rngs)
        self.flow = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=steps), 0.0, t1)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(self.flow(self.stem(x)))


def cross_entropy(logits: Array, labels: Any) -> Array:
    """Return the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: Any, labels: Any) -> Any:
    """Return the share of right answers, over the last axis of samples."""
    return (jax.numpy.argmax(logits, axis=-1) == labels).mean(axis=-1)
