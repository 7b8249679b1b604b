"""Wrong values of every argument of the laboratory of plain networks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from support.calls import (
    CHOICE,
    COUNT,
    FUNCTION,
    MODULE,
    POSITIVE,
    STATE,
    Call,
    Wrong,
    refuse,
    without,
)

import neuralflow as nf
from neuralflow.labs import plain_net

W, B = np.asarray([[2.0, 1.0], [0.5, 1.0]]), np.zeros(2)
NET = [(W, B, jax.nn.relu)]
DENSE = plain_net.Dense(W, B, jax.nn.relu)
X = jnp.asarray([[0.5, 1.0], [2.0, 3.0], [4.0, 6.0]])
EULER = nf.FixedGrid(nf.Euler(), steps=5)
FLOW = plain_net.as_flow(NET, solve=EULER)
DECAY = nf.from_function(lambda rate, x: -rate * x, jnp.asarray(0.5))
LAYER = nf.NeuralODE(DECAY, EULER)
BLOCK = plain_net.Block(2, (jnp.tanh,), 1)

ARRAY: Wrong = {**STATE, "complex": W + 1j, "flags": W > 0, "function": jnp.tanh}
MATRIX: Wrong = {
    **without(ARRAY, "list"),
    "no axis": np.asarray(1.0),
    "one axis": np.ones(2),
    "three axes": np.ones((1, 2, 2)),
    "empty": np.ones((0, 2)),
    "no columns": np.ones((2, 0)),
    "nan": W * np.nan,
    "infinite": W + np.inf,
    "ragged": [[1.0], [1.0, 2.0]],
    "list": [1.0, 2.0],
    "words": np.full((2, 2), "a"),
}
VECTOR: Wrong = {
    **without(ARRAY, "list"),
    "no axis": np.asarray(1.0),
    "table": np.ones((2, 1)),
    "empty": np.ones(0),
    "longer": np.ones(3),
    "nan": B * np.nan,
    "infinite": B + np.inf,
    "ragged": [1.0, [1.0, 2.0]],
    "words": np.full(2, "a"),
}
ACTIVATION: Wrong = {
    **FUNCTION,
    "falling": jnp.sin,
    "of the whole": jax.nn.softmax,
    "a number": lambda x: 1.0,
    "nothing": lambda x: None,
    "words": lambda x: "tanh",
    "complex": lambda x: 1j * x,
    "of two": lambda x, y: x,
    "a class": nnx.Linear,
}
MODEL: Wrong = {
    "none": None,
    "text": "net",
    "number": 1,
    "object": object(),
    "class": nnx.Sequential,
    "module": DECAY,
    "layer alone": nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
    "empty": [],
    "generator": (layer for layer in NET),
    "array": W,
    "dict": {"a": NET[0]},
    "activation first": [jnp.tanh],
    "pair": [(W, B)],
    "nested": [NET],
    "words": ["dense"],
    "weight none": [(None, B, jnp.tanh)],
    "weight text": [("W", B, jnp.tanh)],
    "weight ragged": [([[1.0], [1.0, 2.0]], B, jnp.tanh)],
    "weight row": [(B, B, jnp.tanh)],
    "weight nan": [(W * np.nan, B, jnp.tanh)],
    "weight complex": [(W * 1j, B, jnp.tanh)],
    "weight flags": [(W > 0, B, jnp.tanh)],
    "bias none": [(W, None, jnp.tanh)],
    "bias number": [(W, 0.0, jnp.tanh)],
    "bias longer": [(W, np.zeros(3), jnp.tanh)],
    "bias infinite": [(W, B + np.inf, jnp.tanh)],
    "bias words": [(W, np.full(2, "a"), jnp.tanh)],
    "activation text": [(W, B, "tanh")],
    "activation none": [(W, B, None)],
    "activation falling": [(W, B, jnp.sin)],
    "activation of the whole": [(W, B, jax.nn.softmax)],
    "activation of nothing": [(W, B, lambda x: None)],
    "activation of two": [(W, B, lambda x, y: x)],
    "activation of a number": [(W, B, lambda x: 1.0)],
    "activation complex": [(W, B, lambda x: 1j * x)],
    "widths that differ": [(W, B, jnp.tanh), (np.ones((1, 3)), np.ones(1), jnp.tanh)],
}
MODEL_SAID = r"net|layer \d"
LAYERS: Wrong = {
    "none": None,
    "text": "layers",
    "number": 1,
    "layer": LAYER,
    "empty": [],
    "words": ["a"],
    "fields": [DECAY],
    "class": [nf.NeuralODE],
    "more": [LAYER, LAYER],
    "backward": [LAYER.reverse()],
    "generator": (layer for layer in [LAYER]),
    "dict": {"a": LAYER},
    "wide fields": [nf.NeuralODE(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), EULER)],
}
WIDTHS: Wrong = {
    "none": None,
    "text": "2",
    "number": 2,
    "empty": [],
    "more": [2, 2],
    "zero": [0],
    "negative": [-2],
    "half": [2.5],
    "true": [True],
    "words": ["2"],
    "nan": [np.nan],
    "generator": (n for n in [2]),
    "table": [[2]],
}
SOLVE: Wrong = {
    "text": "euler",
    "number": 4,
    "class": nf.FixedGrid,
    "scheme": nf.Euler(),
    "zero": 0,
    "empty": (),
}
CUTOFF: Wrong = {
    **without(POSITIVE, "none"),
    "one": 1.0,
    "true": True,
    "complex": 1j,
    "several": np.ones(2),
}
INPUTS: Wrong = {
    **ARRAY,
    "no axis": jnp.asarray(1.0),
    "wide": jnp.ones((3, 3)),
    "narrow": jnp.ones((3, 1)),
}
DENSE_LAYERS: Wrong = {
    "none": None,
    "text": "layers",
    "number": 1,
    "object": object(),
    "empty": [],
    "words": ["a"],
    "tuples": NET,
    "one layer": DENSE,
    "words for a weight": [plain_net.Dense(np.asarray("W"), B)],
    "a row for a weight": [plain_net.Dense(B, B)],
    "holes": [plain_net.Dense(W * np.nan, B)],
    "generator": (layer for layer in [DENSE]),
    "linear": [nnx.Linear(2, 2, rngs=nnx.Rngs(0))],
}

CALLS = {
    "read": Call(plain_net.read, lambda: {"model": NET}, {"model": MODEL}, {"model": MODEL_SAID}),
    "read of parts": Call(
        lambda weight, bias, activation: plain_net.read([(weight, bias, activation)]),
        lambda: {"weight": W, "bias": B, "activation": jnp.tanh},
        {"weight": MATRIX, "bias": VECTOR, "activation": ACTIVATION},
        {"weight": r"\bW\b", "bias": r"\bb\b"},
    ),
    "as_flow": Call(
        plain_net.as_flow,
        lambda: {"model": NET, "cutoff": 1e-6, "solve": EULER},
        {"model": MODEL, "cutoff": CUTOFF, "solve": SOLVE},
        {"model": MODEL_SAID},
    ),
    "as_resnet": Call(
        plain_net.as_resnet,
        lambda: {
            "model": NET,
            "linear": "euler",
            "activation": "linearised",
            "steps": 1,
            "horizon": 1.0,
            "about": (0.0, 1.0),
        },
        {
            "model": MODEL,
            "linear": CHOICE,
            "activation": {**CHOICE, "function": jnp.tanh},
            "steps": {**COUNT, "endless": 10**9},
            "horizon": {**POSITIVE, "true": True, "complex": 1j, "several": np.ones(2)},
            "about": {
                "none": None,
                "text": "0",
                "number": 0.0,
                "object": object(),
                "empty": [],
                "nan": [np.nan],
                "infinite": [np.inf],
                "words": ["0"],
                "complex": [1j],
                "table": [[0.0, 1.0]],
                "ragged": [0.0, [1.0, 2.0]],
                "generator": (x for x in (0.0, 1.0)),
                "flags": [True, False],
            },
        },
        {"model": MODEL_SAID},
    ),
    "glue": Call(
        plain_net.glue,
        lambda: {"layers": [LAYER], "widths": [2], "cutoff": 1e-6, "solve": EULER},
        {
            "layers": without(LAYERS, "wide fields"),
            "widths": WIDTHS,
            "cutoff": CUTOFF,
            "solve": SOLVE,
        },
        {"layers": "layer", "widths": "width"},
    ),
    "rotation_logarithm": Call(
        plain_net.rotation_logarithm,
        lambda: {"rotation": np.eye(2)},
        {
            "rotation": {
                **MATRIX,
                "stretched": 2 * np.eye(2),
                "reflection": np.diag([1.0, -1.0]),
                "wide": np.eye(2, 3),
            }
        },
        {"rotation": "rotation|reflection"},
    ),
    "dimension": Call(plain_net.dimension, lambda: {"layers": [DENSE]}, {"layers": DENSE_LAYERS}),
    "decompose": Call(
        plain_net.decompose,
        lambda: {"weight": W, "size": 3},
        {"weight": MATRIX, "size": {**COUNT, "narrow": 1, "endless": 10**9}},
        {"size": "size|dimensions"},
    ),
    "pulled_back": Call(
        plain_net.pulled_back,
        lambda: {"activation": jax.nn.relu, "x": X, "s": 0.0},
        {
            "activation": without(ACTIVATION, "falling", "of the whole"),
            "x": {**ARRAY, "whole": X.astype(int)},
            "s": {
                **without(POSITIVE, "zero"),
                "one": 1.0,
                "true": True,
                "complex": 1j,
                "shape": np.ones(5),
            },
        },
    ),
    "Block": Call(
        plain_net.Block,
        lambda: {"size": 2, "activations": (jnp.tanh,), "points": 2},
        {
            "size": {**COUNT, "endless": 10**9},
            "activations": {
                "none": None,
                "text": "tanh",
                "number": 1,
                "function": jnp.tanh,
                "words": ("tanh",),
                "generator": (s for s in (jnp.tanh,)),
            },
            "points": {**COUNT, "endless": 10**12},
        },
    ),
    "Block.__call__": Call(BLOCK, lambda: {"x": X}, {"x": INPUTS}),
    "Embedded": Call(
        plain_net.Embedded,
        lambda: {"layer": LAYER, "sizes": (2, 2, 2), "report": ()},
        {
            "layer": {**MODULE, "class": nf.NeuralODE, "field": DECAY},
            "sizes": {
                "none": None,
                "text": "222",
                "number": 2,
                "two": (2, 2),
                "zero": (0, 2, 2),
                "half": (2, 2.5, 2),
                "words": ("2", "2", "2"),
                "more inputs": (3, 2, 2),
                "more outputs": (2, 2, 3),
                "true": (True, 2, 2),
                "generator": (n for n in (2, 2, 2)),
            },
            "report": {
                "none": None,
                "text": "report",
                "words": ("a",),
                "number": 1,
                "dense": (DENSE,),
            },
        },
    ),
    "Embedded.__call__": Call(FLOW, lambda: {"x": X}, {"x": INPUTS}),
    "Embedded.embed": Call(FLOW.embed, lambda: {"x": X}, {"x": INPUTS}),
    "Embedded.with_solve": Call(
        FLOW.with_solve, lambda: {"solve": EULER}, {"solve": {"none": None, **SOLVE}}
    ),
    "motions": Call(
        plain_net.plots.motions,
        lambda: {"flow": FLOW, "x": np.asarray(X), "layer": 0, "colours": None},
        {
            "flow": {
                **MODULE,
                "class": plain_net.Embedded,
                "layer": LAYER,
                "glued": plain_net.glue([LAYER], [2], solve=EULER),
            },
            "x": {
                **INPUTS,
                "one axis": X[0],
                "three axes": X[None],
                "no points": X[:0],
                "a hole": X * np.nan,
            },
            "layer": {
                "none": None,
                "text": "0",
                "half": 0.5,
                "true": True,
                "negative": -1,
                "another": 1,
            },
            "colours": {
                "text": "red",
                "number": 1.0,
                "fewer": np.ones(2),
                "table": np.ones((3, 5)),
                "words": np.asarray(["red", "a", "b"]),
                "object": object(),
                "nan": np.full(3, np.nan),
            },
        },
    ),
}

test_wrong, test_good = refuse(CALLS)
