"""ResNet and LM-ResNet on CIFAR by the published recipe (Lu et al., arXiv 1710.10121).

    python -m experiments.lm_resnet --depth 20 --model lm --data-dir FOLDER

FOLDER holds the set as TFDS writes it (`neuralflow data prepare cifar10 --data-dir FOLDER`).
Epochs, learning rate and batch are the published ones by default. The published test errors on
CIFAR-10 are 8.75 (ResNet-20) and 8.33 (LM-ResNet-20). Writes checkpoints, history.jsonl,
result.json and, for an LM-ResNet, k.png to the folder --out.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.lm_resnet import recipe
from experiments.lm_resnet.model import BLOCKS, Network, parameters
from neuralflow import data, files, plots, training
from neuralflow.training.checkpoints import CheckpointError


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=20, choices=BLOCKS)
    parser.add_argument("--model", default="lm", choices=("resnet", "lm"))
    parser.add_argument("--data", default="cifar10", choices=recipe.STATISTICS)
    parser.add_argument("--data-dir", type=Path, default=None, help="folder of prepared TFDS sets")
    parser.add_argument(
        "--epochs",
        type=int,
        default=None,
        help="other than the published number; the cuts move with it",
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--rate", type=float, default=0.1, help="learning rate before the first cut"
    )
    parser.add_argument("--bfloat16", action="store_true", help="the branches compute in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=None, help="train on so many images only")
    parser.add_argument(
        "--peak",
        type=float,
        default=None,
        help="the device's peak in TFLOP/s, to give the share that is used",
    )
    parser.add_argument("--out", type=Path, default=None, help="folder of the run")
    parser.add_argument("--resume", action="store_true")
    return parser


def main() -> None:
    parser = options()
    try:
        run(parser.parse_args())
    except (
        ValueError,
        OSError,
        data.DataMissing,
        training.TrainingError,
        CheckpointError,
    ) as error:
        parser.error(str(error))


def run(arguments: argparse.Namespace) -> None:
    """Train the network, and write the results."""
    out = (
        arguments.out
        or Path("results/lm_resnet")
        / f"{arguments.model}-{arguments.depth}-{arguments.data}-seed{arguments.seed}"
    )
    *cuts, last = recipe.SCHEDULES.get(arguments.data, (80, 120, 160))
    epochs = last if arguments.epochs is None else arguments.epochs
    cuts = tuple(max(1, round(cut * epochs / last)) for cut in cuts)
    part = "" if arguments.samples is None else f"[:{arguments.samples}]"
    train_set = recipe.images(arguments.data, f"train{part}", arguments.data_dir)
    test_set = recipe.images(arguments.data, "test", arguments.data_dir)
    network = Network(
        arguments.depth,
        arguments.model,
        channels=train_set["x"].shape[-1],
        classes=100 if arguments.data == "cifar100" else 10,
        dtype=jnp.bfloat16 if arguments.bfloat16 else None,
        rngs=nnx.Rngs(arguments.seed),
    )
    work = recipe.flops(network, {name: a[: arguments.batch] for name, a in train_set.items()})
    fitted = recipe.train(
        network, train_set, test_set, epochs=epochs, cuts=cuts, rate=arguments.rate,
        batch=arguments.batch, flip=arguments.data != "mnist", seed=arguments.seed, folder=out,
        resume=arguments.resume,
    )  # fmt: skip
    rows = fitted.history.rows
    speed = float(rows[-1]["samples_per_second"])
    result: dict[str, Any] = {
        "model": arguments.model,
        "depth": arguments.depth,
        "data": arguments.data,
        "samples": len(train_set["y"]),
        "epochs": epochs,
        "parameters": parameters(network),
        "test error, percent": 100 * (1 - rows[-1]["validation_accuracy"]),
        "published, percent": recipe.PUBLISHED.get((arguments.model, arguments.depth))
        if arguments.data == "cifar10"
        else None,
        "k": network.learned_k(),
        "images a second": speed,
        "TFLOP a second": work / arguments.batch * speed / 1e12,
        "share of the peak": None
        if arguments.peak is None
        else work / arguments.batch * speed / 1e12 / arguments.peak,
        "device": jax.devices()[0].device_kind
        if jax.default_backend() != "cpu"
        else f"{os.cpu_count()} cores",
    }
    files.write(out / "result.json", files.as_json(result))
    if result["k"]:
        plots.coefficients({f"stage {i + 1}": k for i, k in enumerate(result["k"])}).savefig(
            out / "k.png", dpi=150
        )
    print(files.as_json({name: value for name, value in result.items() if name != "k"}))


if __name__ == "__main__":
    main()
