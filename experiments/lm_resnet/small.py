"""A small ResNet against the LM-ResNet of the same depth on part of Fashion-MNIST.

    python -m experiments.lm_resnet.small --data-dir FOLDER

Pairs have the same seed, batches and augmentation, and the weights of the ResNet start as the
weights of the LM-ResNet. The table has intervals over seeds, and the picture has curves and the
learned k. Writes small.json and small.png beside this file. The study is sized for twenty minutes
on two cores.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from rich.table import Table

from experiments.lm_resnet.model import Model, Network, parameters
from experiments.lm_resnet.study import Study, study
from neuralflow import files, plots
from neuralflow.console import progress, screen, span
from neuralflow.statistics import over_seeds

HERE = Path(__file__).parent
COMMAND = "python -m experiments.lm_resnet.small --data-dir FOLDER"


def pair(small: Study, seed: int) -> dict[Model, Network]:
    """Return both networks with the same weights. The LM-ResNet also has its k."""
    networks: dict[Model, Network] = {
        "resnet": small.network("resnet", seed),
        "lm": small.network("lm", seed),
    }
    weights = dict(nnx.to_flat_state(nnx.state(networks["lm"])))
    shared = [(path, weights[path]) for path, _ in nnx.to_flat_state(nnx.state(networks["resnet"]))]
    nnx.update(networks["resnet"], nnx.from_flat_state(shared))
    return networks


def picture(runs: dict[str, list[dict[str, Any]]]) -> Any:
    """Draw loss and test error by epoch for every seed, and the learned k.

    The k of the LM-ResNet's stages is drawn as mean and range over seeds.
    """
    figure, (loss, error, learned) = plots.figure(1, 3, height=3.6)
    for what, axis in (("loss", loss), ("error", error)):
        for model, colour in (("resnet", "#20639b"), ("lm", "#d1495b")):
            for i, run in enumerate(runs[model]):
                epochs = range(1, len(run[what]) + 1)
                axis.plot(
                    epochs,
                    run[what],
                    color=colour,
                    linewidth=1.1,
                    alpha=0.8,
                    label=model if i == 0 else None,
                )
        axis.set_xlabel("epoch")
        axis.set_title({"loss": "training loss", "error": "test error, percent"}[what], fontsize=10)
        axis.legend(fontsize=8, frameon=False)
    loss.set_yscale("log")
    for i in range(3):
        ks = np.asarray([run["k"][i] for run in runs["lm"]])
        places = np.arange(2 if i == 0 else 1, ks.shape[1] + (2 if i == 0 else 1)) + 0.06 * (i - 1)
        spread = np.abs(ks - ks.mean(0)).max(0)
        learned.errorbar(
            places,
            ks.mean(0),
            spread,
            fmt="o-",
            capsize=2,
            markersize=4,
            linewidth=1.1,
            label=f"stage {i + 1}",
        )
    learned.axhline(0, color="0.4", linewidth=0.5)
    learned.xaxis.get_major_locator().set_params(integer=True)
    learned.set_xlabel("step of the stage")
    learned.set_title("learned k, mean and range over seeds", fontsize=10)
    learned.legend(fontsize=8, frameon=False)
    return figure


def main() -> None:
    small = study(__doc__, samples=6_000)
    console, began = screen(), time.perf_counter()
    runs: dict[str, list[dict[str, Any]]] = {"resnet": [], "lm": []}
    with progress(2 * small.options.seeds, console) as done:
        for seed in range(small.options.seeds):
            for model, network in pair(small, seed).items():
                run = small.train(network, seed)
                run |= {
                    "seconds": sum(run["seconds"]),
                    "parameters": parameters(network),
                    "k": network.learned_k(),
                }
                runs[model].append(run)
                done(f"seed {seed}, {model}: test error {run['error'][-1]:.2f}%")
    last = {
        model: np.asarray([run["error"][-1] for run in of_model])
        for model, of_model in runs.items()
    }
    table = Table(title=small.title)
    for name in ("model", "parameters", "mean", "95% over seeds, if roughly normal"):
        table.add_column(name, justify="left" if name == "model" else "right")
    summaries = {}
    for model, errors in {**last, "lm - resnet": last["lm"] - last["resnet"]}.items():
        summaries[model] = over_seeds(errors)
        size = str(runs[model][0]["parameters"]) if model in runs else ""
        table.add_row(model, size, f"{errors.mean():.2f}", span(summaries[model]["interval"]))
    console.print(table)
    result = {
        name: getattr(small.options, name)
        for name in ("samples", "test_samples", "epochs", "blocks", "width")
    }
    result |= {"seconds": time.perf_counter() - began, "test error": summaries, "runs": runs}
    files.write(HERE / "small.json", files.as_json({"command": COMMAND, "result": result}))
    picture(runs).savefig(HERE / "small.png", dpi=150)


if __name__ == "__main__":
    main()
