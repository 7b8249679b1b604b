"""What finer models, moments on finer depth and multi-level training refuse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.calls import COUNT, FLAG, FUNCTION, MODULE, Call, Wrong, refuse, without
from support.wrong import wrong

import neuralflow as nf
from neuralflow import schemes
from neuralflow.checks import InputError

POINTS = nf.data.moons(8)
BASIS = nf.PiecewiseConstant(2)


def linear(rngs):
    return nnx.Linear(2, 2, rngs=rngs)


def layer(scheme=None, basis=BASIS):
    field = nf.DepthVarying(linear, basis, rngs=nnx.Rngs(0))
    return nf.NeuralODE(field, nf.FixedGrid(scheme or nf.Euler(), steps=2))


def crooked():
    """A layer whose number of rows was changed behind its back."""
    model: Any = layer()
    model.field.stack.bias.set_value(jnp.ones((3, 2)))
    return model


def going_on():
    return layer(schemes.ConsistentLM(0.1).after(jnp.ones((1, 2))))


def normed():
    field = nf.DepthVarying(lambda rngs: nnx.BatchNorm(2, rngs=rngs), BASIS, rngs=nnx.Rngs(0))
    return nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2))


def torn():
    """Two layers whose coefficients are shared, on two bases of one size."""
    one = layer(basis=nf.PiecewiseConstant(2))
    two = nf.DepthVarying.from_stack(one.field.stack, nf.Legendre(2))
    return nnx.Sequential(one, one.with_field(two))


def adam(model):
    return optax.adam(0.1).init(nnx.state(model, nnx.Param))


MODEL, OTHER = layer(), nnx.Linear(2, 2, rngs=nnx.Rngs(0))
FINER = nf.refined(MODEL, 2)
MODELS: Wrong = {**MODULE, "class": nf.NeuralODE, "list": [MODEL]}
INPUTS: Wrong = {
    "text": "x",
    "wide": jnp.ones((2, 3)),
    "a pair": (jnp.ones((2, 2)),) * 2,
    "no sample": jnp.ones((0, 2)),
}
FACTOR: Wrong = {**COUNT, "one": 1, "huge": 2**60}
BASES: Wrong = {"none": None, "number": 4, "class": nf.PiecewiseConstant, "list": [BASIS]}

CALLS = {
    "refined": Call(
        nf.refined,
        lambda: {"model": MODEL, "factor": 2},
        {
            "model": {
                **MODELS,
                "no depth": OTHER,
                "crooked": crooked(),
                "going on": going_on(),
                "torn": torn(),
            },
            "factor": FACTOR,
            "x": INPUTS,
        },
        said={"model": "model|coefficients"},
    ),
    "projected": Call(
        nf.projected,
        lambda: {"model": MODEL, "basis": nf.PiecewiseLinear(1)},
        {
            "model": {
                **MODELS,
                "no depth": OTHER,
                "crooked": crooked(),
                "normed": normed(),
                "torn": torn(),
            },
            "basis": {**BASES, "knots within steps": nf.PiecewiseConstant(3)},
            "x": INPUTS,
        },
        said={"model": "model|coefficients|statistics", "basis": "basis|knot"},
    ),
    "refined basis": Call(
        BASIS.refined, lambda: {"factor": 2}, {"factor": {**COUNT, "huge": 2**60}}
    ),
    "refined terms": Call(
        nf.Legendre(2).refined, lambda: {"factor": 2}, {"factor": {**COUNT, "huge": 2**60}}
    ),
    "refined_moments": Call(
        nf.training.refined_moments,
        lambda: {"state": adam(MODEL), "old": MODEL, "new": FINER},
        {
            "state": {
                "of the finer model": adam(FINER),
                "unknown": {"velocity": nnx.state(MODEL, nnx.Param)},
                "a row": np.ones(3),
            },
            "old": {**MODELS, "another": OTHER},
            "new": {**MODELS, "another": OTHER},
        },
        said={"old": "old", "new": "new"},
    ),
    "multilevel": Call(
        nf.training.multilevel,
        lambda: {
            "model": layer(),
            "loss": lambda model, batch: jnp.mean(model(batch["x"]) ** 2),
            "optimiser": optax.sgd(0.1),
            "data": POINTS,
            "epochs": (1,),
            "factor": 2,
            "batch": 8,
            "progress": False,
        },
        {
            "model": {**MODELS, "no parameters": nnx.Dropout(0.5, rngs=nnx.Rngs(0))},
            "loss": FUNCTION,
            "optimiser": {"none": None, "rate": 0.1, "class": optax.adam},
            "data": {"none": None, "empty": {}},
            "epochs": {
                "none": None,
                "number": 4,
                "empty": (),
                "text": "44",
                "zero": (0,),
                "half": (0.5,),
            },
            "factor": {**without(FACTOR, "huge"), "of no refinement": (2,), "zero": 0},
            "folder": {"number": 1, "nul": "a\0b"},
            "patience": {"two": 2},
            "after": {"none": None},
            "resume": {"nowhere": True},
            "progress": FLAG,
            "settings": {"object": {"a": object()}, "number": {"a": np.nan}},
        },
        said={"model": "model|parameters", "data": "data"},
    ),
}
test_refused, test_good = refuse(CALLS)


@pytest.mark.parametrize("factor", [(2,), (2, 2, 2), (2, 1), (2, 1.5), "22"])
def test_factors_are_those_between_the_levels(factor):
    with pytest.raises(InputError, match=r"\bfactor\b"):
        CALLS["multilevel"](epochs=(1, 1, 1), factor=wrong(factor))


@pytest.mark.parametrize("after", [3, "fitted", ([], 1, "epochs", None)])
def test_what_comes_before_is_a_result(after):
    good = {k: v for k, v in CALLS["multilevel"].good().items() if k != "factor"}
    with pytest.raises(InputError, match=r"\bafter must be what an earlier fit has returned"):
        nf.training.fit(**{**good, "epochs": 2}, after=wrong(after))


def test_inputs_are_known_and_those_of_the_model():
    head = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), layer())
    with pytest.raises(
        InputError, match=r"^the model Sequential cannot be evaluated on x of shape"
    ):
        nf.refined(head, 2, jnp.ones((2, 2), jnp.float32))
    with pytest.raises(InputError, match=r"^x must be known.* got traced ones"):
        jax.jit(lambda x: nf.refined(layer(), 2, x)(x))(jnp.ones((2, 2), jnp.float32))


def test_steps_that_do_not_end_at_the_knots_of_the_parts_of_a_cell_are_refused():
    model = layer().with_solve(nf.FixedGrid(nf.Euler(), times=(0, 0.1, 0.5, 1)))
    with pytest.raises(InputError, match="step 2 of 6 crosses a knot of weights with 4 cells"):
        nf.refined(model, 2)


def test_a_reversible_walk_that_would_lose_its_digits_is_refused():
    grid = nf.FixedGrid(schemes.momentum(0.5), steps=2, memory="reversible")
    with pytest.raises(InputError, match="momentum|digits|rounding"):
        nf.refined(layer().with_solve(grid), 100)
