"""What sweeps refuse."""

import datetime
import functools
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from support.calls import FLAG, FUNCTION, PLACE, Call, Wrong, refuse
from support.sweeps import square
from support.wrong import wrong

from neuralflow import sweeps
from neuralflow.checks import InputError

NOT_PLAIN: Wrong = {
    "nan": [np.nan],
    "infinite": [np.inf],
    "array": [np.ones(2)],
    "object": [object()],
    "complex": [1j],
    "set": [{1}],
    "date": [datetime.date(2026, 1, 1)],
    "numbers as names": [{1: 2}],
    "path": [Path("a")],
}
AXIS: Wrong = {
    **NOT_PLAIN,
    "none": None,
    "number": 4,
    "text": "euler",
    "dict": {"a": 1},
    "generator": (n for n in (1, 2)),
    "empty": [],
    "twice": [1, 2, 1],
    "twice, as numpy writes it": [np.int64(1), 1],
    "table": np.ones((2, 2)),
}


@functools.cache
def out():
    import tempfile

    return tempfile.mkdtemp()


@functools.cache
def finished():
    (row,) = sweeps.run(square, [{"number": 2}], out=out(), progress=False)
    return Path(out()) / row["run"]


def anything(**arguments):
    return {}


CALLS = {
    "grid": Call(sweeps.grid, lambda: {"depth": [4, 8]}, {"depth": AXIS}),
    "run": Call(
        sweeps.run,
        lambda: {
            "function": anything,
            "configurations": [{"number": 2}],
            "out": out(),
            "executor": None,
            "data": None,
            "progress": False,
        },
        {
            "function": {
                **FUNCTION,
                "lambda": lambda number: {},
                "partial": functools.partial(anything, a=1),
                "without number": finished,
            },
            "configurations": {
                **{name: [{"a": value}] for name, (value,) in NOT_PLAIN.items()},
                "none": None,
                "one": {"number": 2},
                "text": "number",
                "empty": [],
                "values": [1, 2],
                "pairs": [[("number", 2)]],
                "no texts": [{1: 2}],
                "a column": [{"status": 1}],
                "generator": ({"number": n} for n in (1, 2)),
            },
            "out": {**PLACE, "none": None, "a file": __file__},
            "executor": {"text": "tcp://host:8786", "number": 2, "class": ProcessPoolExecutor},
            "data": {
                "array": np.ones(2),
                "path": __file__,
                "empty": {},
                "a number": {"x": 1.0},
                "nothing": {"x": None},
                "objects": {"x": np.array([None])},
                "keys": {"x": jax.random.key(0)},
                "no file": {"x": "no such file"},
                "a folder": {"x": Path(__file__).parent},
                "nul": {"x": "a\0b"},
                "no texts": {1: np.ones(2)},
            },
            "progress": FLAG,
        },
    ),
    "arrays": Call(
        sweeps.arrays, lambda: {"folder": finished()}, {"folder": {**PLACE, "none": None}}
    ),
}

test_wrong, test_good = refuse(CALLS)


def test_an_axis_of_one_value_is_shown():
    with pytest.raises(InputError, match=r"^depth must be a list such as \[4\], got 4$"):
        sweeps.grid(depth=wrong(4))
    with pytest.raises(InputError, match=r"^scheme must be a list such as \['euler'\], got"):
        sweeps.grid(scheme="euler")


def test_names_of_data_and_of_configurations_differ():
    with pytest.raises(InputError, match="configurations must not have the name 'x'"):
        sweeps.run(anything, [{"x": 1}], out=out(), data={"x": np.ones(2)})


def test_a_configuration_names_the_arguments_of_the_function():
    for configuration, said in (
        ({"nmuber": 2}, "missing a required argument: 'number'"),
        ({"number": 2, "seed": 0}, "unexpected keyword argument 'seed'"),
    ):
        with pytest.raises(InputError, match=f"must name the arguments of function, .*{said}"):
            sweeps.run(square, [configuration], out=out())
