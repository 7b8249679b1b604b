"""Penalties refuse models, layers, states and numbers of a wrong kind."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from support.calls import COUNT, MODULE, POSITIVE, STATE, Call, refuse

import neuralflow as nf
from neuralflow import regularisers as R

MODEL = {**MODULE, "class": nnx.Linear, "constant": nnx.Linear(1, 1, rngs=nnx.Rngs(0))}
TAU = {**POSITIVE, "true": True, "row": np.ones(2)}
LAYER = {**MODULE, "class": nf.NeuralODE, "field": nf.from_function(lambda p, x: x)}
SAMPLES = {
    **STATE,
    "point": jnp.ones(2),
    "scalar": jnp.ones(()),
    "wide": jnp.ones((1, 3)),
    "whole": jnp.ones((1, 2), int),
    "true": jnp.ones((1, 2), bool),
    "complex": jnp.ones((1, 2), complex),
    "unequal": (jnp.ones((1, 2)), jnp.ones((2, 2))),
    "empty": (),
}
CONTEXT = {"array": jnp.ones(2), "text": "a"}
MOTION = {**MODULE, "array": jnp.ones((1, 2)), "class": nf.transport.Motion}


@functools.cache
def model():
    return nf.DepthVarying(
        lambda rngs: nnx.Linear(1, 1, rngs=rngs), nf.PiecewiseLinear(2), rngs=nnx.Rngs(0)
    )


def gradient():
    return nnx.state(model(), nnx.Param)


@functools.cache
def layer(solve=None):
    field = nf.fields.MLP(2, hidden=2, rngs=nnx.Rngs(0))
    return nf.NeuralODE(field, solve or nf.FixedGrid(nf.Euler(), steps=2))


@functools.cache
def motion():
    return nf.transport.Motion(lambda p, t: -p, jnp.ones((1, 2)), 0.0, nf.transport.Exact(), None)


def walk():
    return {"layer": layer(), "x": jnp.ones((1, 2))}


WALK = {"layer": LAYER, "x": SAMPLES, "context": CONTEXT}

CALLS = {
    "depth_energy": Call(
        R.depth_energy, lambda: {"model": model()}, {"model": MODEL, "tau": TAU}, {"model": "."}
    ),
    "sobolev": Call(
        R.sobolev, lambda: {"model": model()}, {"model": MODEL, "tau": TAU}, {"model": "."}
    ),
    "sobolev.update": Call(
        lambda: lambda gradient: R.sobolev(model()).update(gradient, optax.EmptyState()),
        lambda: {"gradient": gradient()},
        {"gradient": {**STATE, "number": 1.0, "shorter": {"a": jnp.ones(3)}}},
        {"gradient": "gradients"},
        made=True,
    ),
    "whitened": Call(
        R.whitened,
        lambda: {"model": model(), "gradient": gradient()},
        {
            "model": MODEL,
            "gradient": {
                **STATE,
                "number": 1.0,
                "shorter": {"a": jnp.ones(3)},
                "text inside": ["a", "b"],
                "numbers inside": [1.0, 2.0],
            },
            "tau": TAU,
        },
        {"model": ".", "gradient": "gradients"},
    ),
    "total_derivative": Call(
        R.total_derivative, lambda: {"order": 1}, {"order": {**COUNT, "huge": 10**6}}
    ),
    "kinetic_energy": Call(R.kinetic_energy, lambda: {"motion": motion()}, {"motion": MOTION}),
    "jacobian_frobenius": Call(
        R.jacobian_frobenius, lambda: {"motion": motion()}, {"motion": MOTION}
    ),
    "total_derivative.rate": Call(
        lambda: R.total_derivative(2), lambda: {"motion": motion()}, {"motion": MOTION}, made=True
    ),
    "step_costs": Call(
        R.step_costs,
        lambda: {"layer": layer(nf.Adaptive(nf.Heun(), 1e-1, 1e-1)), "x": jnp.ones((1, 2))},
        {
            **WALK,
            "layer": {
                **LAYER,
                "fixed": layer(),
                "continuous": layer(nf.Adaptive(nf.Heun(), gradient="continuous")),
            },
        },
        {"layer": r"\blayer\b|step_costs"},
    ),
    "inverse_consistency": Call(R.inverse_consistency, walk, WALK),
    "volume_change": Call(R.volume_change, walk, WALK),
}

test_wrong, test_good = refuse(CALLS)


def test_what_is_right_is_taken():
    # Signatures do not name all that is right, such as numbers of NumPy.
    loose: Any = R
    for tau in (1, np.float32(1), np.int64(1)):
        assert loose.depth_energy(model(), tau) > 0
    assert loose.inverse_consistency(layer(), np.ones((1, 2))).shape == (1,)
