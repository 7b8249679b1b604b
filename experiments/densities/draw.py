"""The sets in the plane, fitted longer, with pictures of their densities and samples.

    python -m experiments.densities.draw

Writes drawn.json and densities.png beside this file. The mass of every density is its sum over a
square around the points.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from flax import nnx

import neuralflow as nf
from experiments.densities.__main__ import HERE, sets
from neuralflow import files, plots
from neuralflow.transport import NormalisingFlow

COMMAND = "python -m experiments.densities.draw"
BATCH, LIMITS, SIZE = 256, (-3.2, 3.2), 161


def loss(flow: Any, batch: Any) -> Any:
    """Compute the negative log-likelihood plus a small multiple of the kinetic energy.

    The kinetic energy keeps paths short and solves cheap.
    """
    log_prob, (energy,) = flow.accompanied(batch["x"], nf.regularisers.kinetic_energy)
    return 0.01 * energy.mean() - log_prob.mean(), {"nats": -log_prob.mean()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=8_000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument(
        "--steps",
        type=int,
        help="train on so many fixed steps of RK4, to see what training makes of their errors",
    )
    options = parser.parse_args()
    solve = (
        nf.FixedGrid(nf.RK4(), steps=options.steps)
        if options.steps
        else nf.Adaptive(nf.Dopri5(), 1e-4, 1e-4)
    )
    line = np.linspace(*LIMITS, SIZE, dtype=np.float32)
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2))
    shown, record = {}, {}
    for name, (train, test) in sets(options.samples).items():
        if train.shape[1] != 2:
            continue
        field = nf.fields.MLP(2, hidden=64, layers=3, time=True, rngs=nnx.Rngs(0))
        base = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
        flow = NormalisingFlow(nf.NeuralODE(field, solve), base)
        rate = optax.cosine_decay_schedule(5e-3, options.epochs * (len(train) // BATCH))
        began = time.perf_counter()
        nf.training.fit(
            flow, loss, optax.adam(rate), {"x": train}, epochs=options.epochs, batch=BATCH
        )
        seconds = time.perf_counter() - began
        exact = NormalisingFlow(flow.layer.with_solve(nf.Adaptive(nf.Dopri5(), 1e-6, 1e-6)), base)
        density = np.exp(np.asarray(exact.log_prob(grid))).reshape(SIZE, SIZE)
        record[name] = {
            "nats, by the solve of training": float(-flow.log_prob(jnp.asarray(test)).mean()),
            "nats": float(-exact.log_prob(jnp.asarray(test)).mean()),
            "mass": float(density.sum() * (line[1] - line[0]) ** 2),
            "seconds": seconds,
        }
        print(name, record[name], flush=True)
        shown[name] = train[:4000], density, np.asarray(exact.sample(jax.random.key(0), 4000))
    if options.steps:
        return
    files.write(
        HERE / "drawn.json",
        files.as_json({"command": COMMAND, "epochs": options.epochs, "sets": record}),
    )
    plots.densities(shown, LIMITS).savefig(HERE / "densities.png", dpi=150)


if __name__ == "__main__":
    main()
