"""What the laboratory of random networks refuses."""

import diffrax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from refusals import refuses
from support.stochastic import KEY, START, A, bend, depth, linear, powers
from support.wrong import wrong

import neuralflow as nf
from neuralflow.labs import stochastic as st

REFUSED = {
    "a survival above one": (lambda: depth(1.5), "probability above zero and up to one, got 1.5"),
    "another per": (lambda: depth(0.5, per="pixel"), "per must be one of 'sample', 'batch'"),
    "a function for a field": (
        lambda: st.StochasticDepth(wrong(lambda x: x), rngs=nnx.Rngs(0)),
        "field must be an nnx.Module",
    ),
    "a network backward": (lambda: st.RandomNetwork(depth(0.5), 4, t0=1.0, t1=0.0), "runs forward"),
    "many evaluations a step": (
        lambda: st.RandomNetwork(depth(0.5), 4, nf.Heun()),
        "one draw, so one evaluation.*Heun",
    ),
    "a scheme that is none": (
        lambda: st.NeuralSDE(depth(0.5), 4, wrong("euler")),
        "diffrax's Ito or Stratonovich solvers",
    ),
    "Stratonovich's form of many motions": (
        lambda: st.NeuralSDE(st.Dropout(linear(A), rngs=nnx.Rngs(0)), 4, diffrax.EulerHeun()),
        "noise that the coordinates share, or that is constant",
    ),
    "an SDE backward": (lambda: st.NeuralSDE(depth(0.5), 4, None, 1.0, 0.0), "runs forward"),
    "moments of a nonlinear field": (
        lambda: st.limit_moments(
            st.StochasticDepth(nf.fields.MLP(2, hidden=3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)),
            START,
        ),
        "drift of this StochasticDepth is not linear",
    ),
    "moments of a field with a limit far out": (
        lambda: st.limit_moments(
            st.StochasticDepth(
                nf.from_function(lambda a, x: jnp.clip(x @ a.T, -50, 50), jnp.asarray(A)),
                rngs=nnx.Rngs(0),
            ),
            START,
        ),
        "drift of this StochasticDepth is not linear",
    ),
    "moments of many motions": (
        lambda: st.network_moments(st.Dropout(linear(A), rngs=nnx.Rngs(0)), START, 4),
        "each has its own in Dropout",
    ),
    "paths of one draw": (
        lambda: st.expectation(
            st.RandomNetwork(depth(0.5, per="batch"), 4), powers, START, count=10, key=KEY
        ),
        "must draw for each",
    ),
    "one path": (
        lambda: st.expectation(st.RandomNetwork(depth(0.5), 4), powers, START, count=1, key=KEY),
        "at least 2",
    ),
    "paths coarser than steps": (
        lambda: st.NeuralSDE(depth(0.5), 4, resolution=0.5),
        "step's length, 0.25, at most",
    ),
    "depths outside": (
        lambda: st.NeuralSDE(depth(0.5), 4).solve(START[None], KEY, [0.5, 2.0]),
        "depths must rise between 0 and 1",
    ),
    "steps that fall": (
        lambda: st.weak_errors(depth(0.5), bend, START, steps=(8, 4), count=10, key=KEY),
        "two or more numbers of blocks that rise",
    ),
    "steps without a small common multiple": (
        lambda: st.weak_errors(depth(0.5), bend, START, steps=(7, 11, 13), count=10, key=KEY),
        "one path in 1001 parts .* powers of two",
    ),
    "many numbers a path": (
        lambda: st.weak_errors(depth(0.5), powers, START, steps=(2, 4), count=10, key=KEY),
        r"one number for a path here, .* got values of shape \(14,\)",
    ),
    "a falling survival on a longer interval": (
        lambda: st.RandomNetwork(depth(st.linear(0.5)), 4, t1=4.0),
        "survival is a probability .* at t = 2; nf.labs.stochastic.linear takes the length",
    ),
    "random fields in random fields": (
        lambda: st.Dropout(depth(0.5), rngs=nnx.Rngs(0)),
        "do not nest",
    ),
    "a solver for constant noise": (
        lambda: st.NeuralSDE(depth(0.5), 4, diffrax.SRA1()),
        "SRA1 solves SDEs of constant noise",
    ),
    "statistics of one sample": (
        lambda: st.NeuralSDE(
            st.StochasticDepth(nnx.BatchNorm(2, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)), 4
        )(jnp.ones((3, 2))),
        "batch statistics are those of a batch",
    ),
    "points that are no numbers": (
        lambda: st.expectation(
            st.RandomNetwork(depth(0.5), 4), powers, START * np.nan, count=10, key=KEY
        ),
        "one point of finite floating numbers",
    ),
    "a functional of the batch": (
        lambda: st.expectation(st.RandomNetwork(depth(0.5), 4), jnp.mean, START, count=10, key=KEY),
        r"from outputs \(batch, ...\) to an array",
    ),
    "a Hurst index of zero": (lambda: nf.fractional(0.0), "Hurst index above 0"),
    "nodes at odd places": (
        lambda: nf.fractional(0.7)(nf.Legendre(5).nodes),
        "equally spaced nodes",
    ),
}


test_bad_input_is_refused_in_one_sentence = refuses(REFUSED)
