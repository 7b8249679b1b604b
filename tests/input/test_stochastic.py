"""Wrong values of every argument of the laboratory of random networks."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from support.calls import (
    CHOICE,
    COUNT,
    FUNCTION,
    KEY,
    MODULE,
    NUMBER,
    POSITIVE,
    STATE,
    Call,
    Wrong,
    refuse,
    without,
)

import neuralflow as nf
from neuralflow.labs import stochastic as st

A = jnp.asarray([[-0.5, 1.0], [-0.3, -0.2]])
DECAY = nf.from_function(lambda a, x: jax.tree.map(lambda leaf: leaf @ a.T, x), A)
FIELD = st.StochasticDepth(DECAY, 0.8, rngs=nnx.Rngs(0))
ALIKE = st.StochasticDepth(DECAY, 0.8, per="batch", rngs=nnx.Rngs(0))
NOISE = st.Noise(DECAY, 0.3, rngs=nnx.Rngs(0))
FIELDS = (
    FIELD,
    st.Dropout(DECAY, 0.8, rngs=nnx.Rngs(0)),
    st.ShakeShake(DECAY, DECAY, rngs=nnx.Rngs(0)),
    NOISE,
    st.Gaussian(FIELD),
)
NETWORK = st.RandomNetwork(FIELD, 2)
SDE = st.NeuralSDE(FIELD, 2)
X = jnp.asarray([[0.5, 1.0], [2.0, 3.0], [4.0, 6.0]])
ONE = jax.random.key(0)


ERRORS = st.WeakErrors((1, 2), nf.statistics.Estimate(X[0], 0.1 * X[0]), 1.0, (0.9, 1.1))


def first(y):
    return y[:, 0]


def rngs():
    return nnx.Rngs(0)


RNGS: Wrong = {
    "none": None,
    "seed": 0,
    "key": ONE,
    "class": nnx.Rngs,
    "no stream": nnx.Rngs(dropout=0),
}
PER: Wrong = CHOICE
PLAIN: Wrong = {**MODULE, "class": nnx.Linear, "list": [DECAY], "random": FIELD}
"""For a plain field."""
RANDOM: Wrong = {**MODULE, "class": st.Noise, "plain": DECAY, "list": [FIELD], "network": NETWORK}
"""For a random field."""
PROBABILITY: Wrong = {
    **without(POSITIVE, "none"),
    "none": None,
    "above one": 1.5,
    "true": True,
    "complex": 1j,
    "several": np.ones(2) / 2,
}
LENGTH: Wrong = {**POSITIVE, "true": True, "complex": 1j, "several": np.ones(2), "huge": 10**400}
STEPS: Wrong = {**COUNT, "endless": 10**12}
END: Wrong = {**NUMBER, "complex": 1j, "several": np.ones(2), "true": True}
STATES: Wrong = {
    **STATE,
    "complex": X + 1j,
    "flags": X > 0,
    "whole": X.astype(int),
    "function": jnp.tanh,
    "no axis": jnp.asarray(1.0),
    "two batches": (X, X[:2]),
}
POINT: Wrong = {
    **without(STATE, "list"),
    "complex": X[0] + 1j,
    "flags": X[0] > 0,
    "nan": X[0] * np.nan,
    "function": jnp.tanh,
}
START: Wrong = {
    **POINT,
    "no axis": 1.0,
    "table": X,
    "empty": X[0, :0],
    "many": np.ones(26),
    "ragged": [1.0, [1.0]],
    "generator": (a for a in (1.0, 2.0)),
    "words in a row": ["1", "2"],
}
"""For a point of which moments are computed."""
DEPTHS: Wrong = {
    "text": "01",
    "number": 0.5,
    "generator": (t for t in (0.0, 1.0)),
    "words": ["0"],
    "nan": [np.nan],
    "outside": [2.0],
    "falling": [1.0, 0.0],
    "empty": [],
    "table": [[0.0, 1.0]],
    "ragged": [0.0, [0.5, 1.0]],
    "complex": [1j],
    "flags": [False, True],
    "object": object(),
}
CONTEXT: Wrong = {"not taken": jnp.ones(3), "text": "context", "object": object()}
FUNCTIONAL: Wrong = {
    **FUNCTION,
    "class": nnx.Linear,
    "of the batch": jnp.mean,
    "nothing": lambda y: None,
    "words": lambda y: "words",
    "list": lambda y: [1.0, 2.0],
    "complex": lambda y: 1j * y[:, 0],
    "of two": lambda y, t: y,
}
SURVIVAL: Wrong = PROBABILITY
TIMES: Wrong = {
    "none": None,
    "text": "01",
    "words": ["0"],
    "nan": [np.nan],
    "generator": (t for t in (0.0, 1.0)),
    "object": object(),
}

CALLS = {
    "StochasticDepth": Call(
        st.StochasticDepth,
        lambda: {"field": DECAY, "survival": 0.5, "per": "sample", "rngs": rngs()},
        {"field": PLAIN, "survival": SURVIVAL, "per": PER, "rngs": RNGS},
    ),
    "Dropout": Call(
        st.Dropout,
        lambda: {"field": DECAY, "survival": 0.5, "per": "sample", "rngs": rngs()},
        {"field": PLAIN, "survival": SURVIVAL, "per": PER, "rngs": RNGS},
    ),
    "ShakeShake": Call(
        st.ShakeShake,
        lambda: {"first": DECAY, "second": DECAY, "per": "sample", "rngs": rngs()},
        {"first": PLAIN, "second": PLAIN, "per": PER, "rngs": RNGS},
    ),
    "Noise": Call(
        st.Noise,
        lambda: {"field": DECAY, "scale": 0.5, "per": "sample", "rngs": rngs()},
        {"field": PLAIN, "scale": LENGTH, "per": PER, "rngs": RNGS},
    ),
    "Gaussian": Call(st.Gaussian, lambda: {"field": FIELD}, {"field": RANDOM}),
    "Stepped": Call(
        st.Stepped, lambda: {"field": FIELD, "step": 0.5}, {"field": RANDOM, "step": LENGTH}
    ),
    "linear": Call(
        st.linear,
        lambda: {"last": 0.5, "length": 2.0, "step": 0.0},
        {
            "last": PROBABILITY,
            "length": LENGTH,
            "step": {**without(LENGTH, "zero"), "false": False},
        },
    ),
    "RandomNetwork": Call(
        st.RandomNetwork,
        lambda: {
            "field": FIELD,
            "steps": 2,
            "scheme": None,
            "t0": 0.0,
            "t1": 1.0,
            "memory": "full",
        },
        {
            "field": RANDOM,
            "steps": STEPS,
            "scheme": {
                **without(FUNCTION, "none"),
                "class": nf.Euler,
                "grid": nf.FixedGrid(nf.Euler(), 2),
                "two evaluations": nf.Heun(),
            },
            "t0": {**END, "after t1": 2.0},
            "t1": {**END, "at t0": 0.0, "before t0": -1.0},
            "memory": CHOICE,
        },
    ),
    "RandomNetwork.__call__": Call(
        NETWORK,
        lambda: {"x": X, "context": None},
        {"x": STATES, "context": CONTEXT},
    ),
    "RandomNetwork.sample": Call(
        NETWORK.sample,
        lambda: {"x": X, "key": ONE, "context": None},
        {"x": STATES, "key": KEY, "context": CONTEXT},
    ),
    "NeuralSDE": Call(
        st.NeuralSDE,
        lambda: {
            "field": FIELD,
            "steps": 2,
            "scheme": None,
            "t0": 0.0,
            "t1": 1.0,
            "resolution": None,
            "context_axes": 0,
        },
        {
            "field": RANDOM,
            "steps": STEPS,
            "scheme": {
                **without(FUNCTION, "none"),
                "class": diffrax.Euler,
                "grid": nf.FixedGrid(nf.Euler(), 2),
                "for ODEs": nf.Tsit5(),
                "for constant noise": diffrax.SRA1(),
            },
            "t0": {**END, "after t1": 2.0},
            "t1": {**END, "at t0": 0.0, "before t0": -1.0},
            "resolution": {**without(LENGTH, "none"), "long": 0.75},
            "context_axes": {"one": 1, "text": "0", "half": 0.5, "false": False},
        },
    ),
    "NeuralSDE.__call__": Call(
        SDE, lambda: {"x": X, "context": None}, {"x": STATES, "context": CONTEXT}
    ),
    "NeuralSDE.sample": Call(
        SDE.sample,
        lambda: {"x": X, "key": ONE, "context": None},
        {"x": STATES, "key": KEY, "context": CONTEXT},
    ),
    "NeuralSDE.solve": Call(
        SDE.solve,
        lambda: {"x": X, "key": ONE, "depths": None, "context": None},
        {"x": STATES, "key": KEY, "depths": DEPTHS, "context": CONTEXT},
    ),
    "seeded": Call(
        st.seeded,
        lambda: {"module": NETWORK, "key": ONE},
        {"module": {**MODULE, "class": st.Noise}, "key": KEY},
    ),
    **{
        f"parts of {type(field).__name__}": Call(
            field.parts,
            lambda: {"x": X, "t": 0.0, "context": None},
            {"x": STATE, "t": NUMBER, "context": CONTEXT},
        )
        for field in FIELDS
    },
    **{
        f"law of {type(field).__name__}": Call(
            field.law,
            lambda: {"normal": X, "t": 0.0},
            {"normal": {**STATE, "complex": 1j * X, "whole": X.astype(int)}, "t": NUMBER},
        )
        for field in FIELDS
    },
    **{
        f"quadrature of {type(field).__name__}": Call(
            field.quadrature, lambda: {"t": 0.0}, {"t": NUMBER}
        )
        for field in FIELDS
    },
    "velocity": Call(
        FIELD.velocity,
        lambda: {"x": X, "t": 0.0, "context": None},
        {"x": STATE, "context": CONTEXT},
    ),
    "probability": Call(FIELD.probability, lambda: {"t": 0.0}, {"t": NUMBER}),
    "Stepped.__call__": Call(
        st.Stepped(FIELD, 0.5),
        lambda: {"x": X, "t": 0.0, "context": None},
        {"x": STATES, "t": NUMBER, "context": CONTEXT},
    ),
    "normals": Call(
        FIELD.normals,
        lambda: {"key": ONE, "x": X},
        {"key": KEY, "x": STATES},
    ),
    "normals of each coordinate": Call(
        NOISE.normals,
        lambda: {"key": ONE, "x": X},
        {"key": KEY, "x": STATES},
    ),
    "noisy": Call(
        FIELD.noisy,
        lambda: {"x": X, "t": 0.0, "normal": jnp.ones((3, 1)), "step": 0.5, "context": None},
        {
            "x": {**STATES, "fewer": X[:2]},
            "t": NUMBER,
            "normal": {
                **STATES,
                "complex": 1j * jnp.ones((3, 1)),
                "more": jnp.ones((4, 1)),
                "wide": jnp.ones((3, 3)),
                "pair": (X, X),
            },
            "step": LENGTH,
            "context": CONTEXT,
        },
        {"x": "x|normal"},
    ),
    "check": Call(
        st.StochasticDepth(DECAY, st.linear(0.5), rngs=nnx.Rngs(0)).check,
        lambda: {"times": np.asarray([0.0, 0.5])},
        {"times": {**TIMES, "beyond": [5.0]}},
        {"times": "times|survival"},
    ),
    "expectation": Call(
        st.expectation,
        lambda: {"network": NETWORK, "functional": first, "x": X[0], "count": 2, "key": ONE},
        {
            "network": {
                **MODULE,
                "class": st.RandomNetwork,
                "field": FIELD,
                "draws of a batch": st.RandomNetwork(ALIKE, 2),
            },
            "functional": FUNCTIONAL,
            "x": POINT,
            "count": {**STEPS, "one": 1},
            "key": KEY,
        },
        {"network": "network|per"},
    ),
    "weak_errors": Call(
        st.weak_errors,
        lambda: {
            "field": FIELD,
            "functional": first,
            "x": X[0],
            "steps": (1, 2),
            "t0": 0.0,
            "t1": 1.0,
            "count": 2,
            "key": ONE,
        },
        {
            "field": {**RANDOM, "draws of a batch": ALIKE},
            "functional": {**FUNCTIONAL, "many numbers": lambda y: y},
            "x": POINT,
            "steps": {
                "none": None,
                "text": "12",
                "number": 4,
                "words": ["1", "2"],
                "half": [1.5, 2.0],
                "zero": [0, 2],
                "one": [4],
                "falling": [4, 2],
                "equal": [2, 2],
                "empty": [],
                "odd": [7, 11, 13],
                "endless": [10**12, 2 * 10**12],
                "nan": [1, np.nan],
                "true": [True, 2],
                "generator": (n for n in (1, 2)),
                "table": np.asarray([[1, 2]]),
            },
            "t0": {**END, "after t1": 2.0},
            "t1": {**END, "at t0": 0.0, "before t0": -1.0},
            "count": {**STEPS, "one": 1},
            "key": KEY,
        },
        {"field": "field|per"},
    ),
    "matrices": Call(
        st.matrices,
        lambda: {"field": FIELD, "d": 2, "t": 0.0},
        {"field": RANDOM, "d": {**COUNT, "endless": 10**9}, "t": END},
    ),
    "network_moments": Call(
        st.network_moments,
        lambda: {"field": FIELD, "x": X[0], "steps": 2, "time": 1.0},
        {
            "field": {**RANDOM, "noise of each coordinate": NOISE},
            "x": START,
            "steps": STEPS,
            "time": LENGTH,
        },
        {"field": "field|noise"},
    ),
    "limit_moments": Call(
        st.limit_moments,
        lambda: {"field": FIELD, "x": X[0], "time": 1.0, "steps": 2},
        {
            "field": {**RANDOM, "noise of each coordinate": NOISE},
            "x": START,
            "steps": STEPS,
            "time": LENGTH,
        },
        {"field": "field|noise"},
    ),
    "plots.weak_errors": Call(
        st.plots.weak_errors,
        lambda: {"networks": {"p": ERRORS}},
        {
            "networks": {
                "none": None,
                "text": "errors",
                "number": 1,
                "empty": {},
                "list": [ERRORS],
                "errors alone": ERRORS,
                "numbers": {"p": [0.1, 0.2]},
                "none inside": {"p": None},
                "pairs": [("p", ERRORS)],
                "generator": (p for p in ["p"]),
            }
        },
        {},
    ),
}

test_wrong, test_good = refuse(CALLS)
