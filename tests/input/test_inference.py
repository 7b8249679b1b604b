"""What trade-offs and splits of errors refuse."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.calls import CHOICE, COUNT, FLAG, FUNCTION, MODULE, STATE, Call, Wrong, refuse, without
from support.wrong import wrong

import neuralflow as nf
from neuralflow import inference
from neuralflow.checks import InputError
from neuralflow.inference import Candidate

GRID = nf.FixedGrid(nf.Euler(), steps=2)
BASIS = nf.PiecewiseConstant(2)
X = jnp.ones((4, 2))
DATA = {"x": X, "y": np.asarray([0, 1, 1, 0])}


class Nowhere(nnx.Module):
    """A network whose outputs are no numbers."""

    def __call__(self, x):
        return x * jnp.nan


def layer(basis=BASIS):
    make = functools.partial(nnx.Linear, 2, 2)
    return nf.NeuralODE(
        nf.DepthVarying(lambda rngs: make(rngs=rngs), basis, rngs=nnx.Rngs(0)), GRID
    )


MODEL, PLAIN = layer(), nnx.Linear(2, 2, rngs=nnx.Rngs(0))
OTHER = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
DEPTHLESS = nf.NeuralODE(PLAIN, GRID)
SOLVE: Wrong = {**FUNCTION, "class": nf.FixedGrid, "scheme": nf.Euler()}
BASES: Wrong = {**FUNCTION, "class": nf.PiecewiseConstant, "list": [BASIS]}
MODELS: Wrong = {**MODULE, "class": nf.NeuralODE, "list": [MODEL]}
NETWORKS: Wrong = {
    **without(MODELS, "none"),
    "of three numbers": OTHER,
    "of no numbers": Nowhere(),
}


@functools.cache
def table():
    return inference.tradeoff(MODEL, DATA, [], rounds=1, progress=False)


CALLS = {
    "Candidate": Call(
        Candidate,
        lambda: {"solve": GRID, "basis": BASIS},
        {"solve": without(SOLVE, "none"), "basis": without(BASES, "none")},
    ),
    "applied_to": Call(
        lambda: Candidate(GRID, nf.PiecewiseConstant(1)).applied_to,
        lambda: {"model": MODEL},
        {"model": {**MODELS, "without a layer": PLAIN, "without depth": DEPTHLESS}},
        made=True,
    ),
    "tradeoff": Call(
        inference.tradeoff,
        lambda: {
            "model": MODEL,
            "data": DATA,
            "candidates": [GRID, Candidate(None, BASIS)],
            "batch": 3,
            "rounds": 1,
            "progress": False,
        },
        {
            "model": {**MODELS, "without a layer": PLAIN},
            "data": {
                "none": None,
                "array": X,
                "empty": {},
                "no answers": {"x": X},
                "lists": {"x": [[1.0, 2.0]], "y": [1]},
                "one number": {"x": X, "y": np.int32(1)},
                "unequal": {"x": X, "y": np.asarray([0, 1])},
                "no samples": {"x": X[:0], "y": np.zeros(0, int)},
                "words": {"x": X, "y": np.asarray(["a", "b", "c", "d"])},
                "a third class": {"x": X, "y": np.asarray([0, 1, 2, 0])},
                "a negative class": {"x": X, "y": np.asarray([0, 1, -1, 0])},
                "three targets": {"x": X, "y": np.ones((4, 3))},
                "one-hot rows": {"x": X, "y": np.eye(2)[[0, 1, 1, 0]]},
                "half classes": {"x": X, "y": np.full(4, 0.5)},
                "no numbers": {"x": X, "y": np.full((4, 2), np.nan)},
            },
            "candidates": {
                "none": None,
                "one": GRID,
                "text": "euler",
                "generator": (grid for grid in (GRID,)),
                "schemes": [nf.Euler()],
                "classes": [nf.FixedGrid],
                "names": ["euler"],
                "bases": [BASIS],
            },
            "batch": COUNT,
            "rounds": COUNT,
            "progress": FLAG,
        },
    ),
    "front": Call(lambda: table().front, lambda: {"cost": "time"}, {"cost": CHOICE}, made=True),
    "error_split": Call(
        inference.error_split,
        lambda: {
            "model": MODEL,
            "x": X,
            "basis": MODEL,
            "discretisation": layer(),
            "fit": None,
            "batch": 3,
        },
        {
            "model": {**MODELS, "of no numbers": Nowhere()},
            "x": {**STATE, "scalar": jnp.ones(()), "empty": X[:0], "flags": X > 0},
            "basis": NETWORKS,
            "discretisation": NETWORKS,
            "fit": NETWORKS,
            "batch": COUNT,
        },
    ),
    "plots.choices": Call(
        inference.plots.choices,
        lambda: {"table": table()},
        {"table": {**MODULE, "choices": [], "class": inference.Tradeoff}},
    ),
}

test_wrong, test_good = refuse(CALLS)


def test_a_split_has_a_part():
    with pytest.raises(InputError, match="one of basis, discretisation and fit must be"):
        inference.error_split(MODEL, X)


def test_outputs_of_zero_have_no_relative_distance():
    nothing: Any = nf.NeuralODE(PLAIN, GRID)
    with pytest.raises(InputError, match="the outputs of model are all zero"):
        inference.error_split(nothing, jnp.zeros((2, 2)), basis=MODEL)


def test_outputs_are_one_array_of_samples():
    class Pair(nnx.Module):
        def __call__(self, x):
            return x, x

    class Mean(nnx.Module):
        def __call__(self, x):
            return x.mean(0)

    for network, said in ((Pair(), "must be an array"), (Mean(), "a first axis of 4 samples")):
        with pytest.raises(InputError, match=f"^fit cannot be compared: .*{said}"):
            inference.error_split(MODEL, X, fit=wrong(network))
