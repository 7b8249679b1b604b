"""Which limit has a deep residual network at initialisation?

    python -m experiments.literature hurst

The result is a map over the Hurst index H of the weights and the scaling L^-beta. The network is
x_(k+1) = x_k + L^-beta f_k(x_k), of width 40. Each f_k is a layer of 40 ReLUs whose weights are
increments of fractional Brownian motions in depth. The index 1/2 draws every layer independently,
and 1 ties all layers.

The ratio |x_L - x_0| / |x_0|, in the mean over points, is small for the identity and large for an
explosion. The boundary of an index is the scaling at which the ratio is the same at both depths,
250 and 1000 by default. A seed draws weights and points.

Published statement (Marion, Fermanian, Biau & Vert, arXiv 2206.06929; abstract read, the map and
its sizes as our notes have them): with independent weights only beta = 1/2 is neither the
identity nor an explosion, and its limit is an SDE; with smooth weights beta = 1 is, and its limit
is an ODE; between, scaling and regularity of the weights go together.

The paper's size: width 40 and depth 1000, as the default; "paper" takes more indices.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import neuralflow as nf
from experiments.literature.statements import Size, Statement
from neuralflow import plots

WIDTH, POINTS = 40, 32
DEPTHS = {"quick": (30, 60), "default": (250, 1000), "paper": (250, 1000)}
HURSTS = {
    "quick": (0.5, 1.0),
    "default": (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "paper": tuple(float(h) for h in np.round(np.arange(0.1, 1.01, 0.05), 2)),
}
SEEDS = {"quick": 2, "default": 16, "paper": 16}
BETAS = tuple(float(b) for b in np.round(np.linspace(0.2, 1.4, 25), 3))


def configurations(size: Size, seeds: int | None = None) -> list[dict[str, Any]]:
    """Return the runs: one for each depth and index."""
    count = seeds or SEEDS[size]
    return [{"depth": n, "hurst": h, "seeds": count} for n in DEPTHS[size] for h in HURSTS[size]]


@functools.partial(jax.jit, static_argnums=2)
def _moved(field: Any, x: Any, depth: int) -> Any:
    """Return the ratio for every scaling; a scaling is the length of the interval."""

    def one(length: Any) -> Any:
        layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=depth), jnp.zeros(()), length)
        change = jnp.linalg.norm(layer(x) - x, axis=1)
        return jnp.mean(change / jnp.linalg.norm(x, axis=1))

    return jax.lax.map(one, jnp.asarray([depth ** (1 - beta) for beta in BETAS], jnp.float32))


def ratios(hurst: float, depth: int, seed: int) -> np.ndarray:
    """Return the ratio |x_L - x_0| / |x_0|, in the mean over points, for every beta."""

    def make(rngs):
        return nf.fields.MLP(WIDTH, hidden=WIDTH, activation=jax.nn.relu, rngs=rngs)

    field = nf.DepthVarying(
        make, nf.PiecewiseConstant(depth), rngs=nnx.Rngs(seed), init=nf.fractional(hurst)
    )
    x = jax.random.normal(jax.random.key(seed), (POINTS, WIDTH))
    return np.asarray(_moved(field, x, depth), float)


def run(depth: int, hurst: float, seeds: int) -> dict[str, Any]:
    """Return the ratios (seeds, betas) of one depth and index."""
    return {"ratios": np.stack([ratios(hurst, depth, seed) for seed in range(seeds)])}


def boundary(shallow: np.ndarray, deep: np.ndarray) -> float:
    """Return the scaling beta at which depth does not matter.

    This is the last sign change of log(deep / shallow), by interpolation; the first scaling where
    there is none.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log(deep) - np.log(shallow)
    growth = np.where(np.isfinite(growth), growth, np.inf)
    growing = np.flatnonzero(growth > 0)
    k = int(growing.max()) if len(growing) else 0
    if k + 1 == len(BETAS) or not 0 < growth[k] < np.inf:
        return BETAS[k]
    share = growth[k] / (growth[k] - growth[k + 1])
    return BETAS[k] + share * (BETAS[k + 1] - BETAS[k])


def _by_index(rows: Sequence[dict[str, Any]]) -> dict[float, list[np.ndarray]]:
    """Return the ratios (seeds, betas) of the smaller and the larger depth, by index."""
    ordered = sorted(rows, key=lambda row: (row["hurst"], row["depth"]))
    indices = dict.fromkeys(row["hurst"] for row in ordered)
    return {h: [row["ratios"] for row in ordered if row["hurst"] == h] for h in indices}


def boundaries(rows: Sequence[dict[str, Any]]) -> dict[float, list[float]]:
    """Return the boundary of every index, one for each seed."""
    pairs = _by_index(rows)
    return {
        h: [boundary(*both) for both in zip(few, many, strict=True)]
        for h, (few, many) in pairs.items()
    }


def report(rows: Sequence[dict[str, Any]]) -> tuple[list[Statement], Any]:
    """Compare the boundaries with what is published."""
    depths = sorted({row["depth"] for row in rows})
    rests = f"width {WIDTH}, depths {depths[0]} and {depths[-1]}, {POINTS} points, ReLU"
    source = "2206.06929, abstract read"
    texts = {
        0.5: ("independent weights: only L^-1/2 is neither identity nor explosion (SDE)", source),
        1.0: ("smooth weights: L^-1 is neither identity nor explosion (ODE)", source),
    }
    between = ("between, the scaling is L^-H", "2206.06929, map, recalled")
    statements = [
        Statement(
            *texts.get(h, between), f"boundary beta at H = {h:g}", values, h - 0.1, h + 0.1, rests
        )
        for h, values in boundaries(rows).items()
        if h >= 0.5
    ]
    return statements, _picture(rows)


def _picture(rows: Sequence[dict[str, Any]]) -> Any:
    depths = sorted({row["depth"] for row in rows})
    pairs, edges = _by_index(rows), boundaries(rows)
    hursts = list(pairs)
    with np.errstate(over="ignore"):
        change = np.asarray([np.exp(np.log(many).mean(axis=0)) for _, many in pairs.values()])
    figure, (axis,) = plots.figure(1, 1, width=6.4, height=4.4)
    shown = np.clip(np.log10(np.where(np.isfinite(change), change, 1e9)), -3, 5)
    fine = np.linspace(hursts[0], hursts[-1], 141)
    shown = np.stack([np.interp(fine, hursts, column) for column in shown.T])
    mesh = axis.pcolormesh(fine, BETAS, shown, cmap="RdBu_r", vmin=-4, vmax=4, shading="nearest")
    figure.colorbar(mesh, ax=axis, label=r"$\log_{10} \|x_L - x_0\| / \|x_0\|$")
    label = f"same at depths {depths[0]} and {depths[-1]}"
    means = [np.mean(values) for values in edges.values()]
    axis.plot(hursts, means, color="black", marker="o", markersize=4, label=label)
    line = {"color": "white", "linestyle": "--", "linewidth": 1.2}
    axis.plot((0.5, 1.0), (0.5, 1.0), label=r"$\beta = H$", **line)
    for h, b, text, place in ((0.5, 0.5, "SDE", (-26, -14)), (1.0, 1.0, "ODE", (-28, 6))):
        axis.annotate(text, (h, b), xytext=place, textcoords="offset points", fontsize=9)
    axis.text(0.6, 1.2, "identity", fontsize=10)
    axis.text(0.85, 0.3, "explosion", fontsize=10, color="white")
    axis.set(
        xlabel="Hurst index H of the weights",
        ylabel=r"scaling: $x + L^{-\beta} f_k(x)$",
        title=f"depth {depths[-1]}, width {WIDTH}",
    )
    axis.legend(fontsize=8, loc="upper left")
    axis.grid(False)
    return figure
