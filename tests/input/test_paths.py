"""Wrong values of every argument of the laboratory of paths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from support.calls import (
    ARRAY,
    CHOICE,
    COUNT,
    FLAG,
    FUNCTION,
    KEY,
    NOT_NEGATIVE,
    NUMBERS,
    POSITIVE,
    Call,
    Wrong,
    refuse,
    without,
)

import neuralflow as nf
from neuralflow import plots
from neuralflow.labs import paths

VECTOR: Wrong = {**NUMBERS, "number": 1.0, "longer": np.ones(3), "empty": np.ones((0, 2))}
NETWORK = paths.Branches.of(0.1 * jnp.ones((2, 2, 2)))
EACH = paths.Branches.of(0.1 * jnp.ones((2, 3, 2, 2)))
BRANCHES: Wrong = {
    "none": None,
    "text": "net",
    "array": np.ones((2, 2, 2)),
    "class": paths.Branches,
    "pair": (np.ones((2, 2, 2)), np.ones((2, 2))),
}
X = jnp.ones(2)
KERNELS = NETWORK.kernels()
MATRICES: Wrong = {
    **NUMBERS,
    "number": 1.0,
    "vector": np.ones(2),
    "matrix": np.eye(2),
    "no square": np.ones((2, 2, 3)),
    "empty": np.ones((0, 2, 2)),
}
HUGE: Wrong = {**COUNT, "huge": 10**9, "past int32": 2**31}
EQUATION = paths.Equation(0.5)
EQUATIONS: Wrong = {
    "none": None,
    "text": "heat",
    "number": 1.0,
    "class": paths.Equation,
    "operator": nf.labs.operators.DifferentialOperator(
        1, 1, dimension=1, coefficients=np.ones((3, 1, 1))
    ),
}
TERM: Wrong = {
    **without(NUMBERS, "function"),
    "no function of one": lambda x, y: x,
    "class": nf.NeuralODE,
}
LAYER = nf.NeuralODE(nf.from_function(lambda _, x: -x), nf.FixedGrid(nf.Euler(), steps=1))
TIME: Wrong = {**NOT_NEGATIVE, "true": True, "complex": 1j}
SPAN: Wrong = {**POSITIVE, "true": True, "complex": 1j}
RETURNS: Wrong = {
    "nothing": lambda x: None,
    "a text": lambda x: "a",
    "a number": lambda x: 1.0,
    "other shapes": lambda x: x,
    "complex": lambda x: x[..., 0] * 1j,
}


CALLS = {
    "Branches.of": Call(
        paths.Branches.of,
        lambda: {"matrices": np.ones((2, 2, 2)), "offsets": [[1, 2], [3, 4]]},
        {
            "matrices": MATRICES,
            "offsets": {**without(NUMBERS, "none"), "number": 1.0, "row": np.ones(2)},
        },
    ),
    "Branches.call": Call(
        lambda: NETWORK,
        lambda: {"x": [1.0, 2.0]},
        {"x": {**VECTOR, "list": [1.0]}},
        made=True,
    ),
    "Branches.kernels": Call(
        lambda matrices: paths.Branches(matrices, jnp.ones((2, 2))).kernels(),
        lambda: {"matrices": jnp.ones((2, 2, 2))},
        {"matrices": {"text": "x", "matrix": np.eye(2), "nan": np.full((2, 2, 2), np.nan)}},
    ),
    "counts": Call(
        paths.counts,
        lambda: {"depth": np.int64(3)},
        {"depth": {**COUNT, "million": 10**6, "past float64": 1030, "array": np.arange(3)}},
    ),
    "length_shares": Call(
        paths.length_shares,
        lambda: {"parts": [[1.0, 2.0], [0.0, 1.0]]},
        {"parts": {**NUMBERS, "vector": np.ones(2), "empty": np.ones((0, 2)), "zero": 0 * KERNELS}},
    ),
    "linearised": Call(
        paths.linearised,
        lambda: {"layer": LAYER, "x": jnp.ones((1, 1))},
        {
            "layer": {
                **BRANCHES,
                "field": LAYER.field,
                "layer class": nf.NeuralODE,
                "adaptive": LAYER.with_solve(nf.Adaptive(nf.Tsit5(), rtol=1e-3, atol=1e-3)),
            },
            "x": {
                **without(ARRAY, "dict"),
                "list": [1.0],
                "number": 1.0,
                "vector": np.ones(2),
                "empty": np.ones((0, 1)),
                "two batches": (np.ones((2, 1)), np.ones((3, 1))),
                "no leaf": {},
            },
        },
        said={"layer": r"\blayer\b"},
    ),
    "amplitudes": Call(
        paths.amplitudes,
        lambda: {"kernels": KERNELS, "x": [1.0, 2.0, 1.0]},
        {
            "kernels": {**MATRICES, "samples": EACH.kernels(), "many": np.ones((30, 3, 3))},
            "x": {**NUMBERS, "number": 1.0, "shorter": X},
        },
        said={"kernels": "kernels|paths"},
    ),
    "sample": Call(
        paths.sample,
        lambda: {"kernels": KERNELS, "x": jnp.ones(3), "key": jax.random.key(0), "count": 2},
        {
            "kernels": {**MATRICES, "samples": EACH.kernels()},
            "x": {**NUMBERS, "number": 1.0, "shorter": X},
            "key": KEY,
            "count": HUGE,
        },
    ),
    "Equation": Call(
        paths.Equation,
        lambda: {"diffusion": np.float32(0.5), "drift": [1, 2], "potential": 1, "dimension": 2},
        {
            "diffusion": {
                **NUMBERS,
                "zero": 0.0,
                "negative": -1.0,
                "vector": np.ones(2),
                "other": np.eye(3),
                "no square": np.ones((2, 3)),
                "not symmetric": [[1.0, 2.0], [0.0, 1.0]],
                "indefinite": [[1.0, 2.0], [2.0, 1.0]],
            },
            "drift": {**TERM, "longer": np.ones(3), "matrix": np.eye(2)},
            "potential": {**TERM, "vector": np.ones(2)},
            "dimension": {**without(COUNT, "none"), "huge": 10**9, "other": 3},
        },
        said={"diffusion": "diffusion"},
    ),
    "Equation.of": Call(
        paths.Equation.of,
        lambda: {"coefficients": [0.0, 1.0, 0.5]},
        {
            "coefficients": {
                **NUMBERS,
                "module": EQUATIONS["operator"],
                "number": 1.0,
                "four": np.ones(4),
                "channels": np.ones((3, 2, 2)),
                "empty": [],
                "backward heat": [0.0, 1.0, -0.5],
            }
        },
        said={"coefficients": "coefficients|diffusion|numbers, got a Diff"},
    ),
    "Equation.velocity": Call(
        lambda: EQUATION.velocity,
        lambda: {"x": [[1]]},
        {"x": {**ARRAY, "number": 1.0, "wide": np.ones((2, 2)), "empty": np.ones((0, 1))}},
        made=True,
    ),
    "Equation.killing": Call(
        lambda: EQUATION.killing,
        lambda: {"x": [[1]]},
        {"x": {**ARRAY, "number": 1.0, "wide": np.ones((2, 2)), "empty": np.ones((0, 1))}},
        made=True,
    ),
    "Equation.lagrangian": Call(
        lambda: EQUATION.lagrangian,
        lambda: {"x": np.ones((2, 1)), "rate": np.ones((2, 1))},
        {
            "x": {**ARRAY, "number": 1.0, "wide": np.ones((2, 2)), "more": np.ones((3, 1))},
            "rate": {**ARRAY, "number": 1.0, "wide": np.ones((2, 2)), "more": np.ones((3, 1))},
        },
        made=True,
    ),
    "Equation.action": Call(
        lambda: EQUATION.action,
        lambda: {"path": np.ones((2, 1)), "time": 1},
        {
            "path": {**ARRAY, "number": 1.0, "wide": np.ones((2, 2)), "one": np.ones((1, 1))},
            "time": SPAN,
            "at": CHOICE,
        },
        made=True,
    ),
    "Equation.kernel": Call(
        lambda: EQUATION.kernel,
        lambda: {"new": np.ones((2, 1)), "old": np.ones((2, 1)), "dt": np.float32(1)},
        {
            "new": {**ARRAY, "number": 1.0, "wide": np.ones((2, 2)), "more": np.ones((3, 1))},
            "old": {**ARRAY, "number": 1.0, "wide": np.ones((2, 2)), "more": np.ones((3, 1))},
            "dt": SPAN,
            "at": CHOICE,
        },
        made=True,
    ),
    "composed": Call(
        paths.composed,
        lambda: {"equation": EQUATION, "values": np.ones(4), "period": 1, "time": 1.0, "steps": 1},
        {
            "equation": EQUATIONS,
            "values": {**NUMBERS, "number": 1.0, "grid": np.eye(2), "many": np.ones(5000)},
            "period": {**SPAN, "short": 1e-9},
            "time": {**SPAN, "long": 1e12},
            "steps": HUGE,
            "at": CHOICE,
        },
        said={"steps": "steps?"},
    ),
    "spectral": Call(
        paths.spectral,
        lambda: {"equation": EQUATION, "values": [1.0, 2.0], "period": 1, "time": np.float32(0)},
        {
            "equation": {**EQUATIONS, "varying": paths.Equation(0.5, jnp.sin)},
            "values": {**NUMBERS, "number": 1.0, "grid": np.eye(2), "empty": []},
            "period": SPAN,
            "time": TIME,
        },
    ),
    "feynman_kac": Call(
        paths.feynman_kac,
        lambda: {
            "equation": EQUATION,
            "initial": lambda x: x[..., 0],
            "x": [[1.0]],
            "time": 0,
            "steps": 1,
            "count": 2,
            "key": jax.random.key(0),
        },
        {
            "equation": EQUATIONS,
            "initial": {**FUNCTION, **RETURNS, "of two": lambda x, y: x, "class": nf.NeuralODE},
            "x": {**ARRAY, "number": 1.0, "wide": np.ones((2, 2)), "empty": np.ones((0, 1))},
            "time": TIME,
            "steps": HUGE,
            "count": {**COUNT, "one": 1, "huge": 10**12},
            "key": KEY,
        },
    ),
    "classical": Call(
        paths.classical,
        lambda: {"equation": EQUATION, "start": 0, "end": [1.0], "time": 1, "guess": [[0], [1]]},
        {
            "equation": EQUATIONS,
            "start": {**NUMBERS, "longer": np.ones(2), "empty": []},
            "end": {**NUMBERS, "longer": np.ones(2), "empty": []},
            "time": SPAN,
            "points": {**COUNT, "one": 1, "huge": 10**9},
            "guess": {**without(NUMBERS, "none"), "number": 1.0, "one": [[0.0]], "row": [0.0, 1.0]},
        },
    ),
    "gradient_paths": Call(
        paths.plots.gradient_paths,
        lambda: {"networks": {"net": (NETWORK, X)}, "axes": plots.figure(1, 2)[1]},
        {
            "networks": {
                "none": None,
                "text": "net",
                "empty": {},
                "list": [(NETWORK, X)],
                "network": {"net": NETWORK},
                "nothing": {"net": None},
                "triple": {"net": (NETWORK, X, X)},
                "number as name": {1: (NETWORK, X)},
                "no branches": {"net": (X, X)},
                "two depths": {"a": (NETWORK, X), "b": (paths.Branches.of(jnp.ones((1, 2, 2))), X)},
            },
            "axes": {
                "text": "axes",
                "number": 1,
                "list": [1, 2],
                "one": plots.figure(1, 1)[1],
                "figure": plots.figure(1, 2)[0],
            },
        },
    ),
    "gradient_paths of one": Call(
        lambda cotangent: paths.plots.gradient_paths({"net": (NETWORK, cotangent)}),
        lambda: {"cotangent": X},
        {"cotangent": {**VECTOR, "zero": jnp.zeros(2)}},
        said={"cotangent": "cotangent|parts"},
    ),
}
for function, state, more in (
    (paths.contributions, "x", {}),
    (paths.subpaths, "x", {}),
    (paths.gradients, "cotangent", {}),
    (paths.adjoints, "cotangent", {"skip": FLAG}),
):
    CALLS[function.__name__] = Call(
        function,
        functools.partial(dict, branches=NETWORK, **{state: [1.0, 2.0]}),
        {"branches": BRANCHES, state: VECTOR, **more},
    )
    CALLS[f"{function.__name__} of samples"] = Call(
        function,
        functools.partial(dict, branches=EACH, **{state: np.ones((3, 2))}),
        {state: {"samples": np.ones((4, 2))}},
    )
CALLS["subpaths of many"] = Call(
    lambda depth: paths.subpaths(paths.Branches.of(jnp.ones((depth, 1, 1))), jnp.ones(1)),
    lambda: {"depth": 1},
    {"depth": {"many": 23}},
    said={"depth": "sub-paths"},
)
test_wrong, test_good = refuse(CALLS)
