"""States at many depths, and a fit of a spiral: a layer against plain `diffeqsolve`.

A last table says how accurate states between the edges of steps are.

    python -m experiments.benchmarks.trajectories

Fields, seeds, schemes and accepted steps are equal on both sides, in float32. Every figure is a
ratio to `diffeqsolve` in the same process: the median over rounds, with the quartiles in brackets.
The fit is measured from its first call to its last step, compilation included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.measure import ratio, report, side_by_side

DEPTHS = (10, 40, 1000)
END, TOLERANCE = 1.0, 1e-6
# The spiral is that of x' = A x^3 from (2, 0).
SPIRAL = np.asarray([[-0.1, 2.0], [-2.0, -0.1]])
TIMES, SPIRAL_END, DESCENTS = 40, 2.0, 200


def routes(field: nnx.Module, end: float, tolerance: float) -> dict[str, Callable[..., Any]]:
    """Build the same states at depths by both routes, as functions of (parameters, x, depths)."""
    graphdef, _ = nnx.split(field)
    adaptive = nf.Adaptive(nf.Tsit5(), rtol=tolerance, atol=tolerance)

    def layer(params: Any, x: Any, depths: Any) -> Any:
        return nf.NeuralODE(nnx.merge(graphdef, params), adaptive, 0.0, end).trajectory(x, depths)

    def plain(params: Any, x: Any, depths: Any) -> Any:
        return solution(params, x, depths).ys

    def solution(params: Any, x: Any, depths: Any) -> Any:
        def velocity(t: Any, x: Any, params: Any) -> Any:
            return nnx.merge(graphdef, params)(x, t)

        return diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            diffrax.Tsit5(),
            0.0,
            end,
            None,
            x,
            params,
            saveat=diffrax.SaveAt(ts=depths),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            throw=False,
        )

    def steps(params: Any, x: Any) -> Any:
        ours = nf.NeuralODE(nnx.merge(graphdef, params), adaptive, 0.0, end).solve(x)
        theirs = solution(params, x, jnp.asarray([0.0, end]))
        return ours.accepted, theirs.stats["num_accepted_steps"]

    return {"neuralflow": layer, "diffeqsolve": plain, "steps": steps}


def compare(count: int, rounds: int) -> dict[str, Any]:
    """Measure states at a number of depths, forward and with the gradient."""
    field = nf.fields.MLP(2, hidden=64, time=True, rngs=nnx.Rngs(0))
    scale = 3.5  # The kernels of the default draw are so smooth that the solve takes few steps.
    for layer in field.dense:
        layer.kernel[...] *= scale
    params = nnx.split(field)[1]
    functions = routes(field, END, TOLERANCE)
    x, depths = jax.random.normal(jax.random.key(0), (64, 2)), jnp.linspace(0, END, count)
    ours, theirs = jax.jit(functions.pop("steps"))(params, x)
    inputs = dict.fromkeys(functions, (params, x, depths))
    forward = side_by_side(functions, inputs, rounds, compiles=7)
    grads = {
        name: jax.grad(
            lambda params, x, depths, f=f: jnp.sum(f(params, x, depths) ** 2), argnums=(0, 1)
        )
        for name, f in functions.items()
    }
    backward = side_by_side(grads, inputs, rounds, compiles=7)
    a, b = backward["neuralflow"], backward["diffeqsolve"]
    return {
        "what": f"{count} depths",
        "steps": f"{int(ours)} and {int(theirs)}",
        "forward": ratio(forward["neuralflow"].runs, forward["diffeqsolve"].runs),
        "gradient": ratio(a.runs, b.runs),
        "compile forward": forward["neuralflow"].compile / forward["diffeqsolve"].compile,
        "compile gradient": a.compile / b.compile,
        "diffeqsolve's gradient, ms": 1e3 * float(np.median(b.runs)),
    }


def fit(route: Callable[..., Any], params: Any, x: Any, times: Any, data: Any) -> tuple[Any, ...]:
    """Fit a field to states, and return the seconds of the first step, of all steps, the loss."""
    jax.clear_caches()
    optimiser = optax.adam(1e-2)

    @jax.jit
    def step(params: Any, memory: Any) -> Any:
        loss, slope = jax.value_and_grad(
            lambda params: jnp.mean((route(params, x, times) - data) ** 2)
        )(params)
        updates, memory = optimiser.update(slope, memory, params)
        return optax.apply_updates(params, updates), memory, loss

    memory, start = optimiser.init(params), time.perf_counter()
    params, memory, loss = jax.block_until_ready(step(params, memory))
    first = time.perf_counter() - start
    for _ in range(DESCENTS - 1):
        params, memory, loss = step(params, memory)
    loss = float(loss)
    return first, time.perf_counter() - start, loss


def spiral(rounds: int) -> dict[str, Any]:
    """Fit a field to a spiral by both routes in turn, each time from the first call on."""
    x, times = jnp.asarray([[2.0, 0.0]]), jnp.linspace(0, SPIRAL_END, TIMES)
    truth = nf.from_function(lambda a, x: x**3 @ a, jnp.asarray(SPIRAL, jnp.float32))
    data = nf.NeuralODE(truth, nf.Adaptive(nf.Dopri8()), 0.0, SPIRAL_END).trajectory(x, times)
    field = nf.fields.MLP(2, hidden=64, time=True, rngs=nnx.Rngs(0))
    params = nnx.split(field)[1]
    functions = routes(field, SPIRAL_END, TOLERANCE)
    functions.pop("steps")
    taken = {name: [] for name in functions}
    for _ in range(rounds):
        for name, route in functions.items():
            taken[name].append(fit(route, params, x, times, data))
    ours, theirs = (np.asarray(taken[name]).T for name in ("neuralflow", "diffeqsolve"))
    return {
        "what": f"spiral, {TIMES} times, {DESCENTS} steps of Adam",
        "whole fit": ratio(ours[1], theirs[1]),
        "first step": ratio(ours[0], theirs[0]),
        "later steps": ratio(ours[1] - ours[0], theirs[1] - theirs[0]),
        "loss": f"{np.median(ours[2]):.3g} and {np.median(theirs[2]):.3g}",
        "diffeqsolve's fit, s": float(np.median(theirs[1])),
    }


FIELDS: dict[str, Callable[..., Any]] = {
    "decay": lambda x, t: -x,
    "oscillator": lambda x, t: 6 * x[..., ::-1] * jnp.asarray([1.0, -1.0]),
    "spiral": lambda x, t: x**3 @ jnp.asarray(SPIRAL),
    "forced": lambda x, t: jnp.sin(8 * t) - 2 * x,
}


def accuracy(scheme: Any, tolerance: float) -> list[dict[str, Any]]:
    """Measure the errors at 401 depths of interpolated and of stepped states, in float64.

    The reference is a solve at tolerances of 1e-12 that steps to every depth.
    """
    x, depths = jnp.asarray([[2.0, 0.0], [0.5, -1.0]]), jnp.linspace(0, 2, 401)

    def states(field: Any, solve: nf.Adaptive) -> Any:
        layer = nf.NeuralODE(nf.from_function(lambda _, x, t: field(x, t)), solve, 0.0, 2.0)
        return layer.trajectory(x, depths)

    rows = []
    for name, field in FIELDS.items():
        exact = states(field, nf.Adaptive(nf.Dopri8(), 1e-12, 1e-12, output="stepped"))
        interpolated = nf.Adaptive(scheme, tolerance, tolerance)
        stepped = nf.Adaptive(scheme, tolerance, tolerance, output="stepped")
        off, off_stepped = (
            jnp.abs(states(field, solve) - exact) for solve in (interpolated, stepped)
        )
        rows.append(
            {
                "what": f"{type(scheme).__name__}, {name}",
                "interpolated": float(jnp.max(off)),
                "stepped": float(jnp.max(off_stepped)),
                "at the end": float(jnp.max(off[-1])),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="interleaved runs of every function")
    parser.add_argument("--fits", type=int, default=7, help="fits of the spiral by each route")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("experiments/benchmarks/results"),
        help="folder for the JSON files",
    )
    options = parser.parse_args()
    report(
        "States at depths, Tsit5: ratio to diffeqsolve",
        [compare(count, options.rounds) for count in DEPTHS],
        options.out / "trajectories.json",
    )
    with jax.enable_x64(True):
        report(
            "Errors of states at depths, tolerances of 1e-5",
            [row for scheme in (nf.Tsit5(), nf.Dopri8()) for row in accuracy(scheme, 1e-5)],
            options.out / "interpolation.json",
        )
    report(
        "Fit of a spiral, Tsit5: ratio to diffeqsolve",
        [spiral(options.fits)],
        options.out / "spiral.json",
    )


if __name__ == "__main__":
    main()
