"""ResNet and LM-ResNet with and without stochastic depth on part of Fashion-MNIST.

    python -m experiments.stochastic --data-dir FOLDER

The networks have depth 20, and the training is the published one in short. With stochastic depth,
block l of L is left out of a whole batch with the probability l / L (1 - p_L). Only the residual
branch is left out: an LM block keeps its two steps (Lu et al., arXiv 1710.10121). Blocks that are
left out are not computed, and the time of an epoch tells what this saves.

There are three paired seeds. Pairs share seed, batches and augmentation. Tests use the expectation.
Writes results.json and curves.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from experiments.lm_resnet.model import Model
from experiments.lm_resnet.study import study
from neuralflow import plots
from neuralflow.console import progress, screen, span
from neuralflow.statistics import over_seeds

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


def compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return for every kind its test errors, and how these and its times differ from those without.

    Without stochastic depth, both are compared with themselves.
    """

    def errors(name: str) -> np.ndarray:
        return np.asarray([run["error"][-1] for run in runs[name]])

    rows = {}
    for name in runs:
        model = name.partition(",")[0]
        pairs = zip(runs[name], runs[model], strict=True)
        rows[name] = {
            "error": over_seeds(errors(name)),
            "less that without": over_seeds(errors(name) - errors(model)),
            "time over that without": [a["epoch, seconds"] / b["epoch, seconds"] for a, b in pairs],
            "runs": runs[name],
        }
    return rows


def table(rows: dict[str, dict[str, Any]], title: str) -> Table:
    """Return the table of all kinds."""
    made = Table(title=title)
    heads = ("error", "95% over seeds, if roughly normal", "less that without", "95%")
    for column in ("network", *heads, "time of an epoch over that without"):
        made.add_column(column, justify="left" if column == "network" else "right")
    for name, row in rows.items():
        cells = []
        for what in ("error", "less that without"):
            cells += [f"{row[what]['mean']:.2f}", span(row[what]["interval"])]
        cells.append(f"{np.median(row['time over that without']):.2f}")
        made.add_row(name, *(cells if "," in name else cells[:2]))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    run, small = study(__file__, __doc__, 4_000, arguments)
    console, seeds = screen(), run.options.seeds
    kinds = KINDS[: 2 if run.options.quick else None]
    runs: dict[str, list[dict[str, Any]]] = {called(*kind): [] for kind in kinds}
    with progress(seeds * len(kinds), console) as done:
        for seed in range(seeds):
            for model, survival in kinds:
                one = small.train(small.network(model, seed, survival), seed)
                # The first epoch compiles.
                seconds = float(np.median(one.pop("seconds")[1:]))
                runs[called(model, survival)].append({**one, "epoch, seconds": seconds})
                done(f"seed {seed}, {called(model, survival)}: {one['error'][-1]:.2f}%")
    rows = compared(runs)
    console.print(table(rows, small.title))
    run.write("results", {"result": rows}, {"curves.png": picture(runs)})


if __name__ == "__main__":
    main()
