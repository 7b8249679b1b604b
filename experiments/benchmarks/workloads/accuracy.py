"""Trainings of a neural ODE classifier to a test accuracy, compilation included.

A point goes into the plane, or into 64 dimensions, with zeros appended. There it follows the ODE
x' = W2 tanh(W1 x + b1) + b2 from t = 0 to 1, and a linear head reads the class. The test accuracy
is looked at after every epoch, and the training ends where it reaches the target.

All routes have the same points, initial weights, batches, Adam with the same rate, dopri5 and
tolerances. One control of the steps serves a whole batch, but in torchode, where every point has
its own. Controllers are those that users get. The trainings differ by rounding and by the errors
of the solves, so the numbers of updates may differ. The rows report them.

The first call of a route trains from scratch and compiles what it needs. The later calls train
from scratch with what was compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental.ode import odeint

import neuralflow as nf
from experiments.benchmarks.compare import Route, Workload, torch_routes
from experiments.benchmarks.data.training import classifier, labelled, orders
from experiments.benchmarks.measure import compiled_once
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case

SETS = {
    "two spirals": {
        "points": "spirals", "train": 1024, "test": 512, "zeros": 6, "classes": 2,
        "hidden": 64, "batch": 128, "rate": 3e-3, "tolerance": 1e-3, "target": 0.98, "epochs": 200,
    },
    "digits": {
        "points": "digits", "train": 1408, "test": 389, "zeros": 0, "classes": 10,
        "hidden": 64, "batch": 128, "rate": 3e-3, "tolerance": 1e-3, "target": 0.97, "epochs": 50,
    },
}  # fmt: skip


def layer(scanned: bool, **case: Any) -> Any:
    """Build the training of a `NeuralODE` between zeros and a linear head."""
    pairs, dimension = weights_of(case)
    rngs, tolerance = nnx.Rngs(0), case["tolerance"]
    field = nf.fields.MLP(dimension, hidden=case["hidden"], rngs=rngs)
    flow = nf.NeuralODE(field, nf.Adaptive(nf.Dopri5(), rtol=tolerance, atol=tolerance))
    head = nnx.Linear(dimension, case["classes"], rngs=rngs)
    dense: Any
    for dense, (kernel, bias) in zip([*field.dense, head], pairs, strict=True):
        dense.kernel.set_value(kernel)
        dense.bias.set_value(bias)
    lift = [nf.models.Augment(case["zeros"])] if case["zeros"] else []
    graphdef, state = nnx.split(nnx.Sequential(*lift, flow, head))
    return training(lambda state, x: nnx.merge(graphdef, state)(x), state, scanned, **case)


def solve(**case: Any) -> Any:
    """Build the training of plain `diffeqsolve`, with its default gradient."""
    control = diffrax.PIDController(rtol=case["tolerance"], atol=case["tolerance"])

    def walk(x: Any, weights: Any) -> Any:
        solution: Any = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, x, weights: velocity(x, weights)), diffrax.Dopri5(),
            0.0, 1.0, None, x, weights, stepsize_controller=control,
        )  # fmt: skip
        return solution.ys[0]

    return by_hand(walk, **case)


def adjoint(**case: Any) -> Any:
    """Build the training of JAX's own `odeint`, whose gradient is that of the adjoint equation."""
    times, tolerance = jnp.array([0.0, 1.0]), case["tolerance"]

    def walk(x: Any, weights: Any) -> Any:
        def moving(x: Any, t: Any, weights: Any) -> Any:
            return velocity(x, weights)

        return odeint(moving, x, times, weights, rtol=tolerance, atol=tolerance)[-1]

    return by_hand(walk, **case)


def velocity(x: Any, weights: Any) -> Any:
    """Return the velocity, as written by hand."""
    (w1, b1), (w2, b2) = weights
    return jnp.tanh(x @ w1 + b1) @ w2 + b2


def weights_of(case: Any) -> tuple[list[Any], int]:
    """Return the initial weights and the dimension of the state."""
    dimension = labelled(case["points"], 1, 1)[0]["x"].shape[1] + case["zeros"]
    pairs = classifier(dimension, case["hidden"], case["classes"])
    return [tuple(map(jnp.asarray, pair)) for pair in pairs], dimension


def by_hand(walk: Callable[[Any, Any], Any], **case: Any) -> Any:
    """Return the training of a flow between zeros and a head, with jitted steps in a loop."""
    pairs, _ = weights_of(case)

    def logits(weights: Any, x: Any) -> Any:
        *field, (kernel, bias) = weights
        return walk(jnp.pad(x, ((0, 0), (0, case["zeros"]))), field) @ kernel + bias

    return training(logits, pairs, False, **case)


def training(
    logits: Callable[[Any, Any], Any], weights: Any, scanned: bool, *, points: str, train: int,
    test: int, batch: int, rate: float, target: float, epochs: int, **_: Any,
) -> Any:  # fmt: skip
    """Return the training, and its arguments: none.

    Args:
        logits: A function from weights and points to the logits.
        weights: The initial weights.
        scanned: Whether an epoch is one compiled scan over its steps. Otherwise every step is a
            call from Python.
        points: The set. `train` and `test` are the numbers of its points.
        batch: The number of points in a batch.
        rate: The rate of Adam.
        target: The test accuracy at which the training ends.
        epochs: The largest number of epochs.
    """
    data, held = (jax.tree.map(jnp.asarray, part) for part in labelled(points, train, test))
    rows, adam = orders(train, batch, epochs), optax.adam(rate)

    def step(state: Any, chosen: Any) -> Any:
        weights, moments = state

        def loss(weights: Any) -> Any:
            scores = logits(weights, data["x"][chosen])
            return optax.softmax_cross_entropy_with_integer_labels(scores, data["y"][chosen]).mean()

        value, gradient = jax.value_and_grad(loss)(weights)
        updates, moments = adam.update(gradient, moments, weights)
        return (optax.apply_updates(weights, updates), moments), value

    def accuracy(weights: Any) -> Any:
        return jnp.mean(logits(weights, held["x"]).argmax(1) == held["y"])

    def epoch(state: Any, order: Any) -> Any:
        state, losses = jax.lax.scan(step, state, order)
        return state, losses, accuracy(state[0])

    begin, at_once = compiled_once(adam.init), compiled_once(epoch)
    one, look = compiled_once(step), compiled_once(accuracy)

    def by_steps(state: Any, order: Any) -> Any:
        losses = []
        for chosen in order:
            state, value = one(state, chosen)
            losses.append(value)
        return state, losses, look(state[0])

    def train_to_target() -> Any:
        state, reached, done, losses = (weights, begin(weights)), 0.0, 0, []
        while float(reached) < target and done < epochs:
            state, values, reached = (at_once if scanned else by_steps)(state, rows[done])
            losses.append(values)
            done += 1
        return {
            "first losses": np.asarray(losses[0])[:2],
            "updates": np.float32(done * rows.shape[1]),
            "accuracy": reached,
        }

    return train_to_target, ()


HAND = "workloads.accuracy"
TORCH = "peers.accuracy:torchdiffeq"
DIFFEQ = ("torch", "torchdiffeq")
PEERS = (
    *torch_routes(TORCH, "torchdiffeq", DIFFEQ, adjoint=False),
    *torch_routes(TORCH, "torchdiffeq, adjoint", DIFFEQ, (1,), adjoint=True),
    *torch_routes("peers.accuracy:torchdyn", "torchdyn", ("torch", "torchdyn"), (1,)),
    *torch_routes("peers.accuracy:torchode", "torchode", ("torch", "torchode"), (1,)),
)
WORKLOAD = Workload(
    routes=(
        Route("epochs as scans", f"{HAND}:layer", {"scanned": True}),
        Route("step by step", f"{HAND}:layer", {"scanned": False}),
        Route("diffrax", f"{HAND}:solve"),
        Route("jax odeint", f"{HAND}:adjoint"),
        *PEERS,
    ),
    pairs=(
        ("epochs as scans", "diffrax"),
        ("step by step", "diffrax"),
        *(("epochs as scans", name) for name in ("jax odeint", *(peer.name for peer in PEERS))),
    ),
    same={"first losses": 1e-3, "updates": 1.0},
    told=("updates", "accuracy"),
    causes={
        peer.name: "only the first call: compiling the spirals' epoch takes 7.6 of its 9.6 s"
        for peer in PEERS
    },
)


def cases(plan: Plan) -> Iterator[Case]:
    for name, case in SETS.items():
        if plan.quick:
            case = {**case, "train": 64, "test": 32, "batch": 32, "epochs": 1}
        yield WORKLOAD.case(f"{name} to {case['target']:.0%}", case, plan, rounds=(3, 30))
