"""Which limit have trained residual networks: do weights become smooth in depth, or noise?

    python -m experiments.literature cohen

The network is h_(k+1) = h_k + |delta| sigma(A_k h_k + b_k), in ten dimensions, with one trained
delta for all L layers. Adam trains it on the states of a flow along depth, as the released code
of the paper does. There are two activations, tanh and ReLU, and three starts of A and b: "smooth"
draws a smooth function of depth, "independent" draws every layer on its own, "small" the same
with the size 0.01 / L of the released code. delta starts at 1 / L.

The exponents are slopes in log L, one fit for each seed:

- alpha: delta falls as L^-alpha,
- beta: the largest norm max|A_k| falls as L^-beta,
- increment: L^beta max|A_(k+1) - A_k| falls as L^-increment,
- root: the root of the sum of |A_k|^2 grows as L^root.

A regime is the nearest of three values of "increment", which is our rule: 1 is "smooth"
(Hypothesis 1, an ODE), 1/2 is "rough", as paths of a Brownian motion in depth are, and 0 is
"noise", where neighbours have nothing in common (Hypothesis 2, an SDE, if beta = 1/2 and root = 0
too).

Published statements (Cohen, Cont, Rossier & Xu, arXiv 2105.12245; abstract, released code and
protocol read, numbers as our notes and the code of the figures have them): the regime depends on
the activation. On synthetic data, tanh with a shared delta has beta near 0.2 and smooth weights;
ReLU has noise, and the product |delta| |A|, which alone matters to ReLU, falls as L^-0.5. The
paper has one delta for every layer with ReLU, and starts small. The other starts are ours.

The paper's size: depths to 1000 or more, 1024 samples, 200 epochs ("paper" takes it to 1024).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array

import neuralflow as nf
from experiments.literature.statements import Size, Statement, chosen, orders, ticks
from neuralflow import plots, sweeps

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
STARTS = {"smooth": nf.smooth(0.5), "independent": nf.independent, "small": nf.independent}
DIMENSION, SAMPLES, BATCH, RATE = 10, 1024, 32, 1e-2
SIZE = 0.1  # of the weights at the start
DEPTHS = {
    "quick": (4, 8),
    "default": (16, 32, 64, 128, 256),
    "paper": (16, 32, 64, 128, 256, 512, 1024),
}
SEEDS = {"quick": 2, "default": 48, "paper": 48}
STEPS = {"quick": 32, "default": 640, "paper": 6400}


def configurations(size: Size, seeds: int | None = None) -> list[dict[str, Any]]:
    """Return the runs: one for each activation, start and depth."""
    return sweeps.grid(
        depth=DEPTHS[size],
        activation=list(ACTIVATIONS),
        start=list(STARTS),
        seeds=[seeds or SEEDS[size]],
        steps=[STEPS[size]],
    )


def data(key: Array) -> tuple[Array, Array]:
    """Draw inputs of norm one, and the normed states of a flow of tanh with weights along depth."""
    keys = jax.random.split(key, 3)
    x = jax.random.uniform(keys[0], (SAMPLES, DIMENSION), minval=-1.0)
    waves = jax.random.normal(keys[1], (2, DIMENSION, DIMENSION + 1)) / np.sqrt(DIMENSION)

    def layer(k: Any, z: Array) -> Array:
        t = 5 * jnp.pi * k / 100
        w = jnp.sin(t) * waves[0] + jnp.cos(t) * waves[1]
        return z + 0.1 * jnp.tanh(z @ w[:, :-1].T + w[:, -1])

    y = lax.fori_loop(0, 100, layer, x)
    return tuple(z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))


def begin(key: Array, start: str, depth: int) -> dict[str, Array]:
    """Draw A and b of every layer; b is the last column."""
    mix = STARTS[start]((np.arange(depth) + 0.5) / depth)
    size = SIZE if start != "small" else 0.01 / depth
    shape = (mix.shape[1], DIMENSION, DIMENSION + 1)
    draws = jax.random.normal(key, shape) * size / np.sqrt(DIMENSION)
    return {"w": jnp.tensordot(jnp.asarray(mix), draws, 1), "delta": jnp.asarray(1 / depth)}


def network(params: dict[str, Array], x: Array, activation: str) -> Array:
    """Walk through all layers."""

    def layer(h: Array, w: Array) -> tuple[Array, None]:
        moved = ACTIVATIONS[activation](h @ w[:, :-1].T + w[:, -1])
        return h + jnp.abs(params["delta"]) * moved, None

    return lax.scan(layer, x, params["w"])[0]


@functools.partial(jax.jit, static_argnames=("activation", "steps"))
@functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, None, None))
def _trained(
    params: Any, key: Array, x: Array, y: Array, activation: str, steps: int
) -> tuple[Any, Array]:
    """Train one network, and return its weights and its loss."""
    rule = optax.adam(RATE)

    def loss(params: Any, x: Array, y: Array) -> Array:
        return jnp.mean(jnp.sum((network(params, x, activation) - y) ** 2, axis=1))

    def step(i: Array, carry: Any) -> Any:
        params, memory = carry
        rows = jax.random.choice(jax.random.fold_in(key, i), SAMPLES, (BATCH,), replace=False)
        updates, memory = rule.update(jax.grad(loss)(params, x[rows], y[rows]), memory)
        return optax.apply_updates(params, updates), memory

    params, _ = lax.fori_loop(0, steps, step, (params, rule.init(params)))
    return params, loss(params, x, y)


def statistics(w: np.ndarray, delta: np.ndarray) -> dict[str, np.ndarray]:
    """Return what scales with depth, of weights (seeds, layers, ...) and of delta (seeds,)."""
    flat = w.reshape(*w.shape[:2], -1)
    norms = np.linalg.norm(flat, axis=2)
    return {
        "delta": np.abs(delta),
        "largest": norms.max(axis=1),
        "increment": np.linalg.norm(np.diff(flat, axis=1), axis=2).max(axis=1),
        "root": np.sqrt((norms**2).sum(axis=1)),
    }


def run(activation: str, start: str, depth: int, seeds: int, steps: int) -> dict[str, Any]:
    """Train networks of one depth.

    Returns:
        Arrays (seeds,): the loss, delta, the largest norm and increment of A, and the root of the
        sum of squared norms.
    """
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 3))(jnp.arange(seeds))
    x, y = jax.vmap(data)(keys[:, 0])
    params = jax.vmap(lambda key: begin(key, start, depth))(keys[:, 1])
    params, loss = _trained(params, keys[:, 2], x, y, activation, steps)
    w = np.asarray(params["w"], float)[..., :-1]
    return {"loss": np.asarray(loss), **statistics(w, np.asarray(params["delta"]))}


def exponents(rows: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, list[float]]:
    """Return alpha, beta, increment and root for each seed."""

    def falls(column: str) -> np.ndarray:
        return np.asarray(orders(*chosen(rows, column, **wanted)))

    beta = falls("largest")
    named = {
        "alpha": falls("delta"),
        "beta": beta,
        "increment": falls("increment") - beta,
        "root": -falls("root"),
    }
    return {name: values.tolist() for name, values in named.items()}


def regime(increment: float) -> str:
    """Return the regime in one word, from the exponent of L^beta max|A_(k+1) - A_k|."""
    return "smooth" if increment >= 0.75 else "noise" if increment <= 0.25 else "rough"


def report(rows: Sequence[dict[str, Any]]) -> tuple[list[Statement], Any]:
    """Compare the exponents and the regimes with what is published."""
    depths = sorted({row["depth"] for row in rows})
    sizes = f"L = {depths[0]} to {depths[-1]}, {rows[0]['steps']} steps of Adam, batches of {BATCH}"
    abstract, notes = "2105.12245, abstract read", "2105.12245, code of the figures, notes"
    published = {"tanh": "smooth in depth (ODE)", "relu": "noise in depth (SDE)"}
    statements = []
    for activation, start in itertools.product(ACTIVATIONS, STARTS):
        slopes = exponents(rows, activation=activation, start=start)
        told = ", ".join(f"{name} {np.mean(values):.2f}" for name, values in slopes.items())
        rests = f"{sizes}; {told}: {regime(float(np.mean(slopes['increment'])))}"
        where = f"{activation}, {start} start"
        total = (np.asarray(slopes["alpha"]) + slopes["beta"]).tolist()

        def state(text, source, what, values, low, high, rests=rests, where=where):
            what = f"{what}, {where}"
            statements.append(Statement(text, source, what, values, low, high, rests))

        if start == "small" and activation == "tanh":
            state("tanh: max|A| falls as L^-0.2", notes, "beta", slopes["beta"], 0.1, 0.3)
        if start == "small" and activation == "relu":
            state("ReLU: |delta| max|A| falls as L^-0.5", notes, "alpha + beta", total, 0.4, 0.6)
        low, high = (0.75, np.inf) if activation == "tanh" else (-np.inf, 0.25)
        source = abstract if start == "small" else f"{abstract}; the start is ours"
        text = f"{activation}: trained weights are {published[activation]}"
        state(text, source, "increment", slopes["increment"], low, high)
    return statements, _picture(rows)


def _picture(rows: Sequence[dict[str, Any]]) -> Any:
    figure, axes = plots.figure(2, 3, width=12, height=7)
    layers = sorted({row["depth"] for row in rows})
    names = {
        "largest": "max|A|",
        "delta": "delta",
        "increment": "max increment",
        "root": "root of the sum of |A|²",
    }
    for i, activation in enumerate(ACTIVATIONS):
        for axis, start in zip(axes[i], STARTS, strict=True):
            for k, (column, label) in enumerate(names.items()):
                depths, values = chosen(rows, column, activation=activation, start=start)
                shown = np.exp(np.log(values).mean(axis=1))
                style = {"color": plots.COLOURS[k], "marker": plots.MARKS[k]}
                axis.loglog(depths, shown, markersize=4, label=label, **style)
            found = exponents(rows, activation=activation, start=start)
            means = {name: float(np.mean(values)) for name, values in found.items()}
            numbers = ", ".join(f"{name} {value:.2f}" for name, value in means.items())
            axis.set_title(
                f"{activation}, {start} start: {regime(means['increment'])}\n{numbers}", fontsize=9
            )
            axis.set_xlabel("layers L")
            ticks(axis, layers)
    plots.legend_below(figure, axes[0, 0], 4)
    return figure
