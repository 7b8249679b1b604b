"""The weights and the data of convolutions, and displacements on grids."""

from __future__ import annotations

import itertools

import numpy as np

Weights = dict[str, np.ndarray]


def convolutions(
    channels: int, size: int, batch: int, depth: int, groups: int = 1
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the weights of 3 x 3 convolutions, stacked, and a batch of images, in float32.

    Kernels are `(depth, 3, 3, channels / groups, channels)`, and images have the channels last.
    """
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    inputs = channels // groups
    weights = {
        "kernel": normal(depth, 3, 3, inputs, channels) / (9 * inputs) ** 0.5,
        "bias": 0.1 * normal(depth, channels),
    }
    return weights, normal(batch, size, size, channels)


def lm_resnet(blocks: int, width: int) -> dict[str, np.ndarray]:
    """Return the weights of an LM-ResNet for images of three channels and ten classes, in float32.

    The network has three stages. The first block of the second and of the third stage doubles the
    channels. The names are those of the parts of the network, with dots between them. The arrays of
    the equal blocks of a stage are stacked.
    """
    rng = np.random.default_rng(0)

    def branch(name: str, widths: list[int], kernel: int, stack: tuple[int, ...] = ()) -> Weights:
        weights = {}
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            std = (2 / (kernel**2 * b)) ** 0.5
            shape = (*stack, kernel, kernel, a, b)
            weights[f"{name}.convs.{i}.kernel"] = std * rng.standard_normal(shape)
            weights[f"{name}.norms.{i}.scale"] = rng.uniform(0.5, 1.5, (*stack, a))
            weights[f"{name}.norms.{i}.bias"] = 0.1 * rng.standard_normal((*stack, a))
        return weights

    last = 4 * width
    weights = {
        "stem.kernel": rng.standard_normal((3, 3, 3, width)) / 27**0.5,
        "norm.scale": np.ones(last),
        "norm.bias": np.zeros(last),
        "head.kernel": rng.standard_normal((last, 10)) / last**0.5,
        "head.bias": np.zeros(10),
    }
    for i in range(3):
        stage, here = f"stages.{i}", width * 2**i
        if i:
            weights |= branch(f"{stage}.shortcut", [here // 2, here], 1)
            weights |= branch(f"{stage}.first", [here // 2, here, here], 3)
        weights |= branch(f"{stage}.block", [here, here, here], 3, (blocks - (i > 0),))
        weights[f"{stage}.k"] = rng.uniform(-0.1, 0, blocks - 1)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def labelled(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images `(batch, size, size, 3)` in float32, and labels of ten classes."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((batch, size, size, 3)).astype(np.float32)
    return images, rng.integers(10, size=batch)


def velocity(size: int) -> np.ndarray:
    """Return a smooth velocity of some eight spacings, `(size, size, 2)`, at rest at the edges."""
    a, b = np.meshgrid(*[np.linspace(0, 1, size)] * 2, indexing="ij")
    bump = np.sin(np.pi * a) ** 2 * np.sin(np.pi * b) ** 2
    v = 8 * np.stack([bump * np.cos(5 * b + a), bump * np.sin(4 * a)], axis=-1)
    return v.astype(np.float32)
