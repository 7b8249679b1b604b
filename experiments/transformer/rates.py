"""The learning rate of a transformer's blocks, from 4 blocks to 32.

    python -m experiments.transformer.rates

The velocity of every block is multiplied by h = (L/2)^-alpha. At alpha = 1 the blocks are steps
through an interval of length 2, however many there are. At alpha = 0 they are the blocks of an
ordinary transformer. Only the rate of the blocks is swept: embedding, positions, norm and head have
one fixed rate. All is trained by Adam, with blocks that begin independently, and with the same data
in the same order for one seed. The table shows the test loss in bits per character, means with
Student's intervals over the seeds, and the change from 4 blocks to 32, seed by seed.

Writes rates.json after each training, and goes on from what it holds.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax
from flax import nnx
from rich.table import Table

from experiments.program import Parser, count
from experiments.transformer import text
from experiments.transformer.model import Model, bits, by_part, train
from neuralflow import training
from neuralflow.console import progress, screen, span
from neuralflow.statistics import over_seeds

DEPTHS = (4, 32)
ALPHAS = (0, 1)
POWERS = (-10, -8, -6, -4)  # of two: the rates of the blocks
FIXED = 2.0**-8  # the rate of all the rest


def loss(
    depth: int, alpha: int, power: int, seed: int, tokens: text.Text, given: Namespace
) -> float:
    """Train one network, and return its test loss in bits per character."""
    model = Model(
        depth, width=32, heads=4, context=32, step=(depth / 2) ** -alpha, rngs=nnx.Rngs(seed)
    )
    optimiser = by_part(optax.adam(2.0**power), optax.adam(FIXED))
    train(model, tokens.train, optimiser, steps=given.steps, seed=seed)
    windows = {"tokens": text.spread(tokens.test, model.context, 512)}
    return training.evaluate(model, bits, windows, batch=64)["loss"]


def summary(losses: dict[str, list[float]]) -> dict[str, Any]:
    """Return the losses by alpha and rate: of both depths, and the change between them."""
    rows = {}
    for alpha, power in itertools.product(ALPHAS, POWERS):
        few, many = (np.asarray(losses[f"{alpha} {power} {depth}"]) for depth in DEPTHS)
        if len(few) and len(few) == len(many):
            columns = {"4 blocks": few, "32 blocks": many, "change": many - few}
            rows[f"alpha = {alpha}, 2^{power}"] = {k: over_seeds(v) for k, v in columns.items()}
    return rows


def table(rows: dict[str, Any]) -> Table:
    """Return the table of the summary."""
    shown = Table(title="test loss, bits per character (95% over seeds, if roughly normal)")
    for name in ("rate of the blocks", "4 blocks", "32 blocks", "change"):
        shown.add_column(name, justify="right")
    for name, row in rows.items():
        cells = [f"{s['mean']:.3f} ({span(s['interval'], 3)})" for s in row.values()]
        shown.add_row(name, *cells)
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, seeds=3, quick={"steps": 1, "seeds": 1})
    parser.add_argument("--steps", type=count, default=300)
    run = parser.begin(arguments)
    options, console, tokens = run.options, screen(), text.load()
    held = run.held("rates")
    losses = held["losses"] if held.get("steps") == options.steps else {}
    # The rate that the statement is about comes first.
    powers = sorted(POWERS, key=lambda power: abs(power + 8))[: 1 if options.quick else None]
    cases = list(itertools.product(range(options.seeds), powers, ALPHAS, DEPTHS))
    for alpha, power, depth in itertools.product(ALPHAS, POWERS, DEPTHS):
        losses.setdefault(f"{alpha} {power} {depth}", [])
    with progress(len(cases), console) as done:
        for seed, power, alpha, depth in cases:
            of_case = losses[f"{alpha} {power} {depth}"]
            if len(of_case) <= seed:
                of_case.append(loss(depth, alpha, power, seed, tokens, options))
            done(f"seed {seed}, alpha = {alpha}, rate 2^{power}, L = {depth}: {of_case[seed]:.3f}")
            record = {"steps": options.steps, "losses": losses, "summary": summary(losses)}
            run.write("rates", record)
    console.print(table(summary(losses)))


if __name__ == "__main__":
    main()
