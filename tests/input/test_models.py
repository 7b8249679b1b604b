"""Classifiers and `Augment` refuse sizes, shapes and inputs of a wrong kind."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from support.calls import COUNT, MODULE, STATE, Call, refuse

import neuralflow as nf
from neuralflow import models

SIZE = {**COUNT, "huge": 2**40}
SOLVE = {**MODULE, "class": nf.FixedGrid, "scheme": nf.Euler()}
RNGS = {**MODULE, "class": nnx.Rngs, "other": nnx.Rngs(dropout=0)}
SHAPE = {
    "none": None,
    "number": 8,
    "text": "888",
    "two": (8, 8),
    "four": (1, 8, 8, 1),
    "zero": (8, 8, 0),
    "flat": (0, 8, 1),
    "negative": (8, -8, 1),
    "half": (8.5, 8, 1),
    "nan": (np.nan, 8, 1),
    "words": ("8", "8", "1"),
    "true": (True, 8, 1),
    "huge": (8, 8, 2**40),
    "generator": (n for n in (8, 8, 1)),
}
GRID = nf.FixedGrid(nf.Euler(), steps=1)


@functools.cache
def points():
    return models.PointClassifier(2, 3, GRID, width=4, cells=1, rngs=nnx.Rngs(0))


@functools.cache
def images():
    return models.ImageClassifier((8, 8, 1), 3, GRID, width=4, cells=1, rngs=nnx.Rngs(0))


CALLS = {
    "Augment": Call(
        models.Augment,
        lambda: {"entries": 1},
        {"entries": {**SIZE, "class": nnx.Linear, "function": np.tanh, "silent": nnx.Dict()}},
    ),
    "Augment.call": Call(
        lambda: models.Augment(1),
        lambda: {"x": jnp.ones((3, 2))},
        {"x": {**STATE, "scalar": jnp.ones(()), "whole": jnp.ones((3, 2), int)}},
        made=True,
    ),
    "Augment.learned": Call(
        lambda: models.Augment(nnx.Linear(2, 1, rngs=nnx.Rngs(0))),
        lambda: {"x": jnp.ones((3, 2))},
        {"x": {**STATE, "scalar": jnp.ones(()), "whole": jnp.ones((3, 2), int)}},
        made=True,
    ),
    "PointClassifier": Call(
        models.PointClassifier,
        lambda: {
            "inputs": 2,
            "classes": 3,
            "solve": GRID,
            "width": 4,
            "cells": 1,
            "rngs": nnx.Rngs(0),
        },
        {
            "inputs": SIZE,
            "classes": SIZE,
            "solve": SOLVE,
            "width": SIZE,
            "cells": SIZE,
            "rngs": RNGS,
        },
    ),
    "PointClassifier.call": Call(
        points,
        lambda: {"x": jnp.ones((3, 2))},
        {
            "x": {
                **STATE,
                "wide": jnp.ones((3, 4)),
                "flat": jnp.ones(2),
                "scalar": jnp.ones(()),
                "empty": jnp.ones((0, 2)),
                "true": jnp.ones((3, 2), bool),
                "complex": jnp.ones((3, 2), complex),
            }
        },
        made=True,
    ),
    "ImageClassifier": Call(
        models.ImageClassifier,
        lambda: {
            "shape": (8, 8, 1),
            "classes": 3,
            "solve": GRID,
            "width": 4,
            "cells": 1,
            "rngs": nnx.Rngs(0),
        },
        {
            "shape": SHAPE,
            "classes": SIZE,
            "solve": SOLVE,
            "width": {**SIZE, "odd": 6},
            "cells": SIZE,
            "dtype": {"unknown": "other", "number": 1, "whole": int, "object": object()},
            "rngs": RNGS,
        },
    ),
    "ImageClassifier.call": Call(
        images,
        lambda: {"x": jnp.ones((1, 8, 8, 1))},
        {
            "x": {
                **STATE,
                "channels": jnp.ones((1, 8, 8, 2)),
                "one": jnp.ones((8, 8, 1)),
                "empty": jnp.ones((0, 8, 8, 1)),
                "smaller": jnp.ones((1, 4, 4, 1)),
                "true": jnp.ones((1, 8, 8, 1), bool),
                "complex": jnp.ones((1, 8, 8, 1), complex),
            }
        },
        made=True,
    ),
}

test_wrong, test_good = refuse(CALLS)


def test_what_is_right_is_taken():
    # Signatures do not name all that is right, such as numbers of NumPy.
    loose: Any = models
    pixels = np.ones((2, 2, 1), np.uint8)
    classifier: Any = points()
    assert classifier(pixels).shape == (2, 3)
    model = loose.ImageClassifier(
        (np.int64(8), 8, 1), 3, GRID, width=np.int32(4), cells=1, rngs=nnx.Rngs(0)
    )
    assert model(np.ones((1, 8, 8, 1), np.uint8)).shape == (1, 3)
