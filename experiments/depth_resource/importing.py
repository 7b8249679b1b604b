"""Trained ResNets of 32 blocks on a few coefficients of depth, without labels.

    python -m experiments.depth_resource.importing --data-dir FOLDER

FOLDER holds the set as TFDS writes it (`neuralflow data prepare mnist --data-dir FOLDER`). Residual
networks are trained on part of a set, and `nf.fit_branches` brings their branches to few
coefficients. Blocks are dense on MNIST and Fashion-MNIST. On CIFAR-10, blocks are convolutional,
and these options keep the run short:

    --data cifar10 --samples 5000 --inputs 1024 --tests 5000 --epochs 8 --batch 64 --rate 0.005
    --width 8 --steps 100

There are ordinary networks with h = 1, and networks with h = 1 / n whose layers start equal or
smooth in depth. Each of them exists with batch norm, which is frozen first, and without: then with
tanh, and for h = 1 with ReLU too, where states grow from block to block.

The columns are test accuracies of layers that are not trained again:

- constant cells: the projection on eight constant cells, which are eight coefficients;
- projected: the projection on piecewise linear weights on eight cells, which are nine coefficients,
  as in all columns that follow;
- aligned: the projection after hidden units were aligned;
- fitted: the aligned projection, fitted to the states of the training images where h = 1, and as it
  is where h = 1 / n;
- scrambled, fitted: the same for the network with hidden units that are scrambled block by block.

The table shows accuracies of the networks, the points that the layers lose, and the seconds of a
processor that alignment, projection and fit take, with compilation. Writes importing-DATA.json.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.lm_resnet import recipe
from experiments.program import Parser, count, positive
from neuralflow import data, training
from neuralflow.console import progress, screen, span
from neuralflow.depth.initial import Init
from neuralflow.statistics import over_seeds

COLUMNS = ("trained", "constant cells", "projected", "aligned", "fitted", "scrambled, fitted")


class Kind(NamedTuple):
    """How the blocks of a network begin, and what they are.

    `small` asks for steps h = 1 / n instead of h = 1, and `norm` for batch norm, in blocks that are
    (batch norm, ReLU, layer) twice. Other blocks are layer, activation, layer.
    """

    init: Init
    small: bool = False
    norm: bool = False
    activation: Callable[[Any], Any] = jnp.tanh


KINDS = {
    "h = 1": Kind(nf.independent),
    "h = 1, ReLU": Kind(nf.independent, activation=jax.nn.relu),
    "h = 1, batch norm": Kind(nf.independent, norm=True),
    "equal layers, h = 1/n": Kind(nf.tied, small=True),
    "equal layers, h = 1/n, batch norm": Kind(nf.tied, small=True, norm=True),
    "smooth layers, h = 1/n": Kind(nf.smooth(), small=True),
    "smooth layers, h = 1/n, batch norm": Kind(nf.smooth(), small=True, norm=True),
}


class Branch(nnx.Module):
    """A residual branch of a kind, with layers that `make` makes."""

    def __init__(self, make: Callable[[], nnx.Module], width: int, kind: Kind, rngs: nnx.Rngs):
        first, last = (make() for _ in range(2))
        layers: list[Any] = [first, kind.activation, last]
        if kind.norm:
            norms = (nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for _ in range(2))
            layers = [next(norms), jax.nn.relu, first, next(norms), jax.nn.relu, last]
        self.layers = nnx.Sequential(*layers)

    def __call__(self, x: Any) -> Any:
        return self.layers(x)


class Network(nnx.Module):
    """A network from images `(batch, height, width, channels)` to logits.

    Images of one channel become vectors, and blocks are dense. Images of more channels become
    images of a quarter of the side, and blocks are convolutional.
    """

    def __init__(
        self, kind: Kind, image: tuple[int, ...], width: int, blocks: int, *, rngs: nnx.Rngs
    ):
        self.flat = image[-1] == 1

        def layer(rngs: nnx.Rngs) -> nnx.Module:
            if self.flat:
                return nnx.Linear(width, width, rngs=rngs)
            return nnx.Conv(width, width, (3, 3), rngs=rngs)

        field = nf.DepthVarying(
            lambda rngs: Branch(lambda: layer(rngs), width, kind, rngs),
            nf.PiecewiseConstant(blocks), rngs=rngs, init=kind.init,
        )  # fmt: skip
        grid = nf.FixedGrid(nf.Euler(), steps=blocks, memory="full")
        if self.flat:
            self.stem = nnx.Linear(math.prod(image), width, rngs=rngs)
        else:
            self.stem = nnx.Conv(image[-1], width, (7, 7), strides=4, rngs=rngs)
        self.flow = nf.NeuralODE(field, grid, 0.0, 1.0 if kind.small else float(blocks))
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.logits(self.flow(self.embed(x)))

    def embed(self, x: Any) -> Any:
        """Return the states before the first block."""
        return self.stem(x.reshape(len(x), -1) if self.flat else x)

    def logits(self, y: Any) -> Any:
        """Return the logits of the states after the last block."""
        return self.head(y if self.flat else y.mean((1, 2)))

    def branches(self) -> list[Any]:
        """Return the branches f_k of x + f_k(x) in evaluation mode, with the step inside."""
        blocks = self.flow.field.basis.size
        branches: list[Any] = [self.flow.field.at(k / blocks) for k in range(blocks)]
        step = float(self.flow.t1) / blocks
        for branch in branches:
            branch.eval()
            last = branch.layers.layers[-1]
            last.kernel[...], last.bias[...] = step * last.kernel[...], step * last.bias[...]
        return branches


def scrambled(branches: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """Return branches that compute the same, with hidden units in another order.

    Units with tanh change their sign too, and units with ReLU their scale.
    """
    copies = [nnx.clone(branch) for branch in branches]
    for copy in copies:
        layers: list[Any] = list(copy.layers.layers)
        linear: list[Any] = [x for x in layers if isinstance(x, nnx.Linear | nnx.Conv)]
        first, last = linear
        between: Any = layers[layers.index(first) + 1]
        order = rng.permutation(first.out_features)
        first.kernel[...] = first.kernel[...][..., order]
        first.bias[...] = first.bias[...][order]
        last.kernel[...] = last.kernel[...][..., order, :]
        if isinstance(between, nf.branches.Affine):
            factor, multiplied = rng.uniform(0.5, 2.0, len(order)), (between.scale, between.bias)
            for array in multiplied:
                array[...] = array[...][order]
        else:
            odd = between is jnp.tanh
            factor = rng.choice([-1.0, 1.0], len(order)) if odd else rng.uniform(0.5, 2, len(order))
            multiplied = first.kernel, first.bias
        for array in multiplied:
            array[...] = array[...] * factor
        last.kernel[...] = last.kernel[...] / factor[:, None]
    return copies


def measure(kind: Kind, seed: int, options: Any, sets: dict[str, Any]) -> dict[str, Any]:
    """Train one network, and return accuracies in percent and the seconds of the fit."""
    train, test = sets["train"], sets["test"]
    network = Network(
        kind, train["x"].shape[1:], options.width, options.blocks, rngs=nnx.Rngs(seed)
    )
    training.fit(
        network, nf.models.classification, optax.adam(options.rate), train, epochs=options.epochs,
        batch=options.batch, seed=seed, progress=False,
    )  # fmt: skip
    network.eval()
    branches = [nf.frozen(branch) for branch in network.branches()]
    copies = scrambled(branches, np.random.default_rng(seed))
    basis, cells = nf.PiecewiseLinear(options.cells), nf.PiecewiseConstant(options.cells)
    embed = nnx.jit(lambda network, x: network.embed(x))
    x, states = embed(network, train["x"][: options.inputs]), embed(network, test["x"])
    steps = 0 if kind.small else options.steps

    whole = nf.from_branches(branches)
    again, _ = nf.fit_branches(branches, nf.PiecewiseConstant(options.blocks), units=())
    constant, _ = nf.fit_branches(branches, cells, units=())
    plain, _ = nf.fit_branches(branches, basis, units=())
    aligned, _ = nf.fit_branches(branches, basis)
    began = time.process_time()
    fitted, report = nf.fit_branches(branches, basis, x=x, steps=steps, progress=False)
    jax.block_until_ready(nnx.state(fitted))
    seconds = time.process_time() - began
    other, _ = nf.fit_branches(copies, basis, x=x, steps=steps, progress=False)

    def accuracy(layer: Any) -> float:
        return 100 * float((network.logits(layer(states)).argmax(-1) == test["y"]).mean())

    layers = (whole, constant, plain, aligned, fitted, other)
    return {
        **dict(zip(COLUMNS, map(accuracy, layers), strict=True)),
        "seconds": seconds,
        "bitwise": bool((again(states) == whole(states)).all()),
        "weights off": [report.raw, report.aligned],
        "states off": report.states,
        "output off": report.output,
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the seeds: accuracies, seconds, and the points that each layer loses."""
    values = {name: np.array([run[name] for run in runs]) for name in (*COLUMNS, "seconds")}
    lost = {name: values["trained"] - values[name] for name in COLUMNS[1:]}
    return {name: over_seeds(value) for name, value in values.items()} | {
        "points lost": {n: over_seeds(v) | {"worst": float(v.max())} for n, v in lost.items()}
    }


def shown(summary: dict[str, Any]) -> str:
    """Return a mean and its interval as the table shows them."""
    return f"{summary['mean']:.2f}\n({span(summary['interval'])})"


def table(summaries: dict[str, dict[str, Any]], options: Any) -> Table:
    """Return the table of all kinds of networks."""
    rows = Table(
        title=f"{options.blocks} blocks on PiecewiseLinear({options.cells}), {options.data}: test "
        "accuracy in percent, points that layers lose, seconds of the fit: mean (95% if roughly "
        f"normal) over {options.seeds} seeds, and the worst seed"
    )
    for head in ("network", *COLUMNS, "seconds"):
        rows.add_column(head, justify="left" if head == "network" else "right")
    for name, of_kind in summaries.items():
        lost = [f"{shown(s)}\n{s['worst']:.2f}" for s in of_kind["points lost"].values()]
        rows.add_row(name, shown(of_kind["trained"]), *lost, shown(of_kind["seconds"]))
    return rows


def parser() -> Parser:
    quick = {"samples": 256, "inputs": 64, "tests": 64, "epochs": 1, "blocks": 4, "cells": 2}
    made = Parser(__file__, __doc__, seeds=3, data="needed", quick=quick | {"steps": 3, "seeds": 1})
    made.add_argument("--data", default="mnist", choices=("mnist", "fashion_mnist", "cifar10"))
    made.add_argument("--samples", type=count, default=10_000, help="images of the training")
    made.add_argument("--inputs", type=count, default=10_000, help="images of the fit to states")
    made.add_argument("--tests", type=count, default=10_000, help="test images")
    made.add_argument("--epochs", type=count, default=15)
    made.add_argument("--batch", type=count, default=128)
    made.add_argument("--rate", type=positive, default=2e-3, help="learning rate of Adam")
    made.add_argument("--blocks", type=count, default=32)
    made.add_argument("--width", type=count, default=32)
    made.add_argument("--cells", type=count, default=8)
    made.add_argument("--steps", type=count, default=1500, help="steps of the fit to states")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    run = parser().begin(arguments)
    options = run.options
    sets = {
        split: recipe.normalised(
            options.data, data.load(options.data, part, data_dir=options.data_dir)
        )
        for split, part in (
            ("train", f"train[:{options.samples}]"),
            ("test", f"test[:{options.tests}]"),
        )
    }
    console, kinds = screen(), list(KINDS)[: 2 if options.quick else None]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    with progress(len(kinds) * options.seeds, console) as done:
        for name in kinds:
            for seed in range(options.seeds):
                runs[name].append(measure(KINDS[name], seed, options, sets))
                line = ", ".join(f"{column} {runs[name][-1][column]:.2f}" for column in COLUMNS)
                done(f"{name}, seed {seed}: {line}")
    summaries = {name: summary(of_kind) for name, of_kind in runs.items()}
    console.print(table(summaries, options))
    sizes = {"blocks": options.blocks, "cells": options.cells}
    result = sizes | {"over seeds": summaries, "runs": runs}
    run.write(f"importing-{options.data}", {"result": result})


if __name__ == "__main__":
    main()
