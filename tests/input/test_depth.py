"""What bases, weights that vary with depth, their initialisations and masks refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.calls import CHOICE, COUNT, FUNCTION, MODULE, NUMBER, POSITIVE, Call, Wrong, refuse

import neuralflow as nf
from neuralflow.checks import InputError

BASIS = nf.PiecewiseConstant(4)
X = jnp.ones((2, 2))


def make(rngs):
    return nnx.Linear(2, 2, rngs=rngs)


def modules(count=4):
    return [make(nnx.Rngs(seed)) for seed in range(count)]


def stacked(count):
    return nnx.vmap(lambda key: nnx.Linear(2, 2, rngs=nnx.Rngs(key)))(
        jax.random.split(jax.random.key(0), count)
    )


def counted():
    """Four rows of whole numbers."""
    stack = stacked(4)
    stack.kernel.set_value(jnp.ones((4, 2, 2), int))
    return stack


def varying(rows=4):
    """Weights on four cells whose number of rows was changed behind their back."""
    field = nf.DepthVarying.from_stack(stacked(4), BASIS)
    for parameter in (field.stack.kernel, field.stack.bias):
        parameter.set_value(jnp.ones((rows, *parameter.shape[1:])))
    return field


def numbers(*values):
    return (value for value in values)


BASES: Wrong = {
    "none": None,
    "number": 4,
    "text": "linear",
    "class": nf.PiecewiseConstant,
    "list": [BASIS],
}
KNOTS: Wrong = {
    "none": None,
    "text": "4",
    "words": ["0", "1"],
    "object": object(),
    "half": 1.5,
    "true": True,
    "zero": 0,
    "negative": -1,
    "huge": 10**9,
    "nan": np.nan,
    "generator": numbers(0.0, 1.0),
    "none inside": (0.0, None, 1.0),
    "nan inside": (0.0, np.nan, 1.0),
    "nested": [[0.0, 1.0]],
    "ragged": [[0.0], [0.5, 1.0]],
    "one": [0.0],
    "empty": [],
    "falling": (0.0, 0.7, 0.5, 1.0),
    "twice": (0.0, 0.5, 0.5, 1.0),
    "not from zero": (0.1, 1.0),
    "not to one": (0.0, 2.0),
    "mapping": {0: 1},
    "set": {0.0, 1.0},
    "complex": [0j, 1j],
    "booleans": [False, True],
}
NODES: Wrong = {
    "none": None,
    "number": 3,
    "text": "nodes",
    "words": ["0", "1"],
    "generator": numbers(0.0, 1.0),
    "nested": np.zeros((2, 2)),
    "empty": [],
    "object": object(),
}
DEPTH: Wrong = {
    **NUMBER,
    "before": -0.1,
    "behind": 1.1,
    "true": True,
    "array": jnp.ones(2),
    "complex": 1j,
}
ROWS: Wrong = {
    "none": None,
    "text": "rows",
    "list": [1.0] * 4,
    "number": 1.0,
    "words": np.array(["a"] * 4),
    "five": jnp.ones((5, 2)),
    "eight": jnp.ones((8, 2)),
    "three": jnp.ones((3, 2)),
    "no axis": jnp.ones(()),
}

VALUE = {
    "coefficients": ROWS,
    "cell": {**NUMBER, "negative": -1, "beyond": 4, "true": True},
    "s": DEPTH,
}
CALLS = {
    "PiecewiseConstant": Call(nf.PiecewiseConstant, lambda: {"cells": 4}, {"cells": KNOTS}),
    "PiecewiseLinear": Call(
        nf.PiecewiseLinear, lambda: {"cells": jnp.array([0, 0.5, 1])}, {"cells": KNOTS}
    ),
    "CubicSpline": Call(
        nf.CubicSpline,
        lambda: {"cells": np.int64(4)},
        {"cells": {**COUNT, "huge": 10**9, "knots": (0.0, 1.0)}},
    ),
    "Legendre": Call(nf.Legendre, lambda: {"terms": 3}, {"terms": {**COUNT, "huge": 10**6}}),
    "value": Call(
        BASIS.value,
        lambda: {"coefficients": jnp.ones((4, 2)), "cell": np.int64(1), "s": 0.5},
        VALUE,
    ),
    "value between knots": Call(
        nf.PiecewiseLinear(3).value,
        lambda: {"coefficients": np.ones(4), "cell": jnp.asarray(1), "s": jnp.asarray(0.5)},
        {**VALUE, "cell": {"last knot": 3}},
    ),
    "value of a polynomial": Call(
        nf.Legendre(4).value,
        lambda: {"coefficients": jnp.ones((4, 2)), "cell": 0, "s": 1},
        {**VALUE, "cell": {"second": 1}},
    ),
    "smooth": Call(nf.smooth, lambda: {"length": np.float32(0.5)}, {"length": POSITIVE}),
    "fractional": Call(
        nf.fractional,
        lambda: {"hurst": 1},
        {"hurst": {**POSITIVE, "above one": 1.5, "true": True}},
        said={"hurst": "Hurst"},
    ),
    "initialisation of smooth": Call(
        nf.smooth(0.5), lambda: {"nodes": [0.0, 1.0]}, {"nodes": NODES}
    ),
    "initialisation of fractional": Call(
        nf.fractional(0.3),
        lambda: {"nodes": (0.0, 0.5, 1.0)},
        {"nodes": {**NODES, "uneven": [0.0, 0.1, 1.0]}},
    ),
    "independent": Call(nf.independent, lambda: {"nodes": BASIS.nodes}, {"nodes": NODES}),
    "tied": Call(nf.tied, lambda: {"nodes": BASIS.nodes}, {"nodes": NODES}),
    "DepthVarying": Call(
        lambda **options: nf.DepthVarying(**options),
        lambda: {
            "make": make,
            "basis": BASIS,
            "rngs": nnx.Rngs(0),
            "init": nf.tied,
            "partition_name": None,
        },
        {
            "make": {
                **FUNCTION,
                "module": make(nnx.Rngs(0)),
                "class": nnx.Linear,
                "of nothing": lambda: None,
                "of no module": lambda rngs: jnp.ones(2),
                "nested": lambda rngs: nf.DepthVarying(make, BASIS, rngs=rngs),
            },
            "basis": {**BASES, "huge": nf.PiecewiseConstant(10**6)},
            "rngs": {"none": None, "seed": 0, "key": jax.random.key(0), "class": nnx.Rngs},
            "init": {
                **FUNCTION,
                "of nothing": lambda: None,
                "vector": lambda nodes: np.ones(4),
                "five rows": lambda nodes: np.ones((5, 1)),
                "eight rows": lambda nodes: np.ones((8, 1)),
                "no draws": lambda nodes: np.ones((4, 0)),
                "words": lambda nodes: np.full((4, 1), "a"),
                "objects": lambda nodes: None,
                "nan": lambda nodes: np.full((4, 1), np.nan),
                "not called": nf.smooth,
            },
            "partition_name": {"number": 1, "list": ["a"]},
        },
        said={"make": "make|DepthVarying|weights", "init": "init|length"},
    ),
    "from_modules": Call(
        nf.DepthVarying.from_modules,
        lambda: {"modules": modules(), "basis": BASIS},
        {
            "modules": {
                "none": None,
                "text": "abcd",
                "number": 4,
                "generator": numbers(*modules()),
                "five": modules(5),
                "eight": modules(8),
                "none of them": [],
                "functions": [np.tanh] * 4,
                "of two widths": [*modules(3), nnx.Linear(2, 3, rngs=nnx.Rngs(0))],
                "mapping": dict(enumerate(modules())),
            },
            "basis": {**BASES, "of another size": nf.PiecewiseConstant(3)},
        },
        said={"modules": "module", "basis": "basis|takes 3 modules"},
    ),
    "from_stack": Call(
        nf.DepthVarying.from_stack,
        lambda: {"stack": stacked(4), "basis": BASIS},
        {
            "stack": {
                **MODULE,
                "five rows": stacked(5),
                "eight rows": stacked(8),
                "no rows": make(nnx.Rngs(0)),
                "list": modules(),
                "whole numbers": counted(),
                "varying already": nnx.Sequential(varying()),
            },
            "basis": {**BASES, "of another size": nf.PiecewiseConstant(3)},
        },
        said={
            "stack": "stack|leading axis|floating|inside a DepthVarying",
            "basis": "basis|leading axis",
        },
    ),
    "at": Call(
        lambda: varying().at,
        lambda: {"s": np.float32(0.5), "side": "left"},
        {"s": DEPTH, "side": CHOICE},
        made=True,
    ),
    "refine": Call(
        lambda: varying().refine,
        lambda: {"finer": nf.PiecewiseConstant(8)},
        {"finer": {**BASES, "coarser": nf.PiecewiseConstant(2)}},
        said={"finer": "finer|does not contain"},
        made=True,
    ),
    "project": Call(
        lambda: varying().project,
        lambda: {"target": nf.PiecewiseConstant(2)},
        {"target": BASES},
        made=True,
    ),
    "field_at": Call(
        nf.depth.field_at,
        lambda: {"field": varying(), "s": jnp.asarray(0.5), "side": "left"},
        {
            "field": {**MODULE, "five rows": varying(5), "eight rows": varying(8)},
            "s": DEPTH,
            "side": CHOICE,
        },
        said={"field": "field|coefficients"},
    ),
    "field_in_step": Call(
        nf.depth.field_in_step,
        lambda: {"field": varying(), "local": [(0, 0.5)]},
        {
            "field": {**MODULE, "five rows": varying(5), "eight rows": varying(8)},
            "local": {"none": None, "number": 0, "empty": [], "two": [(0, 0.5)] * 2, "text": "a"},
        },
        said={"field": "field|coefficients"},
    ),
    "FlatField": Call(nf.depth.FlatField, lambda: {"field": varying()}, {"field": MODULE}),
    "decayed": Call(nf.depth.decayed, lambda: {"model": varying()}, {"model": MODULE}),
    "depth_bases": Call(nf.depth.depth_bases, lambda: {"module": varying()}, {"module": MODULE}),
}

test_wrong, test_good = refuse(CALLS)


@pytest.mark.parametrize("rows", [3, 5, 8])
def test_weights_with_rows_for_other_cells_are_refused_wherever_they_are_used(rows):
    field = varying(rows)
    uses = {
        "fixed": lambda: nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))(X),
        "adaptive": lambda: nf.NeuralODE(field, nf.Adaptive(nf.Tsit5()))(X),
        "velocity": lambda: nf.NeuralODE(field, nf.Adaptive(nf.Tsit5())).velocity(X, 0.5),
        "branches": lambda: nf.to_branches(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))),
        "at": lambda: field.at(0.5),
        "refine": lambda: field.refine(nf.PiecewiseConstant(8)),
        "project": lambda: field.project(nf.PiecewiseConstant(2)),
    }
    for use in uses.values():
        with pytest.raises(InputError, match=rf"first axis of 4, got shape \({rows}, 2"):
            use()


def test_stacks_of_layers_keep_their_axis_in_front():
    """An ensemble has another first axis outside of vmap, where no depth is asked for."""
    keys = jax.random.split(jax.random.key(0), 3)
    grid = nf.FixedGrid(nf.Euler(), steps=4)

    @nnx.vmap
    def ensemble(key):
        return nf.NeuralODE(nf.DepthVarying(make, BASIS, rngs=nnx.Rngs(key)), grid)

    layers = ensemble(keys).with_solve(nf.FixedGrid(nf.Euler(), steps=8))
    assert nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(layers, X).shape == (3, 2, 2)


def test_a_traced_depth_belongs_to_field_at():
    with pytest.raises(InputError, match="field_at"):
        jax.jit(lambda s: varying().at(s)(X))(0.5)
    got = jax.jit(lambda s: nf.depth.field_at(varying(), s)(X))(0.6)
    assert jnp.array_equal(got, varying().at(0.6)(X))
