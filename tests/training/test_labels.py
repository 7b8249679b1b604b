"""Labels out of range: refused where they are known, NaN where only a trace sees them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.training import POINTS, fit, linear

from neuralflow import data, models, training
from neuralflow.checks import InputError
from neuralflow.training import TrainingError

WRONG = {"too large": 2, "far too large": 2**31 - 1, "negative": -1}


def with_label(label, at=57):
    y = POINTS["y"].copy()
    y[at] = label
    return {**POINTS, "y": y}


@pytest.mark.parametrize("label", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("batch", [1, 20])
def test_one_label_out_of_range_is_refused_before_any_step(label, batch):
    bad, model = with_label(label), linear()
    words = r"labels y must lie between 0 and 1, the 2 classes of the model, got "
    with pytest.raises(InputError, match=words):
        fit(model, bad, batch=batch)
    with pytest.raises(InputError, match=words):
        fit(model, validation=bad, batch=batch)
    with pytest.raises(InputError, match=words):
        training.evaluate(model, models.classification, bad, batch=batch)


def test_a_loss_of_ones_own_around_it_is_refused_too():
    def loss(model, batch):
        value, metrics = models.classification(model, batch)
        return value + 1e-3 * jnp.sum(model.kernel[...] ** 2), metrics

    with pytest.raises(InputError, match="labels y must lie between 0 and 1"):
        fit(linear(), with_label(7), loss=loss)


@pytest.mark.parametrize("label", WRONG.values(), ids=WRONG)
def test_a_label_out_of_range_in_a_trace_is_nan_in_the_loss_and_in_every_gradient(label):
    graphdef, state = nnx.split(linear())

    def loss(state, y):
        batch = {"x": jnp.asarray(POINTS["x"]), "y": y}
        return models.classification(nnx.merge(graphdef, state), batch)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(state, jnp.asarray(with_label(label)["y"]))
    assert np.isnan(value)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(gradients))
    good = jax.jit(loss)(state, jnp.asarray(POINTS["y"]))
    plain = optax.softmax_cross_entropy_with_integer_labels(
        nnx.merge(graphdef, state)(jnp.asarray(POINTS["x"])), POINTS["y"]
    )
    assert np.allclose(good, plain.mean(), rtol=1e-6)


def test_a_label_out_of_range_in_a_stream_ends_the_training():
    bad = with_label(5)
    rows = [{"x": x, "y": y} for x, y in zip(bad["x"], bad["y"], strict=True)]
    with pytest.raises(TrainingError, match="stopped being finite in epoch 1"):
        fit(linear(), data.Stream(rows), epochs=1)


BATCHES = {
    "words": ("y", np.asarray(["a"] * 100), "must be an array of numbers|whole numbers"),
    "floats": ("y", POINTS["y"].astype(float), "must be whole numbers, got float"),
    "a column": ("y", POINTS["y"][:, None], "one entry for every row of the logits"),
    "one hot": ("y", np.eye(2, dtype=int)[POINTS["y"]], "one entry for every row of the logits"),
    "flags": ("y", POINTS["y"] > 0, "must be whole numbers, got bool"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_labels_of_another_kind_or_shape_are_refused(case):
    name, values, words = BATCHES[case]
    with pytest.raises(InputError, match=words):
        fit(linear(), {**POINTS, name: values})
    with pytest.raises(InputError, match=words):
        training.evaluate(linear(), models.classification, {**POINTS, name: values})


def test_a_batch_without_labels_says_what_it_holds():
    with pytest.raises(InputError, match=r"inputs x and the labels y, it holds \['x'\]"):
        models.classification(linear(), {"x": jnp.asarray(POINTS["x"])})
