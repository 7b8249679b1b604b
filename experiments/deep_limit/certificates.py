"""Four networks trained on MNIST, and what their certificates say.

    python -m experiments.deep_limit.certificates --data-dir FOLDER

FOLDER holds MNIST as TFDS writes it. The first network is an ordinary ResNet, x + f_k(x), whose
layers are drawn independently. The second is the same with its branches scaled by 1/n. The third
and the fourth have equal layers at the start and branches scaled by 1/n, without and with a penalty
in depth. Writes certificates.json and certificates.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx
from rich.console import Console

import neuralflow as nf
from experiments.deep_limit.images import Network, accuracy, cross_entropy, images
from neuralflow import files, training
from neuralflow.cli.certify import table
from neuralflow.labs import deep_limit
from neuralflow.regularisers import depth_energy

WIDTH, PENALTY = 32, 1e-4


def network(depth: int, init: Any, t1: float) -> Network:
    """Build an untrained network."""
    rngs = nnx.Rngs(0)

    def mlp(rngs):
        return nf.fields.MLP(WIDTH, hidden=WIDTH, rngs=rngs)

    field = nf.DepthVarying(mlp, nf.PiecewiseConstant(depth), rngs=rngs, init=init)
    return Network(field, depth, WIDTH, t1, rngs=rngs)


def plain(model: Any, batch: Any) -> Any:
    """Compute the cross-entropy."""
    return cross_entropy(model(batch["x"]), batch["y"])


def penalised(model: Any, batch: Any) -> Any:
    """Compute the cross-entropy plus the H1 norm of the weights in depth."""
    return plain(model, batch) + PENALTY * depth_energy(model)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of prepared TFDS sets")
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    train, test = (images(split, options.data_dir) for split in ("train", "test"))
    n, console, record, certificates = options.depth, Console(), {}, {}
    entrants = {
        "ordinary ResNet": (network(n, nf.independent, float(n)), plain),
        "branches / n, layers of their own": (network(n, nf.independent, 1.0), plain),
        "branches / n, equal at the start": (network(n, nf.tied, 1.0), plain),
        "branches / n, penalty in depth": (network(n, nf.tied, 1.0), penalised),
    }
    for name, (model, loss) in entrants.items():
        began = time.perf_counter()
        training.fit(model, loss, optax.adam(1e-3), train, epochs=options.epochs, batch=128)
        trained = time.perf_counter() - began
        labels, x = test["y"][:2000], jnp.asarray(test["x"][:2000])
        certificates[name] = deep_limit.certify(
            model, x, score=lambda logits, y=labels: accuracy(logits, y)
        )
        seconds = {"training": trained, "certificate": time.perf_counter() - began - trained}
        record[name] = certificates[name].record() | {"seconds": seconds}
        console.print(f"[bold]{name}[/bold]: {certificates[name].sentence()}", highlight=False)
        console.print(table(certificates[name]))
    folder = Path(__file__).parent
    settings = {"depth": n, "epochs": options.epochs, "width": WIDTH, "penalty": PENALTY}
    held = {
        "command": "python -m experiments.deep_limit.certificates --data-dir FOLDER",
        "options": settings,
        "networks": record,
    }
    files.write(folder / "certificates.json", files.as_json(held))
    figure = deep_limit.plots.certificates(certificates)
    files.write(
        folder / "certificates.png", lambda path: figure.savefig(path, format="png", dpi=160)
    )


if __name__ == "__main__":
    main()
