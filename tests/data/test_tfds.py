"""Data sets: generated, real, missing, damaged."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from neuralflow import data

TFDS = Path(__file__).resolve().parents[2] / "shared" / "data" / "tfds"
real = pytest.mark.skipif(
    not TFDS.is_dir(), reason="needs the prepared data sets beside the project"
)

GENERATED = (data.moons, data.circles, data.spirals, data.annuli, data.gaussians, data.checkerboard)


@pytest.mark.parametrize("make", GENERATED)
@settings(deadline=None, max_examples=20)
@given(count=strategies.integers(8, 300), seed=strategies.integers(0, 2**32))
def test_generated_sets_are_even_seeded_and_float32(make, count, seed):
    arrays = make(count, seed=seed)
    assert (
        arrays["x"].shape == (count, 2)
        and arrays["x"].dtype == np.float32
        and arrays["y"].dtype == np.int32
    )
    sizes = np.bincount(arrays["y"])
    assert sizes.max() - sizes.min() <= 1
    again, other = make(count, seed=seed), make(count, seed=seed + 1)
    assert (arrays["x"] == again["x"]).all() and (arrays["y"] == again["y"]).all()
    assert (arrays["x"] != other["x"]).any()


def test_generated_sets_lie_where_they_should():
    inside = data.annuli(2000)
    radius = np.linalg.norm(inside["x"], axis=1)
    assert (radius[inside["y"] == 1] <= 0.5 + 1e-6).all()
    assert ((radius[inside["y"] == 0] >= 1 - 1e-6) & (radius[inside["y"] == 0] <= 1.5 + 1e-6)).all()
    board = data.checkerboard(2000, squares=4)
    colour = np.floor((board["x"] + 1) * 2).astype(int).sum(axis=1) % 2
    assert (colour == board["y"]).all()
    arms = data.spirals(500, noise=0.0, arms=3)
    radius = np.linalg.norm(arms["x"], axis=1)
    angle = np.arctan2(arms["x"][:, 1], arms["x"][:, 0]) - 2 * np.pi * (radius + arms["y"] / 3)
    assert np.abs(np.exp(1j * angle) - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: data.moons(1), "a sample of each"),
        (lambda: data.moons(10, noise=-1.0), "standard deviation >= 0"),
        (lambda: data.checkerboard(10, squares=3), "even number"),
        (lambda: data.digits("validation"), "'train' and 'test'"),
        (lambda: data.moons(10, seed=-1), "seed must be at least 0"),
        (lambda: data.moons("a"), "count must be a whole number"),
        (lambda: data.Stream({"x": np.ones(3)}), "a dict of arrays goes to fit as it is"),
        (lambda: data.Stream(x for x in ()), "with len and .i., got a generator"),
        (lambda: data.Stream([]), "at least one example"),
        (lambda: data.Stream([{}], threads=0), "threads must be at least 1"),
        (lambda: data.Stream([(1, 2)]).example(0), "an example is a dict of arrays, got a tuple"),
        (
            lambda: data.Stream([{"x": 1}], transform=lambda row: None).example(0),
            "transform must return a dict",
        ),
        (
            lambda: list(data.Stream([{"x": np.ones(k)} for k in (1, 2)]).batches(2, 0, 0)),
            "must be alike: example",
        ),
        (lambda: data.augment_images(shift=-1), "shift must be at least 0"),
        (lambda: data.augment_images()({"x": np.ones((2, 3))}, None), r"got x \(2, 3\)"),
        (lambda: data.load("mnist", ["train", "test"]), "split must be one TFDS split"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_digits_are_split_once_for_all():
    train, test = data.digits("train"), data.digits("test")
    assert train["x"].shape == (1437, 8, 8, 1) and test["x"].shape == (360, 8, 8, 1)
    assert (
        train["x"].min() == 0
        and train["x"].max() == 1
        and set(np.unique(test["y"])) == set(range(10))
    )


def test_augmentation_moves_and_mirrors_by_its_key():
    batch = {
        "x": jnp.arange(2 * 5 * 5, dtype=jnp.float32).reshape(2, 5, 5, 1) + 1,
        "y": jnp.arange(2),
    }
    augment = jax.jit(data.augment_images(shift=2))
    one, again, other = (augment(batch, jax.random.key(k)) for k in (0, 0, 1))
    assert (
        (one["x"] == again["x"]).all()
        and (one["x"] != other["x"]).any()
        and (one["y"] == batch["y"]).all()
    )
    still = data.augment_images(shift=0, flip=False)(batch, jax.random.key(0))
    assert (still["x"] == batch["x"]).all()
    mirrored = data.augment_images(shift=0)(batch, jax.random.key(3))["x"]
    for image, before in zip(mirrored, batch["x"], strict=True):
        assert (image == before).all() or (image == before[:, ::-1]).all()


@real
def test_tfds_is_read_without_tensorflow_and_decoded_once(tmp_path):
    arrays = data.load("mnist", "test[:300]", data_dir=TFDS, cache=tmp_path)
    assert (
        arrays["image"].shape == (300, 28, 28, 1)
        and arrays["image"].dtype == np.uint8
        and arrays["label"].dtype == np.int32
    )
    (place,) = tmp_path.iterdir()
    marked = np.load(place / "label.npy") + 1
    np.save(place / "label.npy", marked)
    assert (
        data.load("mnist", "test[:300]", data_dir=TFDS, cache=tmp_path)["label"] == marked
    ).all()  # from the cache
    (place / "image.npy").write_bytes(b"damaged")
    again = data.load("mnist", "test[:300]", data_dir=TFDS, cache=tmp_path)
    assert all((again[key] == arrays[key]).all() for key in arrays)
    (place / "label.npy").unlink()
    assert set(data.load("mnist", "test[:300]", data_dir=TFDS, cache=tmp_path)) == {
        "image",
        "label",
    }
    both = data.load("cifar10", "train[:10]+test[10:20]", data_dir=TFDS, cache=False)
    assert both["image"].shape == (20, 32, 32, 3) and set(both) == {"image", "label"}


@real
def test_missing_and_foreign_sets_are_named_with_the_remedy(tmp_path):
    with pytest.raises(
        data.DataMissing,
        match="'kmnist' is not prepared in .*mnist.*neuralflow data prepare kmnist",
    ):
        data.load("kmnist", data_dir=TFDS)
    with pytest.raises(ValueError, match="'trian' of mnist cannot be read: Unknown split"):
        data.load("mnist", "trian", data_dir=TFDS)
    with pytest.raises(data.DataMissing, match="there are .*mnist:3.0.1"):
        data.load("mnist:9.9.9", data_dir=TFDS)
    for empty in ("train[:0%]", "train[50%:10%]"):
        with pytest.raises(ValueError, match="holds no examples|cannot be read"):
            data.load("mnist", empty, data_dir=TFDS)
    shutil.copytree(TFDS / "mnist", tmp_path / "mnist")
    info = tmp_path / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(data.DataMissing, match="format tfrecord"):
        data.load("mnist", data_dir=tmp_path)
    info.write_text("{")
    with pytest.raises(data.DataMissing, match="is damaged"):
        data.load("mnist", data_dir=tmp_path)


def test_preparing_without_a_network_ends_in_a_sentence(tmp_path):
    with pytest.raises(
        ConnectionError, match="mnist could not be downloaded .*connect to the network, or copy"
    ):
        data.prepare("mnist", data_dir=tmp_path)


@real
def test_a_stream_is_its_source_shuffled_by_seed_and_epoch():
    examples = data.source("mnist", "test[:100]", data_dir=TFDS)
    whole = data.load("mnist", "test[:100]", data_dir=TFDS, cache=False)
    stream = data.Stream(examples)
    order = np.random.default_rng((5, 2)).permutation(100)
    batches = list(stream.batches(32, 5, 2))
    assert len(batches) == 3
    for k, batch in enumerate(batches):
        assert (batch["image"] == whole["image"][order[32 * k : 32 * k + 32]]).all()
    late = list(stream.batches(32, 5, 2, start=2))
    assert len(late) == 1 and (late[0]["label"] == batches[2]["label"]).all()
    parts = [list(stream.batches(32, 5, 2, share=(k, 2)))[1]["label"] for k in (0, 1)]
    assert (np.concatenate(parts) == batches[1]["label"]).all()


def test_a_stream_takes_any_sequence_and_a_transform():
    rows = [{"x": np.full(2, k), "name": f"sample {k}"} for k in range(10)]
    stream = data.Stream(rows, transform=lambda row: {"x": row["x"].astype(np.float32) / 2})
    (batch,) = list(stream.batches(10, 0, 0))
    assert sorted(batch["x"][:, 0].tolist()) == [k / 2 for k in range(10)] and set(batch) == {"x"}
