"""Particles on the sphere: attention without weights as a flow, and how it clusters.

    python -m experiments.transformer.sphere

The velocity of a particle is the mean of all particles, weighed by the softmax of b times its
inner products with them, projected to the tangents of the sphere: attention with Q = K = V = 1 in
the place of weights (Geshkovski et al., arXiv 2312.10794). Measured in float64, by an adaptive
solve with tolerances of 1e-12:

- clustering: 64 random particles on the circle, and the rate at which 1 - cos of the two that are
  farthest apart falls once they are in one cluster. The rate is 2 in theory: around a point, every
  particle goes to the mean with rate one, and 1 - cos is half of the squared distance;
- orthogonal start: n particles along n axes have one common cosine g for all time, which follows
  g' = 2 e^(bg) (1 - g) ((n-1) g + 1) / (e^b + (n-1) e^(bg)). The largest gap to that equation, for
  b = 1 and 4;
- energy: the mean of e^(b <x, y>) over all pairs never falls. The smallest change from one time to
  the next, relative to the energy.

Writes sphere.json and sphere.png, in some five seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import neuralflow as nf
from experiments.program import Parser
from neuralflow import plots
from neuralflow.console import screen

EXACT = nf.Adaptive(nf.Tsit5(), rtol=1e-12, atol=1e-12, max_steps=1 << 15)


def attention(beta: Array, x: Array) -> Array:
    """Return the means that particles `(..., n, d)` attend to."""
    return jax.nn.softmax(beta * x @ jnp.swapaxes(x, -1, -2), axis=-1) @ x


def walked(x: Array, beta: float, times: np.ndarray) -> np.ndarray:
    """Return the particles `(times, n, d)` on their way."""
    field = nf.fields.OnSphere(nf.from_function(attention, beta))
    layer = nf.NeuralODE(field, EXACT, 0.0, float(times[-1]))
    return np.asarray(layer.trajectory(x[None], jnp.asarray(times))[:, 0])


def cosine_alone(n: int, beta: float, times: np.ndarray) -> np.ndarray:
    """Return the common cosine of n particles from an orthogonal start, by its own equation."""

    def velocity(b: Array, g: Array) -> Array:
        e = jnp.exp(b * g)
        return 2 * e * (1 - g) * ((n - 1) * g + 1) / (jnp.exp(b) + (n - 1) * e)

    layer = nf.NeuralODE(nf.from_function(velocity, beta), EXACT, 0.0, float(times[-1]))
    return np.asarray(layer.trajectory(jnp.zeros((1, 1)), jnp.asarray(times))[:, 0, 0])


def energy(states: np.ndarray, beta: float) -> np.ndarray:
    """Return the interaction energy at every time."""
    return np.exp(beta * states @ np.swapaxes(states, 1, 2)).mean((1, 2)) / (2 * beta)


def farthest(states: np.ndarray) -> np.ndarray:
    """Return 1 - cos of the two particles that are farthest apart in the end, at every time.

    This is half of the squared distance: a difference of nearly equal numbers would lose digits.
    """
    last = states[-1]
    distances = ((last[:, None] - last) ** 2).sum(-1)
    i, j = np.unravel_index(distances.argmax(), distances.shape)
    return ((states[:, i] - states[:, j]) ** 2).sum(-1) / 2


def circle(count: int, seed: int) -> Array:
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, count)
    return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], -1))


def rate(times: np.ndarray, gaps: np.ndarray) -> float:
    """Return the rate at which gaps fall, fitted where they are from 1e-10 to 1e-4."""
    kept = (gaps > 1e-10) & (gaps < 1e-4)
    return float(-np.polyfit(times[kept], np.log(gaps[kept]), 1)[0])


def picture(runs: dict[float, tuple[np.ndarray, np.ndarray]], gaps: Any) -> Any:
    """Draw the angles of the particles against depth time, and how 1 - cos falls in a cluster."""
    figure, axes = plots.figure(1, len(runs) + 1, height=3.6)
    for axis, (beta, (times, states)) in zip(axes, runs.items(), strict=False):
        angles = np.unwrap(np.arctan2(states[..., 1], states[..., 0]), axis=0)
        angles -= 2 * np.pi * np.round(angles[-1] / (2 * np.pi))  # One cluster ends in one angle.
        axis.plot(times, angles, color=plots.COLOURS[0], linewidth=0.7, alpha=0.7)
        axis.set_title(f"64 particles on the circle, b = {beta:g}", fontsize=10)
        axis.set_xlabel("depth time")
        axis.set_ylabel("angle")
    times, series = gaps
    axes[-1].semilogy(times, series, color=plots.COLOURS[1])
    axes[-1].set_title("1 - cos of two particles, b = 1", fontsize=10)
    axes[-1].set_xlabel("depth time")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    run = Parser(__file__, __doc__).begin(arguments)
    with jax.enable_x64(True):
        times, n = np.linspace(0.0, 24.0, 481), 16
        start = circle(8 if run.options.quick else 64, 0)
        runs = {beta: (times, walked(start, beta, times)) for beta in (1.0, 16.0)}
        series = farthest(runs[1.0][1])
        apart = {}
        for beta in (1.0, 4.0):
            states = walked(jnp.eye(n), beta, times)
            cosines = states @ np.swapaxes(states, 1, 2)
            gaps = np.abs(cosines - cosine_alone(n, beta, times)[:, None, None])
            apart[beta] = float(gaps[:, ~np.eye(n, dtype=bool)].max())
    result = {
        "rate of 1 - cos, b = 1": rate(times, series),
        "smallest change of the energy, relative": {
            beta: float((np.diff(energy(x, beta)) / energy(x, beta)[1:]).min())
            for beta, (_, x) in runs.items()
        },
        "gap of the cosine from an orthogonal start": apart,
    }
    screen().print(result)
    run.write("sphere", {"result": result}, {"sphere.png": picture(runs, (times, series))})


if __name__ == "__main__":
    main()
