"""A small neural ODE with adaptive steps: plain `diffeqsolve`, `odeint` of JAX, and PyTorch.

The velocity is a perceptron with one hidden layer, whose weights let states go round. The routes
compute the state at the end, or the states at many times, or the gradient of their sum of squares.
Weights, states, tolerances and float32 are the same. Every package controls its steps by its own
defaults.

- neuralflow, diffrax, torchode and torchdyn take Tsit5, JAX and torchdiffeq Dopri5.
- diffrax solves in normalised depth as neuralflow does, so both take the same steps.
- torchode chooses the steps of every sample alone, and tells the most of them.
- torchdyn steps to every time. The other packages interpolate.
- "steps" are the accepted ones. torchdyn tells those that were tried, JAX tells none.
- "error" is the error of the states, relative to the largest entry, against a solve in float64 at
  tolerances of 1e-10. The gradient has the same tolerances in the adjoint equations.
- Over the longest interval, the gradients in x are off a gradient in float64 by 1e-4 (neuralflow,
  diffrax), 3e-4 (JAX, torchdiffeq), 6e-5 (torchdyn) and 1e-2 (torchode), of the largest entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import ode

import neuralflow as nf
from experiments.benchmarks.compare import Route, Workload, torch_routes
from experiments.benchmarks.data import solves as data
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case

Solve = Callable[[Any, Any], tuple[Any, dict[str, Any]]]
"""A function of the weights and the states at time 0: the states at times, and what it tells."""

SIZES = (
    (4, 32, 256, 3.5, 1e-5),
    (4, 32, 256, 12.0, 1e-6),
    (4, 32, 256, 42.0, 1e-6),
    (32, 64, 128, 16.0, 1e-6),
)
"""Dimension, hidden units, batch, end of the interval, tolerance."""
COUNTS = (40, 1000)
MANY = (4, 32, 64, 10.0, 1e-6)
"""The size of the solves with states at many times."""


def velocity(t: Any, x: Any, weights: Any) -> Any:
    """Return the velocity, as written by hand."""
    if len(weights["in"]) > x.shape[-1]:
        x = jnp.concatenate([x, jnp.full_like(x[..., :1], t)], axis=-1)
    return jnp.tanh(x @ weights["in"] + weights["in bias"]) @ weights["out"] + weights["out bias"]


def adaptive(weights: Any, at: np.ndarray, tolerance: float) -> Solve:
    """Build the solve of a NeuralODE. The first weights give the sizes alone."""
    dimension, hidden = weights["out"].shape[1], len(weights["out"])
    time = len(weights["in"]) > dimension
    field = nf.fields.MLP(dimension, hidden=hidden, time=time, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(field)
    steps = nf.Adaptive(nf.Tsit5(), rtol=tolerance, atol=tolerance)

    def solve(weights: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        ordered = [weights[name] for name in ("in bias", "in", "out bias", "out")]
        field = nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), ordered))
        layer = nf.NeuralODE(field, steps, 0.0, float(at[-1]))
        solution = layer.solve(x, None if len(at) == 1 else jnp.asarray(at))
        states = solution.states[None] if len(at) == 1 else solution.states
        return states, {"steps": solution.accepted}

    return solve


def plain(weights: Any, at: np.ndarray, tolerance: float) -> Solve:
    """Build the solve of plain `diffeqsolve`, with its default gradient, in normalised depth."""
    end = float(at[-1])
    saved = diffrax.SaveAt(t1=True) if len(at) == 1 else diffrax.SaveAt(ts=jnp.asarray(at / end))

    def solve(weights: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda s, x, weights: end * velocity(end * s, x, weights)),
            diffrax.Tsit5(),
            0.0,
            1.0,
            None,
            x,
            weights,
            saveat=saved,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        )
        return solution.ys, {"steps": solution.stats["num_accepted_steps"]}

    return solve


def odeint(weights: Any, at: np.ndarray, tolerance: float) -> Solve:
    """Build the solve of JAX, whose gradient is that of the adjoint equation."""

    def solve(weights: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        states = ode.odeint(
            lambda x, t, weights: velocity(t, x, weights),
            x,
            jnp.asarray(np.append(np.float32(0), at)),
            weights,
            rtol=tolerance,
            atol=tolerance,
        )
        return states[1:], {}

    return solve


SOLVES: Mapping[str, Callable[[Any, np.ndarray, float], Solve]] = {
    "Adaptive": adaptive,
    "diffrax": plain,
    "odeint of JAX": odeint,
}


def route(
    by: str, of: str, end: float, count: int, tolerance: float, **sizes: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Build the states at times, or their gradient, by one of the solves."""
    weights, x = data.orbits(**sizes)
    at = data.times(end, count)
    exact = data.carried(weights, x, at).astype(np.float32)
    size = np.abs(exact).max()
    solve = SOLVES[by](weights, at, tolerance)

    def forward(weights: Any, x: Any) -> Any:
        states, told = solve(weights, x)
        error = jnp.abs(states - exact).max() / size
        return {"states": states, "error": error, **told}

    def gradient(weights: Any, x: Any) -> Any:
        def loss(weights: Any, x: Any) -> Any:
            out = forward(weights, x)
            states = out.pop("states")
            return jnp.sum(states**2), out

        (d_weights, d_x), told = jax.grad(loss, argnums=(0, 1), has_aux=True)(weights, x)
        return {**d_weights, "x": d_x, **told}

    arguments = {name: jnp.asarray(w) for name, w in weights.items()}, jnp.asarray(x)
    return jax.jit({"forward": forward, "gradient": gradient}[of]), arguments


def of_torch(
    where: str, package: str, how: str, threads: tuple[int, ...], **options: Any
) -> tuple[Route, ...]:
    """Return the routes of a package of PyTorch that `peers.solves` knows."""
    return torch_routes(
        where, package + how, ("torch", package), threads, package=package, options=options
    )


TORCH = tuple(
    route
    for package, how, threads, options in (
        ("torchdiffeq", "", (1, 2), {"adjoint": False}),
        ("torchdiffeq", ", adjoint", (1,), {"adjoint": True}),
        ("torchode", "", (1, 2), {}),
        ("torchdyn", "", (1,), {"sensitivity": "autograd"}),
        ("torchdyn", ", adjoint", (1,), {"sensitivity": "adjoint"}),
    )
    for route in of_torch("peers.small_ode:route", package, how, threads, **options)
)
WORKLOAD = Workload(
    routes=(*(Route(by, "workloads.small_ode:route", {"by": by}) for by in SOLVES), *TORCH),
    pairs=tuple(
        ("Adaptive", other) for other in ("diffrax", "odeint of JAX", *(r.name for r in TORCH))
    ),
    same={"states": 2e-3, **dict.fromkeys(("x", "in", "in bias", "out", "out bias"), 2e-2)},
    told=("steps", "error"),
)


def cases(plan: Plan) -> Iterator[Case]:
    ends = [(*size, 1) for size in SIZES]
    many = [(*MANY, count) for count in COUNTS]
    for dimension, hidden, batch, end, tolerance, count in (
        ((2, 4, 2, 1.0, 1e-3, 3),) if plan.quick else (*ends, *many)
    ):
        for of in ("forward", "gradient"):
            what = "state at the end" if count == 1 else f"states at {count} times"
            yield WORKLOAD.case(
                f"{of}, {what}, dimension {dimension}, T {end:g}, tolerance {tolerance:g}",
                {
                    "of": of,
                    "dimension": dimension,
                    "hidden": hidden,
                    "batch": batch,
                    "end": end,
                    "count": count,
                    "tolerance": tolerance,
                },
                plan,
            )
