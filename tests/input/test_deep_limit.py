"""Wrong values of every argument of the laboratory of the deep limit, but of `Folder`."""

import functools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from support.calls import (
    ARRAY,
    CHOICE,
    COUNT,
    FLAG,
    FUNCTION,
    MODULE,
    NOT_NEGATIVE,
    NOT_WHOLE,
    NUMBERS,
    POSITIVE,
    SEED,
    STATE,
    Call,
    Wrong,
    refuse,
    without,
)
from support.deep_limit import Drift, anchor, small, states

import neuralflow as nf
from neuralflow.labs import deep_limit as D

ROWS: Wrong = {
    **NUMBERS,
    "number": 1.0,
    "row": np.ones(1),
    "empty": np.ones((0, 1)),
    "no columns": np.ones((1, 0)),
    "more samples": np.ones((2, 1)),
}
PROBLEM, PAPER = anchor(), small(0)
BASIS = nf.PiecewiseLinear(2)
GRID = nf.FixedGrid(nf.Euler(), steps=2)


def point(cells=2, basis=None, energy=0.0, readout=None):
    """A point of the anchor's problem on cells."""
    basis = nf.PiecewiseLinear(cells) if basis is None else basis
    theta = {"b": np.linspace(0.0, 1.0, basis.size)[:, None]}
    return D.Minimum(energy, basis, theta, readout or {}, np.zeros((1, 1)), 0.0, 0)


POINT, LIMIT = point(), point(basis=nf.Legendre(3))
ANOTHER = replace(POINT, theta={"c": np.ones((3, 1))})
WIDER = replace(POINT, theta={"b": np.ones((3, 2))})


@functools.cache
def objective():
    return D.discrete(PROBLEM, nf.Euler(), 2)


XI: Wrong = {**ARRAY, "number": 1.0, "longer": np.ones(4), "matrix": np.ones((3, 1))}
PROBLEMS: Wrong = {
    "none": None,
    "text": "problem",
    "data": (np.ones((1, 1)), np.ones((1, 1))),
    "class": D.Problem,
    "dict": {"x": np.ones((1, 1))},
    "unhashable": [PROBLEM],
    "module": Drift(),
}
MINIMA: Wrong = {
    "none": None,
    "text": "minimum",
    "array": np.ones(3),
    "class": D.Minimum,
    "weights": {"b": np.ones((3, 1))},
    "list": [POINT],
}
FITTING: Wrong = {**MINIMA, "another": ANOTHER, "wider": WIDER}
FITTING_SAID = r"minimum|limit|theta"
OBJECTIVES: Wrong = {
    "none": None,
    "text": "objective",
    "problem": PROBLEM,
    "class": D.Objective,
    "function": np.sum,
}
BASES: Wrong = {
    "none": None,
    "text": "linear",
    "number": 4,
    "class": nf.PiecewiseLinear,
    "list": [0, 1],
}
SCHEME: Wrong = {"none": None, "text": "euler", "number": 1, "class": nf.Euler, "grid": GRID}
SCHEMES: Wrong = {
    "none": None,
    "text": "euler",
    "list": [nf.Euler()],
    "scheme": nf.Euler(),
    "empty": {},
    "words": {"euler": "euler"},
    "classes": {"euler": nf.Euler},
    "nothing": {"euler": None},
    "number as name": {1: nf.Euler()},
}
DEPTHS: Wrong = {
    "none": None,
    "text": "48",
    "number": 4,
    "generator": (n for n in (32, 64)),
    "empty": (),
    "words": ("32", "64"),
    "half": (32.5, 64),
    "true": (True, 64),
    "one": (0, 64),
    "negative": (-32, 64),
    "nan": (np.nan, 64),
    "huge": (32, 10**9),
    "table": np.ones((2, 2), int),
    "dict": {32: 64},
}
TOLERANCE: Wrong = {**NOT_NEGATIVE, "true": True, "complex": 1j}
WEIGHTS: Wrong = {**MINIMA, "names only": ["b"]}
SIZE: Wrong = {**COUNT, "huge": 10**9}
LARGE: Wrong = {**COUNT, "huge": 10**10}
SERIES = [
    D.Trained(
        n, {"V": np.arange(2.0 * n).reshape(1, n, 2) / n**2}, np.ones((1, 3)) / n, np.ones(1) / n
    )
    for n in (4, 8, 16)
]
NETWORKS: Wrong = {
    "none": None,
    "text": "network",
    "number": 1,
    "class": D.Trained,
    "list": SERIES,
    "other weights": replace(SERIES[1], weights={"W": SERIES[1].weights["V"]}),
    "wider": replace(SERIES[1], weights={"V": np.ones((1, 8, 3))}),
    "other outputs": replace(SERIES[1], outputs=np.ones((1, 4))),
}
FINE = D.Measure(0.01, 0.001, 0.1)
CERTIFICATE = D.Certificate(
    {"layer": D.Resolution(FINE, FINE, FINE, 1.0, 4, 2)},
    {"layer": D.Regularity(FINE, FINE, (), 0.3, None, np.ones(1), np.ones(1))},
    {},
    100,
)
LAYER = nf.NeuralODE(
    nf.DepthVarying(lambda rngs: Drift(), BASIS, rngs=nnx.Rngs(0), init=nf.tied), GRID
)


def rows():
    """A study of two depths with made-up numbers."""
    weights = {("euler", n): point(n, energy=1 / n) for n in (32, 64)}
    made = [
        D.Row("euler", n, 1 / n, 0.0, 1, 1 / n, 1 / n, 1 / n, D.distances(m, LIMIT))
        for (_, n), m in weights.items()
    ]
    return D.Study(LIMIT, 0.0, 0.0, 2.0, {}, made, weights)


STUDY = rows()
STUDIES: Wrong = {
    "none": None,
    "text": "study",
    "rows": STUDY.rows,
    "class": D.Study,
    "iterator": iter([("", STUDY)]),
}
EVERY: Wrong = {**SCHEMES, "another name": {"heun": nf.Heun()}}
ORDER: Wrong = {**COUNT, "huge": 10**9}


def descent(**options):
    return {
        "depths": (2,),
        "cases": jnp.arange(2),
        "make": lambda depth, case: LAYER,
        "loss": lambda model, batch: (jnp.sum(model(batch)), batch),
        "batch": lambda data, case, i: jnp.ones((1, 1)),
        "optimiser": lambda model, depth, case: optax.sgd(0.1),
        "steps": 1,
        **options,
    }


def paper():
    return {"x": np.ones((3, 2)), "y": [0, 1, 1]}


def problem():
    return {
        "x": [[1]],
        "y": np.ones((1, 1)),
        "layer": Drift,
        "predict": states,
        "loss": D.squared_error,
        "weights": {"b": 1},
        "readout": {"W": (1,)},
        "ridge": {"W": 0},
    }


CALLS = {
    "Sobolev": Call(
        D.Sobolev,
        lambda: {"tau": np.int64(1), "power": 0},
        {"tau": {**POSITIVE, "true": True}, "power": {**TOLERANCE, "large": 17.0}},
    ),
    "Sobolev.call": Call(D.Sobolev, lambda: {"basis": BASIS}, {"basis": BASES}, made=True),
    "square": Call(D.square, lambda: {"basis": BASIS}, {"basis": BASES}),
    "Perceptron": Call(
        D.Perceptron,
        lambda: {"dimension": np.int64(2)},
        {
            "dimension": SIZE,
            "activation": {**FUNCTION, "of two": lambda x, y: x, "class": nnx.Linear},
        },
    ),
    "Perceptron.call": Call(
        lambda: D.Perceptron(2),
        lambda: {"x": np.ones((3, 2))},
        {"x": {**STATE, "number": 1.0, "wide": np.ones((3, 3)), "dict": {"x": np.ones((3, 2))}}},
        made=True,
    ),
    "Problem": Call(
        D.Problem,
        problem,
        {
            "x": ROWS,
            "y": {**NUMBERS, "number": 1.0, "more samples": np.ones(2), "empty": []},
            "layer": {**FUNCTION, "module": Drift(), "of one": lambda rngs: Drift()},
            "predict": {**FUNCTION, "of one": lambda states: states},
            "loss": {**FUNCTION, "of one": lambda prediction: 0.0},
            "weights": {
                **TOLERANCE,
                "negative in it": {"b": -1.0},
                "text in it": {"b": "1"},
                "nan in it": {"b": np.nan},
            },
            "penalty": {**FUNCTION, "class": D.Sobolev},
            "readout": {
                "none": None,
                "text": "W",
                "list": ["W"],
                "number": {"W": 1},
                "shape": {"W": "12"},
                "negative": {"W": (-1,)},
                "half": {"W": (1.5,)},
                "other names": {"c": ()},
            },
            "ridge": {
                "none": None,
                "text": "W",
                "number": 1.0,
                "empty": {},
                "other names": {"c": 1.0},
                "negative": {"W": -1.0},
                "infinite": {"W": np.inf},
                "words": {"W": "1"},
            },
        },
    ),
    "Problem.weight": Call(
        lambda: PROBLEM.weight,
        lambda: {"name": "b"},
        {"name": {**CHOICE, "list": ["b"]}},
        made=True,
    ),
    "affine": Call(
        D.affine,
        lambda: {"readout": {"W": [1.0, 2.0], "c": 0}, "states": [[1.0, 2.0]]},
        {
            "readout": {
                "none": None,
                "text": "W",
                "array": np.ones(2),
                "empty": {},
                "no c": {"W": np.ones(2)},
                "words": {"W": "W", "c": "c"},
                "wider": {"W": np.ones(3), "c": np.ones(())},
                "no axis": {"W": 1.0, "c": 1.0},
                "longer c": {"W": np.ones(2), "c": np.ones(2)},
            },
            "states": {**ARRAY, "number": 1.0, "wider": np.ones((1, 3))},
        },
    ),
    "squared_error": Call(
        D.squared_error,
        lambda: {"prediction": [1.0, 2.0], "y": jnp.ones(2)},
        {
            "prediction": {**ARRAY, "number": 1.0, "column": np.ones((2, 1)), "empty": []},
            "y": {**ARRAY, "number": 1.0, "column": np.ones((2, 1)), "empty": []},
        },
    ),
    "thorpe_van_gennip": Call(
        D.thorpe_van_gennip,
        paper,
        {
            "x": {**ROWS, "images": np.ones((3, 2, 2))},
            "y": {
                **without(NUMBERS, "flags"),
                "number": 1.0,
                "more samples": np.ones(4),
                "three axes": np.ones((3, 1, 1)),
                "empty": [],
            },
            "a": {
                "none": None,
                "text": "1234",
                "number": 1.0,
                "three": (1.0, 1.0, 1.0),
                "five": (1.0,) * 5,
                "words": ("1", "1", "1", "1"),
                "zero": (1.0, 1.0, 0.0, 1.0),
                "negative": (1.0, 1.0, 1.0, -1.0),
                "nan": (np.nan, 1.0, 1.0, 1.0),
                "infinite": (np.inf, 1.0, 1.0, 1.0),
                "generator": (x for x in (1.0, 1.0, 1.0, 1.0)),
            },
            "tau": {**POSITIVE, "true": True},
            "activation": {**FUNCTION, "of two": lambda x, y: x, "class": nnx.Linear},
            "link": {**FUNCTION, "of two": lambda x, y: x},
            "loss": {**FUNCTION, "of one": lambda x: x},
        },
    ),
    "Objective": Call(
        D.Objective,
        lambda: {"problem": PROBLEM, "basis": BASIS, "solve": GRID},
        {
            "problem": PROBLEMS,
            "basis": {**BASES, "huge": nf.PiecewiseLinear(10**4)},
            "solve": {"none": None, "text": "grid", "scheme": nf.Euler(), "class": nf.FixedGrid},
        },
    ),
    "Objective of other weights": Call(
        lambda weights: D.discrete(replace(PROBLEM, weights=weights), nf.Euler(), 2),
        lambda: {"weights": {"b": 1.0}},
        {"weights": {"other": {"c": 1.0}, "more": {"b": 1.0, "c": 1.0}, "empty": {}}},
    ),
    "Objective.call": Call(objective, lambda: {"xi": [0, 0, 0]}, {"xi": XI}, made=True),
    "Objective.energy": Call(
        lambda: objective().energy, lambda: {"xi": jnp.zeros(3)}, {"xi": XI}, made=True
    ),
    "Objective.bend": Call(
        lambda: objective().bend,
        lambda: {"xi": np.zeros(3), "direction": [1, 0, 0]},
        {"xi": XI, "direction": XI},
        made=True,
    ),
    "Objective.parameters": Call(
        lambda: objective().parameters, lambda: {"xi": [0, 0, 0]}, {"xi": XI}, made=True
    ),
    "Objective.coordinates": Call(
        lambda: objective().coordinates,
        lambda: {"theta": {"b": [[0], [0], [0]]}, "readout": {}},
        {
            "theta": {
                "none": None,
                "text": "b",
                "array": np.ones((3, 1)),
                "empty": {},
                "other": {"c": np.ones((3, 1))},
                "longer": {"b": np.ones((4, 1))},
                "flat": {"b": np.ones(3)},
                "words": {"b": "b"},
            },
            "readout": {"none": None, "text": "W", "array": np.ones(1)},
        },
        made=True,
    ),
    "Objective.layer": Call(
        lambda: objective().layer,
        lambda: {"theta": {"b": np.zeros((3, 1))}},
        {
            "theta": {
                "none": None,
                "empty": {},
                "longer": {"b": np.ones((4, 1))},
                "text": {"b": "b"},
            }
        },
        made=True,
    ),
    "discrete": Call(
        D.discrete,
        lambda: {"problem": PROBLEM, "scheme": nf.Euler(), "depth": np.int64(2)},
        {"problem": PROBLEMS, "scheme": SCHEME, "depth": SIZE},
    ),
    "continuum": Call(
        D.continuum,
        lambda: {"problem": PROBLEM, "terms": 2, "steps": 2},
        {"problem": PROBLEMS, "terms": SIZE, "steps": SIZE},
    ),
    "Minimum": Call(
        D.Minimum,
        lambda: vars(POINT),
        {
            "basis": BASES,
            "theta": {
                "none": None,
                "text": "b",
                "array": np.ones((3, 1)),
                "words": {"b": "b"},
                "longer": {"b": np.ones((4, 1))},
                "number": {"b": 1.0},
            },
            "readout": {"none": None, "text": "W", "words": {"W": "W"}},
        },
    ),
    "Minimum.flat": Call(
        lambda: POINT.flat,
        lambda: {"matrix": np.eye(3).tolist()},
        {"matrix": {**NUMBERS, "row": np.ones(3), "wider": np.ones((2, 4))}},
        made=True,
    ),
    "Minimum.at": Call(
        lambda: POINT.at,
        lambda: {"depths": [0, 1]},
        {"depths": {**NUMBERS, "number": 0.5, "table": np.ones((2, 2)), "beyond": [0.0, 1.1]}},
        made=True,
    ),
    "minimise": Call(
        D.minimise,
        lambda: {"objective": objective(), "starts": [[0, 0, 0]], "tolerance": 0},
        {
            "objective": OBJECTIVES,
            "starts": {
                "none": None,
                "text": "abc",
                "number": 1,
                "empty": [],
                "generator": (np.ones(3) for _ in range(2)),
                "words": ["abc"],
                "nothing": [None],
                "row": np.ones(3),
                "longer": [np.ones(4)],
                "nan": [np.full(3, np.nan)],
                "complex": [np.ones(3) * 1j],
            },
            "tolerance": TOLERANCE,
            "progress": TOLERANCE,
        },
    ),
    "described": Call(
        D.described,
        lambda: {"objective": objective(), "xi": [0, 0, 0], "iterations": 0},
        {
            "objective": OBJECTIVES,
            "xi": XI,
            "iterations": {**NOT_WHOLE, "negative": -1},
        },
    ),
    "newton": Call(
        D.newton,
        lambda: {"objective": objective(), "minimum": POINT, "iterations": 1},
        {
            "objective": OBJECTIVES,
            "minimum": {**FITTING, "deeper": point(4)},
            "tolerance": TOLERANCE,
            "iterations": COUNT,
        },
        said={"minimum": FITTING_SAID},
    ),
    "curvature": Call(
        D.curvature,
        lambda: {"objective": objective(), "minimum": POINT},
        {"objective": OBJECTIVES, "minimum": {**FITTING, "deeper": point(4)}},
        said={"minimum": FITTING_SAID},
    ),
    "basins": Call(
        D.basins,
        lambda: {"minima": [POINT], "tolerance": 0},
        {
            "minima": {
                **without(MINIMA, "list"),
                "generator": (m for m in [POINT]),
                "energies": [1.0],
            },
            "tolerance": TOLERANCE,
        },
    ),
    "random_starts": Call(
        D.random_starts,
        lambda: {"objective": objective(), "count": np.int64(1), "seed": 0, "scale": 1},
        {"objective": OBJECTIVES, "count": SIZE, "seed": SEED, "scale": {**POSITIVE, "true": True}},
    ),
    "adaptive_energy": Call(
        D.adaptive_energy,
        lambda: {"problem": PROBLEM, "minimum": POINT, "tolerance": np.float32(1e-3)},
        {"problem": PROBLEMS, "minimum": FITTING, "tolerance": {**POSITIVE, "true": True}},
        said={"minimum": FITTING_SAID},
    ),
    "restarted": Call(
        D.restarted,
        lambda: {"objective": objective(), "minimum": point(4)},
        {"objective": OBJECTIVES, "minimum": FITTING},
        said={"minimum": FITTING_SAID},
    ),
    "recovery": Call(
        D.recovery,
        lambda: {"objective": objective(), "limit": LIMIT},
        {"objective": OBJECTIVES, "limit": FITTING},
        said={"limit": FITTING_SAID},
    ),
    "residuals": Call(
        D.residuals,
        lambda: {"problem": PROBLEM, "minimum": POINT},
        {
            "problem": {
                **PROBLEMS,
                "another penalty": replace(PROBLEM, penalty=D.square),
                "another power": replace(PROBLEM, penalty=D.Sobolev(1.0, 2.0)),
                "no weight": replace(PROBLEM, weights=0.0),
            },
            "minimum": {**FITTING, "polynomials": LIMIT, "a readout": point(readout={"W": [1.0]})},
        },
    ),
    "distances": Call(
        D.distances,
        lambda: {"minimum": POINT, "limit": LIMIT},
        {
            "minimum": {**FITTING, "polynomials": LIMIT},
            "limit": {**FITTING, "more samples": replace(LIMIT, prediction=np.zeros((2, 1)))},
        },
        said={"minimum": "minimum|distances"},
    ),
    "expected_order": Call(
        D.expected_order,
        lambda: {"scheme": nf.Heun(), "distance": "l2"},
        {"scheme": SCHEME, "distance": CHOICE},
    ),
    "richardson": Call(
        D.richardson,
        lambda: {"coarse": POINT, "fine": point(4)},
        {
            "coarse": {**FITTING, "same depth": point(4)},
            "fine": {**FITTING, "same depth": POINT},
            "order": ORDER,
        },
    ),
    "scaled_error": Call(
        D.scaled_error,
        lambda: {"minimum": POINT, "limit": LIMIT, "order": np.int64(1)},
        {"minimum": FITTING, "limit": FITTING, "order": ORDER},
    ),
    "aligned": Call(
        D.aligned,
        lambda: {"minimum": POINT, "reference": LIMIT, "hidden": {"b": 0}, "odd": True},
        {
            "minimum": FITTING,
            "reference": FITTING,
            "hidden": {
                "none": None,
                "text": "b",
                "list": ["b"],
                "empty": {},
                "unknown": {"c": 0},
                "beyond": {"b": 1},
                "negative": {"b": -1},
                "word": {"b": "0"},
                "true": {"b": True},
            },
            "odd": FLAG,
        },
    ),
    "falsify": Call(
        D.falsify,
        lambda: {"problem": PAPER, "limit": POINT, "depths": [32, 64]},
        {
            "problem": {**PROBLEMS, "another": PROBLEM},
            "limit": MINIMA,
            "depths": {**DEPTHS, "shallow": (8, 32), "one alone": (32, 32)},
            "seed": SEED,
        },
    ),
    "study": Call(
        D.study,
        lambda: {"problem": PROBLEM, "schemes": {"euler": nf.Euler()}, "depths": np.arange(2, 4)},
        {
            "problem": PROBLEMS,
            "schemes": SCHEMES,
            "depths": {**DEPTHS, "one layer": (1, 2)},
            "seed": SEED,
            "starts": SIZE,
            "cascade": FLAG,
            "kept": {"text": "folder", "list": [], "number": 1, "tuple": ()},
        },
    ),
    "verdict": Call(
        D.verdict,
        lambda: {"study": STUDY, "schemes": {"euler": nf.Euler()}},
        {
            "study": STUDIES,
            "schemes": EVERY,
            "tolerance": {
                "number": 0.1,
                "text": "0.1",
                "list": [0.05, 0.1],
                "empty": {},
                "one": {1: 0.05},
                "negative": {1: -0.05, 2: 0.1},
                "nan": {1: np.nan, 2: 0.1},
                "words": {1: "0.05", 2: "0.1"},
                "negative for none": {1: 0.05, 2: 0.1, None: -0.1},
            },
        },
    ),
    "Study.of": Call(lambda: STUDY.of, lambda: {"scheme": "euler"}, {"scheme": CHOICE}, made=True),
    "Study.record": Call(
        lambda: STUDY.record,
        lambda: {"schemes": {"euler": nf.Euler()}},
        {"schemes": EVERY},
        made=True,
    ),
    "Study.extrapolated": Call(
        lambda: STUDY.extrapolated,
        lambda: {"scheme": "euler", "order": 1},
        {"scheme": CHOICE, "order": ORDER},
        made=True,
    ),
    "Study.collapse": Call(
        lambda: STUDY.collapse,
        lambda: {"scheme": "euler", "order": 1},
        {"scheme": CHOICE, "order": ORDER},
        made=True,
    ),
    "train": Call(
        D.train,
        descent,
        {
            "depths": {**DEPTHS, "one layer": (1, 2)},
            "cases": {
                **without(STATE, "list"),
                "number": 1,
                "list": [1],
                "no axis": jnp.asarray(1),
                "empty": jnp.ones(0),
                "two lengths": {"a": jnp.ones(2), "b": jnp.ones(3)},
                "no leaf": {},
                "generator": (n for n in range(2)),
            },
            "make": {**FUNCTION, "of one": lambda depth: LAYER},
            "loss": {**FUNCTION, "of one": lambda model: 0.0},
            "batch": {**FUNCTION, "of one": lambda data: data},
            "optimiser": {**FUNCTION, "made": optax.sgd(0.1), "of one": lambda model: model},
            "steps": {**COUNT, "huge": 2**31},
            "data": without(STATE, "none"),
            "probe": without(STATE, "none"),
        },
    ),
    "descend": Call(
        D.descend,
        lambda: {"depths": range(2, 3), "samples": 1, "dimension": 1, "rate": 1},
        {
            "depths": {**DEPTHS, "one layer": (1, 2)},
            "activation": {**FUNCTION, "of two": lambda x, y: x, "class": nnx.Linear},
            "alike": FLAG,
            "rate": TOLERANCE,
            "iterations": COUNT,
            "seeds": LARGE,
            "samples": LARGE,
            "dimension": LARGE,
            "hidden": LARGE,
        },
    ),
    "gaussian_pairs": Call(
        D.gaussian_pairs,
        lambda: {"seed": 0, "samples": 1, "dimension": np.int64(1)},
        {"seed": SEED, "samples": SIZE, "dimension": SIZE},
    ),
    "Trained": Call(
        D.Trained,
        lambda: vars(SERIES[0]),
        {
            "depth": COUNT,
            "weights": {
                "none": None,
                "text": "V",
                "array": np.ones((1, 4, 2)),
                "words": {"V": "V"},
                "more cases": {"V": np.ones((2, 4, 2))},
                "flat": {"V": np.ones(1)},
            },
            "outputs": {**ARRAY, "number": 1.0, "more cases": np.ones((2, 3))},
            "losses": {**ARRAY, "number": 1.0, "table": np.ones((1, 1)), "more": np.ones(2)},
        },
    ),
    "gaps": Call(
        D.gaps,
        lambda: {"network": SERIES[0], "reference": SERIES[1]},
        {
            "network": {**NETWORKS, "deeper": SERIES[2]},
            "reference": {**NETWORKS, "no multiple": replace(SERIES[1], depth=9)},
        },
        said={"network": "network|reference", "reference": "reference|compared"},
    ),
    "scaling": Call(
        D.scaling,
        lambda: {"networks": iter(SERIES)},
        {
            "networks": {
                "none": None,
                "text": "networks",
                "number": 1,
                "network": SERIES[0],
                "dict": {"a": SERIES[0]},
                "empty": [],
                "two": SERIES[:2],
                "same depth": [SERIES[0], *SERIES],
                "words": ["a", "b", "c"],
                "other weights": [*SERIES[:2], replace(SERIES[2], weights={"W": np.ones((1, 16))})],
            }
        },
        said={"networks": "networks?"},
    ),
    "plots.convergence": Call(
        D.plots.convergence,
        lambda: {"study": STUDY, "parameter": "b"},
        {
            "study": {**STUDIES, "no rows": replace(STUDY, rows=[])},
            "parameter": {**CHOICE, "list": ["b"]},
        },
    ),
    "plots.further": Call(
        D.plots.further,
        lambda: {"study": STUDY, "schemes": {"euler": nf.Euler()}},
        {"study": {**STUDIES, "no rows": replace(STUDY, rows=[])}, "schemes": EVERY},
    ),
    "plots.certificates": Call(
        D.plots.certificates,
        lambda: {"networks": {"net": CERTIFICATE}},
        {
            "networks": {
                "none": None,
                "text": "net",
                "certificate": CERTIFICATE,
                "list": [CERTIFICATE],
                "empty": {},
                "words": {"net": "certificate"},
                "nothing": {"net": None},
                "models": {"net": LAYER},
                "class": {"net": D.Certificate},
                "number as name": {1: CERTIFICATE},
            }
        },
    ),
    "plots.trained": Call(
        D.plots.trained,
        lambda: {"series": {"net": SERIES}},
        {
            "series": {
                "none": None,
                "text": "net",
                "list": SERIES,
                "empty": {},
                "network": {"net": SERIES[0]},
                "one": {"net": SERIES[:1]},
                "no network": {"net": []},
                "generator": {"net": iter(SERIES)},
                "words": {"net": ["a", "b"]},
                "number as name": {1: SERIES},
            }
        },
    ),
}
for name in ("largest", "increment", "variation"):
    CALLS[f"Trained.{name}"] = Call(
        functools.partial(getattr, SERIES[0], name),
        lambda: {"name": "V"},
        {"name": CHOICE},
        made=True,
    )
test_wrong, test_good = refuse(CALLS)

# The good calls of these take seconds, and stand in the tests of their own.
LONG = {
    "certify": Call(
        D.certify,
        lambda: {"model": LAYER, "x": np.ones((3, 1))},
        {
            "model": {
                **MODULE,
                "class": nf.NeuralODE,
                "list": [LAYER],
                "no layer": nnx.Linear(1, 1, rngs=nnx.Rngs(0)),
            },
            "x": {
                **without(STATE, "list"),
                "list": [1.0],
                "number": 1.0,
                "empty": np.ones((0, 1)),
                "no features": np.ones((2, 0)),
                "no leaf": {},
                "generator": (x for x in [1.0]),
                "one sample": np.ones((1, 1)),
            },
            "score": {
                **without(FUNCTION, "none"),
                "of two": lambda a, b: 0.0,
                "class": nnx.Linear,
            },
        },
        said={"x": "x|samples"},
    ),
    "kinked": Call(
        D.kinked,
        lambda: {"problem": PAPER, "limit": POINT, "depths": [32, 64]},
        {
            "problem": {**PROBLEMS, "another": PROBLEM},
            "limit": MINIMA,
            "depths": {**DEPTHS, "shallow": (8, 32)},
            "seed": SEED,
        },
    ),
    "pontryagin": Call(
        D.pontryagin,
        lambda: {"problem": PROBLEM, "guess": POINT},
        {
            "problem": {
                **PROBLEMS,
                "another penalty": replace(PROBLEM, penalty=D.square),
                "no weight": replace(PROBLEM, weights=0.0),
            },
            "guess": {**FITTING, "polynomials": LIMIT},
            "tolerance": {**POSITIVE, "true": True},
            "terms": SIZE,
            "max_nodes": SIZE,
        },
    ),
}
test_wrong_in_long_calls = refuse(LONG)[0]
