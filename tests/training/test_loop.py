"""Training: what it measures, writes and refuses."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.training import POINTS, equal, fit, linear, weights

import neuralflow as nf
from neuralflow import data, models, training

pytestmark = pytest.mark.device


def build(width=4, seed=0):
    return models.PointClassifier(
        2, 2, nf.FixedGrid(nf.Euler(), steps=2), width=width, cells=2, rngs=nnx.Rngs(seed)
    )


def test_trains_measures_and_writes(tmp_path):
    model, held = build(width=16), data.moons(51, seed=1)
    fitted = fit(
        model, data.moons(400), optax.adam(1e-2), epochs=12, validation=held, folder=tmp_path
    )
    history = fitted.history
    assert fitted.stopped == "epochs" and history["epoch"].tolist() == list(range(1, 13))
    assert (
        history["validation_accuracy"][-1] > 0.9 and history["loss"][-1] < 0.5 * history["loss"][0]
    )
    assert (
        (history["evaluations"] == 2).all()
        and (history["accepted"] == 2).all()
        and (history["gradient_norm"] > 0).all()
    )
    assert fitted.best == 1 + history["validation_loss"].argmin()
    logits = model(jnp.asarray(held["x"]))
    by_hand = optax.softmax_cross_entropy_with_integer_labels(logits, held["y"]).mean()
    assert history["validation_loss"][-1] == pytest.approx(float(by_hand), rel=1e-6)
    assert training.evaluate(model, models.classification, held, batch=20)["loss"] == pytest.approx(
        float(by_hand), rel=1e-6
    )
    with (tmp_path / "history.csv").open() as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert (
        [float(row["loss"]) for row in table]
        == [row["loss"] for row in lines]
        == history["loss"].tolist()
    )
    with pytest.raises(KeyError, match="there is no column 'speed'; there are epoch, loss"):
        history["speed"]


def test_the_first_step_is_the_optimisers_own():
    model, other = linear(), linear()
    rows = np.random.default_rng((0, 0)).permutation(100)[:100]
    batch = {name: jnp.asarray(values[rows]) for name, values in POINTS.items()}
    gradients = nnx.grad(lambda m: models.classification(m, batch)[0])(other)
    nnx.update(
        other, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(other, nnx.Param), gradients)
    )
    fit(model, epochs=1, batch=100)
    assert all(
        np.allclose(a, b, rtol=1e-6) for a, b in zip(weights(model), weights(other), strict=True)
    )


def test_accumulated_batches_are_one_large_batch():
    large, small = linear(), linear()
    fit(large, epochs=2, batch=50)
    fit(small, epochs=2, batch=10, accumulate=5)
    assert all(
        np.allclose(a, b, rtol=2e-6) for a, b in zip(weights(large), weights(small), strict=True)
    )


def test_a_stream_trains_as_its_arrays_do():
    rows = [{name: values[k] for name, values in POINTS.items()} for k in range(100)]
    resident, streamed = linear(), linear()
    fit(resident, batch=7)
    fitted = fit(streamed, data.Stream(rows), batch=7)
    assert equal(resident, streamed)
    assert (fitted.history["waiting"] >= 0).all() and (fitted.history["waiting"] <= 1).all()


def test_patience_stops_and_best_is_kept(tmp_path):
    # The better the model fits, the worse the validation gets.
    model, held = linear(), {"x": POINTS["x"], "y": 1 - POINTS["y"]}
    fitted = fit(model, epochs=50, validation=held, patience=3, folder=tmp_path, keep=2)
    assert fitted.stopped == "patience" and fitted.best == 1 and len(fitted.history.rows) == 4
    assert sorted(
        int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()
    ) == [5, 15, 20]
    best, last = linear(1), linear(2)
    assert (
        training.restore(tmp_path, best, best=True) == 5 and training.restore(tmp_path, last) == 20
    )
    assert equal(last, model) and not equal(best, model)
    again = fit(
        linear(), epochs=50, validation=held, patience=3, folder=tmp_path, keep=2, resume=True
    )
    assert again.stopped == "patience" and again.history.rows == fitted.history.rows


def test_one_more_epoch_is_what_it_would_have_been(tmp_path):
    whole, parts = linear(), linear()
    long = fit(whole, optimiser=optax.adam(1e-2), epochs=5)
    fit(parts, optimiser=optax.adam(1e-2), epochs=2, folder=tmp_path)
    fresh = linear(7)
    short = fit(fresh, optimiser=optax.adam(1e-2), epochs=5, folder=tmp_path, resume=True)
    assert equal(whole, fresh) and short.history["loss"].tolist() == long.history["loss"].tolist()


def test_models_with_state_train_and_end_in_evaluation_as_expected():
    class Normed(nnx.Module):
        def __init__(self):
            self.norm, self.drop = (
                nnx.BatchNorm(2, rngs=nnx.Rngs(0)),
                nnx.Dropout(0.5, rngs=nnx.Rngs(1)),
            )
            self.head = linear()

        def __call__(self, x):
            return self.head(self.drop(self.norm(x)))

    model = Normed()
    fit(model, {"x": POINTS["x"] + 3, "y": POINTS["y"]}, epochs=20)
    met = 1 - model.norm.momentum**100
    assert np.allclose(model.norm.mean[...], met * (POINTS["x"] + 3).mean(axis=0), atol=0.05)
    one, two = (training.evaluate(model, models.classification, POINTS) for _ in range(2))
    assert one == two


def test_metrics_of_half_precision_are_summed_in_more():
    def loss(model, batch):
        value, metrics = models.classification(model, batch)
        return value.astype(jnp.bfloat16), {
            "accuracy": metrics["accuracy"].astype(jnp.bfloat16),
            "many": jnp.float16(2049.0),
        }

    half = fit(linear(), data.moons(2000), optax.sgd(0.0), loss=loss, epochs=1, batch=2).history
    whole = fit(linear(), data.moons(2000), optax.sgd(0.0), epochs=1, batch=2).history
    assert np.allclose(
        [half["loss"], half["accuracy"]], [whole["loss"], whole["accuracy"]], rtol=1e-2
    )
    # This is what float16 makes of 2049.
    assert half["many"] == [2048.0]


def test_lbfgs_of_optax_is_given_what_it_asks_for():
    history = fit(linear(), optimiser=optax.lbfgs(), epochs=6, batch=100).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]


@pytest.mark.parametrize("convolution", [False, True])
def test_optimisers_may_keep_weights_that_are_overwritten(convolution):
    """This optimiser holds two sets of weights, and goes back to the first one."""

    def update(gradients, state, params=None):
        first, _ = state
        return jax.tree.map(lambda a, b: a - b, first, params), (first, params)

    back = optax.GradientTransformation(lambda params: (params, params), update)  # pyright: ignore
    model, points = linear(), POINTS
    if convolution:  # Steps are then compiled one by one.
        solve = nf.FixedGrid(nf.Euler(), steps=1)
        model = models.ImageClassifier((4, 4, 1), 2, solve, width=4, cells=1, rngs=nnx.Rngs(0))
        points = {"x": np.ones((40, 4, 4, 1), np.float32), "y": np.zeros(40, int)}
    first = weights(model)
    fit(model, points, back, epochs=2)
    assert all((a == b).all() for a, b in zip(first, weights(model), strict=True))


class Phase(nnx.Module):
    def __init__(self):
        self.value = nnx.Param(jnp.zeros((), jnp.complex64))


def test_complex_parameters_descend():
    """Each of ten steps halves the distance from 1 + 2i."""

    def loss(model, batch):
        return jnp.abs(model.value[...] - (1 + 2j)) ** 2

    model = Phase()
    fit(model, optimiser=optax.sgd(0.25), loss=loss, epochs=2)
    assert abs(model.value[...] - (1 + 2j) * (1 - 2**-10)) < 1e-5
