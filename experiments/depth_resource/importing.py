"""Trained ResNets of 32 blocks on a few coefficients of depth, without labels.

    python -m experiments.depth_resource.importing --data-dir FOLDER

FOLDER holds the set as TFDS writes it (`neuralflow data prepare mnist --data-dir FOLDER`). Residual
networks are trained on 10,000 images, and `nf.fit_branches` brings their branches to piecewise
linear weights on eight cells. There are three kinds: ordinary networks with h = 1, the same with
batch norm (frozen first), and networks whose layers start equal with h = 1 / n. The table shows
test accuracies: of the network, of the projection without alignment and with it, and after the fit
to the states of the training images. A last column repeats the fit for the same network with hidden
units that are scrambled block by block. Writes importing-DATA.json beside this file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.lm_resnet import recipe
from neuralflow import data, files, training
from neuralflow.console import progress, screen, span
from neuralflow.statistics import over_seeds

HERE = Path(__file__).parent
KINDS = ("h = 1", "h = 1, batch norm", "equal layers, h = 1/n")
COLUMNS = ("trained", "projected", "aligned", "fitted", "scrambled, fitted")


class Branch(nnx.Module):
    """A residual branch: dense, tanh, dense; or (batch norm, ReLU, dense) twice."""

    def __init__(self, width: int, kind: str, rngs: nnx.Rngs):
        first, last = (nnx.Linear(width, width, rngs=rngs) for _ in range(2))
        layers: list[Any] = [first, jnp.tanh, last]
        if "batch norm" in kind:
            norms = (nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for _ in range(2))
            layers = [next(norms), jax.nn.relu, first, next(norms), jax.nn.relu, last]
        self.layers = nnx.Sequential(*layers)

    def __call__(self, x: Any) -> Any:
        return self.layers(x)


class Network(nnx.Module):
    """A network from images `(batch, height, width, channels)` to logits."""

    def __init__(self, kind: str, pixels: int, width: int, blocks: int, *, rngs: nnx.Rngs):
        equal = "equal" in kind
        field = nf.DepthVarying(
            lambda rngs: Branch(width, kind, rngs), nf.PiecewiseConstant(blocks), rngs=rngs,
            init=nf.tied if equal else nf.independent,
        )  # fmt: skip
        grid = nf.FixedGrid(nf.Euler(), steps=blocks, memory="full")
        self.stem = nnx.Linear(pixels, width, rngs=rngs)
        self.flow = nf.NeuralODE(field, grid, 0.0, 1.0 if equal else float(blocks))
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(self.flow(self.embed(x)))

    def embed(self, x: Any) -> Any:
        """Return the states before the first block."""
        return self.stem(x.reshape(len(x), -1))

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
        dense: list[Any] = [layer for layer in layers if isinstance(layer, nnx.Linear)]
        first, last = dense
        between: Any = layers[layers.index(first) + 1]
        order = rng.permutation(first.out_features)
        first.kernel[...] = first.kernel[...][:, order]
        last.kernel[...] = last.kernel[...][order]
        if isinstance(between, nf.branches.Affine):
            first.bias[...] = first.bias[...][order]
            factor, scaled = rng.uniform(0.5, 2.0, len(order)), (between.scale, between.bias)
            for array in scaled:
                array[...] = array[...][order] * factor
        else:
            factor = rng.choice([-1.0, 1.0], len(order))
            first.kernel[...] = first.kernel[...] * factor
            first.bias[...] = first.bias[...][order] * factor
        last.kernel[...] = last.kernel[...] / factor[:, None]
    return copies


def measure(kind: str, seed: int, options: Any, sets: dict[str, Any]) -> dict[str, Any]:
    """Train one network, and return its accuracies in percent and the seconds of the fit."""
    train, test = sets["train"], sets["test"]
    network = Network(kind, train["x"][0].size, options.width, options.blocks, rngs=nnx.Rngs(seed))
    training.fit(
        network, nf.models.classification, optax.adam(2e-3), train, epochs=options.epochs,
        seed=seed, progress=False,
    )  # fmt: skip
    network.eval()
    branches = [nf.frozen(branch) for branch in network.branches()]
    basis = nf.PiecewiseLinear(options.cells)
    embed = nnx.jit(lambda network, x: network.embed(x))
    x, states = embed(network, train["x"]), embed(network, test["x"])

    def accuracy(layer: Any) -> float:
        logits = network.head(layer(states))
        return 100 * float((logits.argmax(-1) == test["y"]).mean())

    again, _ = nf.fit_branches(branches, nf.PiecewiseConstant(options.blocks), units=())
    whole = nf.from_branches(branches)
    plain, _ = nf.fit_branches(branches, basis, units=())
    aligned, _ = nf.fit_branches(branches, basis)
    began = time.perf_counter()
    fitted, report = nf.fit_branches(branches, basis, x=x, steps=options.steps)
    jax.block_until_ready(nnx.state(fitted))
    seconds = time.perf_counter() - began
    copies = scrambled(branches, np.random.default_rng(seed))
    other, _ = nf.fit_branches(copies, basis, x=x, steps=options.steps)
    return {
        **dict(zip(COLUMNS, map(accuracy, (whole, plain, aligned, fitted, other)), strict=True)),
        "seconds": seconds,
        "bitwise": bool((again(states) == whole(states)).all()),
        "weights off": [report.raw, report.aligned],
        "states off": report.states,
        "output off": report.output,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of prepared TFDS sets")
    parser.add_argument("--data", default="mnist", choices=("mnist", "fashion_mnist"))
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500, help="steps of the fit to states")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    sets = {
        split: recipe.normalised(
            options.data, data.load(options.data, part, data_dir=options.data_dir)
        )
        for split, part in (("train", f"train[:{options.samples}]"), ("test", "test"))
    }
    console, began = screen(), time.perf_counter()
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with progress(len(KINDS) * options.seeds, console) as done:
        for kind in KINDS:
            for seed in range(options.seeds):
                runs[kind].append(measure(kind, seed, options, sets))
                shown = ", ".join(f"{name} {runs[kind][-1][name]:.2f}" for name in COLUMNS)
                done(f"{kind}, seed {seed}: {shown}")
    table = Table(
        title=f"{options.blocks} blocks on PiecewiseLinear({options.cells}), {options.data}: test "
        f"accuracy in percent, mean (95% if roughly normal) over {options.seeds} seeds"
    )
    summaries: dict[str, Any] = {}
    for head in ("network", *COLUMNS, "seconds"):
        table.add_column(head, justify="left" if head == "network" else "right")
    for kind, of_kind in runs.items():
        summaries[kind] = {
            name: over_seeds([run[name] for run in of_kind]) for name in (*COLUMNS, "seconds")
        }
        table.add_row(
            kind, *(f"{s['mean']:.2f}\n({span(s['interval'])})" for s in summaries[kind].values())
        )
    console.print(table)
    result = {name: value for name, value in vars(options).items() if name != "data_dir"} | {
        "seconds": time.perf_counter() - began,
        "over seeds": summaries,
        "runs": runs,
    }
    command = f"python -m experiments.depth_resource.importing --data {options.data}"
    held = {"command": f"{command} --data-dir FOLDER", "result": result}
    files.write(HERE / f"importing-{options.data}.json", files.as_json(held))


if __name__ == "__main__":
    main()
