"""Wrong values of every argument of the laboratory of diffeomorphisms."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from support.calls import (
    COUNT,
    FUNCTION,
    MODULE,
    NOT_WHOLE,
    NUMBER,
    POSITIVE,
    STATE,
    Call,
    Wrong,
    refuse,
    without,
)

import neuralflow as nf
from neuralflow.labs import diffeo

sampled = diffeo.sampled

X = jnp.asarray([[0.0, 1.0], [2.0, 3.0], [4.0, 6.0]])
U = 0.1 * jnp.ones((3, 4, 2))
GRID = nf.FixedGrid(nf.Euler(), steps=2)
DECAY = nf.from_function(lambda rate, x: -rate * x, jnp.asarray(0.5))
LAYER = nf.NeuralODE(DECAY, GRID)
KERNEL = diffeo.KernelField(X, 2.0)
KERNEL_LAYER = nf.NeuralODE(KERNEL, GRID)
GEODESIC = diffeo.Geodesic(X, 0.1 * X, 2.0, GRID)
DENSE = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
NORMED = diffeo.SpectralNorm(DENSE, rngs=nnx.Rngs(0))

SQUARINGS: Wrong = {**NOT_WHOLE, "negative": -1, "endless": 10**9}
ARRAY: Wrong = {
    **STATE,
    "complex": X + 1j,
    "flags": X > 0,
    "function": jnp.tanh,
    "class": jnp.ndarray,
    "generator": (row for row in X),
}
POINTS: Wrong = {
    **without(ARRAY, "list"),
    "no axis": jnp.asarray(1.0),
    "one axis": X[0],
    "three axes": X[None],
    "no points": X[:0],
    "no coordinates": X[:, :0],
    "a hole": X.at[0].set(jnp.nan),
    "infinite": np.full((3, 2), np.inf),
    "ragged": [[1.0], [1.0, 2.0]],
}
"""For points in rows that are kept."""
MOVED: Wrong = {**ARRAY, "no axis": jnp.asarray(1.0), "wide": jnp.ones((3, 3))}
"""For points of two coordinates, which are moved."""
LAYERS: Wrong = {**MODULE, "class": nf.NeuralODE, "field": DECAY}
FLOW: Wrong = {**LAYERS, "list": [LAYER]}
SOLVE: Wrong = {"text": "euler", "number": 4, "class": nf.FixedGrid, "scheme": nf.Euler()}
FIELD: Wrong = {**MODULE, "class": nnx.Linear, "list": [DECAY]}
SCALE: Wrong = {**NUMBER, "zero": 0.0, "true": True, "several": np.ones(2)}
SIZE: Wrong = {**POSITIVE, "true": True, "several": np.ones(2), "complex": 1j, "huge": 10**400}
GRID_U: Wrong = {
    **ARRAY,
    "whole numbers": U.astype(int),
    "no axis": jnp.asarray(1.0),
    "another width": U[..., :1],
    "a batch": U[None],
    "one node": U[:1],
    "empty": U[:0],
}
HOLES: Wrong = {"a hole": U.at[0].set(jnp.nan), "infinite": U * jnp.inf}
SHAPE: Wrong = {
    "none": None,
    "text": "ab",
    "number": 3,
    "empty": (),
    "zero": (3, 0),
    "negative": (3, -1),
    "half": (3, 2.5),
    "true": (True, True),
    "words": ("3", "4"),
    "generator": (n for n in (3, 4)),
    "enormous": (10**6, 10**6),
}
BOX: Wrong = {
    "none": None,
    "text": "0",
    "object": object(),
    "nan": np.nan,
    "infinite": np.inf,
    "three": [0.0, 0.0, 0.0],
    "complex": 1j,
    "generator": (n for n in (0.0, 0.0)),
    "ragged": [[0.0], [0.0, 1.0]],
}

CALLS = {
    "exponential": Call(
        diffeo.exponential,
        lambda: {"field": DECAY, "solve": GRID, "scale": 0.5},
        {"field": FIELD, "solve": {"none": None, **SOLVE}, "scale": SCALE},
        {"scale": "scale|t1"},
    ),
    "squared": Call(
        diffeo.squared,
        lambda: {"mapping": jnp.tanh, "times": 2},
        {"mapping": FUNCTION, "times": SQUARINGS},
        {"mapping": "map"},
    ),
    "logarithm": Call(
        diffeo.logarithm,
        lambda: {"mapping": LAYER, "back": None, "terms": 2},
        {
            "mapping": {**FUNCTION, "plain": np.tanh},
            "back": without(FUNCTION, "none"),
            "terms": {**COUNT, "endless": 10**9},
        },
        {"mapping": "map|inverse"},
    ),
    "Composition": Call(
        lambda flow: diffeo.Composition(LAYER, flow),
        lambda: {"flow": LAYER},
        {"flow": FLOW},
    ),
    "Composition.__call__": Call(diffeo.Composition(LAYER), lambda: {"x": X}, {"x": STATE}),
    "Composition.invert": Call(
        diffeo.Composition(LAYER).invert, lambda: {"y": X}, {"y": STATE}, {"y": "x|y"}
    ),
    "Inverse": Call(
        diffeo.Inverse,
        lambda: {"layer": LAYER},
        {"layer": {**LAYERS, "adaptive": LAYER.with_solve(nf.Adaptive(nf.Tsit5()))}},
    ),
    "Inverse.__call__": Call(diffeo.Inverse(LAYER), lambda: {"y": X}, {"y": STATE}, {"y": "x|y"}),
    "inverse": Call(diffeo.inverse, lambda: {"flow": LAYER}, {"flow": FLOW}),
    "jacobian": Call(
        diffeo.jacobian,
        lambda: {"mapping": jnp.tanh, "x": X},
        {
            "mapping": {
                **FUNCTION,
                "words": lambda x: "words",
                "nothing": lambda x: None,
                "list": lambda x: [1.0, 2.0, 3.0],
                "one": lambda x: x[0],
                "number": 3,
                "complex": lambda x: 1j * x,
                "whole": lambda x: x.astype(int),
            },
            "x": {**ARRAY, "one axis": X[0], "whole": X.astype(int)},
        },
        {"mapping": "map", "x": r"x\b|points"},
    ),
    "log_determinant": Call(
        diffeo.log_determinant,
        lambda: {"flow": LAYER, "x": X},
        {"flow": FLOW, "x": {**without(ARRAY, "flags"), "one axis": X[0]}},
        {"x": "x|points"},
    ),
    "log_determinant of a composition": Call(
        diffeo.log_determinant,
        lambda: {"flow": diffeo.Composition(LAYER), "x": X},
        {"x": {**without(ARRAY, "flags"), "one axis": X[0]}},
        {"x": "x|points"},
    ),
    "gaussian": Call(
        diffeo.gaussian,
        lambda: {"x": X, "y": X, "width": 2.0},
        {
            "x": {**MOVED, "one axis": X[0]},
            "y": {**MOVED, "one axis": X[0]},
            "width": SIZE,
        },
        {"x": r"\bx\b|\by\b"},
    ),
    "KernelField": Call(
        diffeo.KernelField,
        lambda: {"centres": X, "width": 2.0, "momenta": X},
        {
            "centres": POINTS,
            "width": SIZE,
            "momenta": {**without(POINTS, "none"), "fewer": X[:2]},
        },
    ),
    "KernelField.__call__": Call(KERNEL, lambda: {"x": X}, {"x": MOVED}),
    "Geodesic": Call(
        diffeo.Geodesic,
        lambda: {"landmarks": X, "momenta": X, "width": 2.0, "solve": None},
        {
            "landmarks": POINTS,
            "momenta": {**POINTS, "fewer": X[:2]},
            "width": SIZE,
            "solve": SOLVE,
        },
    ),
    "Geodesic.__call__": Call(
        GEODESIC, lambda: {"x": X}, {"x": {**MOVED, "one axis": X[0], "three axes": X[None]}}
    ),
    "Geodesic.invert": Call(
        GEODESIC.invert, lambda: {"y": X}, {"y": {**MOVED, "one axis": X[0], "three axes": X[None]}}
    ),
    "Geodesic.path": Call(
        GEODESIC.path,
        lambda: {"depths": None},
        {
            "depths": {
                "text": "01",
                "number": 0.5,
                "generator": (t for t in (0.0, 1.0)),
                "words": ["0"],
                "nan": [np.nan],
                "outside": [2.0],
                "falling": [1.0, 0.0],
                "empty": [],
                "table": [[0.0, 1.0]],
                "complex": [1j],
                "object": object(),
            }
        },
    ),
    "Geodesic.hamiltonian": Call(
        GEODESIC.hamiltonian,
        lambda: {"q": X, "p": X},
        {"q": {**MOVED, "one axis": X[0]}, "p": {**MOVED, "one axis": X[0], "fewer": X[:2]}},
    ),
    "register": Call(
        diffeo.register,
        lambda: {"source": X[:2], "target": X[:2] + 0.1, "width": 2.0, "solve": GRID},
        {
            "source": {**POINTS, "twice": jnp.ones((2, 2))},
            "target": {**POINTS, "more": X},
            "width": SIZE,
            "fidelity": SIZE,
            "solve": SOLVE,
        },
    ),
    "norms": Call(diffeo.norms, lambda: {"layer": KERNEL_LAYER}, {"layer": LAYERS}),
    "norms of another field": Call(
        diffeo.norms,
        lambda: {"layer": KERNEL_LAYER},
        {"layer": {"decay": LAYER}},
        {"layer": "field"},
    ),
    "action": Call(
        diffeo.action,
        lambda: {"layer": KERNEL_LAYER},
        {"layer": {**LAYERS, "adaptive": KERNEL_LAYER.with_solve(nf.Adaptive(nf.Tsit5()))}},
        {"layer": "layer|adaptive|Adaptive"},
    ),
    "spectral_norm": Call(
        diffeo.spectral_norm,
        lambda: {"weight": X, "squarings": 2},
        {
            "weight": {
                **ARRAY,
                "no axis": jnp.asarray(1.0),
                "one axis": X[0],
                "three axes": X[None],
                "empty": X[:0],
            },
            "squarings": SQUARINGS,
        },
    ),
    "lipschitz": Call(
        diffeo.lipschitz,
        lambda: {"module": DENSE},
        {"module": {**FUNCTION, "list": [DENSE], "class": nnx.Linear, "function": np.tanh}},
        {"module": "bound"},
    ),
    "lipschitz_rule": Call(
        lambda module: diffeo.lipschitz_rule(module),
        lambda: {"module": DENSE},
        {"module": {**FUNCTION, "list": [DENSE], "class": nnx.Linear, "function": np.tanh}},
        {"module": "bound"},
    ),
    "Bounded": Call(
        diffeo.Bounded,
        lambda: {"field": KERNEL, "bound": 0.9},
        {"field": FIELD, "bound": SIZE},
    ),
    "Bounded.__call__": Call(diffeo.Bounded(KERNEL, 0.9), lambda: {"x": X, "t": 0.0}, {"x": MOVED}),
    "SpectralNorm": Call(
        diffeo.SpectralNorm,
        lambda: {"dense": DENSE, "bound": 1.0, "rngs": nnx.Rngs(0)},
        {
            "dense": {**MODULE, "class": nnx.Linear, "conv": nnx.Conv(1, 1, 3, rngs=nnx.Rngs(0))},
            "bound": SIZE,
            "rngs": {"none": None, "seed": 0, "class": nnx.Rngs, "no stream": nnx.Rngs(dropout=0)},
        },
    ),
    "SpectralNorm.__call__": Call(NORMED, lambda: {"x": X}, {"x": MOVED}),
    "SpectralNorm.weight": Call(
        NORMED.weight,
        lambda: {"vector": X[0]},
        {"vector": {**ARRAY, "longer": jnp.ones(3), "table": X}},
    ),
    "bounds": Call(diffeo.bounds, lambda: {"layer": KERNEL_LAYER}, {"layer": LAYERS}),
    "check": Call(diffeo.check, lambda: {"layer": KERNEL_LAYER}, {"layer": LAYERS}),
    "report": Call(
        diffeo.report,
        lambda: {"layer": LAYER, "x": X},
        {
            "layer": LAYERS,
            "x": {
                **ARRAY,
                "one axis": X[0],
                "no samples": X[:0],
                "no coordinates": X[:, :0],
                "whole": X.astype(int),
            },
        },
        {"x": r"\bx\b|points"},
    ),
    "block_determinants": Call(
        diffeo.block_determinants,
        lambda: {"layer": LAYER, "x": X},
        {"layer": LAYERS, "x": {**without(ARRAY, "flags"), "one axis": X[0]}},
        {"x": "x|points"},
    ),
    "nodes": Call(
        sampled.nodes,
        lambda: {"shape": (3, 4), "dtype": None},
        {
            "shape": SHAPE,
            "dtype": {"text": "number", "object": object(), "number": 3, "flags": bool},
        },
    ),
    "interpolate": Call(
        sampled.interpolate,
        lambda: {"values": jnp.ones((3, 4)), "points": X},
        {
            "values": {
                **without(ARRAY, "complex", "flags"),
                "no axis": jnp.asarray(1.0),
                "one axis": jnp.ones(3),
                "one node": jnp.ones((3, 1)),
            },
            "points": {
                **ARRAY,
                "no axis": jnp.asarray(1.0),
                "more": jnp.ones((3, 3)),
                "whole": X.astype(int),
            },
        },
    ),
    "warp": Call(
        sampled.warp,
        lambda: {"values": jnp.ones((3, 4)), "u": U},
        {
            "values": {
                **without(ARRAY, "complex"),
                "no axis": jnp.asarray(1.0),
                "another grid": jnp.ones((4, 3)),
            },
            "u": GRID_U,
        },
        {"u": r"\bu\b|displacement"},
    ),
    "compose": Call(
        sampled.compose,
        lambda: {"u": U, "w": U},
        {
            "u": {**GRID_U, "another grid": U[:2]},
            "w": {**GRID_U, "another grid": U[:2]},
        },
        {"u": r"\bu\b|displacement", "w": r"\bw\b|displacement|\bu\b"},
    ),
    "sampled.exponential": Call(
        sampled.exponential,
        lambda: {"velocity": U, "squarings": 2},
        {"velocity": GRID_U, "squarings": SQUARINGS},
        {"velocity": "velocity|displacement"},
    ),
    "sampled.logarithm": Call(
        sampled.logarithm,
        lambda: {"u": U, "squarings": 1},
        {"u": {**GRID_U, **HOLES}, "squarings": SQUARINGS},
        {"u": r"\bu\b|displacement"},
    ),
    "sampled.inverse": Call(
        sampled.inverse, lambda: {"u": U}, {"u": {**GRID_U, **HOLES}}, {"u": r"\bu\b|displacement"}
    ),
    "determinants": Call(
        sampled.determinants, lambda: {"u": U}, {"u": GRID_U}, {"u": r"\bu\b|displacement"}
    ),
    "folded": Call(sampled.folded, lambda: {"u": U}, {"u": GRID_U}, {"u": r"\bu\b|displacement"}),
    "sample": Call(
        sampled.sample,
        lambda: {"mapping": jnp.tanh, "low": 0.0, "high": [1.0, 2.0], "shape": (3, 4)},
        {
            "mapping": {
                **FUNCTION,
                "nothing": lambda x: None,
                "words": lambda x: np.full(x.shape, "x"),
                "complex": lambda x: 1j * x,
                "one": lambda x: x[0],
            },
            "low": {**BOX, "above": 5.0},
            "high": {**BOX, "below": -1.0},
            "shape": SHAPE,
        },
        {"mapping": "map", "low": "low", "high": "high"},
    ),
    "deformed_grid": Call(
        diffeo.plots.deformed_grid,
        lambda: {
            "mapping": jnp.tanh,
            "low": 0.0,
            "high": [1.0, 2.0],
            "x": X,
            "y": np.arange(3),
            "lines": 2,
            "axis": None,
        },
        {
            "mapping": {
                **FUNCTION,
                "nothing": lambda x: None,
                "words": lambda x: np.full(x.shape, "x"),
                "one": lambda x: x[0],
                "holes": lambda x: x * np.nan,
                "complex": lambda x: 1j * x,
            },
            "low": {**BOX, "above": 5.0},
            "high": {**BOX, "below": -1.0},
            "x": {**without(MOVED, "none", "list"), "one axis": X[0]},
            "y": {
                "text": "abc",
                "fewer": np.arange(2),
                "number": 1,
                "table": np.ones((3, 2)),
                "object": object(),
            },
            "lines": {**NOT_WHOLE, "one": 1, "negative": -3, "endless": 10**9},
            "axis": {"text": "axis", "number": 1, "list": [None]},
        },
        {"mapping": "map", "low": "low", "high": "high"},
    ),
}

test_wrong, test_good = refuse(CALLS)
