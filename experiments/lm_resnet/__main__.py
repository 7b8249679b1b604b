"""ResNet and LM-ResNet on CIFAR by the published recipe (Lu et al., arXiv 1710.10121).

    python -m experiments.lm_resnet --depth 20 --model lm --data-dir FOLDER

FOLDER holds the set as TFDS writes it (`neuralflow data prepare cifar10 --data-dir FOLDER`).
Epochs, learning rate and batch are the published ones by default. The published test errors on
CIFAR-10 are 8.75 (ResNet-20) and 8.33 (LM-ResNet-20). Writes result.json and, for an LM-ResNet,
k.png. The folder --out also has checkpoints and history.jsonl; no other run may have used it, but
for the one that --resume goes on with.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from experiments.lm_resnet import recipe
from experiments.lm_resnet.model import BLOCKS, Network, parameters
from experiments.program import Parser, count, positive
from neuralflow import data, plots, training
from neuralflow.training.checkpoints import CheckpointError


def parser() -> Parser:
    quick = {"data": "mnist", "samples": 128, "tests": 64, "epochs": 1, "batch": 32}
    made = Parser(__file__, __doc__, data="needed", quick=quick)
    made.add_argument("--depth", type=count, default=20, choices=BLOCKS)
    made.add_argument("--model", default="lm", choices=("resnet", "lm"))
    made.add_argument("--data", default="cifar10", choices=recipe.STATISTICS)
    made.add_argument(
        "--epochs", type=count, help="other than the published number; the cuts move with it"
    )
    made.add_argument("--batch", type=count, default=128)
    made.add_argument(
        "--rate", type=positive, default=0.1, help="learning rate before the first cut"
    )
    made.add_argument("--bfloat16", action="store_true", help="the branches compute in bfloat16")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--samples", type=count, help="train on so many images only")
    made.add_argument("--tests", type=count, help="test on so many images only")
    made.add_argument(
        "--peak", type=positive, help="the device's peak in TFLOP/s, to give the share that is used"
    )
    made.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser()
    run = made.begin(arguments)
    try:
        result = trained(run.options)
    except (
        ValueError,
        OSError,
        data.DataMissing,
        training.TrainingError,
        CheckpointError,
    ) as error:
        made.error(str(error))
    pictures = {}
    if result["k"]:
        stages = {f"stage {i + 1}": k for i, k in enumerate(result["k"])}
        pictures = {"k.png": plots.coefficients(stages)}
    run.write("result", result, pictures)
    print("\n".join(f"{name}: {value}" for name, value in result.items() if name != "k"))


def trained(options: Namespace) -> dict[str, Any]:
    """Train the network, and return the results."""
    *cuts, last = recipe.SCHEDULES.get(options.data, (80, 120, 160))
    epochs = last if options.epochs is None else options.epochs
    cuts = tuple(max(1, round(cut * epochs / last)) for cut in cuts)
    train_set, test_set = (
        recipe.images(
            options.data, split if count is None else f"{split}[:{count}]", options.data_dir
        )
        for split, count in (("train", options.samples), ("test", options.tests))
    )
    network = Network(
        options.depth,
        options.model,
        channels=train_set["x"].shape[-1],
        classes=100 if options.data == "cifar100" else 10,
        dtype=jnp.bfloat16 if options.bfloat16 else None,
        rngs=nnx.Rngs(options.seed),
    )
    work = recipe.flops(network, {name: a[: options.batch] for name, a in train_set.items()})
    fitted = recipe.train(
        network, train_set, test_set, epochs=epochs, cuts=cuts, rate=options.rate,
        batch=options.batch, flip=options.data != "mnist", seed=options.seed, folder=options.out,
        resume=options.resume,
    )  # fmt: skip
    rows = fitted.history.rows
    speed = float(rows[-1]["samples_per_second"])
    spent = work / options.batch * speed / 1e12
    published = recipe.PUBLISHED.get((options.model, options.depth))
    return {
        "model": options.model,
        "depth": options.depth,
        "data": options.data,
        "samples": len(train_set["y"]),
        "epochs": epochs,
        "parameters": parameters(network),
        "test error, percent": 100 * (1 - rows[-1]["validation_accuracy"]),
        "published, percent": published if options.data == "cifar10" else None,
        "k": network.learned_k(),
        "images a second": speed,
        "TFLOP a second": spent,
        "share of the peak": None if options.peak is None else spent / options.peak,
    }


if __name__ == "__main__":
    main()
