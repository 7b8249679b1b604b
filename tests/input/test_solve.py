"""What discretisations and schemes refuse."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from flax import nnx
from support.calls import (
    CHOICE,
    COUNT,
    FLAG,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    STATE,
    Call,
    Wrong,
    refuse,
    without,
)
from support.wrong import wrong

import neuralflow as nf
from neuralflow import schemes
from neuralflow.checks import InputError
from neuralflow.schemes import analysis

X = jnp.ones((2, 3))


def numbers(*values):
    return (value for value in values)


SCHEME: Wrong = {
    "none": None,
    "text": "euler",
    "number": 1,
    "class": nf.Euler,
    "module": nnx.Module(),
    "two halves": diffrax.SemiImplicitEuler(),
    "noise": diffrax.ItoMilstein(),
    "stiff and not": diffrax.KenCarp4(),
}
STEPS: Wrong = {**COUNT, "huge": 10**9}
TIMES: Wrong = {
    "number": 0.5,
    "text": "01",
    "words": ["0", "1"],
    "generator": numbers(0.0, 1.0),
    "none inside": [0.0, None, 1.0],
    "nan inside": [0.0, np.nan, 1.0],
    "nested": [[0.0, 1.0]],
    "ragged": [[0.0], [0.5, 1.0]],
    "empty": [],
    "one": [0.0],
    "falling": [0.0, 0.7, 0.5, 1.0],
    "twice": [0.0, 0.5, 0.5, 1.0],
    "infinite": [0.0, np.inf],
    "beyond one": [0.0, 2.0],
    "complex": [0j, 1j],
    "booleans": [False, True],
    "object": object(),
}
ENDS: Wrong = {
    "none": None,
    "number": 0.5,
    "text": "01",
    "words": ("0", "1"),
    "generator": numbers(0.0, 1.0),
    "none inside": (0.0, None),
    "nan": (0.0, np.nan),
    "three": (0.0, 0.5, 1.0),
    "one": (0.0,),
    "falling": (0.7, 0.5),
    "beyond": (0.5, 1.5),
    "before": (-0.5, 0.5),
    "arrays": (jnp.zeros(2), jnp.ones(2)),
    "booleans": (False, True),
    "mapping": {0: 1},
}
COEFFICIENT: Wrong = {
    "none": None,
    "text": "0.5",
    "list": [0.5],
    "nan": np.nan,
    "infinite": np.inf,
    "nan of float32": np.float32(np.nan),
    "nan in an array": jnp.array([0.1, np.nan]),
    "nan learned": nnx.Param(jnp.nan),
    "words": np.array("a"),
    "learned words": schemes.PerStep(np.array(["a", "b"])),
    "complex": 1j,
    "complex array": jnp.array(1j),
    "boolean array": np.array(True),
    "true": True,
    "object": object(),
}
WEIGHTS: Wrong = {
    "none": None,
    "number": 1.0,
    "text": "1",
    "words": ["1"],
    "generator": numbers(1.0),
    "none inside": [None],
    "nan inside": [np.nan],
    "nested": [[1.0]],
    "empty": [],
    "not consistent": [0.25],
    "object": object(),
}
STARTER: Wrong = {"text": "rk4", "class": nf.RK4, "implicit": nf.ImplicitEuler(), "number": 1}
KIND: Wrong = {"unknown": "other", "number": 1, "true": True}
RATE: Wrong = {**POSITIVE, "above one": 1.5, "true": True}
BASES: Wrong = {"none": None, "number": 4, "text": "a", "numbers": [4], "classes": [nf.Legendre]}

LEARNED = {
    name: Call(getattr(schemes, name).learned, lambda: {"steps": np.int64(3)}, {"steps": STEPS})
    for name in ("FractalNet", "ConsistentFractalNet")
}
INNER = {
    **SCHEME,
    "implicit": nf.ImplicitEuler(),
    "carries": schemes.leapfrog(),
    "splitting": schemes.LieTrotter(),
    "fractal": schemes.FractalNet(),
}

CALLS = {
    "FixedGrid": Call(
        nf.FixedGrid,
        lambda: {"scheme": nf.Euler(), "steps": np.int64(2), "memory": "full", "ends": [0, 1]},
        {
            "scheme": {
                **SCHEME,
                "time before": diffrax.LeapfrogMidpoint(),
                "halves of steps": diffrax.HalfSolver(nf.Heun()),
            },
            "steps": {**STEPS, "int32": 2**31},
            "memory": CHOICE,
            "ends": {**ENDS, "equal": (0.5, 0.5)},
        },
        said={"steps": "steps|exactly one"},
    ),
    "FixedGrid of times": Call(
        nf.FixedGrid,
        lambda: {"scheme": nf.Euler(), "times": np.array([0.0, 0.1, 1.0]), "ends": (0.1, 1.0)},
        {"times": {"none": None, **TIMES}, "steps": {"as well": 3}},
    ),
    "FixedGrid.refined": Call(
        nf.FixedGrid(nf.Euler(), steps=2).refined,
        lambda: {"parts": 2, "scheme": None},
        {"parts": STEPS, "scheme": {**without(SCHEME, "none"), "empty": ""}},
    ),
    "FixedGrid.part": Call(
        nf.FixedGrid(nf.Euler(), steps=2).part,
        lambda: {"start": 0.25, "stop": 0.5},
        {
            "start": {**NUMBER, "negative": -0.1, "stop": 0.5},
            "stop": {**NUMBER, "beyond": 1.1, "start": 0.25},
        },
        said={"start": "ends", "stop": "ends"},
    ),
    "FixedGrid.plan": Call(
        nf.FixedGrid(nf.Euler(), steps=4).plan,
        lambda: {"bases": [nf.PiecewiseConstant(2)]},
        {"bases": {**BASES, "crossed": [nf.PiecewiseConstant(3)]}},
        said={"bases": "bases|crosses"},
    ),
    "Adaptive": Call(
        nf.Adaptive,
        lambda: {
            "scheme": nf.Tsit5(),
            "rtol": np.float32(1e-3),
            "atol": jnp.asarray(1e-3),
            "max_steps": np.int64(2**31 - 1),
            "gradient": "direct",
            "per_sample": True,
            "context_axes": {"c": None, "d": 0},
            "output": "stepped",
            "ends": (0.0, np.float32(0.5)),
        },
        {
            "scheme": {**SCHEME, "without an error": nf.Euler(), "blind": nf.RK4()},
            "rtol": {**NOT_NEGATIVE, "true": True, "complex": 1j, "array": jnp.ones(2)},
            "atol": {**NOT_NEGATIVE, "true": True, "words": np.array("1")},
            "max_steps": {**COUNT, "int32": 2**31, "huge": 2**80},
            "gradient": CHOICE,
            "per_sample": FLAG,
            "context_axes": {"one": 1, "text": "0", "true": True, "object": object()},
            "output": CHOICE,
            "ends": ENDS,
        },
        said={"scheme": "scheme|error estimate"},
    ),
    "Adaptive.refined": Call(
        nf.Adaptive(nf.Tsit5()).refined,
        lambda: {"parts": 2, "scheme": nf.Dopri5()},
        {"parts": COUNT, "scheme": {**without(SCHEME, "none"), "without an error": nf.Euler()}},
        said={"scheme": "scheme|error estimate"},
    ),
    "Adaptive.part": Call(
        nf.Adaptive(nf.Tsit5()).part,
        lambda: {"start": 0.5, "stop": 0.5},
        {"start": {**NUMBER, "negative": -0.1}, "stop": {**NUMBER, "start": 0.25}},
        said={"start": "ends", "stop": "ends"},
    ),
    "PolyNet": Call(schemes.PolyNet, lambda: {"degree": 2}, {"degree": STEPS}),
    "FixedPointEuler": Call(
        schemes.FixedPointEuler, lambda: {"iterations": 2}, {"iterations": STEPS}
    ),
    "FractalNet": Call(
        schemes.FractalNet,
        lambda: dict.fromkeys(["k1", "k2", "k3", "c1", "c2"], np.float32(0.5)),
        dict.fromkeys(["k1", "k2", "k3", "c1", "c2"], COEFFICIENT),
    ),
    "ConsistentFractalNet": Call(
        schemes.ConsistentFractalNet,
        lambda: {"k2": 1, "c1": schemes.PerStep(jnp.ones(3))},
        {"k2": COEFFICIENT, "c1": COEFFICIENT},
    ),
    **LEARNED,
    "FractalExpansion": Call(
        schemes.FractalExpansion,
        lambda: {"joins": np.array([0.5, 2.0])},
        {
            "joins": {
                "none": None,
                "number": 0.5,
                "text": "a",
                "empty": [],
                "generator": numbers(0.5),
                "none inside": [None],
                "nan inside": [0.5, np.nan],
                "one array": jnp.ones(()),
                "many": [0.5] * 40,
                "variable": nnx.Param(jnp.ones(2)),
            }
        },
    ),
    "FractalExpansion.learned": Call(
        schemes.FractalExpansion.learned,
        lambda: {"columns": 3, "steps": 2},
        {"columns": {**COUNT, "one": 1, "huge": 64}, "steps": STEPS},
    ),
    "LMResNet": Call(
        schemes.LMResNet,
        lambda: {"k": np.float32(-0.1), "before": X},
        {"k": COEFFICIENT, "before": without(STATE, "none")},
    ),
    "LMResNet.after": Call(schemes.LMResNet(-0.1).after, lambda: {"before": X}, {"before": STATE}),
    "LMResNet.learned": Call(
        schemes.LMResNet.learned,
        lambda: {"steps": 3, "channels": None, "rngs": nnx.Rngs(0)},
        {
            "steps": {**STEPS, "one": 1},
            "channels": {**without(COUNT, "none"), "huge": 2**40},
            "rngs": {"none": None, "seed": 0, "key": jax.random.key(0), "class": nnx.Rngs},
        },
    ),
    "ConsistentLM": Call(
        schemes.ConsistentLM,
        lambda: {"k": nnx.Param(jnp.ones(3))},
        {"k": COEFFICIENT, "before": without(STATE, "none")},
    ),
    "LinearMultistep": Call(
        schemes.LinearMultistep,
        lambda: {"alpha": (1,), "beta": np.array([1.5, -0.5]), "starter": None},
        {"alpha": WEIGHTS, "beta": WEIGHTS, "starter": STARTER, "restart": FLAG},
        said={"alpha": "alpha", "beta": "beta"},
    ),
    **{
        f"{type(scheme).__name__}.order": Call(
            scheme.order,
            lambda: {"terms": None, "basis": nf.PiecewiseLinear(3)},
            {"basis": {"text": "linear", "cells": 3, "class": nf.PiecewiseLinear}},
        )
        for scheme in (
            schemes.adams_bashforth(2, restart=True),
            schemes.LMResNet(0.1),
            schemes.leapfrog(),
        )
    },
    "adams_bashforth": Call(
        schemes.adams_bashforth,
        lambda: {"order": 2, "starter": nf.Heun()},
        {"order": {**COUNT, "beyond": 6, "huge": 10**9}, "starter": STARTER, "restart": FLAG},
    ),
    "leapfrog": Call(schemes.leapfrog, lambda: {"restart": True}, {"restart": FLAG}),
    "momentum": Call(
        schemes.momentum, lambda: {"gamma": np.float32(0.5)}, {"gamma": {**RATE, "one": 1.0}}
    ),
    "Reversible": Call(
        schemes.Reversible,
        lambda: {"scheme": nf.Heun(), "coupling": np.float32(0.5)},
        {
            "scheme": {**SCHEME, "implicit": nf.ImplicitEuler(), "carries": schemes.leapfrog()},
            "coupling": RATE,
        },
        said={"scheme": "scheme|Reversible"},
    ),
    **{
        splitting.__name__: Call(
            splitting, lambda: {"inner": nf.Heun()}, {"inner": INNER}, said={"inner": "scheme"}
        )
        for splitting in (schemes.LieTrotter, schemes.Strang)
    },
    "RK4": Call(nf.RK4, lambda: {"scan_kind": "lax"}, {"scan_kind": KIND}),
    "ThreeEighths": Call(nf.ThreeEighths, lambda: {"scan_kind": None}, {"scan_kind": KIND}),
    "ImplicitTrapezoid": Call(
        schemes.ImplicitTrapezoid,
        lambda: {"root_finder": optx.Newton(1e-3, 1e-3), "root_find_max_steps": 3},
        {
            "scan_kind": KIND,
            "root_finder": {"none": None, "text": "newton", "class": optx.Newton},
            "root_find_max_steps": {**COUNT, "int32": 2**31},
        },
    ),
    "order_conditions": Call(
        analysis.order_conditions,
        lambda: {"scheme": nf.Heun(), "order": 2},
        {"scheme": SCHEME, "order": {**COUNT, "huge": 10**9}},
    ),
    "derived_order": Call(
        analysis.derived_order,
        lambda: {"scheme": schemes.Reversible(nf.Euler())},
        {
            "scheme": {
                **SCHEME,
                "rows": schemes.FractalNet.learned(2),
                "continued": schemes.LMResNet(0.0).after(X),
                "two terms": diffrax.SemiImplicitEuler(),
                "noise": diffrax.EulerHeun(),
            }
        },
        said={"scheme": "scheme|FractalNet|LMResNet"},
    ),
    "observed_order": Call(
        analysis.observed_order,
        lambda: {"scheme": nf.Euler(), "steps": 1},
        {"scheme": SCHEME, "steps": {**COUNT, "huge": 10**9}},
    ),
    "walk": Call(
        analysis.walk,
        lambda: {"scheme": nf.Euler(), "velocity": lambda x, t: x, "x": X, "end": 1, "steps": 1},
        {
            "scheme": SCHEME,
            "velocity": {"none": None, "text": "a", "of one": lambda x: x},
            "x": STATE,
            "end": NUMBER,
            "steps": {**COUNT, "huge": 10**9},
        },
    ),
    "modified_equation": Call(
        analysis.modified_equation,
        lambda: {"scheme": nf.Euler(), "velocity": lambda x: x, "x": jnp.ones(1)},
        {
            "scheme": SCHEME,
            "velocity": {"none": None, "text": "a", "of two": lambda x, t: x},
            "x": STATE,
        },
    ),
    "stability_function": Call(
        analysis.stability_function,
        lambda: {"scheme": nf.Heun(), "z": -1},
        {
            "scheme": SCHEME,
            "z": {"none": None, "text": "1", "object": object(), "ragged": [[1], [1, 2]]},
        },
    ),
    "amplification": Call(
        analysis.amplification,
        lambda: {"scheme": nf.Euler(), "z": [-1.0]},
        {"scheme": SCHEME, "z": {"none": None, "text": "1", "object": object()}},
    ),
    "growth": Call(
        analysis.growth,
        lambda: {"scheme": nf.Euler(), "z": np.array([-1j])},
        {"scheme": SCHEME, "z": {"none": None, "text": "1", "object": object()}},
    ),
    "region": Call(
        analysis.region,
        lambda: {"scheme": nf.Heun(), "real": (-1.0, 0.0), "imaginary": [0, 1], "points": 2},
        {
            "scheme": SCHEME,
            "real": {
                "none": None,
                "text": "ab",
                "words": ("a", "b"),
                "falling": (1, 0),
                "one": (1,),
            },
            "imaginary": {"number": 1.0, "nan": (0, np.nan), "generator": numbers(0, 1)},
            "points": {**COUNT, "one": 1, "huge": 10**6},
        },
    ),
    "stability_limit": Call(
        analysis.stability_limit,
        lambda: {"scheme": nf.Heun(), "largest": np.float32(8)},
        {"scheme": SCHEME, "largest": POSITIVE},
    ),
    "StableSteps": Call(analysis.StableSteps, lambda: {"scheme": nf.Heun()}, {"scheme": SCHEME}),
    "StableSteps.excess": Call(
        lambda: analysis.StableSteps(nf.Euler()).excess,
        lambda: {"z": [-1.0, 1j]},
        {"z": {"none": None, "text": "1", "object": object(), "ragged": [[1], [1, 2]]}},
        made=True,
    ),
    "StableSteps.longest": Call(
        lambda: analysis.StableSteps(nf.Euler()).longest,
        lambda: {"rates": [-1.0, 1j]},
        {
            "rates": {"none": None, "text": "1", "object": object()},
            "largest": without(POSITIVE, "list"),
            "scan": {**COUNT, "few": 15, "huge": 10**9},
            "exact": FLAG,
        },
        said={"rates": "z must be"},
        made=True,
    ),
}

test_wrong, test_good = refuse(CALLS)


def grown(max_steps, per_sample=False):
    """A layer whose gradient keeps the edges of so many steps."""
    solve = nf.Adaptive(
        nf.Tsit5(), rtol=1e-2, atol=1e-2, max_steps=max_steps, per_sample=per_sample
    )
    return nf.NeuralODE(nf.from_function(lambda a, x: a * x, jnp.ones(())), solve)


def test_a_gradient_that_keeps_too_many_edges_of_steps_is_refused():
    with pytest.raises(InputError, match="keeps the edges of max_steps=1000000000 steps"):
        jax.grad(lambda x: grown(10**9)(x).sum())(X)
    with pytest.raises(InputError, match="200 solve"):
        jax.grad(lambda x: grown(10**7, True)(x).sum())(jnp.ones((200, 1)))
    assert jnp.isfinite(grown(10**9)(X)).all()  # a solve alone keeps no edges


def test_states_of_different_numbers_of_samples_have_no_steps_of_their_own():
    with pytest.raises(InputError, match="length must be the same"):
        grown(10, True)((jnp.ones((2, 1)), jnp.ones((3, 1))))


def test_ends_in_a_trace_are_not_numbers_of_a_fixed_grid():
    with pytest.raises(InputError, match="planned before"):
        jax.jit(lambda end: nf.FixedGrid(nf.Euler(), steps=2, ends=(0.0, end)).steps)(0.5)
    with pytest.raises(InputError, match="times must be known numbers"):
        jax.jit(lambda t: nf.FixedGrid(nf.Euler(), times=wrong([0.0, t, 1.0])).steps)(0.5)
