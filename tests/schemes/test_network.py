"""What a scheme says of itself, and what it refuses."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.schemes import X, grid, stacked

import neuralflow as nf
from neuralflow import plots, schemes as S
from neuralflow.schemes import analysis
from neuralflow.schemes.network import traits

REFUSED = {
    "a scheme that cannot go back": (lambda: grid(nf.Heun(), 4, memory="reversible"), "Reversible"),
    "rounding that grows": (
        lambda: grid(S.momentum(0.5), 64, memory="reversible"),
        "multiplies rounding errors",
    ),
    "rounding that grows in single precision": (
        lambda: nf.NeuralODE(
            stacked(4, dtype=jnp.float32), grid(S.momentum(0.9), 120, memory="reversible")
        )(jnp.ones((2, 4), jnp.float32)),
        "too much for float32",
    ),
    "a learned k": (
        lambda: grid(S.LMResNet.learned(8, rngs=nnx.Rngs(0)), 8, memory="reversible"),
        "inf",
    ),
    "uneven steps": (lambda: nf.FixedGrid(S.leapfrog(), times=(0, 0.3, 1)), "equal length"),
    "rows for another grid": (
        lambda: grid(S.LMResNet.learned(8, rngs=nnx.Rngs(0)), 5),
        "must be 4 on a grid of 5",
    ),
    "inconsistent": (lambda: S.LinearMultistep((1.0,), (0.9,)), "beta to 1"),
    "not zero-stable": (lambda: S.LinearMultistep((-4.0, 5.0), (4.0, 2.0)), "zero-stable"),
    "an order without a starter": (lambda: S.adams_bashforth(6), "order 5"),
    "an implicit base": (lambda: S.Reversible(nf.ImplicitEuler()), "explicit one-step"),
    "a coefficient that is none": (lambda: S.LMResNet("small"), "must be a number"),
    "a row per step that is none": (
        lambda: nf.NeuralODE(stacked(4), grid(S.LMResNet(jnp.zeros(3)), 4))(jnp.ones((2, 4))),
        "PerStep",
    ),
    "rows for all steps but the first": (
        lambda: grid(S.FractalNet.learned(7), 8),
        "must be 8 on a grid of 8",
    ),
    "a row too many": (
        lambda: nf.NeuralODE(stacked(4), grid(S.LMResNet.learned(5, rngs=nnx.Rngs(0)), 4))(
            jnp.ones((2, 4))
        ),
        "all but the first",
    ),
    "rounding beyond all range": (
        lambda: grid(S.momentum(0.01), 2000, memory="reversible"),
        "multiplies rounding errors",
    ),
    "a past of the other end": (
        lambda: nf.NeuralODE(
            stacked(4), grid(S.LMResNet(0.3).after(jnp.ones((2, 4))), 4)
        ).reverse()(jnp.ones((2, 4))),
        "cannot be walked backward",
    ),
    "RevNet on a field of one array": (
        lambda: nf.NeuralODE(stacked(4), grid(S.RevNet(), 4))(jnp.ones((2, 4))),
        "cannot be called on the pair",
    ),
    "a k that is not a number": (lambda: S.LMResNet(math.nan), "must be finite"),
    "an equation of no flow": (
        lambda: analysis.modified_equation(S.FractalNet(0.3, 0.3), lambda x: -x, jnp.ones(2)),
        "length zero",
    ),
    "an equation of an unstable scheme": (
        lambda: analysis.modified_equation(S.LMResNet(2.0), lambda x: -x, jnp.ones(2)),
        "not zero-stable",
    ),
    "a velocity of another shape": (
        lambda: analysis.modified_equation(nf.RK4(), lambda x: x[:1], jnp.ones(2)),
        "shape and dtype of x",
    ),
    "an order below rounding": (
        lambda: analysis.observed_order(nf.Dopri8(), 512),
        "no order can be told",
    ),
    "amplification of an implicit step": (
        lambda: analysis.amplification(nf.ImplicitEuler(), np.zeros(1)),
        "stability_function",
    ),
    "no schemes to draw": (lambda: plots.stability({}), "at least one"),
    "momentum of one": (lambda: S.momentum(1.0), "between 0 and 1"),
    "an odd state": (
        lambda: nf.NeuralODE(stacked(4), grid(S.RevNet(), 4))(jnp.ones((2, 3))),
        "last axis is even",
    ),
    "a field with no halves": (
        lambda: nf.NeuralODE(nf.from_function(lambda p, x: (x[0], x[1])), grid(S.RevNet(), 2))(
            (X, X)
        ),
        "needs the first half",
    ),
    "a restart with too few steps in a cell": (
        lambda: nf.NeuralODE(stacked(4), grid(S.adams_bashforth(3, restart=True), 8)),
        "needs at least 3 steps from one such knot to the next, got 2; take more steps",
    ),
    "one step a cell, which the starter would take": (
        lambda: nf.NeuralODE(stacked(4), grid(nf.Euler(), 4)).with_solve(
            grid(S.leapfrog(restart=True), 4)
        ),
        "at least 2 steps .* got 1",
    ),
    "a walk back over a restart": (
        lambda: grid(S.leapfrog(restart=True), 8, memory="reversible"),
        r"which LinearMultistep cannot; take nf.schemes.RevNet\(\), leapfrog\(\), or memory",
    ),
    "the inverse of a multi-step scheme": (
        lambda: nf.NeuralODE(stacked(4), grid(S.leapfrog(), 4)).invert(jnp.ones((2, 4))),
        "final state alone",
    ),
    "states between the steps of one": (
        lambda: nf.NeuralODE(stacked(4), grid(S.leapfrog(), 4)).trajectory(
            jnp.ones((2, 4)), jnp.asarray([0.3])
        ),
        "trajectory\\(x\\)",
    ),
    "one scheme's coefficients for all steps": (
        lambda: analysis.stability_limit(S.FractalNet.learned(3)),
        "numbers of one step",
    ),
    "no order conditions": (
        lambda: analysis.order_conditions(S.PolyNet(2), 2),
        "modified_equation",
    ),
    "a matrix, not a number": (
        lambda: analysis.stability_function(S.leapfrog(), np.zeros(1)),
        "amplification",
    ),
    "adaptive steps without an error estimate": (
        lambda: nf.Adaptive(S.leapfrog()),
        "no error estimate",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_apply_is_refused_in_one_sentence(case):
    call, said = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=said) as caught:
        call()
    assert "\n" not in str(caught.value).split("\n---")[0]


def test_declared_properties_of_schemes():
    assert traits(nf.Heun()) == (0, False, 0, False, 0, -1, False)
    assert traits(nf.schemes.adams_bashforth(3))[:2] == (2, True)
    assert traits(nf.schemes.LMResNet(0.2)) == (1, True, 1, False, 0, -1, False)
    assert traits(nf.schemes.LMResNet(0.2).after(jnp.ones(2))) == (1, True, 0, True, 0, -1, False)
    assert traits(nf.schemes.Strang()).parted and not traits(nf.schemes.Strang()).carries
    assert traits(nf.schemes.Reversible(nf.schemes.LieTrotter())).parted
    assert traits(nf.schemes.RevNet()).statistics == 1
