"""ResNet and LM-ResNet with and without stochastic depth on part of Fashion-MNIST: three paired seeds, intervals, time.

    python -m experiments.stochastic --data-dir FOLDER

Depth 20, the published training in short. With stochastic depth block l of L is left out of a whole batch with probability l / L (1 - p_L), the
residual branch only: an LM block keeps its two steps (Lu et al., arXiv 1710.10121). Blocks that are left out are not computed, and the time of an
epoch says what that saves. Pairs share seed, batches and augmentation, and tests use the expectation. Writes results.json and curves.png
beside this file.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from rich.table import Table

from experiments.lm_resnet import recipe
from experiments.lm_resnet.model import Model, Network
from experiments.seeds import summary
from neuralflow import plots, report

HERE = Path(__file__).parent
COMMAND = "python -m experiments.stochastic --data-dir FOLDER"
KINDS: tuple[tuple[Model, float | None], ...] = (("resnet", None), ("resnet", 0.5), ("lm", None), ("lm", 0.5))


def called(model: str, survival: float | None) -> str:
    return model if survival is None else f"{model}, p = {survival:g}"


def picture(runs: dict[str, list[dict[str, Any]]]) -> Any:
    """Training loss and test error by epoch, in the mean over seeds, and the range of the seeds."""
    made, axes = plots.figure(1, 2, width=9.0, height=3.6)
    colours = ("#20639b", "#20639b", "#d1495b", "#d1495b")
    for what, axis in zip(("loss", "error"), axes, strict=True):
        for k, (name, found) in enumerate(runs.items()):
            values = np.asarray([run[what] for run in found])
            epochs = np.arange(1, values.shape[1] + 1)
            axis.plot(epochs, values.mean(0), color=colours[k], linestyle="--" if k % 2 else "-", label=name)
            axis.fill_between(epochs, values.min(0), values.max(0), color=colours[k], alpha=0.12)
        axis.set(xlabel="epoch", title={"loss": "training loss", "error": "test error, percent"}[what])
        axis.title.set_fontsize(10)
        axis.legend(fontsize=8, frameon=False)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4_000)
    parser.add_argument("--test-samples", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=3, help="blocks a stage; 3 is depth 20")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    train_set = recipe.images("fashion_mnist", f"train[:{given.samples}]", given.data_dir)
    test_set = recipe.images("fashion_mnist", f"test[:{given.test_samples}]", given.data_dir)
    cuts = (given.epochs // 2, given.epochs * 3 // 4)
    console, began = report.console(), time.perf_counter()
    runs: dict[str, list[dict[str, Any]]] = {called(*kind): [] for kind in KINDS}
    with report.steps(given.seeds * len(KINDS), console) as done:
        for seed in range(given.seeds):
            for kind in KINDS:
                model, survival = kind
                network = Network(
                    20, model, channels=1, width=given.width, blocks=given.blocks, survival=survival, rngs=nnx.Rngs(seed)
                )
                rows = recipe.train(
                    network, train_set, test_set, epochs=given.epochs, cuts=cuts, seed=seed, progress=False
                ).history.rows
                error = [100 * (1 - row["validation_accuracy"]) for row in rows]
                # The first epoch compiles.
                seconds = float(np.median([row["seconds"] for row in rows[1:]]))
                runs[called(*kind)].append({"loss": [row["loss"] for row in rows], "error": error, "epoch, seconds": seconds})
                done(f"seed {seed}, {called(*kind)}: {error[-1]:.2f}%")
    table = Table(title=f"Fashion-MNIST, {given.samples} images, {given.epochs} epochs: test error, percent")
    for column in ("network", "error", "95% over seeds", "less that without", "95%", "time of an epoch over that without"):
        table.add_column(column, justify="left" if column == "network" else "right")
    result: dict[str, Any] = {key: value for key, value in vars(given).items() if key != "data_dir"}
    for model, survival in KINDS:
        name = called(model, survival)
        last = np.asarray([run["error"][-1] for run in runs[name]])
        plain = np.asarray([run["error"][-1] for run in runs[model]])
        times = np.asarray([a["epoch, seconds"] / b["epoch, seconds"] for a, b in zip(runs[name], runs[model], strict=True)])
        found = {"error": summary(last), "less that without": summary(last - plain), "time over that without": times.tolist()}
        result[name] = {**found, "runs": runs[name]}
        spans = ["{:.2f} to {:.2f}".format(*found[key]["interval"]) for key in ("error", "less that without")]
        cells = [name, f"{last.mean():.2f}", spans[0]]
        cells += ["", "", ""] if survival is None else [f"{(last - plain).mean():.2f}", spans[1], f"{np.median(times):.2f}"]
        table.add_row(*cells)
    console.print(table)
    result["seconds"] = time.perf_counter() - began
    report.write(HERE / "results.json", report.as_json({"command": COMMAND, "result": result}))
    picture(runs).savefig(HERE / "curves.png", dpi=150)


if __name__ == "__main__":
    main()
