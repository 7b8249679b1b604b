"""Densities by continuous normalising flows, beside the same model by hand.

    python -m experiments.densities

The sets are two in the plane and a table. Every set is fitted by neuralflow, by the same model in
plain diffrax, and by torchdyn where torchdyn is installed. All have the same field, initial
weights, batches, learning rates, solver and tolerance. The two models in JAX are trained in turns,
a stretch of steps each, so that both see the same machine. The negative log-likelihoods of held-out
points come from a tighter solve.

Training is short, for the comparison. `experiments.densities.draw` fits the plane longer, and
draws. Writes results.json.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.program import Parser, count
from neuralflow.console import progress, screen
from neuralflow.transport import NormalisingFlow

HIDDEN, BATCH, TOLERANCE, STRETCH = 32, 256, 1e-5, 50
TABLE = (
    "results",
    (
        "set",
        "neuralflow, negative log-likelihood",
        "plain diffrax, negative log-likelihood",
        "torchdyn, negative log-likelihood",
        "plain diffrax over neuralflow",
    ),
)
"""The rows and the columns that the report shows."""
Rates = Callable[[int], float]


def sets(samples: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return standardised training and held-out points by name."""
    from sklearn.datasets import load_breast_cancer

    board, table = (
        nf.data.checkerboard(2 * samples),
        np.asarray(load_breast_cancer(return_X_y=True)[0]),
    )
    datasets = {
        "moons": nf.data.moons(samples, noise=0.05)["x"],
        "checkerboard": board["x"][board["y"] == 0],  # the squares of one colour
        "breast cancer": np.log(
            table[:, [0, 1, 4, 5, 8]]
        ),  # radius, texture, smoothness, compactness, symmetry
    }
    out = {}
    for name, x in datasets.items():
        order = np.random.default_rng(0).permutation(len(x))
        train, test = (
            x[part].astype(np.float32) for part in np.array_split(order, [len(x) * 3 // 4])
        )
        mean, scale = train.mean(0), train.std(0)
        out[name] = (train - mean) / scale, (test - mean) / scale
    return out


def batches(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the batches of all steps, `(count, batch, d)`."""
    rng = np.random.default_rng(seed)
    return points[rng.integers(len(points), size=(count, min(BATCH, len(points))))]


def field(dimension: int, seed: int) -> nf.fields.MLP:
    """Return the velocity field that all three models share: [x, t] -> 32 -> 32 -> x, with tanh."""
    return nf.fields.MLP(dimension, hidden=HIDDEN, layers=2, time=True, rngs=nnx.Rngs(seed))


def ours(dimension: int, seed: int, solve: Any = None) -> NormalisingFlow:
    """Return the model in neuralflow."""
    base = dist.Normal(jnp.zeros(dimension), 1.0).to_event(1)
    return NormalisingFlow(
        nf.NeuralODE(
            field(dimension, seed), solve or nf.Adaptive(nf.Dopri5(), TOLERANCE, TOLERANCE)
        ),
        base,
    )


class ByHand:
    """The same model in plain diffrax.

    The solve is diffeqsolve with its default adjoint. The trace takes one derivative for each
    coordinate.
    """

    def __init__(self, dimension: int, seed: int):
        dense = field(dimension, seed).dense
        self.weights = [(layer.kernel.get_value(), layer.bias.get_value()) for layer in dense]  # type: ignore[union-attr]
        self.dimension = dimension

    @staticmethod
    def velocity(weights: Any, x: Any, t: Any) -> Any:
        y = jnp.concatenate([x, jnp.broadcast_to(t, (*x.shape[:-1], 1)).astype(x.dtype)], axis=-1)
        for kernel, bias in weights[:-1]:
            y = jnp.tanh(y @ kernel + bias)
        return y @ weights[-1][0] + weights[-1][1]

    def log_prob(self, weights: Any, x: Any) -> Any:
        units = jnp.eye(self.dimension, dtype=x.dtype)

        def moving(t, state, weights):
            x, _ = state

            def push(e):
                return jax.jvp(
                    lambda x: self.velocity(weights, x, t), (x,), (jnp.broadcast_to(e, x.shape),)
                )

            v, products = jax.vmap(push, out_axes=(None, 0))(units)
            return v, jnp.einsum("kbk->b", products)

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(moving),
            diffrax.Dopri5(),
            0.0,
            1.0,
            None,
            (x, jnp.zeros(len(x), x.dtype)),
            weights,
            stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
            max_steps=4096,
        )
        assert solution.ys is not None
        (y,), (gained,) = solution.ys
        return dist.Normal(jnp.zeros(self.dimension), 1.0).to_event(1).log_prob(y) + gained


def stepper(
    value: Callable[[Any, Any], Any], weights: Any, optimiser: Any
) -> tuple[Callable[..., Any], Any]:
    """Return a compiled stretch of training steps, and its first state.

    Both models in JAX share this loop.
    """

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        weights, memory = state
        loss, gradient = jax.value_and_grad(value)(weights, batch)
        updates, memory = optimiser.update(gradient, memory, weights)
        return (optax.apply_updates(weights, updates), memory), loss

    return jax.jit(lambda state, rows: jax.lax.scan(step, state, rows)), (
        weights,
        optimiser.init(weights),
    )


def in_turns(models: dict[str, Any], rows: np.ndarray, rate: Any) -> dict[str, dict[str, Any]]:
    """Train the models in turns, a stretch each.

    Returns the seconds of every stretch, the seconds of the compilation apart, and the last
    weights.
    """
    runs: dict[str, dict[str, Any]] = {}
    running = {}
    for name, (value, weights) in models.items():
        run: Any
        run, state = stepper(value, weights, optax.adam(rate))
        began = time.perf_counter()
        program = run.lower(state, rows[:STRETCH]).compile()
        runs[name] = {"compile": time.perf_counter() - began, "stretches": []}
        running[name] = program, state
    for start in range(0, len(rows), STRETCH):
        part = rows[start : start + STRETCH]
        for name, (program, state) in running.items():
            began = time.perf_counter()
            state, _ = jax.block_until_ready(program(state, part))
            runs[name]["stretches"].append(time.perf_counter() - began)
            running[name] = program, state
    for name, (_, state) in running.items():
        runs[name]["weights"] = state[0]
    return runs


def held_out(dimension: int, dense: Any, points: np.ndarray) -> float:
    """Return the negative log-likelihood of weights [(kernel, bias), ...] in nats a point.

    The solve is tighter than in training.
    """
    flow = ours(dimension, 0, nf.Adaptive(nf.Dopri5(), 1e-6, 1e-6))
    for layer, (kernel, bias) in zip(flow.layer.field.dense, dense, strict=True):  # type: ignore[attr-defined]
        layer.kernel.set_value(jnp.asarray(kernel))
        layer.bias.set_value(jnp.asarray(bias))
    return float(-flow.log_prob(jnp.asarray(points)).mean())


def torchdyn(
    dimension: int, seed: int, rows: np.ndarray, rate: Callable[[int], Any]
) -> dict[str, Any] | None:
    """Train the same model in torchdyn, a stretch at a time.

    Returns None where torchdyn is not installed.
    """
    try:
        import torch  # type: ignore
        from torch import nn  # type: ignore
        from torchdyn.core import NeuralODE  # type: ignore
        from torchdyn.models import CNF, autograd_trace  # type: ignore
        from torchdyn.nn import Augmenter, DepthCat  # type: ignore
    except ImportError:
        return None
    # The matrices are small: two threads wait for each other longer than one thread computes.
    torch.set_num_threads(1)
    linears = []
    for layer in field(dimension, seed).dense:
        linear = nn.Linear(layer.in_features, layer.out_features)  # type: ignore[union-attr]
        linear.weight.data = torch.tensor(np.asarray(layer.kernel.get_value()).T.copy())  # type: ignore[union-attr]
        linear.bias.data = torch.tensor(np.asarray(layer.bias.get_value()))  # type: ignore[union-attr]
        linears.append(linear)
    net = nn.Sequential(DepthCat(1), linears[0], nn.Tanh(), linears[1], nn.Tanh(), linears[2])
    options = {
        "solver": "dopri5",
        "sensitivity": "autograd",
        "atol": TOLERANCE,
        "rtol": TOLERANCE,
        "return_t_eval": False,
    }
    flow = nn.Sequential(
        Augmenter(augment_idx=1, augment_dims=1),
        NeuralODE(CNF(net, trace_estimator=autograd_trace), **options),
    )
    adam = torch.optim.Adam(flow.parameters(), lr=rate(0))
    stretches = []
    for start in range(0, len(rows), STRETCH):
        began = time.perf_counter()
        for k, batch in enumerate(rows[start : start + STRETCH]):
            adam.param_groups[0]["lr"] = rate(start + k)
            adam.zero_grad()
            state = flow(torch.tensor(batch))[-1]
            y = state[:, 1:]
            loss = (0.5 * (y**2).sum(1) + 0.5 * dimension * np.log(2 * np.pi) + state[:, 0]).mean()
            loss.backward()
            adam.step()
        stretches.append(time.perf_counter() - began)
    weights = [(x.weight.detach().numpy().T, x.bias.detach().numpy()) for x in linears]
    return {"compile": 0.0, "stretches": stretches, "weights": weights}


def fit(
    name: str, train: np.ndarray, test: np.ndarray, options: Namespace, seed: int
) -> dict[str, Any]:
    """Fit all models to one set with one seed, and return held-out values and seconds."""
    dimension = train.shape[1]
    rows = batches(train, options.steps, seed)
    rate = optax.cosine_decay_schedule(3e-3, options.steps)
    flow, hand = ours(dimension, seed), ByHand(dimension, seed)
    graph, params, rest = nnx.split(flow, nnx.Param, ...)
    models = {
        "neuralflow": (
            lambda params, x: -nnx.merge(graph, params, rest).log_prob(x).mean(),
            params,
        ),
        "plain diffrax": (lambda weights, x: -hand.log_prob(weights, x).mean(), hand.weights),
    }
    runs = in_turns(models, rows, rate)
    nnx.update(flow, runs["neuralflow"]["weights"])
    field: Any = flow.layer.field
    runs["neuralflow"]["weights"] = [
        (d.kernel.get_value(), d.bias.get_value()) for d in field.dense
    ]
    torch = (
        torchdyn(dimension, seed, rows[: options.torch_steps], lambda k: float(np.asarray(rate(k))))
        if options.torch_steps
        else None
    )
    if torch is not None:
        runs["torchdyn"] = torch
    result: dict[str, Any] = {"set": name, "seed": seed}
    for model, run in runs.items():
        value = held_out(dimension, run["weights"], test)
        steps = len(run["stretches"]) * STRETCH
        result[model] = {
            "negative log-likelihood": value,
            "milliseconds a step": 1e3 * float(np.median(run["stretches"])) / STRETCH,
            "seconds": run["compile"] + sum(run["stretches"]),
            "compile": run["compile"],
            "steps": steps,
        }
    pairs = np.asarray(runs["plain diffrax"]["stretches"]) / np.asarray(
        runs["neuralflow"]["stretches"]
    )
    result["plain diffrax over neuralflow"] = [float(q) for q in np.percentile(pairs, (25, 50, 75))]
    return result


def table(results: list[dict[str, Any]]) -> Table:
    """Return a table with a row for every set, seed and model."""
    shown = Table(
        title="negative log-likelihood of held-out points (nats), milliseconds a step; "
        f"batch {BATCH}, tolerance {TOLERANCE:g}"
    )
    for column in ("set", "seed", "model", "nats", "ms a step", "compile, s", "all, s"):
        shown.add_column(column, justify="left" if column in ("set", "model") else "right")
    what = ("negative log-likelihood", "milliseconds a step", "compile", "seconds")
    for result in results:
        for model in ("neuralflow", "plain diffrax", "torchdyn"):
            if model in result:
                cells = (f"{result[model][name]:.3f}" for name in what)
                shown.add_row(result["set"], str(result["seed"]), model, *cells)
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    quick = {"samples": 300, "steps": STRETCH, "torch_steps": 0}
    parser = Parser(__file__, __doc__, seeds=1, quick=quick)
    parser.add_argument("--samples", type=count, default=4_000)
    parser.add_argument("--steps", type=count, default=400)
    parser.add_argument("--torch-steps", type=int, default=400, help="0 leaves torchdyn out")
    run = parser.begin(arguments)
    options = run.options
    if options.steps % STRETCH or options.torch_steps % STRETCH or options.steps < STRETCH:
        parser.error(f"--steps and --torch-steps are multiples of {STRETCH}")
    console, results = screen(), []
    chosen = list(sets(options.samples).items())[: 1 if options.quick else None]
    with progress(len(chosen) * options.seeds, console) as done:
        for name, (train, test) in chosen:
            for seed in range(options.seeds):
                results.append(fit(name, train, test, options, seed))
                done(f"{name}, seed {seed}")
    console.print(table(results))
    run.write("results", {"batch": BATCH, "tolerance": TOLERANCE, "results": results})


if __name__ == "__main__":
    main()
