"""Which small transformers are ODEs? The certificate of four of them, trained shortly.

    python -m experiments.transformer.verdicts

Networks of 8 blocks differ in how long their steps are and in how their blocks begin: steps of
length one and independent blocks, as an ordinary transformer; steps of length 1/8 and independent
blocks; steps of length 1/8 and equal blocks; the same with a penalty on how the weights change
along depth, 1e-4 times `nf.regularisers.depth_energy`. All are trained by Adam on the same data in
the same order. The certificate (`nf.labs.deep_limit.certify`) judges them on the
first 12 characters of 48 windows of the test part. Writes verdicts.json.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx
from rich.table import Table

import neuralflow as nf
from experiments.program import Parser, count, positive
from experiments.transformer import text
from experiments.transformer.model import Model, bits, cosine, train
from neuralflow import training
from neuralflow.console import progress, screen
from neuralflow.labs.deep_limit import certify

DEPTH = 8
TOKENS = 12  # of a window that the certificate sees: its time grows with their number
NETWORKS = {
    "steps of 1, independent": (1.0, nf.independent, 0.0),
    "steps of 1/8, independent": (1 / DEPTH, nf.independent, 0.0),
    "steps of 1/8, tied": (1 / DEPTH, nf.tied, 0.0),
    "steps of 1/8, tied, penalty": (1 / DEPTH, nf.tied, 1e-4),
}


def judged(name: str, tokens: text.Text, given: Namespace) -> dict[str, Any]:
    """Train one network, and return its certificate with its test loss in bits."""
    step, init, weight = NETWORKS[name]
    model = Model(
        DEPTH, width=32, heads=4, context=32, step=step, init=init, rngs=nnx.Rngs(given.seed)
    )

    def loss(model: Any, batch: Any) -> Any:
        penalty = nf.regularisers.depth_energy(model) if weight else 0.0
        return bits(model, batch) + weight * penalty

    optimiser = optax.adam(cosine(given.rate, given.steps))
    train(model, tokens.train, optimiser, steps=given.steps, loss=loss, seed=given.seed)
    windows = text.spread(tokens.test, model.context, 512)
    evidence = certify(model, jnp.asarray(windows[: given.samples, :TOKENS]))
    test = training.evaluate(model, bits, {"tokens": windows}, batch=64)["loss"]
    return {"test, bits per character": test, **evidence.record()}


def table(rows: dict[str, Any]) -> Table:
    """Return the table of the numbers that decide."""
    shown = Table(title="off the exact flow: outputs, path, adjoint; change from step to step")
    names = ("outputs", "path", "adjoint", "rho", "nugget")
    for column in ("network", *names, "test bits", "verdict"):
        shown.add_column(column, justify="left" if column == "network" else "right")
    for name, row in rows.items():
        (layer,) = row["layers"].values()
        cells = [f"{layer[what]['value']:.3f}" for what in names]
        shown.add_row(name, *cells, f"{row['test, bits per character']:.3f}", row["verdict"])
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, quick={"steps": 10, "samples": 2})
    parser.add_argument("--steps", type=count, default=300)
    parser.add_argument("--rate", type=positive, default=3e-3)
    parser.add_argument("--samples", type=count, default=48, help="windows of the certificate")
    parser.add_argument("--seed", type=int, default=0)
    run = parser.begin(arguments)
    console, tokens, rows = screen(), text.load(), {}
    names = list(NETWORKS)[: 1 if run.options.quick else None]
    with progress(len(names), console) as done:
        for name in names:
            rows[name] = judged(name, tokens, run.options)
            done(f"{name}: {rows[name]['sentence']}")
    console.print(table(rows))
    run.write("verdicts", {"networks": rows})


if __name__ == "__main__":
    main()
