"""Data sets of TFDS: prepared, missing and damaged."""

import json
import shutil

import numpy as np
import pytest
from support.data import TFDS, real

from neuralflow import data
from neuralflow.data import tfds


def _renamed(place, change):
    names = json.loads((place / "names.json").read_text())
    (place / "names.json").write_text(json.dumps(change(names)))


def _elsewhere(place):
    """Another set of as many samples, one folder up, and names that lead there."""
    for name in ("image", "label"):
        np.save(place.parent / f"{name}.npy", np.zeros((300, 28, 28, 1), np.uint8))
    _renamed(place, lambda names: {**names, "names": ["../image", "../label"]})


DAMAGE = (
    lambda place: np.save(place / "label.npy", np.load(place / "label.npy") + 1),
    lambda place: np.save(place / "label.npy", np.load(place / "label.npy")[:299]),
    lambda place: (place / "image.npy").write_bytes(b"damaged"),
    lambda place: (place / "label.npy").unlink(),
    lambda place: shutil.copy(place / "label.npy", place / "image.npy"),
    lambda place: (place / "names.json").write_text('["image"'),
    lambda place: (place / "names.json").write_text('["../image", "label"]'),
    lambda place: _renamed(place, lambda names: {**names, "names": ["label"]}),
    lambda place: _renamed(place, lambda names: {**names, "names": ["label", "image"]}),
    _elsewhere,
)


@real
def test_tfds_is_read_without_tensorflow_and_decoded_once(tmp_path, monkeypatch):
    arrays = data.load("mnist", "test[:300]", data_dir=TFDS, cache=tmp_path)
    assert (
        arrays["image"].shape == (300, 28, 28, 1)
        and arrays["image"].dtype == np.uint8
        and arrays["label"].dtype == np.int32
    )
    (place,) = tmp_path.iterdir()
    with monkeypatch.context() as nothing:
        nothing.setattr(tfds, "_block", lambda *_: pytest.fail("decoded a second time"))
        kept = data.load("mnist", "test[:300]", data_dir=TFDS, cache=tmp_path)
        assert all((kept[key] == arrays[key]).all() for key in arrays)
    for harm in DAMAGE:
        harm(place)
        again = data.load("mnist", "test[:300]", data_dir=TFDS, cache=tmp_path)
        assert set(again) == set(arrays)
        assert all((again[key] == arrays[key]).all() for key in arrays)
    both = data.load("cifar10", "train[:10]+test[10:20]", data_dir=TFDS, cache=False)
    assert both["image"].shape == (20, 32, 32, 3) and set(both) == {"image", "label"}


@real
def test_missing_and_foreign_sets_are_named_with_the_remedy(tmp_path):
    with pytest.raises(
        data.DataMissing,
        match="'kmnist' is not prepared in .*mnist.*neuralflow data prepare kmnist",
    ):
        data.load("kmnist", data_dir=TFDS)
    with pytest.raises(data.DataMissing, match=f"but in the folder above; name {TFDS}$"):
        data.load("mnist", data_dir=TFDS / "mnist")
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
