"""A small training that ends by writing its weights and history: what `kill` interrupts.

python -m experiments.resume.train FOLDER [EPOCHS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import optax
from flax import nnx

import neuralflow as nf
from experiments.resume.kill import rows, weights
from neuralflow import data, files, models, training


class Noisy(nnx.Module):
    """A classifier with batch statistics and a random stream.

    With this classifier, every kind of state has to survive the kills.
    """

    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.inner = models.PointClassifier(
            2, 2, nf.FixedGrid(nf.Heun(), steps=4), width=16, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.inner(self.drop(self.norm(x)))


def main(folder: Path, epochs: int) -> None:
    model = Noisy(nnx.Rngs(0))

    def jitter(batch, key):
        return {**batch, "x": batch["x"] + 0.02 * jax.random.normal(key, batch["x"].shape)}

    training.fit(
        model,
        models.classification,
        optax.adam(optax.cosine_decay_schedule(1e-2, 480)),
        data.moons(1000),
        epochs=epochs,
        batch=16,
        validation=data.moons(200, seed=1),
        augment=jitter,
        accumulate=2,
        folder=folder,
        save_every=7,
        resume=True,
        progress=False,
    )
    final = {"weights": weights(model), "history": rows(folder)}
    files.write(folder / "final.json", json.dumps(final))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8)
