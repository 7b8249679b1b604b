"""What the laboratory of paths refuses."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from refusals import refuses
from support.paths import CONSTANT, KEY, PERIOD, START, VARYING, X, flat, network

import neuralflow as nf
from neuralflow.labs import paths

NET = network(4)
ADAPTIVE = nf.NeuralODE(
    nf.fields.MLP(2, hidden=2, rngs=nnx.Rngs(0)), nf.Adaptive(nf.Tsit5(), 1e-3, 1e-3)
)
REFUSED = {
    "no diffusion": (
        lambda: paths.Equation(0.0),
        "only where the diffusion is positive.*nf.transport",
    ),
    "a block without diffusion": (
        lambda: paths.Equation.of(flat(0.0, 1.0, 0.0).coefficients[...]),
        "only where the diffusion is positive",
    ),
    "diffusion backward": (lambda: paths.Equation([[1.0, 2.0], [2.0, 1.0]]), "positive"),
    "a drift of another dimension": (
        lambda: paths.Equation(np.eye(2), [1.0, 2.0, 3.0]),
        "got shapes",
    ),
    "an operator of two channels": (
        lambda: paths.Equation.of(
            nf.labs.operators.DifferentialOperator(2, 2, rngs=nnx.Rngs(0)).coefficients[...]
        ),
        "one channel, got an operator from 2 to 2",
    ),
    "an operator in the place of its coefficients": (
        lambda: paths.Equation.of(nf.labs.operators.DifferentialOperator(1, 1, rngs=nnx.Rngs(0))),
        r"give operator\.coefficients",
    ),
    "diffusion that is not symmetric": (
        lambda: paths.Equation([[1.0, 0.5], [0.0, 1.0]]),
        "finite symmetric matrix",
    ),
    "a start of many numbers": (
        lambda: paths.feynman_kac(CONSTANT, jnp.sin, jnp.zeros(1), 1.0, steps=1, count=2, key=KEY),
        r"one number each.*of two points it made \(2, 1\)",
    ),
    "a potential of points": (
        lambda: paths.Equation(0.3, 0.0, lambda x: x**2).action(jnp.zeros((3, 1)), 1.0),
        r"the potential maps points of shape \(2, 1\) to \(2,\), got \(2, 1\)",
    ),
    "a path of one point": (lambda: CONSTANT.action(jnp.zeros((1, 1)), 1.0), "at least two points"),
    "one value": (lambda: paths.estimate(jnp.ones(1)), "two values or more"),
    "a grid far too coarse": (
        lambda: paths.composed(paths.Equation(1e-4, dimension=2), np.ones((8, 8)), 6.3, 0.1, 1),
        "take both fewer steps and more points",
    ),
    "a grid too coarse": (
        lambda: paths.composed(CONSTANT, START, PERIOD, 1.0, 1000),
        "does not resolve a step.*take 62 steps or fewer or 257 points",
    ),
    "a series of varying coefficients": (
        lambda: paths.spectral(VARYING, START, PERIOD, 1.0),
        "constant drift",
    ),
    "branches that are not square": (
        lambda: paths.Branches.of(np.ones((3, 2, 4))),
        "square matrices",
    ),
    "offsets of another shape": (
        lambda: paths.Branches.of(np.ones((3, 2, 2)), np.ones(2)),
        "take offsets of shape",
    ),
    "too many sub-paths": (
        lambda: paths.subpaths(network(30), X),
        "2\\^30 sub-paths.*sums them by length",
    ),
    "too many paths": (
        lambda: paths.amplitudes(network(30).kernels(), jnp.ones(5)),
        "5\\^31 paths",
    ),
    "kernels of many networks": (
        lambda: paths.sample(jnp.ones((2, 3, 2, 2)), jnp.ones(2), KEY, 5),
        "of one network",
    ),
    "an adaptive layer": (
        lambda: paths.linearised(ADAPTIVE, jnp.ones((1, 2))),
        "no steps of its own",
    ),
    "a scheme with a memory": (
        lambda: paths.linearised(
            ADAPTIVE.with_solve(nf.FixedGrid(nf.schemes.leapfrog(), steps=4)), jnp.ones((1, 2))
        ),
        "carries more than the state",
    ),
}


test_bad_input_is_refused_in_one_sentence = refuses(REFUSED)
