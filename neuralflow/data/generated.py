"""Generated sets in the plane: x (count, 2) float32, y (count,) int32, classes as even as the count allows.

`seed` decides everything that is random; `noise` is the standard deviation added to the points.
"""

from __future__ import annotations

import numpy as np

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.data.arrays import Data


def moons(count: int = 1000, *, noise: float = 0.1, seed: int = 0) -> Data:
    """Two half circles that reach into each other."""
    rng, y = _start(count, 2, seed)
    angle = np.pi * rng.uniform(size=count)
    x = np.where(
        y == 0,
        np.stack([np.cos(angle), np.sin(angle)]),
        np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)]),
    )
    return _noisy(x.T - np.array([0.5, 0.25]), y, noise, rng)


def circles(count: int = 1000, *, noise: float = 0.05, ratio: float = 0.5, seed: int = 0) -> Data:
    """A circle of radius `ratio` (class 1) inside one of radius one (class 0)."""
    rng, y = _start(count, 2, seed)
    angle = 2 * np.pi * rng.uniform(size=count)
    return _noisy(_polar(np.where(y == 0, 1.0, ratio), angle), y, noise, rng)


def spirals(
    count: int = 1000, *, noise: float = 0.02, turns: float = 1.0, arms: int = 2, seed: int = 0
) -> Data:
    """Interleaved spiral arms, one class each, from the centre outward to radius one."""
    rng, y = _start(count, arms, seed)
    radius = np.sqrt(rng.uniform(0.01, 1, size=count))
    return _noisy(_polar(radius, 2 * np.pi * (turns * radius + y / arms)), y, noise, rng)


def annuli(count: int = 1000, *, noise: float = 0.0, seed: int = 0) -> Data:
    """A disc of radius 1/2 (class 1) and the annulus from 1 to 3/2 around it (class 0), uniform in area.

    No flow in the plane maps them to linearly separable sets (Dupont, Doucet & Teh, arXiv 1904.01681).
    """
    rng, y = _start(count, 2, seed)
    share = rng.uniform(size=count)
    radius = np.sqrt(np.where(y == 1, share / 4, 1 + share * (9 / 4 - 1)))
    return _noisy(_polar(radius, 2 * np.pi * rng.uniform(size=count)), y, noise, rng)


def gaussians(
    count: int = 1000, *, noise: float = 0.3, modes: int = 8, radius: float = 2.0, seed: int = 0
) -> Data:
    """Gaussians of standard deviation `noise`, one class each, around a circle."""
    rng, y = _start(count, modes, seed)
    return _noisy(_polar(np.full(count, radius), 2 * np.pi * y / modes), y, noise, rng)


def checkerboard(count: int = 1000, *, noise: float = 0.0, squares: int = 4, seed: int = 0) -> Data:
    """The squares of a board on [-1, 1]^2, its two colours as classes."""
    if squares < 2 or squares % 2:
        raise InputError(f"squares is the even number of squares along a side, got {squares}")
    rng, y = _start(count, 2, seed)
    column = rng.integers(squares, size=count)
    row = 2 * rng.integers(squares // 2, size=count) + (column + y) % 2
    corner = np.stack([column, row], axis=1)
    return _noisy(2 * (corner + rng.uniform(size=(count, 2))) / squares - 1, y, noise, rng)


def _start(count: int, classes: int, seed: int) -> tuple[np.random.Generator, np.ndarray]:
    checks.whole("count", count, least=0)
    checks.whole("the number of classes", classes, least=0)
    checks.whole("seed", seed, least=0)
    if count < classes or classes < 2:
        raise InputError(
            f"a set needs at least two classes and a sample of each, got {count} samples of {classes} classes"
        )
    rng = np.random.default_rng(seed)
    return rng, rng.permutation(np.arange(count) % classes)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _noisy(x: np.ndarray, y: np.ndarray, noise: float, rng: np.random.Generator) -> Data:
    if not noise >= 0:
        raise InputError(f"noise is a standard deviation >= 0, got {noise}")
    moved = x + noise * rng.standard_normal(x.shape)
    return {"x": moved.astype(np.float32), "y": y.astype(np.int32)}
