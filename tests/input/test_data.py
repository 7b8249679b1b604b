"""Data sets refuse counts, noise, names and folders of a wrong kind."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.calls import (
    COUNT,
    FLAG,
    FUNCTION_OF_ONE,
    KEY,
    NOT_NEGATIVE,
    NUMBER,
    PLACE,
    POSITIVE,
    SEED,
    Call,
    refuse,
    without,
)

from neuralflow import data
from neuralflow.checks import InputError

SIZE = {**COUNT, "huge": 2**62}
ANY = without(SIZE, "zero")
NOISE = {**NOT_NEGATIVE, "true": True, "row": np.ones(2), "complex": 1j}
COUNTED = {"count": {**SIZE, "one": 1}, "noise": NOISE, "seed": SEED}
NAME = {
    "none": None,
    "number": 1,
    "list": ["mnist"],
    "empty": "",
    "nul": "mn\0ist",
    "parent": "../mnist",
    "inside": "mnist/../../x",
    "absolute": "/mnist",
    "version": "mnist:../1",
    "line": "mnist\n",
    "star": "*",
    "home": "~",
    "bytes": b"mnist",
}
SPLIT = {"none": None, "number": 1, "list": ["train"], "bytes": b"train"}
ROWS = [{"x": np.ones(2)}, {"x": np.ones(2)}]


def without_data(call):
    """A call for a set that is not there: good arguments end in that error."""

    def called(**arguments):
        with pytest.raises(data.DataMissing):
            call(**arguments)

    return called


def images():
    return np.ones((2, 6, 6, 1))


CALLS = {
    "moons": Call(data.moons, lambda: {"count": 2}, COUNTED),
    "circles": Call(
        data.circles,
        lambda: {"count": 2},
        {**COUNTED, "ratio": {**POSITIVE, "true": True, "one": 1.0, "row": np.ones(2) / 2}},
    ),
    "spirals": Call(
        data.spirals,
        lambda: {"count": 2},
        {**COUNTED, "turns": {**NUMBER, "true": True}, "arms": {**SIZE, "one": 1, "many": 3}},
    ),
    "annuli": Call(data.annuli, lambda: {"count": 2}, COUNTED),
    "gaussians": Call(
        data.gaussians,
        lambda: {"count": 8},
        {
            **COUNTED,
            "modes": {**SIZE, "one": 1, "many": 9},
            "radius": {**POSITIVE, "true": True},
        },
    ),
    "checkerboard": Call(
        data.checkerboard, lambda: {"count": 2}, {**COUNTED, "squares": {**SIZE, "odd": 3}}
    ),
    "digits": Call(
        data.digits,
        dict,
        {"split": {**SPLIT, "unknown": "validation", "words": np.array(["train", "test"])}},
    ),
    "digits_pair": Call(
        data.digits_pair,
        dict,
        {
            "first": {**ANY, "ten": 10, "same": 8, "row": np.arange(2)},
            "second": {**ANY, "ten": 10, "same": 3},
            "components": {**SIZE, "many": 65},
        },
    ),
    "augment_images": Call(
        data.augment_images,
        dict,
        {"shift": ANY, "flip": FLAG, "name": {"none": None, "number": 1, "list": ["x"]}},
    ),
    "augment": Call(
        lambda: lambda batch, key: data.augment_images(2)(batch, key),
        lambda: {"batch": {"x": images()}, "key": jax.random.key(0)},
        {
            "batch": {
                "none": None,
                "list": [images()],
                "array": images(),
                "empty": {},
                "other": {"y": images()},
                "flat": {"x": np.ones((2, 3))},
                "list inside": {"x": [[[[1.0]]]]},
                "text": {"x": "x"},
                "words": {"x": np.full((2, 6, 6, 1), "a")},
                "small": {"x": np.ones((2, 2, 2, 1))},
            },
            "key": KEY,
        },
        {"batch": r"\bbatch\b"},
        made=True,
    ),
    "Stream": Call(
        data.Stream,
        lambda: {"examples": ROWS},
        {
            "examples": {
                "none": None,
                "text": "abc",
                "number": 1,
                "dict": {"x": np.ones(2)},
                "set": {1},
                "generator": (row for row in ROWS),
                "empty": [],
                "class": list,
                "scalar": np.ones(()),
            },
            "transform": without(FUNCTION_OF_ONE, "none"),
            "threads": SIZE,
            "ahead": SIZE,
        },
        {"examples": r"\bexamples?\b"},
    ),
    "Stream.example": Call(
        lambda: data.Stream(ROWS).example,
        lambda: {"i": 1},
        {"i": {**without(ANY, "negative"), "far": 2, "before": -3}},
        made=True,
    ),
    "Stream.batches": Call(
        lambda: data.Stream(ROWS).batches,
        lambda: {"size": 2, "seed": 0, "epoch": 0},
        {
            "size": {**SIZE, "many": 3},
            "seed": SEED,
            "epoch": ANY,
            "start": ANY,
            "share": {
                "none": None,
                "number": 1,
                "text": "01",
                "three": (0, 1, 2),
                "far": (2, 2),
                "negative": (-1, 2),
                "zero": (0, 0),
                "uneven": (0, 3),
                "half": (0.5, 1),
            },
        },
        made=True,
    ),
    "load": Call(
        without_data(data.load),
        lambda: {"name": "mnist", "data_dir": Path(__file__).parent},
        {
            "name": NAME,
            "split": SPLIT,
            "data_dir": PLACE,
            "cache": {**PLACE, "true": True},
        },
    ),
    "source": Call(
        without_data(data.source),
        lambda: {"name": "mnist", "data_dir": Path(__file__).parent},
        {"name": NAME, "split": SPLIT, "data_dir": PLACE},
    ),
}

test_wrong, test_good = refuse(CALLS)

# A good call would use the network.
test_prepare, _ = refuse(
    {"prepare": Call(data.prepare, lambda: {"name": "mnist"}, {"name": NAME, "data_dir": PLACE})}
)


@pytest.fixture
def file(tmp_path):
    def written(**arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return written


@pytest.mark.parametrize(
    "arrays",
    {
        "flat": {"x": np.ones(3), "y": np.ones(3)},
        "deep": {"x": np.ones((3, 2)), "y": np.ones((3, 1))},
        "unequal": {"x": np.ones((3, 2)), "y": np.ones(2)},
        "empty": {"x": np.ones((0, 2)), "y": np.ones(0)},
        "no features": {"x": np.ones((3, 0)), "y": np.ones(3)},
        "words": {"x": np.full((3, 2), "a"), "y": np.ones(3)},
        "complex": {"x": np.ones((3, 2)) * 1j, "y": np.ones(3)},
        "nan": {"x": np.full((3, 2), np.nan), "y": np.ones(3)},
        "infinite": {"x": np.ones((3, 2)), "y": np.full(3, np.inf)},
        "objects": {"x": np.array([[{}]]), "y": np.ones(1)},
        "x alone": {"x": np.ones((3, 2))},
    }.items(),
    ids=lambda case: case[0],
)
def test_a_file_of_other_arrays_is_refused(file, arrays):
    with pytest.raises(InputError, match=r"set\.npz") as caught:
        data.from_file(file(**arrays[1]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", PLACE)
def test_what_is_no_path_is_refused(path):
    read: Any = data.from_file
    with pytest.raises(InputError, match="path"):
        read(PLACE[path])


def test_what_is_no_file_of_arrays_is_refused(tmp_path):
    (tmp_path / "torn").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "empty").touch()
    read: Any = data.from_file
    for place in (tmp_path, tmp_path / "torn", tmp_path / "empty", str(tmp_path / "none")):
        with pytest.raises(InputError, match=str(place)) as caught:
            read(place)
        assert "\n" not in str(caught.value)


def test_what_is_right_is_taken(file):
    # Signatures do not name all that is right, such as numbers of NumPy.
    loose: Any = data
    arrays = loose.from_file(str(file(x=np.ones((2, 1), int), y=np.array([True, False]))))
    assert arrays["x"].dtype == arrays["y"].dtype == np.float64
    for noise in (0, np.float32(0.5), np.int64(1), jnp.asarray(0.1), np.asarray(1.0)):
        assert loose.moons(np.int64(2), noise=noise, seed=np.uint32(3))["x"].shape == (2, 2)
    assert loose.spirals(2, turns=-1)["x"].shape == (2, 2)
    assert loose.digits_pair(np.int64(0), 1, np.int32(1))["x"].shape[1] == 1
    stream = loose.Stream(np.arange(4), transform=lambda i: {"x": np.asarray(i)})
    assert stream.example(np.int64(-1))["x"] == 3
    (batch,) = stream.batches(4, 0, 0, share=[1, 2])
    assert batch["x"].shape == (2,)
    assert not list(stream.batches(2, 0, 0, start=2))
