"""Wrong values of every argument of the laboratory of operators."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from support.calls import (
    ARRAY,
    CHOICE,
    COUNT,
    FLAG,
    FUNCTION,
    MODULE,
    NUMBERS,
    POSITIVE,
    STATE,
    Call,
    Wrong,
    refuse,
    without,
)

import neuralflow as nf
from neuralflow.labs import operators as op

RNGS = nnx.Rngs(0)
HEAT = op.DifferentialOperator(1, 1, dimension=1, coefficients=[[[0]], [[0]], [[1]]])
LAYER = nf.NeuralODE(HEAT, nf.FixedGrid(nf.Euler(), steps=4))
KERNEL: Wrong = {
    **NUMBERS,
    "number": 1.0,
    "empty": np.ones(0),
    "even": np.ones((2, 3)),
    "large": np.ones(17),
    "three axes": np.ones((3, 3, 3, 1, 1)),
}
SPACING: Wrong = {
    **NUMBERS,
    "zero": 0.0,
    "negative": -1.0,
    "true": True,
    "two": (1.0, 1.0),
    "one negative": [-1.0],
    "empty": [],
}
POINTS: Wrong = {**COUNT, "huge": 10**9}
RING = op.DifferentialOperator(
    1, 1, dimension=1, boundary="periodic", coefficients=[[[0]], [[0]], [[1]]]
)
RINGED = LAYER.with_field(RING)
CHANNELS: Wrong = {**COUNT, "huge": 10**10}
STREAMS: Wrong = {
    "none": None,
    "seed": 0,
    "text": "rngs",
    "key": jax.random.key(0),
    "class": nnx.Rngs,
}
DTYPE: Wrong = {
    "unknown": "real",
    "whole": jnp.int32,
    "number": 32,
    "object": object(),
    "complex": jnp.complex64,
    "flags": bool,
}
IMAGES: Wrong = {
    **STATE,
    "number": 1.0,
    "integers": np.ones((1, 3, 1), int),
    "complex": np.ones((1, 3, 1)) * 1j,
    "wide": np.ones((1, 3, 2)),
    "vector": np.ones(1),
    "empty": np.ones((0, 3, 1)),
    "dict": {"x": np.ones((1, 3, 1))},
}
FIELD: Wrong = {
    **MODULE,
    "class": op.DifferentialOperator,
    "another": nf.fields.MLP(1, hidden=1, rngs=RNGS),
    "no square": op.DifferentialOperator(2, 3, rngs=RNGS),
    "layer": LAYER,
    "a corner": op.parabolic(1, potential=jax.nn.relu, rngs=RNGS),
}
FIELD_SAID = "field|waves|operator from|potential|boundary"
SCHEME: Wrong = {"none": None, "text": "euler", "number": 1, "class": nf.Euler, "grid": LAYER.solve}
LAYERS: Wrong = {
    **MODULE,
    "class": nf.NeuralODE,
    "field": HEAT,
    "adaptive": LAYER.with_solve(nf.Adaptive(nf.Tsit5(), rtol=1e-3, atol=1e-3)),
    "another field": LAYER.with_field(FIELD["another"]),
}
POTENTIAL: Wrong = {
    **without(FUNCTION, "none"),
    "of two": lambda x, y: x,
    "class": nnx.Linear,
}
SHARES = op.shares(np.ones(3))


def energy(**options):
    return op.ConvolutionEnergy(**{"channels": 1, "dimension": 1, "rngs": RNGS, **options})


ENERGY: dict[str, Wrong] = {
    "channels": CHANNELS,
    "hidden": without(CHANNELS, "none"),
    "kernel": {**COUNT, "huge": 10**10},
    "dimension": {**COUNT, "three": 3},
    "potential": POTENTIAL,
    "periodic": FLAG,
    "param_dtype": {**DTYPE, "none": None},
    "rngs": STREAMS,
}
CALLS = {
    "stencil": Call(
        op.stencil,
        lambda: {"derivative": np.int32(0), "size": 1},
        {
            "derivative": {**without(COUNT, "zero"), "too high": 1, "huge": 10**9},
            "size": {**COUNT, "even": 2, "large": 17, "huge": 10**9},
        },
    ),
    "to_operator": Call(
        op.to_operator,
        lambda: {"kernel": [0.5, -1, 0.5], "spacing": np.float32(0.5)},
        {"kernel": KERNEL, "spacing": SPACING},
    ),
    "to_kernel": Call(
        op.to_kernel,
        lambda: {"coefficients": jnp.ones(3), "spacing": 1},
        {"coefficients": KERNEL, "spacing": SPACING},
    ),
    "formula": Call(
        op.formula,
        lambda: {"coefficients": [0, 1, 2]},
        {
            "coefficients": {**without(KERNEL, "large", "even"), "channels": np.ones((3, 1, 1))},
            "digits": {**COUNT, "huge": 10**9},
        },
    ),
    "shares": Call(
        op.shares,
        lambda: {"coefficients": [0, 1, 2]},
        {"coefficients": without(KERNEL, "even", "large")},
    ),
    "symbol": Call(
        op.symbol,
        lambda: {"kernel": np.ones((1, 1, 1)).tolist(), "points": 3},
        {
            "kernel": {
                **NUMBERS,
                "number": 1.0,
                "vector": np.ones(3),
                "matrix": np.ones((3, 3)),
                "empty": np.ones((0, 1, 1)),
            },
            "points": POINTS,
        },
    ),
    "symbol of an image": Call(
        op.symbol,
        lambda: {"kernel": np.ones((1, 1, 1, 1)), "points": 2},
        {"points": {"large": 2**16}},
    ),
    "DifferentialOperator": Call(
        op.DifferentialOperator,
        lambda: {"inputs": 1, "outputs": np.int64(1), "spacing": 1, "rngs": RNGS},
        {
            "inputs": CHANNELS,
            "outputs": CHANNELS,
            "dimension": {**COUNT, "three": 3},
            "spacing": {**POSITIVE, "true": True, "two": (1.0, 1.0)},
            "boundary": CHOICE,
            "coefficients": {
                **without(NUMBERS, "none"),
                "number": 1.0,
                "flat": np.ones(6),
                "channels": np.ones((6, 2, 1)),
                "not finite": np.full((6, 1, 1), np.nan),
            },
            "dtype": DTYPE,
            "param_dtype": {**DTYPE, "none": None},
            "rngs": STREAMS,
        },
    ),
    "DifferentialOperator.call": Call(
        lambda: HEAT, lambda: {"x": np.ones((3, 1), np.float32)}, {"x": IMAGES}, made=True
    ),
    "DifferentialOperator.formula": Call(
        lambda: HEAT.formula,
        lambda: {"source": 0, "target": np.int64(0)},
        {
            "source": {**without(COUNT, "zero"), "beyond": 1},
            "target": {**without(COUNT, "zero"), "beyond": 1},
        },
        made=True,
    ),
    "block": Call(
        op.block,
        lambda: {"channels": 1, "groups": 1, "rngs": RNGS},
        {
            "channels": COUNT,
            "groups": {**COUNT, "no divisor": 2},
            "activation": FUNCTION,
            "rngs": STREAMS,
        },
    ),
    "ConvolutionEnergy": Call(
        op.ConvolutionEnergy, lambda: {"channels": 1, "dimension": 1, "rngs": RNGS}, ENERGY
    ),
    "ConvolutionEnergy.call": Call(
        energy,
        lambda: {"x": np.ones((1, 3, 1))},
        {"x": {**IMAGES, "no samples": np.ones((3, 1)), "more axes": np.ones((1, 1, 3, 1))}},
        made=True,
    ),
    "potential": Call(
        lambda potential: energy(potential=potential)(jnp.ones((1, 3, 1))),
        lambda: {"potential": jnp.cosh},
        {
            "potential": {
                "nothing": lambda x: None,
                "a text": lambda x: "a",
                "a number": lambda x: 1.0,
                "complex": lambda x: x * 1j,
            }
        },
    ),
    "KineticEnergy": Call(
        op.KineticEnergy,
        lambda: {"p": np.ones((2, 1))},
        {"p": without(IMAGES, "wide")},
        made=True,
    ),
    "log_cosh": Call(op.log_cosh, lambda: {"x": [1, 2]}, {"x": ARRAY}),
    "read": Call(
        op.read,
        lambda: {"model": HEAT},
        {
            "model": {
                **MODULE,
                "class": op.DifferentialOperator,
                "dict": {"a": HEAT},
                "even": nnx.Conv(1, 1, (2,), rngs=RNGS),
            }
        },
        said={"model": "model|even"},
    ),
    "spectrum": Call(
        op.spectrum,
        lambda: {"field": HEAT, "points": 1},
        {"field": FIELD, "points": POINTS},
        said={"field": FIELD_SAID},
    ),
    "stable_step": Call(
        op.stable_step,
        lambda: {"field": RING, "scheme": nf.Euler(), "points": 1},
        {"field": {**FIELD, "edges": HEAT}, "scheme": SCHEME, "points": without(POINTS, "none")},
        said={"field": FIELD_SAID},
    ),
    "stability": Call(
        op.stability,
        lambda: {"layer": RINGED, "points": 3},
        {"layer": {**LAYERS, "edges": LAYER}, "points": without(POINTS, "none")},
        said={"layer": "layer|field|boundary"},
    ),
    "check": Call(
        op.check, lambda: {"layer": LAYER}, {"layer": LAYERS}, said={"layer": "layer|field"}
    ),
    "plots.operator": Call(
        op.plots.operator,
        lambda: {"kernel": [0.5, -1.0, 0.5], "spacing": 1},
        {"kernel": {**KERNEL, "channels": np.ones((3, 1, 1))}, "spacing": SPACING},
        said={"kernel": "kernel|coefficients"},
    ),
    "plots.shares": Call(
        op.plots.shares,
        lambda: {"networks": {"net": {"conv": SHARES}}},
        {
            "networks": {
                "none": None,
                "text": "net",
                "number": 1,
                "empty": {},
                "list": [SHARES],
                "shares alone": {"net": SHARES},
                "none in it": {"net": None},
                "empty network": {"net": {}},
                "numbers": {"net": {"conv": (0.1, 0.2, 0.3, 0.4)}},
                "number as name": {1: {"conv": SHARES}},
            }
        },
    ),
}
for make in (op.parabolic, op.hyperbolic, op.hamiltonian):
    CALLS[make.__name__] = Call(make, lambda: {"channels": 1, "dimension": 1, "rngs": RNGS}, ENERGY)

test_wrong, test_good = refuse(CALLS)
