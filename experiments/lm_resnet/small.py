"""A small ResNet against the LM-ResNet of the same depth on part of Fashion-MNIST.

    python -m experiments.lm_resnet.small --data-dir FOLDER

Pairs have the same seed, batches and augmentation, and the weights of the ResNet start as the
weights of the LM-ResNet. The table has intervals over seeds, and the picture has curves and the
learned k. Writes small.json and small.png, in some twenty minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx
from rich.table import Table

from experiments.lm_resnet.model import Model, Network, parameters
from experiments.lm_resnet.study import Study, study
from neuralflow import plots
from neuralflow.console import progress, screen, span
from neuralflow.statistics import over_seeds


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


def main(arguments: Sequence[str] | None = None) -> None:
    run, small = study(__file__, __doc__, 6_000, arguments)
    console, seeds = screen(), run.options.seeds
    runs: dict[str, list[dict[str, Any]]] = {"resnet": [], "lm": []}
    with progress(2 * seeds, console) as done:
        for seed in range(seeds):
            for model, network in pair(small, seed).items():
                one = small.train(network, seed)
                one |= {
                    "seconds": sum(one["seconds"]),
                    "parameters": parameters(network),
                    "k": network.learned_k(),
                }
                runs[model].append(one)
                done(f"seed {seed}, {model}: test error {one['error'][-1]:.2f}%")
    last = {model: np.asarray([one["error"][-1] for one in held]) for model, held in runs.items()}
    table = Table(title=small.title)
    for name in ("model", "parameters", "mean", "95% over seeds, if roughly normal"):
        table.add_column(name, justify="left" if name == "model" else "right")
    summaries = {}
    for model, errors in {**last, "lm - resnet": last["lm"] - last["resnet"]}.items():
        summaries[model] = over_seeds(errors)
        size = str(runs[model][0]["parameters"]) if model in runs else ""
        table.add_row(model, size, f"{errors.mean():.2f}", span(summaries[model]["interval"]))
    console.print(table)
    result = {"test error": summaries, "runs": runs}
    run.write("small", {"result": result}, {"small.png": picture(runs)})


if __name__ == "__main__":
    main()
