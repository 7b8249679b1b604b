"""How far is a gradient from that of the ODE, and from that of its own steps?

    python -m experiments.literature gradient-error

Seven gradients of one loss are compared while the number n of steps grows. The field is tanh(A(t)
x + b(t)) / 2 in four dimensions. Its weights are a sum of four functions of depth t. The last
function is smooth, or has a kink |t - c|, or a jump at c. The place c is drawn for each seed and
lies on no grid. The gradient is taken in the coefficients of the four functions and in the states
at the start.

- "euler", "heun": the exact gradients of the steps (`FixedGrid`, memory="full").
- "two-level", "reversible": the same with less memory; the reversible form is that of Heun.
- "adjoint euler", "adjoint heun": the adjoint equation backward in n steps, with the states
  computed backward too. Nothing of the forward walk is kept.
- "continuous": the adjoint equation in adaptive steps (`Adaptive(gradient="continuous")`), at the
  tolerance n^-2.

The limit is the gradient of RK4 with fine steps that end at c. Errors are relative, in the
Euclidean norm of all entries. float64 throughout.

Published statements: reversible schemes have the exact gradient of their steps (McCallum &
Foster, arXiv 2410.11648; as our notes have it). A gradient of states recomputed backward is off
by O(1/n) with Euler, and by at most O(1/n^2) with Heun where the field is smooth in depth
(Sander, Ablin & Peyré, arXiv 2205.14612; abstract and a summary read). That the gradients of
Euler and Heun converge at orders one and two where all is smooth is classical (Hager, Numer.
Math. 87, 2000; recalled).

The paper's size: there is none, since the comparison is ours; "paper" goes on to 4096 steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import neuralflow as nf
from experiments.literature.statements import Size, Statement, chosen, orders, ticks
from neuralflow import plots

KINDS = ("smooth", "kinked", "jumping")
DIMENSION, SAMPLES, FINE = 4, 8, 1000
METHODS = (
    "euler",
    "heun",
    "two-level",
    "reversible",
    "adjoint euler",
    "adjoint heun",
    "continuous",
)
DEPTHS = {
    "quick": (8, 16),
    "default": (8, 16, 32, 64, 128, 256, 512, 1024),
    "paper": (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
}
SEEDS = {"quick": 2, "default": 16, "paper": 32}


def configurations(size: Size, seeds: int | None = None) -> list[dict[str, Any]]:
    """Return the runs: one for each kind of weights and each number of steps."""
    count = seeds or SEEDS[size]
    return [{"weights": k, "depth": n, "seeds": count} for n in DEPTHS[size] for k in KINDS]


def velocity(given: Any, x: Array, t: Array) -> Array:
    """Return the field: `given` holds coefficients, the place c, a side of c, and a kind.

    The side -1 or 1 takes the weights of that side of c, also at c. The side 0 looks at t.
    """
    coefficients, place, side, kind = given
    after = jnp.where(side == 0, t >= place, side > 0)
    last = jnp.stack([jnp.cos(3 * t), 2 * jnp.abs(t - place), after.astype(x.dtype)])[kind]
    shapes = jnp.stack([jnp.ones_like(last), jnp.cos(jnp.pi * t), jnp.sin(2 * jnp.pi * t), last])
    weights = jnp.tensordot(shapes, coefficients, 1)
    return jnp.tanh(x @ weights[:, :-1] + weights[:, -1]) / 2


def case(seed: int, kind: int) -> tuple[Any, Array, Array]:
    """Draw what the field is given, the states at the start, and the targets."""
    keys = jax.random.split(jax.random.key(seed), 3)
    coefficients = jax.random.normal(keys[0], (4, DIMENSION, DIMENSION + 1))
    place = jax.random.uniform(keys[1], minval=0.3, maxval=0.7)
    x, y = jax.random.normal(keys[2], (2, SAMPLES, DIMENSION))
    return (coefficients, place, jnp.asarray(0), jnp.asarray(kind)), x, y


def _loss(final: Array, y: Array) -> Array:
    return jnp.sum((final - y) ** 2) / (2 * SAMPLES)


def _with(coefficients: Array, given: Any, side: int | None = None) -> Any:
    _, place, known, kind = given
    return coefficients, place, known if side is None else jnp.asarray(side), kind


def _flat(gradient: Any) -> Array:
    return jnp.concatenate([jnp.ravel(part) for part in gradient])


def of_steps(solve: nf.FixedGrid | nf.Adaptive) -> Callable[..., Array]:
    """Return the function from a case to the gradient that a discretisation has."""

    def loss(coefficients: Array, x: Array, given: Any, y: Array) -> Array:
        field = nf.from_function(velocity, _with(coefficients, given))
        return _loss(nf.NeuralODE(field, solve)(x), y)

    return lambda given, x, y: _flat(jax.grad(loss, (0, 1))(given[0], x, given, y))


def of_limit(given: Any, x: Array, y: Array) -> Array:
    """Return the gradient of fine steps that end where the weights are not smooth."""
    grid = nf.FixedGrid(nf.RK4(), steps=FINE)

    def loss(coefficients: Array, x: Array) -> Array:
        for side, ends in ((-1, (0.0, given[1])), (1, (given[1], 1.0))):
            field = nf.from_function(velocity, _with(coefficients, given, side))
            x = nf.NeuralODE(field, grid, *ends)(x)
        return _loss(x, y)

    return _flat(jax.grad(loss, (0, 1))(given[0], x))


def by_adjoint(scheme: Any, steps: int) -> Callable[..., Array]:
    """Return the function from a case to the gradient by steps of the adjoint equation.

    The equation is solved backward for the states, the cotangents of the states, and the gradient.
    """

    def gradient(given: Any, x: Array, y: Array) -> Array:
        def backward(given: Any, state: Any, t: Array) -> Any:
            x, cotangent, _ = state

            def here(coefficients: Array, x: Array) -> Array:
                return velocity(_with(coefficients, given), x, t)

            v, pull = jax.vjp(here, given[0], x)
            by_weights, by_state = pull(cotangent)
            return v, -by_state, -by_weights

        grid = nf.FixedGrid(scheme, steps=steps)
        final = nf.NeuralODE(nf.from_function(velocity, given), grid)(x)
        adjoint = nf.NeuralODE(nf.from_function(backward, given), grid).reverse()
        start = (final, (final - y) / SAMPLES, jnp.zeros_like(given[0]))
        _, by_state, by_weights = adjoint(start)
        return _flat((by_weights, by_state))

    return gradient


@functools.cache
def _gradients(steps: int) -> dict[str, Callable[..., Array]]:
    """Compile the gradients of n steps, and what each is compared with, over all seeds."""

    def grid(scheme: Any, memory: Any = "full") -> nf.FixedGrid:
        return nf.FixedGrid(scheme, steps=steps, memory=memory)

    reversible = nf.schemes.Reversible(nf.Heun())
    functions = {
        "euler": of_steps(grid(nf.Euler())),
        "heun": of_steps(grid(nf.Heun())),
        "two-level": of_steps(grid(nf.Heun(), "two_level")),
        "reversible": of_steps(grid(reversible, "reversible")),
        "reversible, kept": of_steps(grid(reversible)),
        "adjoint euler": by_adjoint(nf.Euler(), steps),
        "adjoint heun": by_adjoint(nf.Heun(), steps),
    }
    return {name: jax.jit(jax.vmap(one)) for name, one in functions.items()}


def _adaptive(gradient: Any) -> Callable[..., Array]:
    """Compile a gradient of adaptive steps, for any tolerance, over all seeds."""

    def one(tolerance: Array, *case: Any) -> Array:
        return of_steps(nf.Adaptive(nf.Tsit5(), tolerance, tolerance, gradient=gradient))(*case)

    return jax.jit(jax.vmap(one, in_axes=(None, 0, 0, 0)))


_limits = jax.jit(jax.vmap(of_limit))
_tolerant = {"continuous": _adaptive("continuous"), "adaptive": _adaptive("steps")}

OWN = {
    "euler": "euler",
    "heun": "heun",
    "two-level": "heun",
    "reversible": "reversible, kept",
    "adjoint euler": "euler",
    "adjoint heun": "heun",
    "continuous": "adaptive",
}
"""The exact gradient of the steps that a method takes, by the name of the method."""


def run(weights: str, depth: int, seeds: int) -> dict[str, Any]:
    """Measure all gradients of one number of steps.

    Returns:
        The relative errors (seeds,) by method: against the limit, and as "own METHOD" against the
        exact gradient of the steps that were taken.
    """
    with jax.enable_x64(True):
        cases = jax.vmap(lambda seed: case(seed, KINDS.index(weights)))(jnp.arange(seeds))
        limit = np.asarray(_limits(*cases))
        gradients = {name: np.asarray(one(*cases)) for name, one in _gradients(depth).items()}
        tolerance = jnp.asarray(depth**-2.0)
        gradients |= {n: np.asarray(one(tolerance, *cases)) for n, one in _tolerant.items()}

    def error(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.linalg.norm(one - other, axis=1) / np.linalg.norm(other, axis=1)

    against = {name: error(gradients[name], limit) for name in METHODS}
    return against | {f"own {n}": error(gradients[n], gradients[OWN[n]]) for n in METHODS}


def report(rows: Sequence[dict[str, Any]]) -> tuple[list[Statement], Any]:
    """Compare the orders and the exactness with what is published."""

    def fitted(name: str, weights: str) -> list[float]:
        return orders(*chosen(rows, name, weights=weights))

    last = max(row["depth"] for row in rows)
    rests = f"4 dimensions, {SAMPLES} samples, up to {last} steps, float64"

    def order(text: str, source: str, name: str, weights: str, low: float, high: float):
        what = f"order of the error of {name}, {weights} weights"
        what = what.replace("error of own", "difference from the exact gradient of its steps of")
        return Statement(text, source, what, fitted(name, weights), low, high, rests)

    def exact(name: str):
        _, errors = chosen(rows, f"own {name}", weights="jumping")
        what = f"largest difference of {name} from full memory, jumping weights"
        source = "2410.11648, our notes" if name == "reversible" else "by construction"
        text = f"{name} steps have the exact gradient of their steps at any depth"
        return Statement(text, source, what, errors.max(axis=0), -np.inf, 1e-10, rests)

    hager, sander = "Hager 2000, recalled", "2205.14612, abstract and summary read"
    statements = [
        order("gradients of Euler's steps converge as 1/n", hager, "euler", "smooth", 0.9, 1.1),
        order("gradients of Heun's steps converge as 1/n^2", hager, "heun", "smooth", 1.9, 2.1),
        exact("two-level"),
        exact("reversible"),
        order(
            "states recomputed by Euler: off by 1/n",
            sander,
            "own adjoint euler",
            "smooth",
            0.9,
            1.1,
        ),
        order(
            "states recomputed by Heun, smooth in depth: off by at most C/n^2",
            sander,
            "own adjoint heun",
            "smooth",
            1.9,
            np.inf,
        ),
        order(
            "without smoothness in depth Heun's 1/n^2 is not promised (falsifier: order below 1.5)",
            sander,
            "heun",
            "jumping",
            0.5,
            1.5,
        ),
        order(
            "a kink costs the second derivative in one step only: Heun keeps 1/n^2",
            "our expectation",
            "heun",
            "kinked",
            1.7,
            2.3,
        ),
    ]
    return statements, _picture(rows)


def _picture(rows: Sequence[dict[str, Any]]) -> Any:
    figure, axes = plots.figure(2, 3, width=11, height=6.6)
    steps = sorted({row["depth"] for row in rows})
    for column, weights in enumerate(KINDS):
        for row, (prefix, title) in enumerate(
            (("", "against the ODE"), ("own ", "against its own steps"))
        ):
            axis = axes[row, column]
            for k, name in enumerate(METHODS):
                depths, errors = chosen(rows, prefix + name, weights=weights)
                if (errors == 0).all():
                    continue
                shown = np.exp(np.log(np.maximum(errors, 1e-17)).mean(axis=1))
                axis.loglog(
                    depths,
                    shown,
                    marker=plots.MARKS[k % len(plots.MARKS)],
                    markersize=9 - k,
                    fillstyle="none",
                    color=(*plots.COLOURS, "black", "grey")[k],
                    label=name,
                )
            axis.set(title=f"{weights} weights, {title}", xlabel="steps n")
            ticks(axis, steps)
            axis.title.set_fontsize(9)
        axes[0, column].set_ylim(1e-8, 3)
    axes[0, 0].set_ylabel("relative error")
    axes[1, 0].set_ylabel("relative difference")
    plots.legend_below(figure, axes[0, 0], 7)
    return figure
