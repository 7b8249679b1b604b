"""The weights and the data that all routes of a workload start from, in NumPy alone."""

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
