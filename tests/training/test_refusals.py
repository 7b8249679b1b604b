"""What training refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.training import POINTS, fit, linear

from neuralflow import data

REFUSED = {
    "no epochs": ({"epochs": 0}, "epochs must be at least 1"),
    "half a batch": ({"batch": 2.5}, "batch must be a whole number"),
    "large batch": ({"batch": 101}, "batch=101 is more than the 100 samples"),
    "patience for nothing": ({"patience": 2}, "give validation data"),
    "resume from nowhere": ({"resume": True}, "give folder="),
    "no batch": ({"batch": None}, "batch must be a whole number, got None"),
    "odd seed": ({"seed": -1}, "seed must be at least 0"),
    "no data": ({"dataset": {}}, "data is a dict of arrays by name"),
    "empty": ({"dataset": {"x": POINTS["x"][:0]}}, "data holds no samples"),
    "lists": (
        {"dataset": {"x": [[1.0, 2.0]], "y": [0]}},
        "must be an array of numbers, got a list; make one",
    ),
    "numbered": ({"dataset": {0: POINTS["x"]}}, r"got the keys \[0\]"),
    "streamed validation": (
        {"validation": data.Stream([POINTS])},
        "validation is a dict of arrays; read a stream's",
    ),
    "other validation": (
        {"validation": {"x": np.ones((5, 3)), "y": POINTS["y"][:5]}},
        "dot_general",
    ),
    "rate": ({"optimiser": 1e-3}, "an optax transformation such as"),
    "another's optimiser": (
        {"optimiser": nnx.Optimizer(linear(), optax.sgd(0.1), wrt=nnx.Param)},
        "an optax transformation",
    ),
    "device": ({"mesh": 3}, "a device mesh such as"),
    "augment": ({"augment": "flip"}, "augment must be a function"),
    "augment of one": ({"augment": lambda batch: batch}, "of 2 arguments, got one of .batch"),
    "augment's return": ({"augment": lambda batch, key: None}, "must return a batch"),
    "unmade augment": ({"augment": data.augment_images}, "shift must be a whole number"),
    "folder": ({"folder": 3}, "folder must be a path"),
    "lengths": (
        {"dataset": {"x": POINTS["x"], "y": POINTS["y"][:50]}},
        "one length, got {'x': 100, 'y': 50}",
    ),
    "words": (
        {"dataset": {"x": POINTS["x"], "id": np.asarray(["a"] * 100)}},
        r"data\['id'\] must be an array of numbers",
    ),
    "a number": ({"dataset": {"x": np.float32(1)}}, "leading axis"),
    "loss of every sample": (
        {"loss": lambda m, b: m(b["x"])[:, 0]},
        r"one real number, got shape \(20,\); take the mean",
    ),
    "loss of three": ({"loss": lambda m, x, y: 0.0}, "loss must be a function of 2 arguments"),
    "no loss": ({"loss": lambda m, b: None}, "one real number, got NoneType"),
    "three losses": (
        {"loss": lambda m, b: (m(b["x"]).sum(), {}, 3)},
        "a number and a dict of further numbers",
    ),
    "whole loss": ({"loss": lambda m, b: jnp.sum(b["y"])}, "has a gradient, got int"),
    "metric": (
        {"loss": lambda m, b: (m(b["x"]).sum(), {"all": b["x"]})},
        r"the metric 'all' must be one .* \(20, 2\)",
    ),
    "word": (
        {"loss": lambda m, b: (m(b["x"]).sum(), {"all": "x"})},
        "the metric 'all' must be one real number, got str",
    ),
    "taken": (
        {"loss": lambda m, b: (m(b["x"]).sum(), {"seconds": 1.0})},
        "'seconds' has a name that the history uses",
    ),
    "devices": ({"batch": 15, "mesh": "two"}, "a multiple of 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input(case):
    options, said = REFUSED[case]
    if options.get("mesh") == "two":
        options = {**options, "mesh": jax.sharding.AbstractMesh((2,), ("data",))}
    with pytest.raises((ValueError, TypeError), match=said):
        fit(linear(), **options)


def test_a_key_that_the_batch_lacks_is_told_with_those_it_has():
    with pytest.raises(KeyError, match="z") as caught:
        fit(linear(), loss=lambda model, batch: model(batch["z"]).sum())
    assert caught.value.__notes__[:1] == [
        "while the loss was traced on the batch x float32[20, 2], y int32[20]"
    ]


def test_a_model_without_parameters_is_refused():
    whole = linear()
    whole.bias = nnx.Param(jnp.zeros(2, int))
    with pytest.raises(ValueError, match="whole numbers; hold them as nnx.Variable"):
        fit(whole)
    with pytest.raises(ValueError, match="no parameters"):
        fit(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
