"""Four networks trained on MNIST, and what their certificates say.

    python -m experiments.deep_limit.certificates --data-dir FOLDER

FOLDER holds MNIST as TFDS writes it. The first network is an ordinary ResNet, x + f_k(x), whose
layers are drawn independently. The second is the same with its branches scaled by 1/n. The third
and the fourth have equal layers at the start and branches scaled by 1/n, without and with a penalty
in depth. Writes certificates.json and certificates.png.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx

import neuralflow as nf
from experiments.deep_limit.images import Network, accuracy, cross_entropy, images
from experiments.program import Parser, count
from neuralflow import training
from neuralflow.cli.certify import table
from neuralflow.console import screen
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


def judged(model: Network, loss: Any, train: Any, test: Any, epochs: int) -> tuple[Any, Any]:
    """Train a network, and return its certificate, and its record with the seconds of both."""
    began = time.perf_counter()
    training.fit(model, loss, optax.adam(1e-3), train, epochs=epochs, batch=128)
    trained = time.perf_counter() - began
    labels, x = test["y"][:2000], jnp.asarray(test["x"][:2000])
    certificate = deep_limit.certify(model, x, score=lambda logits: accuracy(logits, labels))
    seconds = {"training": trained, "certificate": time.perf_counter() - began - trained}
    return certificate, certificate.record() | {"seconds": seconds}


TABLE = (
    "networks",
    (
        "",
        "verdict",
        "layers, flow, outputs, value",
        "layers, flow, adjoint, value",
        "layers, flow, rho, value",
        "layers, flow, nugget, value",
    ),
)
"""What the page of the experiments shows: a network is an ODE where none is above its bound."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, data="needed", quick={"depth": 4, "epochs": 1})
    parser.add_argument("--depth", type=count, default=32)
    parser.add_argument("--epochs", type=count, default=5)
    run = parser.begin(arguments)
    n, part = run.options.depth, "[:256]" if run.options.quick else ""
    train, test = (images(split + part, run.options.data_dir) for split in ("train", "test"))
    console, record, certificates = screen(), {}, {}
    entrants = {
        "ordinary ResNet": (network(n, nf.independent, float(n)), plain),
        "branches / n, layers of their own": (network(n, nf.independent, 1.0), plain),
        "branches / n, equal at the start": (network(n, nf.tied, 1.0), plain),
        "branches / n, penalty in depth": (network(n, nf.tied, 1.0), penalised),
    }
    for name, (model, loss) in entrants.items():
        certificate, record[name] = judged(model, loss, train, test, run.options.epochs)
        certificates[name] = certificate
        console.print(f"[bold]{name}[/bold]: {certificate.sentence()}", highlight=False)
        console.print(table(certificate))
    run.write(
        "certificates",
        {"width": WIDTH, "penalty": PENALTY, "networks": record},
        {"certificates.png": deep_limit.plots.certificates(certificates)},
    )


if __name__ == "__main__":
    main()
