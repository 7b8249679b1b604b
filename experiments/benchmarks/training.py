"""`fit` against a hand-written jitted optax loop on the same model, and the wait for a stream.

    python -m experiments.benchmarks.training --data-dir FOLDER

Throughput is a ratio to the hand-written loop in the same process, with interleaved epochs: the
median, with the quartiles in brackets. With --data-dir, a folder that holds MNIST, one epoch of
MNIST is streamed. The share of the time that is spent waiting is then measured. Writes
training.json, and streaming.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import neuralflow as nf
from experiments.benchmarks.measure import ratio, report
from experiments.program import Parser, count
from neuralflow import data, models, training
from neuralflow.console import progress
from neuralflow.training.loop import Run


def image_model() -> nnx.Module:
    return models.ImageClassifier(
        (8, 8, 1), 10, nf.FixedGrid(nf.Euler(), steps=4), width=16, rngs=nnx.Rngs(0)
    )


class PlainNetwork(nnx.Module):
    """Two convolutions and a linear head, as anyone would write them."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.second = nnx.Conv(16, 16, (3, 3), rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(
            jnp.mean(jax.nn.relu(self.second(jax.nn.relu(self.first(x)))), axis=(1, 2))
        )


def plain_model() -> nnx.Module:
    return PlainNetwork(nnx.Rngs(0))


def point_model() -> nnx.Module:
    return models.PointClassifier(64, 10, nf.FixedGrid(nf.Euler(), steps=4), rngs=nnx.Rngs(0))


def by_hand(model: nnx.Module, points: data.Data, batch: int) -> Callable[[int], None]:
    """Return one epoch as most people write it: shuffle, index, call a jitted step."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimiser = optax.adam(1e-3)
    arrays = {name: jnp.asarray(values) for name, values in points.items()}
    count = len(points["y"])
    state = (params, optimiser.init(params))

    @jax.jit
    def step(state: Any, rows: Any) -> Any:
        params, held = state
        taken = {name: values[rows] for name, values in arrays.items()}

        def objective(params):
            return models.classification(nnx.merge(graphdef, params, rest), taken)

        (value, _), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        updates, held = optimiser.update(gradients, held, params)
        return (optax.apply_updates(params, updates), held), value

    def epoch(k: int) -> None:
        nonlocal state
        order = np.random.default_rng(k).permutation(count)
        value: Any = None
        for first in range(0, count // batch * batch, batch):
            state, value = step(state, order[first : first + batch])
        jax.block_until_ready(value)

    return epoch


def by_fit(model: nnx.Module, points: data.Data, batch: int) -> Callable[[int], None]:
    """Return one epoch as `fit` runs it."""
    run = Run(model, models.classification, optax.adam(1e-3), points, batch, None, None, 0, None)
    state = run.start()

    def epoch(k: int) -> None:
        nonlocal state
        for moved, _ in run.epoch(state, k, 0, None):
            state = moved
        run.means(state)
        state = run.reset(state)

    return epoch


def compare(name: str, make: Callable[[], nnx.Module], batch: int, rounds: int) -> dict[str, Any]:
    """Measure one case: the throughput of `fit` over that of the hand-written loop."""
    points = data.digits("train")
    routes = {"hand": by_hand(make(), points, batch), "fit": by_fit(make(), points, batch)}
    seconds: dict[str, list[float]] = {route: [] for route in routes}
    for k in range(rounds + 1):
        for route, epoch in routes.items():
            began = time.perf_counter()
            epoch(k)
            if k:
                seconds[route].append(time.perf_counter() - began)
    hand, fit = (np.asarray(seconds[route]) for route in routes)
    return {
        "model, batch": f"{name}, {batch}",
        "throughput": ratio(hand, fit),
        "samples/s": len(points["y"]) // batch * batch / float(np.median(fit)),
    }


def streamed(folder: Path) -> dict[str, Any]:
    """Stream one epoch of MNIST, and measure the share of its time spent waiting for examples."""

    def example(row: dict[str, Any]) -> data.Data:
        return {"x": row["image"], "y": np.asarray(row["label"], np.int32)}

    model = models.ImageClassifier(
        (28, 28, 1), 10, nf.FixedGrid(nf.Euler(), steps=2), width=16, cells=2, rngs=nnx.Rngs(0)
    )
    stream = data.Stream(data.source("mnist", "train[:20%]", data_dir=folder), transform=example)
    row = training.fit(
        model, models.classification, optax.adam(1e-3), stream, epochs=1, progress=False
    ).history.rows[0]
    return {
        "set": "mnist, streamed",
        "waiting": row["waiting"],
        "samples/s": row["samples_per_second"],
    }


CASES = (
    ("convolutional", image_model, 64),
    ("plain nnx.Conv", plain_model, 64),
    ("MLP", point_model, 64),
    ("MLP", point_model, 256),
)
"""The name of a model, the function that builds it, and the samples of a batch."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, data="taken", kept="results", quick={"rounds": 1})
    parser.add_argument(
        "--rounds", type=count, default=15, help="interleaved epochs of every route"
    )
    run = parser.begin(arguments)
    cases, rows = CASES[-1:] if run.options.quick else CASES, []
    with progress(len(cases)) as done:
        for name, make, batch in cases:
            rows.append(compare(name, make, batch, run.options.rounds))
            done(f"{name}, batch {batch}")
    report(run, "training", "fit: throughput over a hand-written loop", rows)
    if run.options.data_dir is not None:
        report(run, "streaming", "fit: waiting for a stream", [streamed(run.options.data_dir)])


if __name__ == "__main__":
    main()
