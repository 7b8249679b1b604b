"""Programs beside a training: readers, and what identifies a training."""

import json
import os
import shutil

import numpy as np
import pytest
from support.training import POINTS, equal, fit, linear
from support.wrong import wrong

from neuralflow import training
from neuralflow.training import loop
from neuralflow.training.checkpoints import CheckpointError


def listed(folder):
    """Every file and folder, with its size and the time of its last change."""
    return {
        path.relative_to(folder): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def test_a_training_does_not_notice_its_readers(tmp_path, monkeypatch):
    alone, watched, met = linear(), linear(), []
    options = {"save_every": 1, "keep": 1, "validation": POINTS}
    history = fit(alone, folder=tmp_path / "alone", **options).history

    def look(state, epoch, log, check=loop._check_finite):
        if epoch == 1:
            log.wait()  # the first checkpoint with a score
        if log.store.last is not None:
            met.append(training.restore(log.folder, linear(), best=len(met) % 2 == 1 and epoch > 0))
        return check(state, epoch, log)

    monkeypatch.setattr(loop, "_check_finite", look)
    seen = fit(watched, folder=tmp_path / "watched", **options).history
    assert len(met) > 8 and equal(alone, watched)
    assert np.array_equal(seen["validation_loss"], history["validation_loss"])


def test_reading_changes_nothing_and_needs_no_right_to_write(tmp_path):
    fit(linear(), folder=tmp_path, save_every=2)
    remains = tmp_path / "checkpoints" / "17.orbax-checkpoint-tmp"
    remains.mkdir()  # what a trainer writes at the moment
    before = listed(tmp_path)
    for best in (False, True):
        training.restore(tmp_path, linear(), best=best)
    with pytest.raises(CheckpointError, match="of another model"):
        training.restore(tmp_path, wrong(_wide()))
    assert listed(tmp_path) == before


def _wide():
    from flax import nnx

    return nnx.Linear(2, 3, rngs=nnx.Rngs(0))


def test_trainings_are_known_by_the_content_of_data_and_settings(tmp_path):
    options = {"settings": {"rate": 0.1, "net": {"width": 8}}, "validation": POINTS}
    fit(linear(), folder=tmp_path, **options)
    moved = {**POINTS, "x": POINTS["x"] + 1}
    for change in (
        {"dataset": moved},
        {"validation": moved},
        {"validation": None},
        {"dataset": {**POINTS, "x": POINTS["x"].astype(np.float64)}},
    ):
        with pytest.raises(CheckpointError, match=r"was trained with data=\w+ \(now \w+\)"):
            fit(linear(), folder=tmp_path, epochs=4, resume=True, **{**options, **change})
    with pytest.raises(CheckpointError, match=r"was trained with width=8 \(now 9\); give the same"):
        other = {"settings": {"rate": 0.1, "net": {"width": 9}}, "validation": POINTS}
        fit(linear(), folder=tmp_path, epochs=4, resume=True, **other)
    with pytest.raises(CheckpointError, match=r"was trained with rate=0.1 \(now None\)"):
        fit(linear(), folder=tmp_path, epochs=4, resume=True, validation=POINTS)
    fit(linear(), folder=tmp_path, epochs=4, resume=True, **options)


@pytest.mark.parametrize("bad", [3, [1], {1: 2}, {"a": object()}, {"a": np.nan}, {"a": np.ones(2)}])
def test_settings_are_plain_data(bad):
    with pytest.raises(ValueError, match="settings must be plain data by name"):
        fit(linear(), settings=bad)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    fit(linear(), folder=folder, validation=POINTS)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    (tmp_path / "outside").mkdir()
    return shutil.copytree(trained, tmp_path / "run")


def test_no_digit_of_a_record_can_be_changed(folder):
    path = folder / "checkpoints" / "15" / "record" / "metadata"
    text = path.read_text()
    places = [k for k, letter in enumerate(text) if letter.isdigit()]
    for k in np.random.default_rng(0).choice(places, 40, replace=False):
        path.write_text(text[:k] + str((int(text[k]) + 1) % 10) + text[k + 1 :])
        if json.loads(path.read_text()) == json.loads(text):
            continue  # the seventeenth digit of a number that needs only sixteen
        with pytest.raises(CheckpointError, match="step 15 in .* (is damaged|has format)"):
            training.restore(folder, linear())
    path.write_text(text)
    assert training.restore(folder, linear()) == 15


def test_a_score_must_be_that_of_its_record(folder):
    path = folder / "checkpoints" / "10" / "metrics" / "metrics"
    path.write_text(json.dumps({"score": 0.0}))
    best = training.restore(folder, linear(), best=True)
    assert best == 15  # readers take the scores of the records
    with pytest.raises(CheckpointError, match="step 10 in .* is damaged .its score is not that of"):
        fit(linear(), folder=folder, validation=POINTS, epochs=4, resume=True)


def test_a_record_belongs_to_its_step(folder):
    steps = folder / "checkpoints"
    shutil.rmtree(steps / "15" / "record")
    shutil.copytree(steps / "10" / "record", steps / "15" / "record")
    with pytest.raises(CheckpointError, match="it is a copy of step 10"):
        training.restore(folder, linear())


LINKS = (
    ".lock",
    "history.jsonl",
    "history.csv",
    "checkpoints",
    "checkpoints/15",
    "checkpoints/old",
)


@pytest.mark.parametrize("name", LINKS)
def test_links_out_of_the_folder_are_not_followed(folder, name):
    path, outside = folder / name, folder.parent / "outside" / "of somebody else"
    if path.is_dir():
        path.rename(outside)
    else:
        path.unlink(missing_ok=True)
        outside.write_text("precious")
    path.symlink_to(outside)
    before = listed(outside.parent)
    with pytest.raises(CheckpointError, match="is a link out of its folder"):
        fit(linear(), folder=folder, validation=POINTS, epochs=4, resume=True)
    assert listed(outside.parent) == before and path.is_symlink()


def test_a_link_for_a_file_that_is_being_written_is_replaced(folder):
    outside = folder.parent / "outside" / "of somebody else"
    outside.write_text("precious")
    (folder / "history.jsonl.partial").symlink_to(outside)
    fit(linear(), folder=folder, validation=POINTS, epochs=4, resume=True)
    assert outside.read_text() == "precious"
    assert len((folder / "history.jsonl").read_text().splitlines()) == 4


def test_links_inside_the_folder_and_to_the_folder_are_followed(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert training.restore(tmp_path / "link", linear()) == 15
    fit(linear(), folder=tmp_path / "link", validation=POINTS, epochs=4, resume=True)


def test_a_folder_that_is_removed_ends_the_training(tmp_path, monkeypatch):
    def look(state, epoch, log, check=loop._check_finite):
        if epoch == 1:
            log.wait()
            shutil.rmtree(log.folder)
        return check(state, epoch, log)

    monkeypatch.setattr(loop, "_check_finite", look)
    with pytest.raises(CheckpointError, match="was removed while the training ran"):
        fit(linear(), folder=tmp_path / "run")
    assert not os.path.lexists(tmp_path / "run" / "history.jsonl")
