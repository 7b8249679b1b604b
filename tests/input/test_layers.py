"""What layers, their branches and the check of their gradients refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.calls import (
    ARRAY,
    COUNT,
    FLAG,
    FUNCTION,
    FUNCTION_OF_TWO,
    MODULE,
    NOT_WHOLE,
    NUMBER,
    SEED,
    STATE,
    Call,
    Wrong,
    refuse,
    without,
)
from support.wrong import wrong

import neuralflow as nf
from neuralflow.checks import InputError
from neuralflow.solve import Discretisation

X = jnp.ones((2, 3))
EULER = nf.FixedGrid(nf.Euler(), steps=2)
ADAPTIVE = nf.Adaptive(nf.Tsit5(), rtol=1e-2, atol=1e-2)


def field():
    return nf.from_function(lambda a, x, t: a * x + t, jnp.array(1.0))


def conditioned():
    return nf.from_function(lambda a, x, context=None: 2.0 * x)


STEADY = nf.from_function(lambda a, x: a * x, 1.0)
TIMED = nf.from_function(lambda a, x, t: a * x + t, 1.0)


def layer(solve: Discretisation = EULER):
    return nf.NeuralODE(field(), solve)


def narrow(solve: Discretisation = EULER):
    return nf.NeuralODE(nnx.Linear(3, 3, rngs=nnx.Rngs(0), param_dtype=jnp.float64), solve)


def numbers(*values):
    return (value for value in values)


SHAPE: Wrong = {
    **STATE,
    "numbers in a list": [[1.0, 2.0, 3.0]],
    "class": np.float32,
    "booleans": np.ones((2, 3), bool),
    "whole numbers": np.ones((2, 3), int),
    "objects": np.array([[None] * 3]),
    "generator": numbers(1.0),
    "keys": jax.random.split(jax.random.key(0)),
    "no arrays": (),
    "two precisions": (np.ones(2, np.float32), np.ones(2)),
}
"""For a state of any field."""
WIDTH: Wrong = {
    **SHAPE,
    "narrow": jnp.ones((2, 2)),
    "wide": jnp.ones((2, 5)),
    "number": jnp.ones(()),
    "pair": (X, X),
    "names": {"x": X},
    "empty": jnp.ones((2, 0)),
}
"""For a state of a field that takes arrays with a last axis of three."""
SOME: Wrong = {name: WIDTH[name] for name in ("none", "words", "narrow", "number", "pair")}
CONTEXT: Wrong = {
    "text": "c",
    "object": object(),
    "words": np.array(["c"]),
    "objects": np.array([None]),
    "function": np.tanh,
}
DEPTHS: Wrong = {
    "number": 0.5,
    "text": "all",
    "words": ["0.1", "0.5"],
    "generator": numbers(0.1, 0.5),
    "none inside": [None, 0.5],
    "nested": [[0.1, 0.5]],
    "ragged": [[0.1], [0.2, 0.3]],
    "matrix": jnp.ones((2, 1)),
    "empty": [],
    "no numbers": np.zeros(0),
    "nan": [0.1, np.nan],
    "infinite": [0.1, np.inf],
    "outside": [0.1, 1.5],
    "before": [-0.1, 0.5],
    "falling": [0.5, 0.1],
    "booleans": [False, True],
    "complex": [0.1j],
    "mapping": {0.1: 0.5},
    "set": {0.1, 0.5},
    "object": object(),
}
TIME: Wrong = {**NUMBER, "few": [0.3], "array": jnp.ones(2), "true": True, "complex": 1j}
"""For one depth time."""
INSIDE: Wrong = {**TIME, "before": -0.5, "behind": 1.5}
ENDING: Wrong = {**TIME, "param of text": np.array("1")}
SOLVE: Wrong = {
    "none": None,
    "scheme": nf.Euler(),
    "class": nf.FixedGrid,
    "text": "euler",
    "number": 4,
}
FIELD: Wrong = {**MODULE, "class": nnx.Linear, "empty": nnx.Module(), "list": [nnx.Module()]}
BRANCHES: Wrong = {
    "none": None,
    "text": "ab",
    "number": 2,
    "empty": [],
    "generator": numbers(nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
    "functions": [np.tanh],
    "classes": [nnx.Linear],
    "of two widths": [nnx.Linear(n, n, rngs=nnx.Rngs(0)) for n in (2, 3)],
    "one": nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
}
UNITS = nf.HiddenUnits({"dense.0.kernel": 1})
FINER = nf.PiecewiseLinear(2)


def perceptrons(*widths):
    return [nf.fields.MLP(2, hidden=n, rngs=nnx.Rngs(n)) for n in widths or (3, 3)]


CALLS = {
    "NeuralODE": Call(
        lambda **options: nf.NeuralODE(**options),
        lambda: {"field": field(), "solve": EULER, "t0": 0.0, "t1": 1.0},
        {
            "field": FIELD,
            "solve": SOLVE,
            "t0": {**ENDING, "t1": 1.0, "a rounding below": 1 - 2**-53},
            "t1": {**ENDING, "t0": 0.0, "learned row": nnx.Param(jnp.ones(2))},
        },
        said={"field": "field|callable", "t0": r"\bt0\b", "t1": r"\bt1\b"},
    ),
    "call": Call(lambda: narrow(), lambda: {"x": X}, {"x": WIDTH}, made=True, said={"x": r"\bx\b"}),
    "adaptive call": Call(
        lambda: narrow(ADAPTIVE), lambda: {"x": X}, {"x": WIDTH}, made=True, said={"x": r"\bx\b"}
    ),
    "per-sample call": Call(
        lambda: narrow(nf.Adaptive(nf.Tsit5(), rtol=1e-2, atol=1e-2, per_sample=True)),
        lambda: {"x": X},
        {"x": SOME},
        made=True,
    ),
    "implicit call": Call(
        lambda: narrow(nf.FixedGrid(nf.ImplicitEuler(), steps=1)),
        lambda: {"x": X},
        {"x": SOME},
        made=True,
    ),
    "call with a context": Call(
        lambda: nf.NeuralODE(conditioned(), EULER),
        lambda: {"x": X, "context": {"c": X}},
        {"context": CONTEXT},
        made=True,
    ),
    "solve": Call(
        lambda: narrow().solve,
        lambda: {"x": X, "depths": [0.2, 1.0]},
        {"x": WIDTH, "depths": DEPTHS},
        made=True,
    ),
    "trajectory": Call(
        lambda: layer().trajectory,
        lambda: {"x": X, "depths": (0.0, np.float32(0.5), jnp.ones(()))},
        {"x": SHAPE, "depths": DEPTHS},
        made=True,
    ),
    "adaptive trajectory": Call(
        lambda: layer(ADAPTIVE).trajectory,
        lambda: {"x": X, "depths": range(2)},
        {"x": SHAPE, "depths": {"none": None, **DEPTHS}},
        made=True,
    ),
    "backward trajectory": Call(
        lambda: layer().reverse().trajectory,
        lambda: {"x": X, "depths": [1.0, 0.5]},
        {"depths": {"rising": [0.5, 1.0], "outside": [1.5, 0.5]}},
        made=True,
    ),
    "invert": Call(
        lambda: nf.NeuralODE(nf.from_function(lambda a, x: 0.1 * x @ jnp.eye(3)), EULER).invert,
        lambda: {"y": X},
        {"y": SOME},
        said={"y": r"\bx\b"},
        made=True,
    ),
    "per_step": Call(
        lambda: narrow().per_step,
        lambda: {"x": X, "function": lambda block, x: block(x)},
        {"x": SOME, "function": FUNCTION_OF_TWO},
        made=True,
    ),
    "velocity": Call(
        lambda: narrow().velocity,
        lambda: {"x": X, "t": np.float32(0.3)},
        {"x": WIDTH, "t": INSIDE},
        made=True,
    ),
    "velocity in time": Call(
        lambda: layer().velocity, lambda: {"x": X, "t": 1}, {"x": SHAPE, "t": INSIDE}, made=True
    ),
    "velocity in a context": Call(
        lambda: nf.NeuralODE(conditioned(), EULER).velocity,
        lambda: {"x": X, "t": 0.5, "context": 1.0},
        {"context": CONTEXT},
        made=True,
    ),
    "between": Call(
        lambda: layer().between,
        lambda: {"start": 0.5, "stop": jnp.ones(())},
        {"start": {**INSIDE, "stop": 1.0}, "stop": {**INSIDE, "start": 0.5, "before start": 0.2}},
        made=True,
    ),
    "adaptive between": Call(
        lambda: layer(ADAPTIVE).between,
        lambda: {"start": 0.7, "stop": 0.7},
        {"start": {**INSIDE, "behind stop": 0.8}, "stop": {**INSIDE, "before start": 0.2}},
        made=True,
    ),
    "with_solve": Call(
        lambda: layer().with_solve, lambda: {"solve": ADAPTIVE}, {"solve": SOLVE}, made=True
    ),
    "with_field": Call(
        lambda: layer().with_field,
        lambda: {"field": conditioned()},
        {"field": FIELD},
        said={"field": "field|callable"},
        made=True,
    ),
    "from_branches": Call(
        nf.from_branches,
        lambda: {"branches": [nnx.Linear(2, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1)]},
        {
            "branches": BRANCHES,
            "scheme": {
                "text": "euler",
                "number": 1,
                "class": nf.Euler,
                "splitting": nf.schemes.LieTrotter(),
            },
        },
        said={"branches": "branch|module|time", "scheme": "scheme|splitting|LieTrotter"},
    ),
    "from_branches of transformers": Call(
        nf.from_branches,
        lambda: {
            "branches": [nf.fields.Split(STEADY, STEADY)] * 2,
            "scheme": nf.schemes.LieTrotter(),
        },
        {
            "branches": {
                **BRANCHES,
                "plain": [STEADY],
                "timed part": [nf.fields.Split(STEADY, TIMED)],
            }
        },
        said={"branches": "branch|module|time|Split"},
    ),
    "fit_branches": Call(
        nf.fit_branches,
        lambda: {
            "branches": perceptrons(),
            "basis": nf.PiecewiseConstant(2),
            "units": None,
            "x": X[:, :2],
            "context": None,
            "steps": 0,
            "progress": False,
        },
        {
            "progress": FLAG,
            "branches": {**BRANCHES, "of two widths": perceptrons(3, 4)},
            "basis": {"none": None, "number": 2, "class": nf.PiecewiseConstant, "finer": FINER},
            "units": {
                "text": "dense",
                "mapping": {"dense.0.kernel": 1},
                "names": ["dense.0.kernel"],
                "generator": numbers(UNITS),
                "one": UNITS,
                "no axis": [UNITS],
                "unknown": [nf.HiddenUnits({"kernel": 1})],
                "another axis": [nf.HiddenUnits({"dense.0.kernel": 2})],
            },
            "x": without({**WIDTH, "one example": jnp.ones(2)}, "none", "narrow"),
            "context": CONTEXT,
            "steps": without(COUNT, "zero"),
        },
        said={"branches": "branch|module|time", "basis": "basis|coefficients"},
    ),
    "frozen": Call(
        nf.frozen, lambda: {"module": nnx.BatchNorm(2, rngs=nnx.Rngs(0))}, {"module": MODULE}
    ),
    "HiddenUnits": Call(
        nf.HiddenUnits,
        lambda: {
            "axes": {"kernel1": 1, "kernel2": 0},
            "incoming": ("kernel1",),
            "outgoing": ["kernel2"],
            "odd": True,
            "homogeneous": False,
            "groups": 2,
        },
        {
            "axes": {**FUNCTION, "empty": {}, "floats": {"a": 0.5}, "numbers": {1: 1}},
            "incoming": {**FUNCTION, "unknown": ("bias1",), "empty": ()},
            "outgoing": {**FUNCTION, "unknown": ("bias1",), "empty": (), "objects": [None]},
            "odd": FLAG,
            "homogeneous": FLAG,
            "groups": COUNT,
        },
    ),
    "hidden_units": Call(
        nf.branches.hidden_units,
        lambda: {"branch": nf.fields.MLP(2, hidden=3, rngs=nnx.Rngs(0))},
        {"branch": MODULE},
    ),
    "Affine": Call(
        nf.branches.Affine,
        lambda: {"scale": jnp.ones(2), "bias": jnp.ones(2), "axis": -1, "dtype": jnp.float32},
        {
            "scale": {**ARRAY, "number": 1.0, "list": [1.0, 1.0], "whole": np.ones(2, int)},
            "bias": {**ARRAY, "list": [1.0, 1.0], "long": jnp.ones(3)},
            "axis": NOT_WHOLE,
            "dtype": {"text": "wide", "whole": int},
        },
    ),
    "call of Affine": Call(
        lambda: nf.branches.Affine(jnp.ones(3), jnp.ones(3)),
        lambda: {"x": X},
        {"x": {**STATE, "narrow": X[:, :2], "number": jnp.ones(()), "whole": np.ones((2, 3), int)}},
        made=True,
    ),
    "to_branches": Call(
        nf.to_branches,
        lambda: {"layer": layer()},
        {
            "layer": {
                **MODULE,
                "field": conditioned(),
                "adaptive": layer(ADAPTIVE),
                "backward": layer().reverse(),
                "another scheme": layer(nf.FixedGrid(nf.RK4(), steps=2)),
                "class": nf.NeuralODE,
            }
        },
        said={"layer": "layer|stack of residual blocks"},
    ),
    "check_gradient": Call(
        nf.check_gradient,
        lambda: {
            "layer": nf.NeuralODE(conditioned(), nf.FixedGrid(nf.Euler(), steps=1)),
            "x": X[:1, :1],
            "context": 1,
            "loss": jnp.sum,
            "seed": 0,
        },
        {
            "layer": {**MODULE, "field": conditioned()},
            "x": SHAPE,
            "context": CONTEXT,
            "loss": {
                **without(FUNCTION, "none"),
                "of two": lambda x, y: x,
                "array": lambda x: x[0],
            },
            "seed": SEED,
        },
    ),
}

test_wrong, test_good = refuse(CALLS)


@pytest.mark.parametrize("solve", [EULER, ADAPTIVE], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("start", [1.0, -3.0, 1e6])
def test_an_interval_of_one_rounding_of_the_state_is_empty(solve, start):
    end = float(np.nextafter(np.float32(start), np.float32(2 * abs(start))))
    short = nf.NeuralODE(field(), solve, start, end)  # float64 tells the ends apart
    with pytest.raises(InputError, match=r"empty or endless in float32"):
        short(X.astype(jnp.float32))
    with pytest.raises(InputError, match=r"empty or endless in float32"):
        jax.jit(short)(X.astype(jnp.float32))
    with pytest.raises(InputError, match="empty or endless in float64"):
        nf.NeuralODE(field(), solve, start, np.nextafter(start, np.inf))


def test_an_interval_of_one_rounding_of_another_precision_is_walked():
    short = nf.NeuralODE(field(), EULER, 1.0, float(np.nextafter(np.float32(1), np.float32(2))))
    assert jnp.isfinite(short(X)).all()


def test_an_interval_beyond_the_range_of_the_state_is_endless():
    with pytest.raises(InputError, match="empty or endless in float32"):
        nf.NeuralODE(field(), EULER, 0.0, 1e200)(X.astype(jnp.float32))


def test_a_list_of_traced_depths_is_a_row_of_depths():
    states = jax.jit(lambda t: layer().trajectory(X, [0.0, t]))(0.5)
    assert jnp.array_equal(states, layer().trajectory(X, [0.0, 0.5]))


def test_the_error_of_a_field_stays_the_cause():
    def broken(params, x):
        return x.nothing

    for run in (layer(), layer(ADAPTIVE)):
        with pytest.raises(InputError, match=r"shape \(2, 3\).*AttributeError") as caught:
            run.with_field(nf.from_function(broken))(X)
        cause = caught.value.__cause__
        assert isinstance(cause, AttributeError)
        trace, names = cause.__traceback__, []
        while trace:
            names.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert "broken" in names


def test_errors_that_do_not_come_from_x_stay_as_they_are():
    def broken(params, x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        layer().with_field(nf.from_function(broken))(X)


def test_depth_times_that_are_no_numbers_are_not_covered():
    assert layer().covers(0, 0.5, np.float32(1))
    assert not any(layer().covers(wrong(t)) for t in (None, "0", [0.1], [[1], [1, 2]], True, 1j))
