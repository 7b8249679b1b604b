"""The weights and the data of several workloads."""

from __future__ import annotations

import numpy as np


def resnet(width: int, depth: int, batch: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the weights of the blocks of a ResNet, stacked, and a batch of states, in float32."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    weights = {
        "in": normal(depth, width, width) / width**0.5,
        "in bias": 0.1 * normal(depth, width),
        "out": normal(depth, width, width) / width**0.5,
        "out bias": 0.1 * normal(depth, width),
    }
    return weights, normal(batch, width)


def layer(dimension: int = 2, hidden: int = 32, batch: int = 16) -> tuple[list[np.ndarray], ...]:
    """Return kernels and biases of a small MLP with one hidden layer, and a batch of states."""
    rng = np.random.default_rng(0)
    shapes = ((dimension, hidden), (hidden, dimension))
    kernels = [rng.standard_normal(s).astype(np.float32) / s[0] ** 0.5 for s in shapes]
    biases = [0.1 * rng.standard_normal(s[1]).astype(np.float32) for s in shapes]
    return kernels, biases, [rng.standard_normal((batch, dimension)).astype(np.float32)]


def square(size: int) -> np.ndarray:
    """Return a random square matrix in float32."""
    return np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
