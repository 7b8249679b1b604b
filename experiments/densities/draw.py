"""The sets in the plane, fitted longer, with pictures of their densities and samples.

    python -m experiments.densities.draw

The mass of every density is its sum over a square around the points. Writes drawn.json and
densities.png.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from flax import nnx

import neuralflow as nf
from experiments.densities.__main__ import sets
from experiments.program import Parser, count
from neuralflow import plots
from neuralflow.transport import NormalisingFlow

BATCH, LIMITS, SIZE = 256, (-3.2, 3.2), 161


def loss(flow: Any, batch: Any) -> Any:
    """Compute the negative log-likelihood plus a small multiple of the kinetic energy.

    The kinetic energy keeps paths short and solves cheap.
    """
    log_prob, (energy,) = flow.accompanied(batch["x"], nf.regularisers.kinetic_energy)
    return 0.01 * energy.mean() - log_prob.mean(), {"nats": -log_prob.mean()}


def fitted(train: np.ndarray, test: np.ndarray, epochs: int, solve: Any) -> tuple[Any, Any]:
    """Fit one set, and return what is drawn of it, and its record."""
    field = nf.fields.MLP(2, hidden=64, layers=3, time=True, rngs=nnx.Rngs(0))
    base = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    flow = NormalisingFlow(nf.NeuralODE(field, solve), base)
    rate = optax.cosine_decay_schedule(5e-3, epochs * (len(train) // BATCH))
    began = time.perf_counter()
    nf.training.fit(flow, loss, optax.adam(rate), {"x": train}, epochs=epochs, batch=BATCH)
    seconds = time.perf_counter() - began
    exact = NormalisingFlow(flow.layer.with_solve(nf.Adaptive(nf.Dopri5(), 1e-6, 1e-6)), base)
    line = np.linspace(*LIMITS, SIZE, dtype=np.float32)
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2))
    density = np.exp(np.asarray(exact.log_prob(grid))).reshape(SIZE, SIZE)
    record = {
        "nats, by the solve of training": float(-flow.log_prob(jnp.asarray(test)).mean()),
        "nats": float(-exact.log_prob(jnp.asarray(test)).mean()),
        "mass": float(density.sum() * (line[1] - line[0]) ** 2),
        "seconds": seconds,
    }
    return (train[:4000], density, np.asarray(exact.sample(jax.random.key(0), 4000))), record


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, quick={"samples": 400, "epochs": 1})
    parser.add_argument("--samples", type=count, default=8_000)
    parser.add_argument("--epochs", type=count, default=50)
    parser.add_argument(
        "--steps",
        type=count,
        help="train on so many fixed steps of RK4, to see what training makes of their errors",
    )
    run = parser.begin(arguments)
    options = run.options
    solve = (
        nf.FixedGrid(nf.RK4(), steps=options.steps)
        if options.steps
        else nf.Adaptive(nf.Dopri5(), 1e-4, 1e-4)
    )
    shown, record = {}, {}
    plane = [item for item in sets(options.samples).items() if item[1][0].shape[1] == 2]
    for name, (train, test) in plane[: 1 if options.quick else None]:
        shown[name], record[name] = fitted(train, test, options.epochs, solve)
        print(name, record[name], flush=True)
    run.write("drawn", {"sets": record}, {"densities.png": plots.densities(shown, LIMITS)})


if __name__ == "__main__":
    main()
