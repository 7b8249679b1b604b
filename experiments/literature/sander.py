"""Does a trained ResNet follow the ODE of its weights, and can its states be recomputed backward?

    python -m experiments.literature sander

The network is x_(n+1) = x_n + f(w_n, x_n) / N, with f = W x ("linear") or f = V tanh(U x)
("tanh"), in four dimensions. Plain gradient descent with a rate proportional to N fits a linear
map near the identity; where V is of size sqrt(N), U has a constant rate. Its ODE has the weights
that are linear between the nodes n / N. There are three starts:

- "smooth": weights that are a smooth function of depth, the same at every N;
- "independent": a draw of its own for every layer, of the same size at every N;
- "rough": the same, with W or V multiplied by sqrt(N).

The error of discretisation is the largest root mean square distance of the states along depth.
The memory-free adjoint keeps the final state only. It recomputes x_n as x_(n+1) - f(w_n, x_(n+1))
/ N with Euler, and by a step of Heun backward with Heun. Its error is the relative distance from
the exact gradient of the same network, in the Euclidean norm of all weights. float64 throughout.

Published statements (Sander, Ablin & Peyré, arXiv 2205.14612; the abstract was read, and a
summary of the body): the distance of the states is bounded by a term that does not go to zero
without smoothness in depth; with linear residuals and a small loss at the start, gradient descent
keeps the weights smooth, and the distance is O(1/N); the memory-free adjoint is off by O(1/N)
with Euler if residuals are Lipschitz in x, and by O(1/N^2) with Heun if they are smooth in depth.

The paper's size was not read: "paper" takes more seeds and iterations, and N up to 1024.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

import neuralflow as nf
from experiments.literature.statements import Size, Statement, chosen, orders, ticks
from neuralflow import plots, sweeps

RESIDUALS, STARTS = ("linear", "tanh"), ("smooth", "independent", "rough")
DIMENSION, HIDDEN, SAMPLES, SUBSTEPS = 4, 16, 32, 4
DEPTHS = {
    "quick": (8, 32),
    "default": (16, 32, 64, 128, 256, 512),
    "paper": (16, 32, 64, 128, 256, 512, 1024),
}
SEEDS = {"quick": 2, "default": 8, "paper": 16}
ITERATIONS = {"quick": 20, "default": 200, "paper": 1000}
RATE = 0.1  # of gradient descent, for one layer


def configurations(size: Size, seeds: int | None = None) -> list[dict[str, Any]]:
    """Return the runs: one for each residual, start and depth."""
    return sweeps.grid(
        depth=DEPTHS[size],
        residual=RESIDUALS,
        start=STARTS,
        seeds=[seeds or SEEDS[size]],
        iterations=[ITERATIONS[size]],
    )


def residual(w: dict[str, Array], x: Array) -> Array:
    """Return f(w, x): linear where there is no U."""
    return (jnp.tanh(x @ w["U"].T) if "U" in w else x) @ w["V"].T


def begin(key: Array, kind: str, start: str, depth: int) -> dict[str, Array]:
    """Draw the weights at the nodes n / N, n = 0..N, stacked along axis 0."""
    smooth = start == "smooth"
    mix = (nf.smooth(0.5) if smooth else nf.independent)(np.linspace(0, 1, depth + 1))
    width = DIMENSION if kind == "linear" else HIDDEN
    size = np.sqrt(depth) if start == "rough" else 1.0
    shapes = {"V": (DIMENSION, width), "U": (HIDDEN, DIMENSION)}
    scales = {"V": 0.5 * size / np.sqrt(width), "U": 1 / np.sqrt(DIMENSION)}
    names = ("V",) if kind == "linear" else ("V", "U")
    keys = jax.random.split(key, len(names))

    def draw(name: str, key: Array) -> Array:
        each = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shapes[name]))
        return scales[name] * jnp.tensordot(mix, each(jnp.arange(mix.shape[1])), 1)

    return {name: draw(name, k) for name, k in zip(names, keys, strict=True)}


def euler(ends: tuple[Any, Any], x: Array, h: float) -> Array:
    """Take a step of Euler; `ends` holds the weights at both ends of the step."""
    return x + h * residual(ends[0], x)


def heun(ends: tuple[Any, Any], x: Array, h: float) -> Array:
    """Take a step of Heun."""
    first = residual(ends[0], x)
    return x + h / 2 * (first + residual(ends[1], x + h * first))


def euler_back(ends: tuple[Any, Any], y: Array, h: float) -> Array:
    """Recompute the state before a step of Euler, with the weights of the step."""
    return euler(ends, y, -h)


def heun_back(ends: tuple[Any, Any], y: Array, h: float) -> Array:
    """Recompute the state before a step of Heun, by a step of Heun backward."""
    return heun(ends[::-1], y, -h)


def cells(w: Any) -> tuple[Any, Any]:
    """Return the weights at both ends of every step, stacked along axis 0."""
    return jax.tree.map(lambda a: a[:-1], w), jax.tree.map(lambda a: a[1:], w)


def walk(step: Callable[..., Array], w: Any, x: Array) -> tuple[Array, Array]:
    """Return the final state and the states after every step."""
    ends = cells(w)
    h = 1 / len(jax.tree.leaves(ends)[0])

    def one(x: Array, ends: Any) -> tuple[Array, Array]:
        after = step(ends, x, h)
        return after, after

    return lax.scan(one, x, ends)


def flow(ends: tuple[Any, Any], x: Array, h: float) -> Array:
    """Integrate the ODE of weights that are linear in a cell, by steps of RK4."""
    part = h / SUBSTEPS

    def velocity(s: Any, x: Array) -> Array:
        return residual(jax.tree.map(lambda a, b: (1 - s) * a + s * b, *ends), x)

    def one(k: Any, x: Array) -> Array:
        s, half, end = k / SUBSTEPS, (k + 0.5) / SUBSTEPS, (k + 1) / SUBSTEPS
        a = velocity(s, x)
        b = velocity(half, x + part / 2 * a)
        c = velocity(half, x + part / 2 * b)
        return x + part / 6 * (a + 2 * b + 2 * c + velocity(end, x + part * c))

    return lax.fori_loop(0, SUBSTEPS, one, x)


def loss(step: Callable[..., Array], w: Any, x: Array, y: Array) -> Array:
    """Return half of the mean squared distance to the targets."""
    return jnp.sum((walk(step, w, x)[0] - y) ** 2) / (2 * len(x))


def memory_free(step: Callable[..., Array], back: Callable[..., Array], w: Any, x: Array, y: Array):
    """Return the gradient of `loss` in the weights, with states recomputed from the last one."""
    ends, gather = jax.vjp(cells, w)
    h = 1 / len(jax.tree.leaves(ends)[0])
    final = walk(step, w, x)[0]

    def one(carry: tuple[Array, Array], ends: Any) -> tuple[tuple[Array, Array], Any]:
        after, cotangent = carry
        before = back(ends, after, h)
        _, pull = jax.vjp(lambda ends, x: step(ends, x, h), ends, before)
        by_weights, cotangent = pull(cotangent)
        return (before, cotangent), by_weights

    _, by_ends = lax.scan(one, (final, (final - y) / len(x)), ends, reverse=True)
    return gather(by_ends)[0]


def _norm(tree: Any) -> Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def _rates(start: str, depth: int) -> dict[str, float]:
    """Return the rates of V and U; where V is of size sqrt(N), U takes a part that moves O(1)."""
    return {"V": RATE * depth, "U": RATE * (1 if start == "rough" else depth)}


def _train(w: Any, x: Array, y: Array, rates: dict[str, Array], iterations: int) -> Any:
    slope = jax.grad(loss, 1)

    def descend(_: Any, w: Any) -> Any:
        slopes = slope(euler, w, x, y)
        return {name: w[name] - rates[name] * slopes[name] for name in w}

    return lax.fori_loop(0, iterations, descend, w)


def _constant_last(w: Any) -> Any:
    """Give the last node, which Euler never uses, the weights of the last layer."""
    return jax.tree.map(lambda a: a.at[-1].set(a[-2]), w)


def _case(seed: Array, kind: str, start: str, depth: int) -> tuple[Any, Array, Array]:
    """Draw the weights at the start, the states and the targets."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (SAMPLES, DIMENSION))
    nudge = jax.random.normal(keys[1], (DIMENSION, DIMENSION)) / np.sqrt(DIMENSION)
    return begin(keys[2], kind, start, depth), x, x + 0.3 * x @ nudge.T


@functools.partial(jax.jit, static_argnames="iterations")
@functools.partial(jax.vmap, in_axes=(0, None, None))
def _measured(case: Any, rates: dict[str, Array], iterations: int) -> dict[str, Array]:
    """Train one network, and measure it."""
    w, x, y = case
    w = _constant_last(_train(w, x, y, rates, iterations))
    distance = walk(euler, w, x)[1] - walk(flow, w, x)[1]
    squares = [(jnp.diff(a, axis=0) ** 2).sum(axis=(1, 2)) for a in jax.tree.leaves(w)]
    result = {
        "error": jnp.sqrt(jnp.mean(jnp.sum(distance**2, axis=2), axis=1)).max(),
        "increment": jnp.sqrt(jnp.max(sum(squares))),
        "loss": loss(euler, w, x, y),
    }
    for name, step, back in (("euler", euler, euler_back), ("heun", heun, heun_back)):
        exact = jax.grad(loss, 1)(step, w, x, y)
        apart = jax.tree.map(jnp.subtract, memory_free(step, back, w, x, y), exact)
        result[f"{name} adjoint"] = _norm(apart) / _norm(exact)
    return result


def run(residual: str, start: str, depth: int, seeds: int, iterations: int) -> dict[str, Any]:
    """Train the networks of one depth, and measure them.

    Returns:
        Arrays (seeds,): the error of discretisation, the largest increment of the weights between
        layers, the loss at the end, and the relative errors of the memory-free adjoints.
    """
    with jax.enable_x64(True):
        cases = jax.vmap(lambda seed: _case(seed, residual, start, depth))(jnp.arange(seeds))
        return jax.tree.map(np.asarray, _measured(cases, _rates(start, depth), iterations))


def report(rows: Sequence[dict[str, Any]]) -> tuple[list[Statement], Any]:
    """Compare the orders in N with what is published."""
    depths = sorted({row["depth"] for row in rows})
    rests = (
        f"{DIMENSION} dimensions, N = {depths[0]} to {depths[-1]}, "
        f"{rows[0]['iterations']} iterations, weights linear between layers"
    )
    source = "2205.14612, abstract read"

    def order(text: str, what: str, column: str, kind: str, start: str, low: float, high: float):
        values = orders(*chosen(rows, column, residual=kind, start=start))
        return Statement(
            text, source, f"order of {what}, {kind}, {start}", values, low, high, rests
        )

    error, kept = "the error of discretisation", "the largest increment between trained layers"
    away = "without smoothness in depth the bound does not go to 0 (agrees: order below 1/2)"
    adjoint = "the error of the memory-free adjoint"
    first = "the memory-free adjoint of Euler is off by at most C/N, residuals Lipschitz in x"
    second = "the memory-free adjoint of Heun is off by at most C/N^2, residuals smooth in depth"
    better = "Heun helps where residuals are smooth in depth (falsifier: less than order 2)"
    return [
        order("smooth: the error is O(1/N)", error, "error", "linear", "smooth", 0.9, 1.1),
        order(
            "gradient descent keeps weights smooth", kept, "increment", "linear", "smooth", 0.9, 1.1
        ),
        order("smooth: the error is O(1/N)", error, "error", "tanh", "smooth", 0.9, 1.1),
        order(away, error, "error", "linear", "rough", -np.inf, 0.5),
        order(away, error, "error", "tanh", "rough", -np.inf, 0.5),
        order(away, error, "error", "linear", "independent", -np.inf, 0.5),
        order(away, error, "error", "tanh", "independent", -np.inf, 0.5),
        order(first, f"{adjoint}, Euler", "euler adjoint", "tanh", "smooth", 0.9, np.inf),
        order(first, f"{adjoint}, Euler", "euler adjoint", "tanh", "independent", 0.9, np.inf),
        order(second, f"{adjoint}, Heun", "heun adjoint", "tanh", "smooth", 1.9, np.inf),
        order(better, f"{adjoint}, Heun", "heun adjoint", "tanh", "independent", 0.0, 1.75),
    ], _picture(rows)


def _picture(rows: Sequence[dict[str, Any]]) -> Any:
    figure, axes = plots.figure(2, 3, width=11, height=6.4)
    layers = sorted({row["depth"] for row in rows})
    columns = {
        "error": "states: ResNet against its ODE",
        "euler adjoint": "gradient: memory-free adjoint, Euler",
        "heun adjoint": "gradient: memory-free adjoint, Heun",
    }
    for i, kind in enumerate(RESIDUALS):
        for axis, (column, title) in zip(axes[i], columns.items(), strict=True):
            for k, start in enumerate(STARTS):
                depths, values = chosen(rows, column, residual=kind, start=start)
                shown = np.exp(np.log(values).mean(axis=1))
                style = {"color": plots.COLOURS[k], "marker": plots.MARKS[k]}
                axis.loglog(depths, shown, markersize=4, label=start, **style)
                axis.fill_between(
                    depths, values.min(1), values.max(1), color=plots.COLOURS[k], alpha=0.15, lw=0
                )
            axis.set_title(f"{kind}; {title}", fontsize=9)
            axis.set_xlabel("layers N")
            ticks(axis, layers)
        axes[i, 0].set_ylabel("error (spread over seeds)")
    plots.legend_below(figure, axes[0, 0], 3)
    return figure
