"""Fields refuse sizes, options and states of a wrong kind."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from support.calls import (
    COUNT,
    FLAG,
    FUNCTION,
    FUNCTION_OF_ONE,
    FUNCTION_OF_THREE,
    KEY,
    MODULE,
    NOT_NEGATIVE,
    STATE,
    Call,
    refuse,
    without,
)

from neuralflow import fields

SIZE = {**COUNT, "huge": 2**40}
RNGS = {**MODULE, "class": nnx.Rngs, "key": KEY["several"], "other": nnx.Rngs(dropout=0)}
DTYPE = {"unknown": "other", "number": 1, "whole": jnp.int32, "true": bool, "object": object()}
WIDTH = {
    **STATE,
    "wide": jnp.ones((3, 5)),
    "scalar": jnp.ones(()),
    "whole": jnp.ones((3, 4), int),
    "true": np.ones((3, 4), bool),
}
IMAGES = {
    **STATE,
    "channels": jnp.ones((1, 3, 3, 5)),
    "flat": jnp.ones((3, 4)),
    "whole": jnp.ones((1, 3, 3, 4), int),
}
STATES = {**STATE, "whole": jnp.ones((3, 4), int)}
HALVES = {**STATES, "odd": jnp.ones((2, 3)), "three": (jnp.ones(2),) * 3, "words": ("a", "b")}
TIME = {"none": None, "text": "1", "list": [1.0], "row": jnp.ones(2), "nan": np.nan, "true": True}
PART = {**MODULE, "class": nnx.Linear, "silent": nnx.Dict(), "hidden": nnx.Sequential()}
FIELD = {
    **without(FUNCTION, "text"),
    "text": "tanh",
    "class": fields.MLP,
    "list": [np.tanh],
    "built-in": min,
    "nothing": lambda: 0,
}


@functools.cache
def mlp(**options):
    return fields.MLP(4, **{"hidden": 2, "rngs": nnx.Rngs(0), **options})


@functools.cache
def energy(size=4):
    return fields.Energy(size, hidden=2, rngs=nnx.Rngs(0))


@functools.cache
def block(**options):
    return fields.ConvBlock(4, rngs=nnx.Rngs(0), **options)


@functools.cache
def antisymmetric(**options):
    return fields.Antisymmetric(4, rngs=nnx.Rngs(0), **options)


def state():
    return {"x": jnp.ones((3, 4))}


def timed():
    return {"x": jnp.ones((3, 4)), "t": 0.5}


CALLS = {
    "MLP": Call(
        fields.MLP,
        lambda: {"dimension": 2, "hidden": 2, "rngs": nnx.Rngs(0)},
        {
            "dimension": SIZE,
            "hidden": SIZE,
            "layers": SIZE,
            "activation": FUNCTION_OF_ONE,
            "time": FLAG,
            "dtype": DTYPE,
            "param_dtype": {**DTYPE, "none": None},
            "out_kernel_init": FUNCTION_OF_THREE,
            "rngs": RNGS,
        },
    ),
    "MLP.call": Call(mlp, state, {"x": WIDTH}, made=True),
    "MLP.timed": Call(lambda: mlp(time=True), timed, {"x": WIDTH, "t": TIME}, made=True),
    "ConvBlock": Call(
        fields.ConvBlock,
        lambda: {"channels": 4, "rngs": nnx.Rngs(0)},
        {
            "channels": {**SIZE, "odd": 6},
            "groups": {**SIZE, "three": 3},
            "kernel": SIZE,
            "activation": FUNCTION_OF_ONE,
            "time": FLAG,
            "dtype": DTYPE,
            "param_dtype": {**DTYPE, "none": None},
            "rngs": RNGS,
        },
    ),
    "ConvBlock.call": Call(block, lambda: {"x": jnp.ones((1, 3, 3, 4))}, {"x": IMAGES}, made=True),
    "ConvBlock.timed": Call(
        lambda: block(time=True),
        lambda: {"x": jnp.ones((1, 3, 3, 4)), "t": 0.5},
        {"x": IMAGES, "t": TIME},
        made=True,
    ),
    "Antisymmetric": Call(
        fields.Antisymmetric,
        lambda: {"dimension": 2, "rngs": nnx.Rngs(0)},
        {
            "dimension": SIZE,
            "damping": {**NOT_NEGATIVE, "true": True},
            "activation": FUNCTION_OF_ONE,
            "time": FLAG,
            "param_dtype": {**DTYPE, "none": None},
            "rngs": RNGS,
        },
    ),
    "Antisymmetric.call": Call(antisymmetric, state, {"x": WIDTH}, made=True),
    "Antisymmetric.timed": Call(
        lambda: antisymmetric(time=True), timed, {"x": WIDTH, "t": TIME}, made=True
    ),
    "Energy": Call(
        fields.Energy,
        lambda: {"dimension": 2, "hidden": 2, "rngs": nnx.Rngs(0)},
        {
            "dimension": SIZE,
            "hidden": SIZE,
            "activation": FUNCTION_OF_ONE,
            "param_dtype": {**DTYPE, "none": None},
            "rngs": RNGS,
        },
    ),
    "Energy.call": Call(energy, state, {"x": WIDTH}, made=True),
    "Gradient": Call(fields.Gradient, lambda: {"energy": energy()}, {"energy": PART}),
    "Gradient.call": Call(lambda: fields.Gradient(energy()), state, {"x": WIDTH}, made=True),
    "Hamiltonian": Call(fields.Hamiltonian, lambda: {"energy": energy()}, {"energy": PART}),
    "Hamiltonian.call": Call(
        lambda: fields.Hamiltonian(fields.Separable(energy(2), energy(2))),
        state,
        {"x": HALVES},
        {"x": r"\bx\b|a state of two halves"},
        made=True,
    ),
    "Separable": Call(
        fields.Separable,
        lambda: {"kinetic": energy(), "potential": energy()},
        {"kinetic": PART, "potential": PART},
    ),
    "Separable.call": Call(
        lambda: fields.Separable(energy(2), energy(2)),
        state,
        {"x": HALVES},
        {"x": r"\bx\b|a state of two halves"},
        made=True,
    ),
    "Coupled": Call(
        fields.Coupled, lambda: {"first": mlp(), "second": mlp()}, {"first": PART, "second": PART}
    ),
    "Coupled.call": Call(
        lambda: fields.Coupled(mlp(), mlp()),
        lambda: {"x": jnp.ones((3, 8))},
        {"x": HALVES},
        {"x": r"\bx\b|a state of two halves"},
        made=True,
    ),
    "SecondOrder": Call(
        fields.SecondOrder, lambda: {"acceleration": mlp()}, {"acceleration": PART}
    ),
    "SecondOrder.call": Call(
        lambda: fields.SecondOrder(fields.from_function(lambda p, x: -x[0])),
        lambda: {"x": (jnp.ones((3, 2)), jnp.ones((3, 2)))},
        {"x": {**without(HALVES, "whole"), "unlike": (jnp.ones((3, 2)), jnp.ones((3, 1)))}},
        {"x": r"\bx\b|a state of two halves"},
        made=True,
    ),
    "Split": Call(lambda part: fields.Split(mlp(), part), lambda: {"part": mlp()}, {"part": PART}),
    "Split.call": Call(
        lambda: fields.Split(mlp(), mlp()),
        lambda: {"x": jnp.ones((3, 4))},
        {"x": WIDTH, "context": {"array": jnp.ones(2), "text": "a"}},
        made=True,
    ),
    "Split.along": Call(
        lambda: fields.Split(mlp(), mlp()).along,
        lambda: {"part": 1, "x": jnp.ones((3, 4))},
        {
            "part": {**without(COUNT, "zero"), "third": 2},
            "x": WIDTH,
            "context": {"array": jnp.ones(2), "text": "a"},
        },
        made=True,
    ),
    "OnSphere": Call(fields.OnSphere, lambda: {"field": mlp()}, {"field": PART}),
    "OnSphere.call": Call(
        lambda: fields.OnSphere(mlp()),
        state,
        {"x": {**WIDTH, "pair": (jnp.ones((3, 4)), jnp.ones((3, 4)))}},
        made=True,
    ),
    "Attention": Call(
        fields.Attention,
        lambda: {"dimension": 4, "heads": 2, "rngs": nnx.Rngs(0)},
        {
            "dimension": {**SIZE, "odd": 3},
            "heads": {**SIZE, "three": 3},
            "causal": FLAG,
            "norm": FLAG,
            "dtype": DTYPE,
            "param_dtype": {**DTYPE, "none": None},
            "out_kernel_init": FUNCTION_OF_THREE,
            "rngs": RNGS,
        },
    ),
    "Attention.call": Call(
        lambda: fields.Attention(4, heads=2, rngs=nnx.Rngs(0)),
        lambda: {"x": jnp.ones((2, 3, 4)), "context": {"mask": jnp.ones((2, 1, 3), int)}},
        {
            "x": {**WIDTH, "one token": jnp.ones(4), "no token": jnp.ones((2, 0, 4))},
            "context": {
                "array": jnp.ones((2, 3, 3), bool),
                "text": "mask",
                **{
                    name: {"mask": mask}
                    for name, mask in {
                        "list": [True],
                        "words": np.array(["a"]),
                        "complex": jnp.ones((2, 3, 3)) * 1j,
                        "flat": jnp.ones((2, 3), bool),
                        "with an axis for heads": jnp.ones((2, 1, 3, 3), bool),
                        "short": jnp.ones((2, 1, 2), bool),
                    }.items()
                },
            },
        },
        {"context": "context|mask"},
        made=True,
    ),
    "FeedForward": Call(
        fields.FeedForward,
        lambda: {"dimension": 2, "hidden": 2, "rngs": nnx.Rngs(0)},
        {
            "dimension": SIZE,
            "hidden": SIZE,
            "activation": FUNCTION_OF_ONE,
            "norm": FLAG,
            "dtype": DTYPE,
            "param_dtype": {**DTYPE, "none": None},
            "out_kernel_init": FUNCTION_OF_THREE,
            "rngs": RNGS,
        },
    ),
    "FeedForward.call": Call(
        lambda: fields.FeedForward(4, hidden=2, rngs=nnx.Rngs(0)), state, {"x": WIDTH}, made=True
    ),
    "from_function": Call(
        fields.from_function,
        lambda: {"function": lambda p, x: x, "params": {"a": 1.0}},
        {
            "function": {
                **FUNCTION,
                "one": lambda x: x,
                "built-in": min,
                "four": lambda p, x, t, k: x,
            },
            "params": {"text": "a", "object": object(), "set": {1.0}, "words": np.array(["a"])},
        },
    ),
    "takes_time": Call(fields.takes_time, lambda: {"field": mlp()}, {"field": FIELD}),
    "takes_context": Call(fields.takes_context, lambda: {"field": mlp()}, {"field": FIELD}),
    "evaluate": Call(
        fields.evaluate,
        lambda: {"field": lambda x, t: x, "x": jnp.ones((3, 4)), "t": 0.5},
        {
            "field": FIELD,
            "x": without(STATE, "list"),
            "t": TIME,
            "context": {"array": jnp.ones(2), "text": "a"},
        },
        {"field": r"\bfield\b|takes", "t": r"\bt\b|depth time"},
    ),
    "convolution": Call(
        fields.convolution,
        lambda: {
            "x": jnp.ones((1, 3, 3, 2)),
            "kernel": jnp.ones((3, 3, 2, 2)),
            "strides": (1, 1),
            "padding": "SAME",
        },
        {
            "x": {**STATE, "flat": jnp.ones((3, 2)), "channels": jnp.ones((1, 3, 3, 5))},
            "kernel": {
                **STATE,
                "flat": jnp.ones((3, 2)),
                "channels": jnp.ones((3, 3, 5, 2)),
                "depth": jnp.ones((3, 2, 2)),
            },
            "strides": {
                "none": None,
                "text": "11",
                "number": 1,
                "one": (1,),
                "zero": (0, 1),
                "negative": (-1, 1),
                "half": (1.5, 1),
                "generator": (i for i in (1, 1)),
            },
            "padding": {
                "none": None,
                "unknown": "OTHER",
                "number": 1,
                "one": [(1, 1)],
                "flat": (1, 1),
                "half": [(0.5, 0), (0, 0)],
                "text": ["ab", "cd"],
            },
        },
    ),
}

test_wrong, test_good = refuse(CALLS)


def test_what_is_right_is_taken():
    # Signatures do not name all that is right, such as numbers of NumPy.
    loose: Any = fields
    field = loose.MLP(np.int64(4), hidden=np.int32(2), time=np.bool_(True), rngs=nnx.Rngs(0))
    x = np.ones((3, 4), np.float32)
    for t in (0.5, 1, np.float32(0.5), jnp.asarray(0.5), np.asarray(1)):
        assert field(x, t).shape == (3, 4)
    assert jax.jit(field)(x, 0.5).shape == (3, 4)
    assert loose.MLP(4, hidden=2, dtype="bfloat16", rngs=nnx.Rngs(params=0))(x[0]).shape == (4,)
    assert loose.MLP(4, hidden=2, rngs=nnx.Rngs(0))(np.ones((0, 4))).shape == (0, 4)
    damped = loose.Antisymmetric(4, damping=jnp.asarray(1), rngs=nnx.Rngs(0))
    assert jax.vmap(damped)(x).shape == (3, 4)
    kernel = np.ones((1, 1, 1, 3), np.float32)
    for padding in ("VALID", "SAME_LOWER", [(0, 1), (np.int64(1), 0)]):
        for strides in ([1, 2], np.array([2, 1])):
            out = loose.convolution(np.ones((1, 2, 2, 1), np.float32), kernel, strides, padding)
            assert out.shape[-1] == 3
