"""Outlines of digits registered by geodesics of diffeomorphisms, with the plane that goes along.

    python -m experiments.diffeo.outlines --data-dir FOLDER

The outlines are pairs of MNIST digits of one kind. Each outline is the level line of the smoothed
image, as 32 points at equal distances along the line. The first point of the second outline is the
point that fits best. The landmarks are registered by shooting (nf.labs.diffeo.register), and the
whole plane goes along. Writes outlines.json and outlines.png.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from scipy.ndimage import gaussian_filter

import neuralflow as nf
from experiments.program import Parser
from neuralflow import plots
from neuralflow.console import progress, screen
from neuralflow.labs import diffeo
from neuralflow.labs.diffeo import Geodesic, jacobian, register

WIDTH, COUNT = 0.3, 32


def outline(image: np.ndarray, count: int) -> np.ndarray:
    """Return the longest level line of a digit, `(count, 2)` in [-1, 1]^2, counter-clockwise."""
    import contourpy

    smooth = gaussian_filter(image.astype(float) / image.max(), 1.0)
    lines = contourpy.contour_generator(z=smooth[::-1]).lines(0.3)
    longest: Any = max(lines, key=len)
    line = np.asarray(longest)
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    places = lengths[-1] * np.arange(count) / count
    points = np.stack([np.interp(places, lengths, line[:, k]) for k in (0, 1)], axis=1)
    points = 2 * points / (np.asarray(image.shape) - 1) - 1
    x, y = points.T
    area = np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
    return points if area > 0 else points[::-1]


def aligned(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the target's points from the start that brings them closest to the source's points."""
    shifts = [np.roll(target, k, axis=0) for k in range(len(target))]
    return min(shifts, key=lambda points: np.sum((points - source) ** 2))


def registered(source: np.ndarray, target: np.ndarray) -> tuple[Geodesic, dict[str, float]]:
    """Return the geodesic between two outlines, and its measurements."""
    began = time.perf_counter()
    flow = register(source, target, WIDTH, fidelity=1e3, solve=nf.FixedGrid(nf.RK4(), steps=8))
    seconds = time.perf_counter() - began
    exact = Geodesic(source, flow.momenta[...], WIDTH, nf.Adaptive(nf.Dopri8(), 1e-11, 1e-11))
    q, p = exact.path(jnp.linspace(0, 1, 9))
    energies = np.asarray(exact.hamiltonian(q, p))
    points = jax.random.uniform(jax.random.key(0), (2000, 2), minval=-1.0)
    return exact, {
        "apart before": float(np.linalg.norm(source - target, axis=1).max()),
        "after": float(np.linalg.norm(np.asarray(q[-1]) - target, axis=1).max()),
        "length": float(exact.length),
        "spread of H": float(np.ptp(energies) / energies.mean()),
        "least det": float(jnp.linalg.det(jacobian(exact, points)).min()),
        "inverse error": float(jnp.abs(exact.invert(exact(points)) - points).max()),
        "seconds": seconds,
    }


def closed(points: Any) -> np.ndarray:
    """Return points `(2, n + 1)` of a line that ends where it begins."""
    return np.concatenate([points, points[:1]]).T


def draw(axes: Any, flow: Geodesic, source: np.ndarray, target: np.ndarray, digit: int) -> None:
    """Draw the outlines in the plane, before and after the plane has gone along."""
    titles = (f"two {digit}s: from blue to red", "the plane that goes along")
    for axis, mapping, title in zip(axes, (lambda x: x, flow), titles, strict=True):
        diffeo.plots.deformed_grid(mapping, (-1, -1), (1, 1), lines=29, axis=axis)
        moved = closed(np.asarray(mapping(jnp.asarray(source))))
        axis.plot(*moved, "o-", color="#20639b", markersize=3, linewidth=1.2)
        axis.plot(*closed(target), color="#d1495b", linewidth=1.2)
        axis.set_title(title, fontsize=10)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, data="needed", quick={"digits": [7]})
    parser.add_argument("--digits", type=int, nargs="+", default=[2, 3, 7])
    run = parser.begin(arguments)
    digits, console, rows = run.options.digits, screen(), []
    count = 6 if run.options.quick else COUNT
    data = nf.data.load("mnist", "test[:200]", data_dir=run.options.data_dir)
    figure, axes = plots.figure(2, len(digits), width=3.4 * len(digits), height=6.8)
    with jax.enable_x64(True), progress(len(digits), console) as done:
        for column, digit in zip(np.reshape(axes, (2, -1)).T, digits, strict=True):
            first, second = np.flatnonzero(data["label"] == digit)[:2]
            source = outline(data["image"][first, :, :, 0], count)
            target = aligned(source, outline(data["image"][second, :, :, 0], count))
            flow, metrics = registered(source, target)
            rows.append({"digit": digit, "images": [int(first), int(second)], **metrics})
            draw(column, flow, source, target, digit)
            done(f"two {digit}s")
    table = Table(title=f"{count} landmarks, kernel width {WIDTH}, box [-1, 1]^2")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        )
    console.print(table)
    run.write("outlines", {"rows": rows}, {"outlines.png": figure})


if __name__ == "__main__":
    main()
