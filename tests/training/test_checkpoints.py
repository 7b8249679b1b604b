"""Checkpoints: broken trainings, damaged files, full disks and killed processes."""

import json
import os
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.training import POINTS, equal, fit, linear, weights
from support.wrong import wrong

from neuralflow import models, training
from neuralflow.training.checkpoints import CheckpointError


def test_a_loss_that_breaks_in_epoch_three_leaves_the_checkpoint_of_epoch_two(tmp_path):
    breaks = optax.sgd(lambda step: jnp.where(jnp.asarray(step) >= 11, jnp.inf, 0.1))
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
        json.loads(line, parse_constant=pytest.fail)
        for line in (tmp_path / "history.jsonl").read_text().splitlines()
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
    """The model of that training after one more epoch."""
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
        training.restore(folder, wrong(3))
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
