"""Pictures refuse what cannot be drawn."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from support.calls import COUNT, MODULE, POSITIVE, STATE, Call, refuse

import neuralflow as nf
from neuralflow import plots

SIZE = {**COUNT, "huge": 10**6}
INCHES = {**POSITIVE, "true": True}
WORD = {"none": None, "number": 1, "list": ["k"], "object": object()}
SERIES = {
    "none": None,
    "text": "a",
    "number": 1,
    "list": [[1.0]],
    "empty": {},
    "array": np.ones(2),
}
ROW = {
    "none": None,
    "text": "123",
    "number": 1.0,
    "empty": [],
    "words": ["a", "b"],
    "ragged": [[1.0], [1.0, 2.0]],
    "table": np.ones((2, 2)),
    "generator": (x for x in (1.0, 2.0)),
    "complex": [1j, 2j],
    "infinite": [1.0, np.inf],
}
POINTS = {
    **STATE,
    "row": np.ones(2),
    "wide": np.ones((2, 3)),
    "empty": np.ones((0, 2)),
    "nan": np.full((2, 2), np.nan),
    "complex": np.ones((2, 2)) * 1j,
}
CLASSES = {
    "none": None,
    "text": "ab",
    "number": 1,
    "three": np.zeros(3),
    "table": np.zeros((2, 2)),
    "object": object(),
}
AXIS = {**MODULE, "figure": Figure(), "class": Axes}


def axis():
    axes = Figure().subplots()
    axes.plot([1, 2], [1, 2], label="a line")
    return axes


@functools.cache
def layer():
    field = nf.fields.MLP(2, hidden=2, rngs=nnx.Rngs(0))
    return nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=1))


def function():
    return nf.transport.Transport(layer(), lambda x: x[:, 0])


def classed():
    return {"x": np.array([[0.0, 1.0], [1.0, 0.0]]), "y": np.array([0, 1])}


def one_set(*, points=None, density=None, samples=None):
    """One set of `densities` with a wrong part."""
    good = np.ones((2, 2))
    parts = (points, density, samples)
    return {"a": tuple(good if part is None else part for part in parts)}


CALLS = {
    "figure": Call(
        plots.figure,
        lambda: {"rows": 1, "columns": 1},
        {"rows": SIZE, "columns": SIZE, "width": INCHES, "height": INCHES},
    ),
    "legend_below": Call(
        plots.legend_below,
        lambda: {"picture": Figure(), "axis": axis(), "columns": 2},
        {"picture": {**MODULE, "axes": axis()}, "axis": AXIS, "columns": SIZE},
    ),
    "stability": Call(
        plots.stability,
        lambda: {"schemes": {"Euler": nf.Euler()}, "columns": 1},
        {
            "schemes": {
                **SERIES,
                "field": {"a": 1},
                "class": {"Euler": nf.Euler},
                "unnamed": {1: nf.Euler()},
            },
            "columns": SIZE,
        },
        {"schemes": "scheme"},
    ),
    "coefficients": Call(
        plots.coefficients,
        lambda: {"series": {"a": [1.0, 2.0]}},
        {
            "series": {
                **SERIES,
                **{f"of {name}": {"a": value} for name, value in ROW.items()},
                "unnamed": {1: [1.0]},
            },
            "name": WORD,
        },
    ),
    "transported": Call(
        plots.transported,
        lambda: {"u": function(), **classed(), "depths": [0.0, 1.0], "size": 3},
        {
            "u": {**MODULE, "class": nf.transport.Transport, "layer": layer()},
            "x": POINTS,
            "y": CLASSES,
            "depths": {
                **ROW,
                "outside": [0.0, 2.0],
                "backward": [1.0, 0.0],
                "nan": [np.nan],
                "many": np.linspace(0, 1, 2000),
            },
            "size": {**SIZE, "one": 1},
        },
    ),
    "transported.values": Call(
        lambda values: plots.transported(
            nf.transport.Transport(layer(), values), **classed(), depths=[1.0], size=3
        ),
        lambda: {"values": lambda x: x[:, 0]},
        {"values": {"two": lambda x: x, "none": lambda x: None}},
        {"values": r"\bu\b"},
    ),
    "characteristics": Call(
        plots.characteristics,
        lambda: {"layer": layer(), **classed(), "steps": 2},
        {
            "layer": {**MODULE, "class": nf.NeuralODE, "u": function()},
            "x": POINTS,
            "y": CLASSES,
            "steps": {**SIZE, "one": 1},
        },
    ),
    "densities": Call(
        plots.densities,
        lambda: {"sets": one_set(), "limits": (0.0, 1.0)},
        {
            "sets": {
                **SERIES,
                "pair": {"a": (np.ones((2, 2)),) * 2},
                "array": {"a": np.ones((2, 2))},
                "unnamed": {1: (np.ones((2, 2)),) * 3},
                **{f"points {k}": one_set(points=v) for k, v in POINTS.items() if v is not None},
                **{f"samples {k}": one_set(samples=v) for k, v in POINTS.items() if v is not None},
                "density row": one_set(density=np.ones(2)),
                "density oblong": one_set(density=np.ones((2, 3))),
                "density text": one_set(density="a"),
                "density empty": one_set(density=np.ones((0, 0))),
                "density nan": one_set(density=np.full((2, 2), np.nan)),
            },
            "limits": {
                "none": None,
                "text": "01",
                "number": 1.0,
                "three": (0.0, 1.0, 2.0),
                "equal": (1.0, 1.0),
                "backward": (1.0, 0.0),
                "nan": (np.nan, 1.0),
                "infinite": (0.0, np.inf),
                "words": ("a", "b"),
            },
        },
    ),
    "points_in_plane": Call(
        plots.points_in_plane,
        lambda: {"axis": axis(), **classed()},
        {"axis": AXIS, "x": POINTS, "y": CLASSES},
    ),
    "depth_line": Call(
        plots.depth_line,
        lambda: {"axis": axis(), "k": 0, "depth": [1, 2], "error": [1.0, 0.5], "label": "a"},
        {
            "axis": AXIS,
            "k": {name: value for name, value in SIZE.items() if name not in ("zero", "huge")},
            "depth": {**ROW, "three": [1, 2, 3], "zero": [0, 1], "negative": [-1, 1]},
            "error": {**ROW, "three": [1.0] * 3},
            "label": WORD,
            "linestyle": {**WORD, "unknown": "~", "empty text": "x"},
        },
    ),
    "depth_axis": Call(
        plots.depth_axis,
        lambda: {"axis": axis(), "title": "a", "depth": [1, 2]},
        {
            "axis": AXIS,
            "title": WORD,
            "depth": {**ROW, "zero": [0, 1], "negative": [-1, 1]},
        },
    ),
}

test_wrong, test_good = refuse(CALLS)


def test_what_is_right_is_taken():
    # Signatures do not name all that is right, such as numbers of NumPy.
    loose: Any = plots
    lines = axis()
    loose.depth_line(lines, np.int64(7), np.arange(1, 3), jnp.array([np.nan, 1.0]), "a", "--")
    loose.depth_axis(lines, "a", (2, 4))
    loose.points_in_plane(lines, [[0.0, 1.0]], ["a class"])
    loose.coefficients({"a": jnp.ones(2), "b": (1, np.nan)}, name="")
    assert len(loose.densities(one_set(), [0, 1]).axes) == 3
