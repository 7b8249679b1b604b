"""Training: what it measures, saves, resumes, spreads over devices, and refuses."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow import data, models, training
from neuralflow.training.checkpoints import CheckpointError

ROOT = Path(__file__).resolve().parents[1]
POINTS = data.moons(100)


def build(width=4, seed=0):
    return models.PointClassifier(
        2, 2, nf.FixedGrid(nf.Euler(), steps=2), width=width, cells=2, rngs=nnx.Rngs(seed)
    )


def linear(seed=0):
    return nnx.Linear(2, 2, rngs=nnx.Rngs(seed))


def fit(model, dataset=POINTS, optimiser=None, loss=models.classification, **options):
    options = {"epochs": 3, "batch": 20, "progress": False, **options}
    return training.fit(model, loss, optimiser or optax.sgd(0.1), dataset, **options)


def weights(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]


def equal(a, b):
    return all((p == q).all() for p, q in zip(weights(a), weights(b), strict=True))


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
    logits = model(held["x"])
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
    model, held = (
        linear(),
        {"x": POINTS["x"], "y": 1 - POINTS["y"]},
    )  # the better it fits, the worse this gets
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


def test_the_work_of_nested_layers_is_counted_where_it_can_be():
    layer = nf.NeuralODE(nf.from_function(lambda params, x: -x), nf.FixedGrid(nf.RK4(), steps=3))

    def counted(x):
        from neuralflow.solve.tally import tally

        with tally() as work:
            y = layer(layer(x))
            jax.vmap(layer)(x[None])  # in a trace of its own
            jax.checkpoint(lambda x: layer(x))(x)
        return y.sum(), {name: total.get_value() for name, total in work.items()}

    x = jnp.ones((2, 1))
    for run in (counted, jax.jit(counted), jax.value_and_grad(counted, has_aux=True)):
        outputs = run(x)
        work = outputs[0][1] if isinstance(outputs[0], tuple) else outputs[1]
        assert int(work["evaluations"]) == 24 and int(work["accepted"]) == 6


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
    assert half["many"] == [2048.0]  # what float16 makes of it


def test_lbfgs_of_optax_is_given_what_it_asks_for():
    history = fit(linear(), optimiser=optax.lbfgs(), epochs=6, batch=100).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]


def test_a_model_without_parameters_is_refused():
    whole = linear()
    whole.bias = nnx.Param(jnp.zeros(2, int))
    with pytest.raises(ValueError, match="whole numbers; hold them as nnx.Variable"):
        fit(whole)
    with pytest.raises(ValueError, match="no parameters"):
        fit(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))


def test_a_loss_that_breaks_in_epoch_three_leaves_the_checkpoint_of_epoch_two(tmp_path):
    breaks = optax.sgd(lambda step: jnp.where(step >= 11, jnp.inf, 0.1))
    model = linear()
    with pytest.raises(
        training.TrainingError, match="epoch 3, step 2; the checkpoint of step 10 is good"
    ):
        fit(model, optimiser=breaks, epochs=5, folder=tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in weights(model))
    good, kept = linear(), linear(5)
    fit(good, epochs=2)
    assert training.restore(tmp_path, kept) == 10 and equal(good, kept)


def test_weights_that_break_in_the_last_step_of_an_epoch_are_not_saved(tmp_path):
    breaks = optax.sgd(lambda step: jnp.where(step == 9, jnp.nan, 0.1))
    model, kept = linear(), linear(5)
    with pytest.raises(
        training.TrainingError,
        match="weights stopped being finite in epoch 2, step 5; .* step 5 is good",
    ):
        fit(model, optimiser=breaks, folder=tmp_path, validation=POINTS)
    for best in (False, True):
        assert (
            training.restore(tmp_path, kept, best=best) == 5 and np.isfinite(weights(kept)[0]).all()
        )


def test_a_validation_loss_that_is_no_number_is_never_the_best(tmp_path):
    def loss(model, batch):
        value, metrics = models.classification(model, batch)
        odd = jnp.where(
            jnp.any(batch["x"] > 90) & (jnp.abs(model.kernel[...]).sum() > 0), jnp.nan, 0.0
        )
        return value + odd, metrics

    held = {"x": np.full((4, 2), 100, np.float32), "y": np.zeros(4, np.int32)}
    fitted = fit(linear(), loss=loss, validation=held, folder=tmp_path, epochs=2)
    assert fitted.best == 0 and np.isnan(fitted.history["validation_loss"]).all()
    rows = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "history.jsonl").open()
    ]
    assert rows[0]["validation_loss"] is None
    with pytest.raises(CheckpointError, match="no scored checkpoint"):
        training.restore(tmp_path, linear(), best=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fit(linear(), folder=folder)
    return folder


@pytest.fixture(scope="module")
def whole():
    """What that training is after one more epoch."""
    model = linear()
    fit(model, epochs=4)
    return model


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_folders_of_other_trainings_are_refused(folder):
    before = sorted(p.name for p in folder.rglob("*"))
    with pytest.raises(
        CheckpointError, match="holds a training of 15 steps already; go on with resume=True"
    ):
        fit(linear(), folder=folder)
    with pytest.raises(CheckpointError, match=r"trained with batch=20 \(now 10\)"):
        fit(linear(), folder=folder, batch=10, resume=True)
    with pytest.raises(CheckpointError, match="of another model, loss or optimiser"):
        fit(linear(), optimiser=optax.adam(0.1), folder=folder, resume=True)
    with pytest.raises(
        CheckpointError, match=r"it holds float32\[2\] at .*bias.*, here there is float32\[3\]"
    ):
        training.restore(folder, nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(
        CheckpointError, match=r"it holds float32\[2\] at .*bias.*, here there is nothing"
    ):
        training.restore(folder, nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match="model must be an nnx.Module"):
        training.restore(folder, 3)
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        training.restore(folder / "nowhere", linear())
    assert sorted(p.name for p in folder.rglob("*")) == before


def damage_array(step):
    for path in (step / "arrays").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(bytes(content))


def truncate(step):
    for path in (step / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_record(change):
    def edit(step):
        path = step / "record" / "metadata"
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return edit


DAMAGED = {
    "flipped": (damage_array, "step 15 in .* is damaged .*remove .*15 to go on from step 10"),
    "truncated": (truncate, "step 15 in .* is damaged .*to go on from step 10"),
    "no record": (lambda step: (step / "record" / "metadata").unlink(), "is damaged"),
    "digest": (edit_record(lambda r: r.update(digest="0" * 64)), "do not match their digest"),
    "future": (
        edit_record(lambda r: r.update(format=99, version="9.9")),
        "has format 99, .*written by neuralflow 9.9",
    ),
    "score": (
        lambda step: (step / "metrics" / "metrics").write_text(""),
        "step 15 in .* is damaged .its score .*remove .*15",
    ),
    "cut": (edit_record(lambda r: r.pop("run")), "was not written by neuralflow"),
    "another's": (
        lambda step: shutil.rmtree(step / "record"),
        "was not written by neuralflow; give another folder",
    ),
    "foreign": (edit_record(lambda r: r.clear()), "was not written by neuralflow"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_checkpoints_are_named_and_the_one_before_is_good(folder, whole, case):
    harm, said = DAMAGED[case]
    harm(folder / "checkpoints" / "15")
    with pytest.raises(CheckpointError, match=said) as caught:
        fit(linear(), folder=folder, epochs=4, resume=True)
    assert "\n" not in str(caught.value)
    shutil.rmtree(folder / "checkpoints" / "15")
    model = linear()
    fit(model, folder=folder, epochs=4, resume=True)
    assert equal(model, whole)


@pytest.fixture
def small(tmp_path):
    """A file system of 600 kB."""
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", place], capture_output=True
        ).returncode
    ):
        pytest.skip("needs a file system of its own, which only root can mount, and not everywhere")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_the_last_good_checkpoint(small):
    fit(linear(), folder=small / "run", epochs=1)
    (small / "filler").write_bytes(os.urandom(16))
    free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
    (small / "filler").write_bytes(bytes(max(0, free - 16384)))
    with pytest.raises(
        CheckpointError,
        match=r"could not be written to .* \(No space left on device\); .*step 5 is safe",
    ):
        fit(linear(), folder=small / "run", epochs=6, resume=True)
    (small / "filler").unlink()
    resumed, whole = linear(3), linear()
    fit(resumed, folder=small / "run", epochs=2, resume=True)
    fit(whole, epochs=2)
    assert equal(resumed, whole)


def test_a_read_only_folder_is_refused_to_write_and_good_to_read(small):
    model = linear()
    fit(model, folder=small / "run", epochs=1)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(
        CheckpointError,
        match=r"could not be written to .* \(Read-only file system\); step 5 is safe",
    ):
        fit(linear(), folder=small / "run", epochs=2, resume=True)
    with pytest.raises(
        CheckpointError, match="cannot hold checkpoints .*give a folder that can be written"
    ):
        fit(linear(), folder=small / "other")
    kept = linear(5)
    assert training.restore(small / "run", kept) == 5 and equal(kept, model)


def test_two_trainings_do_not_share_a_folder(tmp_path):
    def meddling(model, batch):
        with pytest.raises(
            CheckpointError, match="another process is training in .*; wait for its end"
        ):
            fit(linear(), folder=tmp_path, resume=True)
        return models.classification(model, batch)

    fit(linear(), loss=meddling, folder=tmp_path, epochs=1)
    fit(linear(), folder=tmp_path, epochs=2, resume=True)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot hold checkpoints"):
        fit(linear(), folder=tmp_path / "run")


def test_killed_three_times_it_ends_in_the_same_bits():
    from experiments.resume.kill import kill

    outcome = kill(3, epochs=1)
    assert outcome.equal and outcome.kills == 3 and outcome.steps == sorted(outcome.steps)


PARALLEL = str(ROOT / "tests" / "programs" / "parallel.py")


def losses(*arguments, devices=1):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, PARALLEL, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def last_line(process):
    return json.loads(process.communicate(timeout=200)[0].splitlines()[-1])


def test_many_devices_and_many_processes_train_as_one(tmp_path, free_address, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [PARALLEL, str(tmp_path / "one")])
    runpy.run_path(PARALLEL)
    one = json.loads(capsys.readouterr().out.splitlines()[-1])
    together = [losses(tmp_path / "eight", devices=8)]
    eight = last_line(together[0])
    pair = [losses(tmp_path / "two", free_address, 2, k) for k in (0, 1)]
    try:
        two = last_line(pair[0])
    finally:
        for process in pair:
            process.kill()
    assert (one["devices"], eight["devices"], two["devices"]) == (1, 8, 2)
    assert eight["drawn alike"]
    for dtype, tolerance in (("float32", 1e-6), ("float64", 1e-12)):
        assert len(one[dtype]) == 50 and one[dtype][-1] < one[dtype][0]
        for other in (eight, two):
            assert np.allclose(other[dtype], one[dtype], rtol=tolerance, atol=0)
    for results in (one, eight, two):
        assert results["resumed"] == results["float64"][:4]
        assert np.allclose(results["by depth"], one["float64"][:10], rtol=1e-12, atol=0)
