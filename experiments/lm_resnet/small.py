"""A small ResNet against the LM-ResNet of the same depth on part of Fashion-MNIST: paired seeds, intervals, curves, learned k.

    python -m experiments.lm_resnet.small --data-dir FOLDER

Pairs have the same seed, batches and augmentation, and the ResNet's weights start as the LM-ResNet's. Writes small.json and
small.png beside this file. Sized for twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from experiments.lm_resnet import recipe
from experiments.lm_resnet.model import Network, parameters
from experiments.seeds import summary
from neuralflow import plots, report

HERE = Path(__file__).parent
COMMAND = "python -m experiments.lm_resnet.small --data-dir FOLDER"


def pair(blocks: int, width: int, seed: int) -> dict[str, Network]:
    """Both networks with the same weights, but for the k of one."""
    made = {m: Network(20, m, channels=1, width=width, blocks=blocks, rngs=nnx.Rngs(seed)) for m in ("resnet", "lm")}
    fields = nnx.state(made["lm"])
    flat = dict(nnx.to_flat_state(fields))
    shared = [(path, flat[path]) for path, _ in nnx.to_flat_state(nnx.state(made["resnet"]))]
    nnx.update(made["resnet"], nnx.from_flat_state(shared))
    return made


def picture(runs: dict[str, list[dict[str, Any]]]) -> Any:
    """Loss and test error by epoch, every seed, and the learned k of the last one's stages."""
    made, (loss, error, learned) = plots.figure(1, 3, height=3.6)
    for what, axis in (("loss", loss), ("error", error)):
        for model, colour in (("resnet", "#20639b"), ("lm", "#d1495b")):
            for i, run in enumerate(runs[model]):
                epochs = range(1, len(run[what]) + 1)
                axis.plot(epochs, run[what], color=colour, linewidth=1.1, alpha=0.8, label=model if i == 0 else None)
        axis.set_xlabel("epoch")
        axis.set_title({"loss": "training loss", "error": "test error, percent"}[what], fontsize=10)
        axis.legend(fontsize=8, frameon=False)
    loss.set_yscale("log")
    for i in range(3):
        ks = np.asarray([run["k"][i] for run in runs["lm"]])
        places = np.arange(2 if i == 0 else 1, ks.shape[1] + (2 if i == 0 else 1)) + 0.06 * (i - 1)
        spread = np.abs(ks - ks.mean(0)).max(0)
        learned.errorbar(places, ks.mean(0), spread, fmt="o-", capsize=2, markersize=4, linewidth=1.1, label=f"stage {i + 1}")
    learned.axhline(0, color="0.4", linewidth=0.5)
    learned.xaxis.get_major_locator().set_params(integer=True)
    learned.set_xlabel("step of the stage")
    learned.set_title("learned k, mean and range over seeds", fontsize=10)
    learned.legend(fontsize=8, frameon=False)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=6_000)
    parser.add_argument("--test-samples", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=3, help="blocks a stage; 3 is depth 20")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    train_set = recipe.images("fashion_mnist", f"train[:{given.samples}]", given.data_dir)
    test_set = recipe.images("fashion_mnist", f"test[:{given.test_samples}]", given.data_dir)
    cuts = (given.epochs // 2, given.epochs * 3 // 4)
    console, began = Console(), time.perf_counter()
    runs: dict[str, list[dict[str, Any]]] = {"resnet": [], "lm": []}
    for seed in range(given.seeds):
        for model, network in pair(given.blocks, given.width, seed).items():
            fitted = recipe.train(network, train_set, test_set, epochs=given.epochs, cuts=cuts, seed=seed, progress=False)
            rows = fitted.history.rows
            runs[model].append(
                {
                    "loss": [row["loss"] for row in rows],
                    "error": [100 * (1 - row["validation_accuracy"]) for row in rows],
                    "seconds": sum(row["seconds"] for row in rows),
                    "parameters": parameters(network),
                    "k": network.learned_k(),
                }
            )
            console.print(f"seed {seed}, {model}: test error {runs[model][-1]['error'][-1]:.2f}%")
    last = {model: np.asarray([run["error"][-1] for run in found]) for model, found in runs.items()}
    table = Table(title=f"Fashion-MNIST, {given.samples} images, {given.epochs} epochs: test error, percent")
    for name in ("model", "parameters", "mean", "95% interval over seeds"):
        table.add_column(name, justify="left" if name == "model" else "right")
    values = {**last, "lm - resnet": last["lm"] - last["resnet"]}
    found = {}
    for model, errors in values.items():
        found[model] = summary(errors)
        low, high = found[model]["interval"]
        size = str(runs[model][0]["parameters"]) if model in runs else ""
        table.add_row(model, size, f"{errors.mean():.2f}", f"{low:.2f} to {high:.2f}")
    console.print(table)
    result = {
        "samples": given.samples,
        "test_samples": given.test_samples,
        "epochs": given.epochs,
        "blocks": given.blocks,
        "width": given.width,
    }
    result |= {"seconds": time.perf_counter() - began, "test error": found, "runs": runs}
    report.write(HERE / "small.json", report.as_json({"command": COMMAND, "result": result}))
    picture(runs).savefig(HERE / "small.png", dpi=150)


if __name__ == "__main__":
    main()
