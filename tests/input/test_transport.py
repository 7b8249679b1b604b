"""Flows that carry something refuse layers, samples, depth times and keys of a wrong kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from support.calls import CHOICE, COUNT, FUNCTION, KEY, MODULE, POSITIVE, STATE, Call, refuse
from support.wrong import wrong

import neuralflow as nf
from neuralflow import transport as T

FORWARD = {**MODULE, "class": nf.NeuralODE, "field": nf.from_function(lambda p, x: x)}
SAMPLES = {
    **STATE,
    "point": jnp.ones(2),
    "scalar": jnp.ones(()),
    "wide": jnp.ones((1, 3)),
    "whole": jnp.ones((1, 2), int),
    "true": jnp.ones((1, 2), bool),
    "complex": jnp.ones((1, 2), complex),
    "unequal": (jnp.ones((1, 2)), jnp.ones((2, 2))),
    "nothing": (),
}
POINTS = {**STATE, "point": jnp.ones(2), "deep": jnp.ones((1, 2, 1)), "whole": np.ones((1, 2), int)}
CONTEXT = {"array": jnp.ones(2), "text": "a"}
DIVERGENCE = {
    **FUNCTION,
    "class": T.Exact,
    "function": T.divergence,
    "without a key": T.Hutchinson(),
}
DEPTH = {
    "none": None,
    "text": "0.5",
    "list": [0.5],
    "row": jnp.ones(2) / 2,
    "nan": np.nan,
    "after": 1.5,
    "before": -0.5,
    "true": True,
    "infinite": np.inf,
}
STEP = {**POSITIVE, "long": 0.3, "true": True}
MOTION = {**MODULE, "array": jnp.ones((1, 2)), "class": T.Motion}
PUSH = {**FUNCTION}
SIZE = {**COUNT, "huge": 2**40}


class Normal:
    def log_prob(self, y):
        return -jnp.sum(y**2, axis=1) / 2

    def sample(self, key, shape):
        return jax.random.normal(key, (*shape, 2))


class Lines:
    """A distribution over single coordinates."""

    log_prob = Normal.log_prob

    def sample(self, key, shape):
        return jax.random.normal(key, shape)


class Words:
    log_prob = Normal.log_prob

    def sample(self, key, shape):
        return "a"


@functools.cache
def layer():
    field = nf.fields.MLP(2, hidden=2, rngs=nnx.Rngs(0))
    return nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=1))


def walk():
    return {"layer": layer(), "x": jnp.ones((1, 2))}


def motion(**options):
    return T.Motion(
        **{
            "velocity": lambda p, t: -p,
            "points": jnp.ones((1, 2)),
            "time": 0.0,
            "estimator": T.Exact(),
            "probes": None,
            **options,
        }
    )


def carried(kind, **options):
    return kind(layer(), lambda x: x[:, 0], given="end", **options)


def flow(**options):
    return T.NormalisingFlow(layer(), wrong(Normal()), **options)


def random_flow():
    return T.NormalisingFlow(layer(), wrong(Normal()), T.Hutchinson(), rngs=nnx.Rngs(0))


def along_with(rate):
    return lambda layer, x: T.along(layer, x, rate)


def drawn(estimator):
    return Call(
        lambda: estimator.draw,
        lambda: {"key": jax.random.key(0), "points": jnp.ones((1, 2))},
        {"key": KEY, "points": POINTS},
        made=True,
    )


def summed(estimator, probes):
    return Call(
        lambda: estimator.jacobian,
        lambda: {"push": lambda e: e, "points": jnp.ones((1, 2)), "probes": probes},
        {
            "push": FUNCTION,
            **({"points": POINTS} if probes is None else {}),
            **({} if probes is None else {"probes": {**STATE, "few": jnp.ones((1, 2))}}),
        },
        made=True,
    )


WALK = {"layer": FORWARD, "x": SAMPLES, "context": CONTEXT}
SHIFT = nf.from_function(lambda a, x: a + x, 1.0)
VISIT = {"x": SAMPLES, "t": DEPTH, "context": CONTEXT}
RESIDUAL = {**VISIT, "step": STEP}


def visit():
    return {"x": jnp.ones((1, 2)), "t": 0.5}


CALLS = {
    "Hutchinson": Call(T.Hutchinson, lambda: {"probes": 1}, {"probes": SIZE}),
    "HutchPlusPlus": Call(T.HutchPlusPlus, lambda: {"probes": 1}, {"probes": SIZE}),
    "Hutchinson.draw": drawn(T.Hutchinson()),
    "HutchPlusPlus.draw": drawn(T.HutchPlusPlus()),
    "Exact.jacobian": summed(T.Exact(), None),
    "Hutchinson.jacobian": summed(T.Hutchinson(), jnp.ones((1, 1, 2))),
    "HutchPlusPlus.jacobian": summed(T.HutchPlusPlus(), jnp.ones((2, 1, 2))),
    "Motion": Call(
        motion,
        dict,
        {
            "velocity": FUNCTION,
            "points": POINTS,
            "time": {k: v for k, v in DEPTH.items() if k not in ("after", "before")},
            "estimator": {**FUNCTION, "class": T.Exact},
            "probes": {"text": "a", "flat": jnp.ones(2)},
        },
    ),
    "Motion.derivative": Call(
        lambda: motion().derivative,
        lambda: {"order": 1},
        {"order": {**COUNT, "huge": 10**6}},
        made=True,
    ),
    "divergence": Call(T.divergence, lambda: {"motion": motion()}, {"motion": MOTION}),
    "along": Call(
        lambda **given: T.along(given.pop("layer"), given.pop("x"), T.divergence, **given),
        walk,
        {
            **WALK,
            "divergence": DIVERGENCE,
            "key": {k: v for k, v in KEY.items() if k != "none"},
        },
        {"divergence": r"\bdivergence\b|random probes"},
    ),
    "along.splitting": Call(
        lambda scheme: T.along(
            nf.NeuralODE(nf.fields.Split(SHIFT, SHIFT), nf.FixedGrid(scheme, steps=1)),
            jnp.ones((1, 2)),
            T.divergence,
        ),
        lambda: {"scheme": nf.Heun()},
        {"scheme": {s.__name__: s() for s in (nf.schemes.LieTrotter, nf.schemes.Strang)}},
    ),
    "along.random": Call(
        lambda **given: T.along(given.pop("layer"), given.pop("x"), T.divergence, **given),
        lambda: {**walk(), "divergence": T.Hutchinson(), "key": jax.random.key(0)},
        {"key": KEY},
    ),
    "along.rate": Call(
        lambda rate: T.along(layer(), jnp.ones((1, 2)), rate),
        lambda: {"rate": lambda motion: motion.points[:, 0]},
        {
            "rate": {
                **FUNCTION,
                "nothing": lambda motion: None,
                "text": lambda motion: "a",
                "one number": lambda motion: jnp.ones(()),
                "table": lambda motion: motion.points,
                "complex": lambda motion: 1j * motion.points[:, 0],
            }
        },
    ),
    "samples": Call(
        T.samples,
        lambda: {"x": jnp.ones((1, 2))},
        {"x": {k: v for k, v in SAMPLES.items() if k != "wide"}},
    ),
    "flat": Call(
        T.flat,
        lambda: {"x": jnp.ones((1, 2))},
        {"x": {k: v for k, v in SAMPLES.items() if k not in ("wide", "whole", "true", "complex")}},
    ),
    "Transport": Call(
        T.Transport,
        lambda: {"layer": layer(), "values": lambda x: x[:, 0]},
        {
            "layer": {**FORWARD, "backward": layer().reverse()},
            "values": FUNCTION,
            "given": CHOICE,
        },
        {"values": "the function that is carried"},
    ),
    "Transport.call": Call(lambda: carried(T.Transport), visit, VISIT, made=True),
    "Transport.gradient": Call(lambda: carried(T.Transport).gradient, visit, VISIT, made=True),
    "Transport.residual": Call(lambda: carried(T.Transport).residual, visit, RESIDUAL, made=True),
    "Continuity": Call(
        T.Continuity,
        lambda: {"layer": layer(), "log_density": lambda x: x[:, 0]},
        {
            "layer": {**FORWARD, "backward": layer().reverse()},
            "log_density": FUNCTION,
            "given": CHOICE,
            "divergence": {k: v for k, v in DIVERGENCE.items() if k != "without a key"},
        },
        {"log_density": "the function that is carried"},
    ),
    "Continuity.call": Call(
        lambda: carried(T.Continuity),
        visit,
        {**VISIT, "key": {k: v for k, v in KEY.items() if k != "none"}},
        made=True,
    ),
    "Continuity.at its end": Call(
        lambda: carried(T.Continuity),
        lambda: {"x": jnp.ones((1, 2)), "t": 1.0},
        {
            "x": {k: v for k, v in SAMPLES.items() if k != "wide"},
            "context": CONTEXT,
            "key": {k: v for k, v in KEY.items() if k != "none"},
        },
        made=True,
    ),
    "Transport.at its end": Call(
        lambda: carried(T.Transport),
        lambda: {"x": jnp.ones((1, 2)), "t": 1.0},
        {"x": {k: v for k, v in SAMPLES.items() if k != "wide"}, "context": CONTEXT},
        made=True,
    ),
    "Continuity.random": Call(
        lambda: carried(T.Continuity, divergence=T.Hutchinson()),
        lambda: {**visit(), "key": jax.random.key(0)},
        {"key": KEY},
        made=True,
    ),
    "Continuity.gradient": Call(lambda: carried(T.Continuity).gradient, visit, VISIT, made=True),
    "Continuity.residual": Call(lambda: carried(T.Continuity).residual, visit, RESIDUAL, made=True),
    "Continuity.accompanied": Call(
        lambda: (
            lambda **given: carried(T.Continuity).accompanied(
                given.pop("x"), given.pop("t"), given.pop("rate", T.divergence), **given
            )
        ),
        visit,
        {**VISIT, "rate": FUNCTION},
        made=True,
    ),
    "block_determinants": Call(T.block_determinants, walk, WALK),
    "log_determinant": Call(T.log_determinant, walk, WALK),
    "NormalisingFlow": Call(
        T.NormalisingFlow,
        lambda: {"layer": layer(), "base": Normal()},
        {
            "layer": {**FORWARD, "backward": layer().reverse()},
            "base": {**FUNCTION, "class": Normal, "half": nnx.Linear},
            "divergence": DIVERGENCE,
            "rngs": {"text": "a", "seed": 0, "class": nnx.Rngs, "other": nnx.Rngs(dropout=0)},
        },
        {"divergence": r"\bdivergence\b|probes"},
    ),
    "NormalisingFlow.log_prob": Call(
        lambda: flow().log_prob,
        lambda: {"x": jnp.ones((1, 2))},
        {"x": SAMPLES, "context": CONTEXT},
        made=True,
    ),
    "NormalisingFlow.accompanied": Call(
        lambda: (
            lambda **given: flow().accompanied(
                given.pop("x"), given.pop("rate", T.divergence), **given
            )
        ),
        lambda: {"x": jnp.ones((1, 2))},
        {"x": SAMPLES, "context": CONTEXT, "rate": FUNCTION},
        made=True,
    ),
    "NormalisingFlow.sample": Call(
        lambda: flow().sample,
        lambda: {"key": jax.random.key(0), "count": 1},
        {"key": KEY, "count": SIZE, "context": CONTEXT},
        made=True,
    ),
    "NormalisingFlow.sample_and_log_prob": Call(
        lambda: flow().sample_and_log_prob,
        lambda: {"key": jax.random.key(0), "count": 1},
        {"key": KEY, "count": SIZE, "context": CONTEXT},
        made=True,
    ),
    "base": Call(
        lambda base: T.NormalisingFlow(layer(), base).sample(jax.random.key(0), 2),
        lambda: {"base": Normal()},
        {"base": {"numbers": Lines(), "words": Words()}},
    ),
    "base with density": Call(
        lambda base: T.NormalisingFlow(layer(), base).sample_and_log_prob(jax.random.key(0), 2),
        lambda: {"base": Normal()},
        {"base": {"numbers": Lines(), "words": Words()}},
    ),
}

test_wrong, test_good = refuse(CALLS)


def test_what_is_right_is_taken():
    raw = jax.random.PRNGKey(0)
    assert random_flow().sample(raw, wrong(np.int64(2))).shape == (2, 2)
    assert random_flow().log_prob(np.ones((2, 2))).shape == (2,)
    for t in (0.5, 0, np.float32(0.5), jnp.asarray(0.5), np.asarray(1)):
        assert carried(T.Transport)(np.ones((1, 2)), wrong(t)).shape == (1,)
    assert carried(T.Continuity)(jnp.ones((1, 2)), 0.5, jax.random.key(0)).shape == (1,)
    step = carried(T.Transport).residual(jnp.ones((1, 2)), 0.5, wrong(np.float32(0.05)))
    assert step.shape == (1,)
