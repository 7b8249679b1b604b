"""The weights and the data that all routes of a workload start from, without JAX and PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

Weights = dict[str, np.ndarray]


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


def small_field(
    dimension: int, hidden: int, batch: int, *, time: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the weights of a perceptron with one hidden layer, and a batch of states, in float32.

    The last input of a perceptron with `time` is the time.
    """
    rng = np.random.default_rng(0)
    inputs = dimension + time


def convolutions(
    channels: int, size: int, batch: int, depth: int, groups: int = 1
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the weights of 3 x 3 convolutions, stacked, and a batch of images, in float32.

    Kernels are `(depth, 3, 3, channels / groups, channels)`, and images have the channels last.
    """
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    weights = {
        "in": normal(inputs, hidden) / inputs**0.5,
        "in bias": 0.1 * normal(hidden),
        "out": normal(hidden, dimension) / hidden**0.5,
        "out bias": 0.1 * normal(dimension),
    }
    return weights, normal(batch, dimension)


def orbits(dimension: int, hidden: int, batch: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the weights of a Hamiltonian field x' = tanh(x W + b) W^T J, and states, in float32.

    J is skew-symmetric. States go round for ever, and neither contract nor run away. So the ODE is
    as well conditioned backward as it is forward.
    """
    weights, x = small_field(dimension, hidden, batch)
    turn = np.random.default_rng(1).standard_normal((dimension, dimension))
    turn = (turn - turn.T) / (2 * hidden**0.5)
    out = (weights["in"].T @ turn).astype(np.float32)
    return {**weights, "out": out, "out bias": np.zeros_like(weights["out bias"])}, x


def times(end: float, count: int) -> np.ndarray:
    """Return times with equal distances behind 0, the last of which is the end, in float32."""
    return np.linspace(0, end, count + 1, dtype=np.float32)[1:]


def carried(weights: dict[str, np.ndarray], x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the states at times, of the ODE whose velocity is a perceptron.

    The solve takes tolerances of 1e-10 in float64.
    """
    a, b, c, d = (w.astype(float) for w in weights.values())
    return _solved(lambda y: np.tanh(y @ a + b) @ c + d, x, at)


def spiral(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start of the spiral x' = x^3 A, and its states at times, in float32."""
    start, a = np.asarray([[2.0, 0.0]]), np.asarray([[-0.1, 2.0], [-2.0, -0.1]])
    return start.astype(np.float32), _solved(lambda y: y**3 @ a, start, at).astype(np.float32)


def _solved(velocity: Callable[[np.ndarray], np.ndarray], x: np.ndarray, at: Any) -> np.ndarray:
    solution = solve_ivp(
        lambda t, y: velocity(y.reshape(x.shape)).ravel(),
        (0, at[-1]),
        x.ravel().astype(float),
        "DOP853",
        at,
        rtol=1e-10,
        atol=1e-10,
    )
    return solution.y.T.reshape(len(at), *x.shape)

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
