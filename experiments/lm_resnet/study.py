"""What small studies share: the data, a short version of the published training, and results.

The data are a part of Fashion-MNIST. The results of a run are the numbers that studies compare.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from experiments.lm_resnet import recipe
from experiments.lm_resnet.model import Model, Network
from experiments.program import Parser, Run, count


class Study(NamedTuple):
    """Options and data of a study on networks of depth 20."""

    options: argparse.Namespace
    train_set: dict[str, np.ndarray]
    test_set: dict[str, np.ndarray]

    @property
    def title(self) -> str:
        """What the networks were trained on, for a table."""
        return (
            f"Fashion-MNIST, {self.options.samples} images, {self.options.epochs} epochs: "
            "test error, percent"
        )

    def network(self, model: Model, seed: int, survival: float | None = None) -> Network:
        """Build a network with the weights of a seed."""
        sizes = {"width": self.options.width, "blocks": self.options.blocks}
        return Network(20, model, channels=1, survival=survival, rngs=nnx.Rngs(seed), **sizes)

    def train(self, network: Network, seed: int) -> dict[str, Any]:
        """Train a network by the published recipe in short.

        The learning rate is cut after a half and three quarters of the epochs. Returns, by epoch,
        `loss`, the test `error` in percent, and `seconds`.
        """
        epochs = self.options.epochs
        rows = recipe.train(
            network,
            self.train_set,
            self.test_set,
            epochs=epochs,
            cuts=(epochs // 2, epochs * 3 // 4),
            seed=seed,
            progress=False,
        ).history.rows
        error = [100 * (1 - row["validation_accuracy"]) for row in rows]
        return {
            "loss": [row["loss"] for row in rows],
            "error": error,
            "seconds": [row["seconds"] for row in rows],
        }


def study(
    file: str, about: str | None, samples: int, arguments: Sequence[str] | None
) -> tuple[Run, Study]:
    """Return the run and the study that a command line asks for.

    Args:
        file: The file of the program.
        about: Its docstring.
        samples: The number of training images by default.
        arguments: The words of the command line, or None for those of this process.
    """
    quick = {"samples": 128, "test_samples": 64, "epochs": 2, "blocks": 2, "width": 2, "seeds": 1}
    parser = Parser(file, about, seeds=3, data="needed", quick=quick)
    parser.add_argument("--samples", type=count, default=samples)
    parser.add_argument("--test-samples", type=count, default=2_000)
    parser.add_argument("--epochs", type=count, default=8)
    parser.add_argument("--blocks", type=count, default=3, help="blocks a stage; 3 is depth 20")
    parser.add_argument("--width", type=count, default=8)
    run = parser.begin(arguments)
    options = run.options

    def split(name: str, count: int) -> dict[str, np.ndarray]:
        return recipe.images("fashion_mnist", f"{name}[:{count}]", options.data_dir)

    sets = split("train", options.samples), split("test", options.test_samples)
    return run, Study(options, *sets)
