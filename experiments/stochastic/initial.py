"""Which limit has a deep residual network at initialisation?

    python -m experiments.stochastic.initial

The result is a map over the Hurst index H of the weights and the scaling L^-beta. The network is
x_{k+1} = x_k + L^-beta f_k(x_k), of width 40 and depth L = 1000. Each f_k is a layer of 40 ReLUs
whose weights are increments of fractional Brownian motions in depth (Marion, Fermanian, Biau &
Vert, arXiv 2206.06929). The index 1/2 draws every layer independently, and 1 ties all layers.

The colours show |x_L - x_0| / |x_0|, averaged over points and seeds: a small ratio is the identity,
a large ratio an explosion. The boundary of each index is where the ratio is the same at depths 250
and 1000. Writes initial.json and initial.png. The kept run took half a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.program import Parser
from neuralflow import plots
from neuralflow.console import progress, screen

WIDTH, DEPTHS = 40, (250, 1000)
HURSTS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BETAS = tuple(float(b) for b in np.round(np.linspace(0.2, 1.4, 25), 3))


def ratios(hurst: float, depth: int, seed: int) -> np.ndarray:
    """Return the ratio |x_L - x_0| / |x_0|, in the mean over points, for every beta."""

    def make(rngs):
        return nf.fields.MLP(WIDTH, hidden=WIDTH, activation=jax.nn.relu, rngs=rngs)

    field = nf.DepthVarying(
        make, nf.PiecewiseConstant(depth), rngs=nnx.Rngs(seed), init=nf.fractional(hurst)
    )
    x = jax.random.normal(jax.random.key(seed), (32, WIDTH))
    grid = nf.FixedGrid(nf.Euler(), steps=depth)

    @jax.jit
    def moved(field: Any, length: Any) -> Any:
        # Lengths are data: all scalings share one compiled function.
        y = nf.NeuralODE(field, grid, jnp.zeros(()), length)(x)
        return jnp.mean(jnp.linalg.norm(y - x, axis=1) / jnp.linalg.norm(x, axis=1))

    return np.asarray(
        [moved(field, jnp.asarray(depth ** (1 - beta), jnp.float32)) for beta in BETAS], float
    )


def boundary(shallow: np.ndarray, deep: np.ndarray) -> float:
    """Return the scaling beta at which depth does not matter.

    This is the last sign change of log(deep / shallow), by interpolation.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log(deep) - np.log(shallow)
    growth = np.where(np.isfinite(growth), growth, np.inf)
    k = int(np.flatnonzero(growth > 0).max())
    if not np.isfinite(growth[k]):
        return BETAS[k]
    share = growth[k] / (growth[k] - growth[k + 1])
    return BETAS[k] + share * (BETAS[k + 1] - BETAS[k])


def picture(change: np.ndarray, edges: list[float]) -> Any:
    """Draw the map at the greater depth, with the boundary."""
    figure, (axis,) = plots.figure(1, 1, width=6.4, height=4.4)
    shown = np.clip(np.log10(np.where(np.isfinite(change), change, 1e9)), -3, 5)
    fine = np.linspace(HURSTS[0], HURSTS[-1], 141)
    shown = np.stack([np.interp(fine, HURSTS, column) for column in shown.T])
    mesh = axis.pcolormesh(fine, BETAS, shown, cmap="RdBu_r", vmin=-4, vmax=4, shading="nearest")
    figure.colorbar(mesh, ax=axis, label=r"$\log_{10} \|x_L - x_0\| / \|x_0\|$")
    axis.plot(
        HURSTS, edges, color="black", marker="o", markersize=4, label="same at depths 250 and 1000"
    )
    axis.plot(
        (0.5, 1.0), (0.5, 1.0), color="white", linestyle="--", linewidth=1.2, label=r"$\beta = H$"
    )
    for h, b, text, place in ((0.5, 0.5, "SDE", (-26, -14)), (1.0, 1.0, "ODE", (-28, 6))):
        axis.annotate(text, (h, b), xytext=place, textcoords="offset points", fontsize=9)
    axis.text(0.6, 1.2, "identity", fontsize=10)
    axis.text(0.85, 0.3, "explosion", fontsize=10, color="white")
    axis.set(
        xlabel="Hurst index H of the weights",
        ylabel=r"scaling: $x + L^{-\beta} f_k(x)$",
        title=f"depth {DEPTHS[1]}, width {WIDTH}",
    )
    axis.legend(fontsize=8, loc="upper left")
    axis.grid(False)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    run = Parser(__file__, __doc__, seeds=3, quick={"seeds": 1}).begin(arguments)
    seeds, console = run.options.seeds, screen()
    changes: dict[int, np.ndarray] = {}
    with progress(len(DEPTHS) * len(HURSTS), console) as done:
        for depth in DEPTHS:
            rows = []
            for hurst in HURSTS:
                logarithms = [np.log(ratios(hurst, depth, seed)) for seed in range(seeds)]
                rows.append(np.exp(np.mean(logarithms, axis=0)))
                done(f"depth {depth}, Hurst index {hurst}")
            changes[depth] = np.asarray(rows)
    shallow, deep = changes.values()
    edges = [boundary(a, b) for a, b in zip(shallow, deep, strict=True)]
    table = Table(title=f"scaling at which depth does not matter, {seeds} seeds")
    for name in ("Hurst index", "boundary beta", "ratio at it, depth 1000"):
        table.add_column(name, justify="right")
    for hurst, edge, row in zip(HURSTS, edges, deep, strict=True):
        at = np.exp(np.interp(edge, BETAS, np.log(row)))
        table.add_row(f"{hurst:g}", f"{edge:.3f}", f"{at:.2g}")
    console.print(table)
    result = {
        "width": WIDTH,
        "hursts": HURSTS,
        "betas": BETAS,
        "boundary": edges,
        "ratios": {str(depth): rows.tolist() for depth, rows in changes.items()},
    }
    run.write("initial", {"result": result}, {"initial.png": picture(deep, edges)})


if __name__ == "__main__":
    main()
