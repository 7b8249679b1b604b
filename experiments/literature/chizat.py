"""How far are trained networks of depth L and width M from the mean ODE?

    python -m experiments.literature chizat

The blocks have two layers, h_(l+1) = h_l + sqrt(D) / (L M) sum_m v_(l,m) tanh(<u_(l,m), h_l>).
The u are drawn with variance 1 / D and the v with variance 1, each unit of every layer on its
own. There is no embedding and no readout. Full gradient descent with the rate 0.2 L M takes 20
steps on 16 samples. Data are the same for all seeds; a seed draws the weights.

The limit, the mean ODE, is approximated by the mean of four networks of 64 layers and thousands
of units, walked by midpoint steps. Its standard error stands in the row. The error is the root
mean square distance of the outputs on 16 other inputs.

Three forms of two terms and a constant are fitted to the errors of one seed, by least squares of
relative errors with nonnegative coefficients:

    a + b / L + c / sqrt(L M)      published, with a = 0
    a + b / L + c / sqrt(M)        what a limit in width alone would give
    a + b / L + c / sqrt(L)        what a limit in depth alone would give

Published statement (Chizat, arXiv 2509.10167, abstract read): the outputs are within O(1/L +
1/sqrt(L M)) of the mean ODE's after a fixed number of steps at the residual scale 1/(L M), and
the rate is seen in experiments. The paper's sizes were not read; "paper" takes a larger grid.
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

from experiments.literature.statements import Size, Statement, ticks
from neuralflow import plots, sweeps

DIMENSION, SAMPLES, STEPS, RATE = 8, 16, 20, 0.2
DEPTHS = {"quick": (4, 16), "default": (4, 8, 16, 32, 64), "paper": (4, 8, 16, 32, 64, 128, 256)}
WIDTHS = {"quick": (1, 8), "default": (1, 16, 256, 4096), "paper": (1, 16, 256, 4096)}
LIMITS = 4
LIMIT = {"quick": (16, 128), "default": (64, 8192), "paper": (256, 16384)}
SEEDS = {"quick": 3, "default": 8, "paper": 16}
FORMS: dict[str, Callable[..., Any]] = {
    "1/L + 1/sqrt(LM)": lambda depth, width: (1 / depth, 1 / np.sqrt(depth * width)),
    "1/L + 1/sqrt(M)": lambda depth, width: (1 / depth, 1 / np.sqrt(width)),
    "1/L + 1/sqrt(L)": lambda depth, width: (1 / depth, 1 / np.sqrt(depth)),
}


def configurations(size: Size, seeds: int | None = None) -> list[dict[str, Any]]:
    """Return the runs: one for each depth and width."""
    return sweeps.grid(
        depth=DEPTHS[size],
        width=WIDTHS[size],
        seeds=[seeds or SEEDS[size]],
        limit=[list(LIMIT[size])],
    )


def data() -> tuple[Array, Array, Array]:
    """Return inputs, targets, and the inputs on which networks are compared."""
    keys = jax.random.split(jax.random.key(0), 2)
    x, probe = jax.random.normal(keys[0], (2, SAMPLES, DIMENSION))
    turn = jnp.linalg.qr(jax.random.normal(keys[1], (DIMENSION, DIMENSION)))[0]
    return x, x + jnp.tanh(x @ turn), probe


def block(w: tuple[Array, Array], h: Array) -> Array:
    """Return the mean over the units of a layer, times sqrt(D): `w` holds u and v, (M, D) each."""
    u, v = w
    return jnp.sqrt(DIMENSION) * jnp.tanh(h @ u.T) @ v / len(v)


def network(w: tuple[Array, Array], x: Array, midpoint: bool) -> Array:
    """Walk through all layers, by Euler or by midpoint steps with the weights of the layer."""
    depth = len(w[0])

    def layer(h: Array, w: tuple[Array, Array]) -> tuple[Array, None]:
        middle = h + block(w, h) / (2 * depth) if midpoint else h
        return h + block(w, middle) / depth, None

    return lax.scan(layer, x, w)[0]


def _one(seed: Array, depth: int, width: int, midpoint: bool) -> Array:
    """Train one network, and return its outputs."""
    x, y, probe = data()
    w = jax.random.normal(jax.random.key(seed), (2, depth, width, DIMENSION))
    w = (w[0] / jnp.sqrt(DIMENSION), w[1])

    def loss(w: tuple[Array, Array]) -> Array:
        return jnp.sum((network(w, x, midpoint) - y) ** 2) / (2 * SAMPLES)

    def step(_: Any, w: Any) -> Any:
        return jax.tree.map(lambda a, g: a - RATE * depth * width * g, w, jax.grad(loss)(w))

    return network(lax.fori_loop(0, STEPS, step, w), probe, midpoint)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _trained(seeds: Array, depth: int, width: int) -> Array:
    return jax.vmap(lambda seed: _one(seed, depth, width, False))(seeds)


@functools.cache
def mean_ode(depth: int, width: int) -> tuple[np.ndarray, float]:
    """Return the outputs of the mean ODE, and their standard error.

    The outputs are the mean over networks whose seeds are used nowhere else.
    """
    one = jax.jit(lambda seed: _one(seed, depth, width, True))
    outputs = np.stack([np.asarray(one(jnp.asarray(10**6 + k))) for k in range(LIMITS)])
    spread = np.sqrt(np.mean(_distance(outputs, outputs.mean(axis=0)) ** 2))
    return outputs.mean(axis=0), float(spread / np.sqrt(LIMITS - 1))


def _distance(one: np.ndarray, other: np.ndarray) -> Any:
    return np.sqrt(np.mean(np.sum((one - other) ** 2, axis=-1), axis=-1))


def run(depth: int, width: int, seeds: int, limit: Sequence[int]) -> dict[str, Any]:
    """Train networks of one depth and width.

    Returns:
        The errors (seeds,), and the standard error of the limit.
    """
    with jax.enable_x64(True):
        mean, error = mean_ode(*limit)
        outputs = np.asarray(_trained(jnp.arange(seeds), depth, width))
    return {"error": _distance(outputs, mean), "limit error": error}


def fit(form: str, depths: Any, widths: Any, errors: Any) -> tuple[np.ndarray, float]:
    """Fit a + b t1 + c t2 to errors, with the terms of a form.

    Args:
        form: A name in `FORMS`.
        depths: The depths (n,).
        widths: The widths (n,).
        errors: The errors (n,), positive.

    Returns:
        The nonnegative coefficients (a, b, c), and the root mean square of the relative misfits.
    """
    from scipy.optimize import nnls

    errors = np.asarray(errors, float)
    terms = FORMS[form](np.asarray(depths, float), np.asarray(widths, float))
    matrix = np.stack([np.ones_like(errors), *terms], axis=1) / errors[:, None]
    coefficients, misfit = nnls(matrix, np.ones_like(errors))
    return coefficients, float(misfit / np.sqrt(len(errors)))


def _table(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = ([row[name] for row in rows] for name in ("depth", "width", "error"))
    depths, widths, errors = map(np.asarray, columns)
    return depths, widths, errors


def _slopes(rows: Sequence[dict[str, Any]], along: str, **fixed: int) -> list[float]:
    """Return the order in depth or in width, where the other is fixed, one for each seed."""
    some = [row for row in rows if all(row[k] == v for k, v in fixed.items())]
    logs = np.log([row[along] for row in some])
    return (-np.polyfit(logs, np.log([row["error"] for row in some]), 1)[0]).tolist()


def _share(b: np.ndarray, c: np.ndarray, a: np.ndarray, depth: int, width: int) -> list[float]:
    """Return the share of the bias b / L in the fitted error of one depth and width."""
    bias = b / depth
    return (bias / (a + bias + c / np.sqrt(depth * width))).tolist()


def report(rows: Sequence[dict[str, Any]]) -> tuple[list[Statement], Any]:
    """Fit the form to the grid of errors, and compare it with other forms."""
    depths, widths, errors = _table(rows)
    fits = {name: [fit(name, depths, widths, e) for e in errors.T] for name in FORMS}
    a, b, c = np.transpose([coefficients for coefficients, _ in fits["1/L + 1/sqrt(LM)"]])
    misfits = {name: np.asarray([misfit for _, misfit in each]) for name, each in fits.items()}
    smallest = errors.min(axis=0)
    rests = (
        f"L = {depths.min()} to {depths.max()}, M = {widths.min()} to {widths.max()}, "
        f"D = {DIMENSION}, {STEPS} steps, standard error of the limit "
        f"{rows[0]['limit error']:.1e}; mean b = {b.mean():.3f}, c = {c.mean():.3f}; "
        "the seeds draw the weights, data are fixed"
    )
    source = "2509.10167, abstract read"
    bound = "the error is O(1/L + 1/sqrt(LM)) after a fixed number of steps"
    published = misfits.pop("1/L + 1/sqrt(LM)")
    statements = [
        Statement(
            f"{bound}: no constant is left",
            source, "a / the smallest error of the grid", (a / smallest).tolist(),
            -np.inf, 0.5, rests,
        ),
        Statement(
            f"{bound}: the form fits the grid",
            source, "root mean square of relative misfits", published.tolist(),
            -np.inf, 0.25, rests,
        ),
        *(
            Statement(
                f"the rate is tight: {name} fits worse",
                source, f"misfit of {name} / misfit of the published form",
                (other / published).tolist(), 1.0, np.inf, rests,
            )
            for name, other in misfits.items()
        ),
        Statement(
            "both terms are there: the bias has a positive share",
            source, f"share of b / L in the fit at L = {depths.min()}, M = {widths.max()}",
            _share(b, c, a, int(depths.min()), int(widths.max())), 0.1, 1.0, rests,
        ),
        Statement(
            "narrow networks: the noise 1/sqrt(LM) falls with depth as L^-1/2",
            source, f"order in L at M = {widths.min()}",
            _slopes(rows, "depth", width=int(widths.min())), 0.4, 0.75, rests,
        ),
        Statement(
            "wide networks: the bias 1/L shows, the error falls faster than L^-1/2",
            source, f"order in L at M = {widths.max()}",
            _slopes(rows, "depth", width=int(widths.max())), 0.6, 1.1, rests,
        ),
        Statement(
            "any width has the same limit: at fixed L the error falls with M by its noise alone",
            source, f"order in M at L = {depths.max()}",
            _slopes(rows, "width", depth=int(depths.max())), 0.0, 0.6, rests,
        ),
    ]  # fmt: skip
    return statements, _picture(rows, np.mean([a, b, c], axis=1))


def _picture(rows: Sequence[dict[str, Any]], coefficients: np.ndarray) -> Any:
    figure, axes = plots.figure(1, 2, width=10, height=4.4)
    depths, widths, errors = _table(rows)
    mean = np.exp(np.log(errors).mean(axis=1))
    fine = np.geomspace(depths.min(), depths.max(), 50)
    a, b, c = coefficients
    for k, width in enumerate(sorted(set(widths))):
        some, style = widths == width, {"color": plots.COLOURS[k % len(plots.COLOURS)]}
        axes[0].loglog(depths[some], mean[some], "o", markersize=4, label=f"M = {width}", **style)
        axes[0].loglog(fine, a + b / fine + c / np.sqrt(fine * width), lw=1, **style)
        predicted = a + b / depths[some] + c / np.sqrt(depths[some] * width)
        axes[1].loglog(predicted, mean[some], "o", markersize=4, **style)
    ends = np.array([mean.min(), mean.max()])
    axes[1].loglog(ends, ends, color="black", lw=1)
    axes[0].set(xlabel="depth L", ylabel="distance from the mean ODE")
    axes[0].set_title(
        f"points: networks; lines: {a:.3f} + {b:.2f}/L + {c:.2f}/sqrt(LM)", fontsize=9
    )
    axes[0].legend(fontsize=8)
    ticks(axes[0], sorted({int(n) for n in depths}))
    axes[1].set(xlabel="a + b/L + c/sqrt(LM)", ylabel="distance from the mean ODE")
    return figure
