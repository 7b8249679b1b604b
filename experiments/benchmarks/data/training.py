"""The data of trainings and of flows."""

from __future__ import annotations

import itertools

import numpy as np


def labelled(points: str, train: int, test: int) -> tuple[dict[str, np.ndarray], ...]:
    """Return points x and classes y to train on, and to test on: two spirals, or the digits."""
    x, y = {"spirals": _spirals, "digits": _digits}[points](train + test)
    return tuple(
        {"x": x[part].astype(np.float32), "y": y[part].astype(np.int32)}
        for part in (slice(train), slice(train, train + test))
    )


def _spirals(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points of two spiral arms, a turn and a half each, and their arms."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(count) % 2)
    radius = np.sqrt(rng.uniform(0.01, 1, size=count))
    angle = 3 * np.pi * radius + np.pi * y
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return x + 0.02 * rng.standard_normal(x.shape), y


def _digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return digits in a random order, 64 numbers from 0 to 1 each, and which digits they are."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[:count]
    return np.asarray(x)[order] / 16, np.asarray(y)[order]


def orders(count: int, batch: int, epochs: int) -> np.ndarray:
    """Return the samples of the batches of every epoch, `(epochs, count // batch, batch)`."""
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(count) for _ in range(epochs)]).astype(np.int32)
    return rows[:, : count // batch * batch].reshape(epochs, -1, batch)


def classifier(dimension: int, hidden: int, classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the kernels and biases of a field with one hidden layer, and of a linear head."""
    return perceptron((dimension, hidden, dimension)) + perceptron((dimension, classes), seed=1)


def perceptron(widths: tuple[int, ...], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the kernels `(inputs, outputs)` and the biases of dense layers, in float32."""
    rng = np.random.default_rng(seed)
    return [
        (
            (rng.standard_normal((a, b)) / a**0.5).astype(np.float32),
            (0.1 * rng.standard_normal(b)).astype(np.float32),
        )
        for a, b in itertools.pairwise(widths)
    ]


def moons(count: int) -> np.ndarray:
    """Return points of two moons of mean 0 and standard deviation 1, `(count, 2)`, in float32."""
    rng = np.random.default_rng(0)
    angle, upper = np.pi * rng.uniform(size=count), np.arange(count) % 2 == 0
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    points = np.stack([x, y], axis=1) + 0.05 * rng.standard_normal((count, 2))
    return ((points - points.mean(0)) / points.std(0)).astype(np.float32)
