"""Networks of differential operators against ordinary and depthwise-separable ResNets.

    python -m experiments.path_integral --data-dir FOLDER

Each network is a stem, four pre-activation blocks x + f_k(x), average pooling and a linear readout.
The two 3 x 3 layers of a block are free convolutions (9 C^2 weights), combinations of six
differential operators (6 C^2 weights; Yin et al., arXiv 1904.07568), or depthwise and 1 x 1
convolutions (C^2 + 9 C weights). Each kind is trained at the width of the ResNet and at the width
that gives as many weights, on two sets of images with three paired seeds. Pairs share seed and
batches.

The results also have the time of a training step, from interleaved runs, and the equations that the
layers of the trained ResNet belong to. Writes results.json and shares.png.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.benchmarks.measure import ratio, side_by_side
from experiments.program import Parser, count
from neuralflow.console import progress, screen, span
from neuralflow.labs import operators
from neuralflow.statistics import over_seeds

BLOCKS, BATCH = 4, 64


free = functools.partial(nnx.Conv, kernel_size=(3, 3), conv_general_dilated=nf.fields.convolution)


def separable(inputs: int, outputs: int, *, rngs: nnx.Rngs, **types: Any) -> nnx.Sequential:
    """Return a 3 x 3 convolution of every channel alone, followed by a mix of the channels."""
    depthwise = free(inputs, inputs, feature_group_count=inputs, use_bias=False, rngs=rngs, **types)
    return nnx.Sequential(depthwise, nnx.Linear(inputs, outputs, rngs=rngs, **types))


MODELS: dict[str, tuple[Any, int]] = {
    "ResNet": (free, 16),
    "operators, equal width": (nf.labs.operators.DifferentialOperator, 16),
    "operators, equal weights": (nf.labs.operators.DifferentialOperator, 20),
    "separable, equal width": (separable, 16),
    "separable, equal weights": (separable, 44),
}


class Network(nnx.Module):
    """A network from images `(batch, h, w, c)` to logits."""

    def __init__(self, kernel: Any, width: int, channels: int, *, rngs: nnx.Rngs):
        def make(rngs):
            return nf.fields.ConvBlock(width, kernel=kernel, rngs=rngs)

        self.stem = nnx.Conv(channels, width, (3, 3), strides=2, rngs=rngs)
        field = nf.DepthVarying(make, nf.PiecewiseConstant(BLOCKS), rngs=rngs)
        self.flow = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=BLOCKS), 0.0, float(BLOCKS))
        self.norm = nnx.GroupNorm(width, 4, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        y = jax.nn.relu(self.norm(self.flow(self.stem(x))))
        return self.head(y.mean(axis=(1, 2)))


def loss(model: Network, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Compute cross-entropy and accuracy."""
    logits = model(batch["image"])
    right = jnp.argmax(logits, axis=-1) == batch["label"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {
        "accuracy": jnp.mean(right)
    }


def images(name: str, split: str, folder: Path) -> dict[str, Any]:
    """Load images, normalised to about mean zero and variance one.

    The usual mean of 0.5 and deviation of 0.25 stand in for those of the training set.
    """
    data = nf.data.load(name, split, data_dir=folder)
    return {"image": (data["image"].astype(np.float32) / 255 - 0.5) / 0.25, "label": data["label"]}


def weights(model: Network) -> int:
    """Return the number of weights in the blocks."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(nnx.state(model.flow, nnx.Param)))


def step_times(models: Sequence[str], channels: int, size: int, rounds: int) -> dict[str, Any]:
    """Measure the time of a step's gradient against the ResNet's, round by round."""
    functions, arguments = {}, {}
    batch = {
        "image": jax.random.normal(jax.random.key(0), (BATCH, size, size, channels)),
        "label": jnp.zeros(BATCH, int),
    }
    for name in models:
        kernel, width = MODELS[name]
        graphdef, params = nnx.split(Network(kernel, width, channels, rngs=nnx.Rngs(0)))
        functions[name] = jax.grad(
            lambda p, batch, graphdef=graphdef: loss(nnx.merge(graphdef, p), batch)[0]
        )
        arguments[name] = (params, batch)
    measurements = side_by_side(functions, arguments, rounds)
    return {
        name: ratio(measured.runs, measurements["ResNet"].runs)
        for name, measured in measurements.items()
    }


def trained(
    model: str, seed: int, train: dict[str, Any], test: dict[str, Any], epochs: int
) -> tuple[Network, float]:
    """Train one network, and return it with its test error in percent."""
    kernel, width = MODELS[model]
    network = Network(kernel, width, train["image"].shape[-1], rngs=nnx.Rngs(seed))
    rate = optax.cosine_decay_schedule(3e-3, epochs * (len(train["label"]) // BATCH))
    nf.training.fit(
        network, loss, optax.adam(rate), train, epochs=epochs, batch=BATCH, seed=seed,
        progress=False,
    )  # fmt: skip
    metrics = nf.training.evaluate(network, loss, test, batch=500)
    return network, 100 * (1 - float(metrics["accuracy"]))


def measured(
    name: str, models: Sequence[str], options: Namespace, done: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compare the models on one set.

    Returns their results, and the equations of the layers of the first ResNet.
    """
    train = images(name, f"train[:{options.samples}]", options.data_dir)
    test = images(name, f"test[:{options.test_samples}]", options.data_dir)
    size, channels = train["image"].shape[2:]
    errors: dict[str, list[float]] = {model: [] for model in models}
    sizes, layers = {}, {}
    for seed in range(options.seeds):
        for model in models:
            network, error = trained(model, seed, train, test, options.epochs)
            errors[model].append(error)
            sizes[model] = weights(network)
            if model == "ResNet" and seed == 0:
                read = operators.read(network.flow)
                layers = {place: operators.shares(values) for place, values in read.items()}
            done(f"{name}, seed {seed}, {model}: {error:.2f}%")
    values = {model: np.asarray(by_seed) for model, by_seed in errors.items()}
    entry: dict[str, Any] = {
        model: {
            "weights": sizes[model],
            "error": over_seeds(values[model]),
            "less the ResNet's": over_seeds(values[model] - values["ResNet"]),
            "seeds": errors[model],
        }
        for model in models
    }
    times = step_times(models, channels, size, options.rounds)
    return entry | {"step over the ResNet's": times}, layers


def table(name: str, entry: dict[str, Any], options: Namespace) -> Table:
    """Return the table of one set."""
    made = Table(
        title=f"{name}, {options.samples} images, {options.epochs} epochs: "
        "test error, percent; intervals if roughly normal"
    )
    columns = ("weights", "error", "95% over seeds", "less the ResNet's", "95%", "time of a step")
    for column in ("blocks", *columns):
        made.add_column(column, justify="left" if column == "blocks" else "right")
    for model, step in entry["step over the ResNet's"].items():
        row, cells = entry[model], []
        for what in ("error", "less the ResNet's"):
            cells += [f"{row[what]['mean']:.2f}", span(row[what]["interval"])]
        made.add_row(model, str(row["weights"]), *cells, f"{step['median']:.2f}")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    quick = {"samples": 128, "test_samples": 64, "epochs": 1, "seeds": 1, "rounds": 1}
    parser = Parser(__file__, __doc__, seeds=3, data="needed", quick=quick)
    parser.add_argument("--samples", type=count, default=6_000)
    parser.add_argument("--test-samples", type=count, default=4_000)
    parser.add_argument("--epochs", type=count, default=4)
    parser.add_argument("--rounds", type=count, default=15, help="interleaved runs of a step")
    run = parser.begin(arguments)
    options, console = run.options, screen()
    sets = ("fashion_mnist",) if options.quick else ("fashion_mnist", "cifar10")
    models = list(MODELS)[: 2 if options.quick else None]
    entries, layers = {}, {}
    with progress(len(sets) * options.seeds * len(models), console) as done:
        for name in sets:
            entries[name], layers[name] = measured(name, models, options, done)
    for name, entry in entries.items():
        console.print(table(name, entry, options))
    shares = {n: {place: s._asdict() for place, s in held.items()} for n, held in layers.items()}
    result = {"sets": entries, "shares": shares}
    run.write("results", {"result": result}, {"shares.png": operators.plots.shares(layers)})


if __name__ == "__main__":
    main()
