"""Generate sets of points in the plane.

Every function returns the points x (count, 2), float32, and the classes y (count,), int32. The
classes are as even as the count allows. `seed` decides everything that is random. `noise` is the
standard deviation of the noise that is added to the points.
"""

from __future__ import annotations

import numpy as np

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.data.arrays import Data


def moons(count: int = 1000, *, noise: float = 0.1, seed: int = 0) -> Data:
    """Generate two half circles that reach into each other, one class each.

    Args:
        count: The number of points.
        noise: The standard deviation of the normal noise that is added to the points.
        seed: The seed of everything that is random.

    Returns:
        The points x `(count, 2)`, float32, and the classes y `(count,)`, int32.

    Raises:
        InputError: `count` is less than the number of classes or above 2^30, `noise` is negative or
            not finite, or `seed` is negative or above 2^63 - 1.
        InputTypeError: `count` or `seed` is no whole number, or `noise` is no number.

    Example:
        >>> import neuralflow as nf
        >>> points = nf.data.moons(100, noise=0.05)
        >>> points["x"].shape, points["y"].shape, int(points["y"].sum())
        ((100, 2), (100,), 50)
    """
    rng, y = _start(count, 2, noise, seed)
    angle = np.pi * rng.uniform(size=count)
    x = np.where(
        y == 0,
        np.stack([np.cos(angle), np.sin(angle)]),
        np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)]),
    )
    return _noisy(x.T - np.array([0.5, 0.25]), y, noise, rng)


def circles(count: int = 1000, *, noise: float = 0.05, ratio: float = 0.5, seed: int = 0) -> Data:
    """Generate a circle of radius one (class 0) around a circle of radius `ratio` (class 1).

    Args:
        count: The number of points.
        noise: The standard deviation of the normal noise that is added to the points.
        ratio: The radius of the inner circle, between 0 and 1.
        seed: The seed of everything that is random.

    Returns:
        The points x `(count, 2)`, float32, and the classes y `(count,)`, int32.

    Raises:
        InputError: `count` is less than the number of classes or above 2^30, `noise` is negative or
            not finite, `ratio` does not lie between 0 and 1, or `seed` is negative or above
            2^63 - 1.
        InputTypeError: `count` or `seed` is no whole number, or `noise` or `ratio` is no number.
    """
    rng, y = _start(count, 2, noise, seed)
    checks.number("ratio", ratio, above=0)
    if ratio >= 1:
        raise InputError(f"ratio must lie below 1, the radius of the outer circle, got {ratio}")
    angle = 2 * np.pi * rng.uniform(size=count)
    return _noisy(_polar(np.where(y == 0, 1.0, ratio), angle), y, noise, rng)


def spirals(
    count: int = 1000, *, noise: float = 0.02, turns: float = 1.0, arms: int = 2, seed: int = 0
) -> Data:
    """Generate interleaved spiral arms, one class each, from near the centre out to radius one.

    The arms begin at the radius 0.1.

    Args:
        count: The number of points.
        noise: The standard deviation of the normal noise that is added to the points.
        turns: The number of full turns that an arm makes between radius zero and radius one.
        arms: The number of arms, and of classes.
        seed: The seed of everything that is random.

    Returns:
        The points x `(count, 2)`, float32, and the classes y `(count,)`, int32.

    Raises:
        InputError: `count` is less than the number of classes or above 2^30, there are less than
            two arms, `noise` is negative, `noise` or `turns` is not finite, or `seed` is negative
            or above 2^63 - 1.
        InputTypeError: `count`, `arms` or `seed` is no whole number, or `noise` or `turns` is no
            number.
    """
    checks.number("turns", turns)
    rng, y = _start(count, arms, noise, seed, "arms")
    radius = np.sqrt(rng.uniform(0.01, 1, size=count))
    return _noisy(_polar(radius, 2 * np.pi * (turns * radius + y / arms)), y, noise, rng)


def annuli(count: int = 1000, *, noise: float = 0.0, seed: int = 0) -> Data:
    """Generate a disc of radius 1/2 (class 1) and an annulus around it (class 0).

    The annulus reaches from radius 1 to radius 3/2. The points of each class are uniform in area.
    No flow in the plane maps the two sets to linearly separable sets.

    Args:
        count: The number of points.
        noise: The standard deviation of the normal noise that is added to the points.
        seed: The seed of everything that is random.

    Returns:
        The points x `(count, 2)`, float32, and the classes y `(count,)`, int32.

    Raises:
        InputError: `count` is less than the number of classes or above 2^30, `noise` is negative or
            not finite, or `seed` is negative or above 2^63 - 1.
        InputTypeError: `count` or `seed` is no whole number, or `noise` is no number.

    Source:
        Dupont, Doucet & Teh, arXiv 1904.01681.
    """
    rng, y = _start(count, 2, noise, seed)
    share = rng.uniform(size=count)
    radius = np.sqrt(np.where(y == 1, share / 4, 1 + share * (9 / 4 - 1)))
    return _noisy(_polar(radius, 2 * np.pi * rng.uniform(size=count)), y, noise, rng)


def gaussians(
    count: int = 1000, *, noise: float = 0.3, modes: int = 8, radius: float = 2.0, seed: int = 0
) -> Data:
    """Generate Gaussians whose centres lie evenly on a circle, one class each.

    Args:
        count: The number of points.
        noise: The standard deviation of every Gaussian.
        modes: The number of Gaussians, and of classes.
        radius: The radius of the circle of centres.
        seed: The seed of everything that is random.

    Returns:
        The points x `(count, 2)`, float32, and the classes y `(count,)`, int32.

    Raises:
        InputError: `count` is less than the number of classes or above 2^30, there are less than
            two modes, `noise` is negative or not finite, `radius` is not positive or not finite, or
            `seed` is negative or above 2^63 - 1.
        InputTypeError: `count`, `modes` or `seed` is no whole number, or `noise` or `radius` is no
            number.
    """
    checks.number("radius", radius, above=0)
    rng, y = _start(count, modes, noise, seed, "modes")
    return _noisy(_polar(np.full(count, radius), 2 * np.pi * y / modes), y, noise, rng)


def checkerboard(count: int = 1000, *, noise: float = 0.0, squares: int = 4, seed: int = 0) -> Data:
    """Generate points on a checkerboard on [-1, 1]^2, whose two colours are the classes.

    Args:
        count: The number of points.
        noise: The standard deviation of the normal noise that is added to the points.
        squares: The number of squares along a side, which is even.
        seed: The seed of everything that is random.

    Returns:
        The points x `(count, 2)`, float32, and the classes y `(count,)`, int32.

    Raises:
        InputError: `count` is less than the number of classes or above 2^30, `squares` is no even
            number from 2 on, `noise` is negative or not finite, or `seed` is negative or above
            2^63 - 1.
        InputTypeError: `count`, `squares` or `seed` is no whole number, or `noise` is no number.
    """
    checks.whole("squares", squares, least=2, most=2**30)
    if squares % 2:
        raise InputError(f"squares is the even number of squares along a side, got {squares}")
    rng, y = _start(count, 2, noise, seed)
    column = rng.integers(squares, size=count)
    row = 2 * rng.integers(squares // 2, size=count) + (column + y) % 2
    corner = np.stack([column, row], axis=1)
    return _noisy(2 * (corner + rng.uniform(size=(count, 2))) / squares - 1, y, noise, rng)


def _start(
    count: int, classes: int, noise: float, seed: int, name: str = "classes"
) -> tuple[np.random.Generator, np.ndarray]:
    """Check the arguments of a set, and return its random generator and its shuffled classes."""
    checks.whole("count", count, most=2**30)
    checks.number("noise", noise, least=0)
    checks.seed("seed", seed)
    checks.whole(name, classes, least=2)
    if count < classes:
        raise InputError(
            f"count must be at least {classes}, a sample of each of the {name}, got {count}"
        )
    rng = np.random.default_rng(seed)
    return rng, rng.permutation(np.arange(count) % classes)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return the points `(count, 2)` with these polar coordinates, `(count,)` each."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _noisy(x: np.ndarray, y: np.ndarray, noise: float, rng: np.random.Generator) -> Data:
    """Return the set of points x and classes y, with normal noise added to the points."""
    moved = x + float(noise) * rng.standard_normal(x.shape)
    return {"x": moved.astype(np.float32), "y": y.astype(np.int32)}
