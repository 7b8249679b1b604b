"""A fit of a spiral, from the first weights to the last step: diffrax, JAX and PyTorch.

A perceptron with time learns the states of x' = x^3 A at 40 times. Every run trains anew, with 200
steps of Adam at a rate of 1e-2. Weights, states, float32 and the tolerances of 1e-6 are the same.
The solves are those of `small_ode`, and "steps" those of the last solve. PyTorch takes one thread,
since there is one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.compare import Route, Workload
from experiments.benchmarks.data import solves as data
from experiments.benchmarks.measure import compiled_once
from experiments.benchmarks.plan import Plan
from experiments.benchmarks.workloads.small_ode import SOLVES, of_torch
from experiments.stages.stage import Case

SETTING = {"end": 2.0, "tolerance": 1e-6, "rate": 1e-2}


def route(
    by: str, hidden: int, count: int, descents: int, end: float, tolerance: float, rate: float
) -> tuple[Callable[[], Any], tuple[()]]:
    """Build the training by one of the solves. The first run compiles the step for all runs."""
    weights, _ = data.perceptron(2, hidden, 1, time=True)
    at = data.times(end, count)
    x, states = map(jnp.asarray, data.spiral(at))
    solve = SOLVES[by](weights, at, tolerance)
    optimiser = optax.adam(rate)

    def loss(weights: Any) -> Any:
        out, told = solve(weights, x)
        return jnp.mean((out - states) ** 2), told

    def step(weights: Any, memory: Any) -> Any:
        (value, told), slope = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, memory = optimiser.update(slope, memory, weights)
        return optax.apply_updates(weights, updates), memory, {"loss": value, **told}

    def start() -> tuple[Any, Any]:
        now = {name: jnp.asarray(w) for name, w in weights.items()}
        return now, optimiser.init(now)

    descend = compiled_once(step)

    def train() -> Any:
        now, memory = start()
        out = {}
        for _ in range(descents):
            now, memory, out = descend(now, memory)
        return out

    return train, ()


TORCH = (
    *of_torch("peers.spiral:route", "torchdiffeq", "", (1,), adjoint=False),
    *of_torch("peers.spiral:route", "torchode", "", (1,)),
    *of_torch("peers.spiral:route", "torchdyn", "", (1,), sensitivity="autograd"),
)
WORKLOAD = Workload(
    routes=(*(Route(by, "workloads.spiral:route", {"by": by}) for by in SOLVES), *TORCH),
    pairs=tuple(
        ("Adaptive", other) for other in ("diffrax", "odeint of JAX", *(r.name for r in TORCH))
    ),
    same={"loss": 1e-2},
    told=("loss", "steps"),
)


def cases(plan: Plan) -> Iterator[Case]:
    hidden, count, descents = (4, 5, 2) if plan.quick else (64, 40, 200)
    yield WORKLOAD.case(
        f"{descents} steps of Adam, {count} times",
        {"hidden": hidden, "count": count, "descents": descents, **SETTING},
        plan,
        rounds=(3, 30),
    )
