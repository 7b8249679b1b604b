"""A small training, and what it leaves."""

import jax
import numpy as np
import optax
from flax import nnx

from neuralflow import data, models, training

POINTS = data.moons(100)


def linear(seed=0):
    return nnx.Linear(2, 2, rngs=nnx.Rngs(seed))


def fit(model, dataset=POINTS, optimiser=None, loss=models.classification, **options):
    options = {"epochs": 3, "batch": 20, "progress": False, **options}
    return training.fit(model, loss, optimiser or optax.sgd(0.1), dataset, **options)


def weights(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]


def equal(a, b):
    return all((p == q).all() for p, q in zip(weights(a), weights(b), strict=True))
