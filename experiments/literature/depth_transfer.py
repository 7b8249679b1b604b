"""Does the best learning rate of a shallow network serve a deep one?

    python -m experiments.literature depth-transfer

Networks of L pre-norm blocks h + L^-alpha V relu(U norm(h)) learn a fixed random function by
Adam, on fresh samples at every step. The multiplier is 1 (alpha = 0), 1 / sqrt(L) or 1 / L. Only
the rate of the blocks is swept; embedding and readout have one fixed rate. Every block starts on
its own, as usual. A seed draws weights and samples; the function is the same for all.

The best rate is the minimum of a parabola through the three lowest neighbours of log loss over
log rate. Its slope in log L is fitted to the three deepest depths, for each seed. The price of
transfer is the loss of the deepest network at the rate that was best for the shallowest one, over
its best loss.

Published statements: with alpha = 1 the base rates of Adam transfer over depth, and with smaller
alpha the blocks' rate has to fall as L^(alpha - 1) (CompleteP, arXiv 2505.01618; abstract read,
the rule recalled); in blocks of one layer 1 / sqrt(L) is the unique optimal multiplier, with
transfer where Adam's rate falls as 1 / sqrt(L), while deeper blocks have fundamental limits
(depth-muP, arXiv 2310.02244; abstract read, the rule of the rate recalled). CompleteP trains
transformers of text, and also scales epsilon and weight decay. Blocks here have two layers and a
width of 32.

The paper's size: transformers with up to 128 blocks, out of reach here; "paper" takes depths to
128, more steps, and a width of 128.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array

from experiments.literature.statements import Size, Statement, chosen, ticks
from neuralflow import plots, sweeps

ALPHAS = {0.0: "1", 0.5: "1/sqrt(L)", 1.0: "1/L"}
INPUTS, BATCH, FIXED = 8, 64, 2.0**-7
DEPTHS = {
    "quick": (2, 4),
    "default": (2, 4, 8, 16, 32, 64),
    "paper": (2, 4, 8, 16, 32, 64, 128),
}
SEEDS = {"quick": 2, "default": 16, "paper": 16}
STEPS = {"quick": 10, "default": 300, "paper": 2000}
WIDTH = {"quick": 8, "default": 32, "paper": 128}
POWERS = tuple(range(-13, -1))  # of two: the rates of the blocks


def configurations(size: Size, seeds: int | None = None) -> list[dict[str, Any]]:
    """Return the runs: one for each depth and multiplier, with all rates and seeds."""
    return sweeps.grid(
        depth=DEPTHS[size],
        alpha=list(ALPHAS),
        seeds=[seeds or SEEDS[size]],
        steps=[STEPS[size]],
        width=[WIDTH[size]],
    )


def samples(key: Array, count: int) -> tuple[Array, Array]:
    """Draw inputs on a sphere, and the function that is learnt, which has two random layers."""
    x = jax.random.normal(key, (count, INPUTS))
    x = x * jnp.sqrt(INPUTS) / jnp.linalg.norm(x, axis=1, keepdims=True)
    first, second = (jax.random.normal(jax.random.key(k), (INPUTS, INPUTS)) for k in range(2))
    return x, jnp.tanh(1.5 * x @ first / np.sqrt(INPUTS)) @ second[:, :4] / np.sqrt(INPUTS)


def begin(key: Array, depth: int, width: int) -> dict[str, Array]:
    """Draw the weights of embedding, blocks and readout."""
    keys = jax.random.split(key, 4)
    return {
        "embedding": jax.random.normal(keys[0], (INPUTS, width)) / np.sqrt(INPUTS),
        "U": jax.random.normal(keys[1], (depth, width, width)) * np.sqrt(2 / width),
        "V": jax.random.normal(keys[2], (depth, width, width)) / np.sqrt(width),
        "readout": jax.random.normal(keys[3], (width, 4)) / width,
    }


def network(w: dict[str, Array], x: Array, multiplier: Array) -> Array:
    """Walk through all blocks."""

    def normed(h: Array) -> Array:
        h = h - h.mean(axis=-1, keepdims=True)
        return h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)

    def block(h: Array, w: tuple[Array, Array]) -> tuple[Array, None]:
        return h + multiplier * jax.nn.relu(normed(h) @ w[0]) @ w[1], None

    h, _ = lax.scan(block, x @ w["embedding"], (w["U"], w["V"]))
    return normed(h) @ w["readout"]


def _one(rate: Array, seed: Array, multiplier: Array, depth: int, width: int, steps: int) -> Array:
    """Train one network, and return its loss on samples of its own."""
    keys = jax.random.split(jax.random.key(seed), 3)
    w = begin(keys[0], depth, width)
    rule = optax.scale_by_adam()
    rates = {name: rate if name in ("U", "V") else FIXED for name in w}

    def loss(w: Any, x: Array, y: Array) -> Array:
        return jnp.mean((network(w, x, multiplier) - y) ** 2)

    def step(i: Array, carry: Any) -> Any:
        w, memory = carry
        x, y = samples(jax.random.fold_in(keys[1], i), BATCH)
        updates: Any = rule.update(jax.grad(loss)(w, x, y), memory)
        moves, memory = updates
        left = 1 - i / steps  # rates fall to zero in a line
        return {name: w[name] - left * rates[name] * moves[name] for name in w}, memory

    w, _ = lax.fori_loop(0, steps, step, (w, rule.init(w)))
    return loss(w, *samples(keys[2], 1024))


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _losses(rates: Array, multiplier: Array, seeds: int, depth: int, width: int, steps: int):
    def of_seed(rate: Array, seed: Array) -> Array:
        return _one(rate, seed, multiplier, depth, width, steps)

    return jax.vmap(jax.vmap(of_seed, (None, 0)), (0, None))(rates, jnp.arange(seeds))


def run(depth: int, alpha: float, seeds: int, steps: int, width: int) -> dict[str, Any]:
    """Train networks of one depth at all rates.

    Returns:
        The losses (rates, seeds); a network that diverged has an infinite one.
    """
    rates, multiplier = 2.0 ** jnp.asarray(POWERS, jnp.float32), jnp.asarray(depth**-alpha)
    losses = np.asarray(_losses(rates, multiplier, seeds, depth, width, steps), float)
    return {"losses": np.where(np.isfinite(losses), losses, np.inf)}


def best(powers: Sequence[float], losses: np.ndarray) -> float:
    """Return the log2 of the best rate, by a parabola through the three lowest neighbours.

    Args:
        powers: The log2 of the rates, equally spaced.
        losses: The losses (rates,), positive, infinite where training diverged.
    """
    k = int(np.argmin(losses))
    if k in (0, len(losses) - 1) or not np.isfinite(losses[k - 1 : k + 2]).all():
        return float(powers[k])
    low, middle, high = np.log(losses[k - 1 : k + 2])
    bend = low - 2 * middle + high
    shift = 0.0 if bend <= 0 else (low - high) / (2 * bend)
    return float(powers[k] + shift * (powers[1] - powers[0]))


def _bests(rows: Sequence[dict[str, Any]], alpha: float) -> tuple[list[int], np.ndarray]:
    """Return the depths and the log2 of the best rates (depths, seeds)."""
    depths, losses = chosen(rows, "losses", alpha=alpha)
    return depths, np.asarray([[best(POWERS, one) for one in each.T] for each in losses])


def _deep(depths: Sequence[int]) -> list[int]:
    """Return the three deepest depths: shallower networks do not follow the rules yet."""
    return sorted(depths)[-3:]


def _slopes(rows: Sequence[dict[str, Any]], alpha: float) -> list[float]:
    depths, rates = _bests(rows, alpha)
    deep = _deep(depths)
    return np.polyfit(np.log2(deep), rates[-len(deep) :], 1)[0].tolist()


def _prices(rows: Sequence[dict[str, Any]], alpha: float) -> list[float]:
    """Return the log2 of the price of transfer, one for each seed."""
    _, losses = chosen(rows, "losses", alpha=alpha)
    shallow, deep = losses[0], losses[-1]
    kept = np.argmin(shallow, axis=0)
    prices = deep[kept, np.arange(deep.shape[1])] / deep.min(axis=0)
    return np.log2(np.minimum(prices, 1e3)).tolist()


def report(rows: Sequence[dict[str, Any]]) -> tuple[list[Statement], Any]:
    """Compare how the best rate moves with depth with the rules that are published."""
    depths = sorted({row["depth"] for row in rows})
    rests = (
        f"L = {depths[0]} to {depths[-1]}, slopes from L = {_deep(depths)[0]} on, width "
        f"{rows[0]['width']}, {rows[0]['steps']} steps of Adam, regression and no text; only the "
        "blocks' rate is swept"
    )
    complete, muP = "2505.01618, abstract read, rule recalled", "2310.02244, rule recalled"
    slope, price = "slope of the log best rate in log L", f"log2 of the price at L = {depths[-1]}"

    def state(text: str, source: str, what: str, values: list[float], low: float, high: float):
        return Statement(text, source, what, values, low, high, rests)

    slopes, prices = ({a: of(rows, a) for a in ALPHAS} for of in (_slopes, _prices))
    return [
        state(
            "multiplier 1/L: the best rate is the same at all depths",
            complete, f"{slope}, 1/L", slopes[1.0], -0.2, 0.2,
        ),
        state(
            "multiplier 1/sqrt(L): the best rate of Adam falls as L^-1/2",
            muP, f"{slope}, 1/sqrt(L)", slopes[0.5], -0.7, -0.3,
        ),
        state(
            "multiplier 1: the best rate falls with depth (falsifier: a slope below -0.2)",
            complete, f"{slope}, 1", slopes[0.0], -np.inf, -0.2,
        ),
        state(
            "multiplier 1/L: the shallow network's rate serves the deep one",
            complete, f"{price}, 1/L", prices[1.0], -np.inf, 0.2,
        ),
        state(
            "multiplier 1: rates do not transfer (falsifier: more than 0.2)",
            complete, f"{price}, 1", prices[0.0], 0.2, np.inf,
        ),
    ], _picture(rows)  # fmt: skip


def _picture(rows: Sequence[dict[str, Any]]) -> Any:
    figure, axes = plots.figure(1, 4, width=13, height=3.8)
    for k, (alpha, name) in enumerate(ALPHAS.items()):
        depths, losses = chosen(rows, "losses", alpha=alpha)
        shades = np.linspace(0.25, 1.0, len(depths))
        for depth, each, shade in zip(depths, losses, shades, strict=True):
            shown = np.exp(np.log(each).mean(axis=1))
            axes[k].loglog(
                2.0 ** np.asarray(POWERS),
                shown,
                color=plots.COLOURS[k],
                alpha=shade,
                label=f"L = {depth}",
            )
        axes[k].set_title(f"multiplier {name}", fontsize=9)
        axes[k].set(xlabel="rate of the blocks", ylim=(0.8 * losses.min(), 2))
        axes[k].legend(fontsize=7)
        depths, rates = _bests(rows, alpha)
        style = {"color": plots.COLOURS[k], "marker": plots.MARKS[k], "markersize": 4}
        axes[3].loglog(depths, 2.0 ** rates.mean(axis=1), label=name, **style)
        ends = 2.0 ** rates.min(axis=1), 2.0 ** rates.max(axis=1)
        axes[3].fill_between(depths, *ends, color=plots.COLOURS[k], alpha=0.15, lw=0)
    ticks(axes[3], sorted({row["depth"] for row in rows}))
    axes[0].set_ylabel("loss")
    axes[3].set(xlabel="blocks L")
    axes[3].set_title("best rate (spread over seeds)", fontsize=9)
    axes[3].legend(title="multiplier", fontsize=7, title_fontsize=7)
    return figure
