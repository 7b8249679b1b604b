"""The fields and the accurate states of adaptive solves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp


def perceptron(
    dimension: int, hidden: int, batch: int, *, time: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the weights of a perceptron with one hidden layer, and a batch of states, in float32.

    The last input of a perceptron with `time` is the time.
    """
    rng = np.random.default_rng(0)
    inputs = dimension + time

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
    weights, x = perceptron(dimension, hidden, batch)
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
