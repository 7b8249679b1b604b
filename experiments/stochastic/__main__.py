"""ResNet and LM-ResNet with and without stochastic depth on part of Fashion-MNIST.

    python -m experiments.stochastic --data-dir FOLDER

The networks have depth 20, and the training is the published one in short. With stochastic depth,
block l of L is left out of a whole batch with the probability l / L (1 - p_L). Only the residual
branch is left out: an LM block keeps its two steps (Lu et al., arXiv 1710.10121). Blocks that are
left out are not computed, and the time of an epoch tells what this saves.

There are three paired seeds. Pairs share seed, batches and augmentation. Tests use the expectation.
Writes results.json and curves.png beside this file.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from experiments.lm_resnet.model import Model
from experiments.lm_resnet.study import study
from neuralflow import files, plots
from neuralflow.console import progress, screen, span
from neuralflow.statistics import over_seeds

HERE = Path(__file__).parent
COMMAND = "python -m experiments.stochastic --data-dir FOLDER"
KINDS: tuple[tuple[Model, float | None], ...] = (
    ("resnet", None),
    ("resnet", 0.5),
    ("lm", None),
    ("lm", 0.5),
)


def called(model: str, survival: float | None) -> str:
    return model if survival is None else f"{model}, p = {survival:g}"


def picture(runs: dict[str, list[dict[str, Any]]]) -> Any:
    """Draw training loss and test error by epoch: means over seeds, and ranges of the seeds."""
    figure, axes = plots.figure(1, 2, width=9.0, height=3.6)
    colours = ("#20639b", "#20639b", "#d1495b", "#d1495b")
    for what, axis in zip(("loss", "error"), axes, strict=True):
        for k, (name, of_kind) in enumerate(runs.items()):
            values = np.asarray([run[what] for run in of_kind])
            epochs = np.arange(1, values.shape[1] + 1)
            axis.plot(
                epochs,
                values.mean(0),
                color=colours[k],
                linestyle="--" if k % 2 else "-",
                label=name,
            )
            axis.fill_between(epochs, values.min(0), values.max(0), color=colours[k], alpha=0.12)
        axis.set(
            xlabel="epoch", title={"loss": "training loss", "error": "test error, percent"}[what]
        )
        axis.title.set_fontsize(10)
        axis.legend(fontsize=8, frameon=False)
    return figure


def main() -> None:
    small = study(__doc__, samples=4_000)
    console, began = screen(), time.perf_counter()
    runs: dict[str, list[dict[str, Any]]] = {called(*kind): [] for kind in KINDS}
    with progress(small.options.seeds * len(KINDS), console) as done:
        for seed in range(small.options.seeds):
            for model, survival in KINDS:
                run = small.train(small.network(model, seed, survival), seed)
                # The first epoch compiles.
                seconds = float(np.median(run.pop("seconds")[1:]))
                runs[called(model, survival)].append({**run, "epoch, seconds": seconds})
                done(f"seed {seed}, {called(model, survival)}: {run['error'][-1]:.2f}%")
    table = Table(title=small.title)
    for column in (
        "network",
        "error",
        "95% over seeds, if roughly normal",
        "less that without",
        "95%",
        "time of an epoch over that without",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    result: dict[str, Any] = {
        key: value for key, value in vars(small.options).items() if key != "data_dir"
    }
    for model, survival in KINDS:
        name = called(model, survival)
        last = np.asarray([run["error"][-1] for run in runs[name]])
        plain = np.asarray([run["error"][-1] for run in runs[model]])
        times = np.asarray(
            [
                a["epoch, seconds"] / b["epoch, seconds"]
                for a, b in zip(runs[name], runs[model], strict=True)
            ]
        )
        summaries = {"error": over_seeds(last), "less that without": over_seeds(last - plain)}
        result[name] = {**summaries, "time over that without": times.tolist(), "runs": runs[name]}
        spans = [span(summary["interval"]) for summary in summaries.values()]
        cells = [name, f"{last.mean():.2f}", spans[0]]
        cells += (
            ["", "", ""]
            if survival is None
            else [f"{(last - plain).mean():.2f}", spans[1], f"{np.median(times):.2f}"]
        )
        table.add_row(*cells)
    console.print(table)
    result["seconds"] = time.perf_counter() - began
    files.write(HERE / "results.json", files.as_json({"command": COMMAND, "result": result}))
    picture(runs).savefig(HERE / "curves.png", dpi=150)


if __name__ == "__main__":
    main()
