"""One trained network at inference: fewer steps, other schemes, fewer coefficients, no training.

    python -m experiments.depth_resource.tradeoff --data-dir FOLDER

FOLDER holds the set as TFDS writes it (`neuralflow data prepare fashion_mnist --data-dir FOLDER`).
A residual network of 64 equal Euler steps on [0, 1], whose layers start equal, is trained on 10,000
images. The table shows what the network costs and gives with other steps, schemes and bases of its
weights: accuracy and disagreement on all test images, evaluations, times, memory. Times belong to
batches of 512 images, relative to the network as it was trained.

The second table splits the error of the network on few steps: weights projected on piecewise linear
ones, then fewer Euler steps, then a fit to the logits of the trained network on the training
images, without labels. Writes tradeoff-DATA.json and tradeoff-DATA.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import neuralflow as nf
from experiments.depth_resource.importing import KINDS, Network
from experiments.lm_resnet import recipe
from experiments.program import Parser, count
from neuralflow import data, inference, training
from neuralflow.cli.tradeoff import candidates
from neuralflow.inference import Candidate


def choices(blocks: int) -> list[Candidate]:
    """Return what the command `evaluate --tradeoff` compares, and all steps on fewer weights."""
    fewer = [Candidate(basis=nf.PiecewiseLinear(cells)) for cells in (8, 4, 2, 1)]
    return fewer + candidates(blocks, "euler")


def compressed(network: Network, cells: int, images: np.ndarray, epochs: int) -> dict[str, Any]:
    """Return the network on the way to few steps: with fewer weights, fewer steps, and fitted."""
    basis, grid = nf.PiecewiseLinear(cells), nf.FixedGrid(nf.Euler(), steps=cells)
    small = Candidate(grid, basis).applied_to(network)
    logits = np.asarray(nnx.jit(lambda network, x: network(x))(network, images))

    def off(model: Any, batch: Any) -> Any:
        return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)

    fitted = nnx.clone(small)
    training.fit(
        fitted, off, optax.adam(1e-3), {"x": images, "y": logits}, epochs=epochs, progress=False
    )
    projected = Candidate(basis=basis).applied_to(network)
    return {"basis": projected, "discretisation": small, "fit": fitted}


def parser() -> Parser:
    quick = {"samples": 256, "tests": 512, "epochs": 1, "blocks": 8, "width": 4, "cells": 2}
    made = Parser(__file__, __doc__, data="needed", quick=quick | {"fit_epochs": 1, "rounds": 1})
    made.add_argument("--data", default="fashion_mnist", choices=("mnist", "fashion_mnist"))
    made.add_argument("--samples", type=count, default=10_000)
    made.add_argument("--tests", type=count, default=10_000, help="test images")
    made.add_argument("--epochs", type=count, default=15)
    made.add_argument("--blocks", type=count, default=64)
    made.add_argument("--width", type=count, default=32)
    made.add_argument("--cells", type=count, default=4, help="steps of the second table")
    made.add_argument("--fit-epochs", type=count, default=5, help="passes of the fit to the logits")
    made.add_argument("--rounds", type=count, default=30, help="how often a choice is timed")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    run = parser().begin(arguments)
    options = run.options
    train, test = (
        recipe.normalised(options.data, data.load(options.data, part, data_dir=options.data_dir))
        for part in (f"train[:{options.samples}]", f"test[:{options.tests}]")
    )
    network = Network(
        KINDS["equal layers, h = 1/n"], train["x"].shape[1:], options.width, options.blocks,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    training.fit(network, nf.models.classification, optax.adam(2e-3), train, epochs=options.epochs)
    table = inference.tradeoff(network, test, choices(options.blocks), rounds=options.rounds)
    print(table)
    parts = compressed(network, options.cells, train["x"], options.fit_epochs)
    split = inference.error_split(network, test["x"], **parts)
    small = inference.tradeoff(parts["fit"], test, [], rounds=1, progress=False).choices[0]
    print(split)
    print(f"{options.cells} Euler steps after the fit: accuracy {small.accuracy:.2%}")
    name, result = (
        f"tradeoff-{options.data}",
        {
            "table": table.record(),
            "error split": split.record(),
            "accuracy after the fit": small.accuracy,
        },
    )
    run.write(name, {"result": result}, {f"{name}.png": inference.plots.choices(table)})


if __name__ == "__main__":
    main()
