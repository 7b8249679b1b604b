"""One suite over every scheme."""

import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.schemes import X, grid

import neuralflow as nf
from neuralflow import schemes as S
from neuralflow.schemes.network import traits

# A name has a function from a number of steps to a scheme, and an order.
SCHEMES = {
    "Euler": (lambda n: nf.Euler(), 1),
    "Heun": (lambda n: nf.Heun(), 2),
    "Midpoint": (lambda n: nf.Midpoint(), 2),
    "Ralston": (lambda n: nf.Ralston(), 2),
    "Bosh3": (lambda n: nf.Bosh3(), 3),
    "RK4": (lambda n: nf.RK4(), 4),
    "ThreeEighths": (lambda n: nf.ThreeEighths(), 4),
    "Tsit5": (lambda n: nf.Tsit5(), 5),
    "ImplicitEuler": (lambda n: nf.ImplicitEuler(), 1),
    "ImplicitTrapezoid": (lambda n: S.ImplicitTrapezoid(), 2),
    "AB2": (lambda n: S.adams_bashforth(2), 2),
    "AB3": (lambda n: S.adams_bashforth(3), 3),
    "AB4": (lambda n: S.adams_bashforth(4), 4),
    "AB5": (lambda n: S.adams_bashforth(5), 5),
    "leapfrog": (lambda n: S.leapfrog(), 2),
    "momentum": (lambda n: S.momentum(0.5), 1),
    "ConsistentLM": (lambda n: S.ConsistentLM(-0.3), 1),
    "LMResNet": (lambda n: S.LMResNet(S.PerStep(jnp.full(n - 1, 0.3 / n))), 1),
    "PolyNet": (lambda n: S.PolyNet(2), 1),
    "FixedPointEuler": (lambda n: S.FixedPointEuler(3), 1),
    "FractalNet": (lambda n: S.FractalNet.learned(n), 2),
    "ConsistentFractalNet": (lambda n: S.ConsistentFractalNet(0.0, 0.5), 2),
    "FractalExpansion": (lambda n: S.FractalExpansion([0.5, 2.0]), 1),
    "RevNet": (lambda n: S.RevNet(), 1),
    "Reversible": (lambda n: S.Reversible(nf.Heun()), 2),
    "LieTrotter": (lambda n: S.LieTrotter(), 1),
    "Macaron": (lambda n: S.Strang(nf.Euler()), 1),
    "Strang": (lambda n: S.Strang(), 2),
    "ReversibleStrang": (lambda n: S.Reversible(S.Strang()), 2),
}
every_scheme = pytest.mark.parametrize("name", SCHEMES)
# A walk hands different things from step to step; here is one scheme of every kind of them.
# The other schemes are differentiated with the default memory.
TWO_LEVEL = ("RK4", "ImplicitEuler", "AB5", "LMResNet", "PolyNet", "RevNet", "Reversible", "Strang")


def pendulum(params, x, t):
    """A pendulum whose weight changes with depth; the state is a pair or an array of two halves."""
    first, second = x if isinstance(x, tuple) else jnp.split(x, 2, axis=-1)
    velocity = ((1 + t / 2) * second, -params * jnp.sin(first))
    return velocity if isinstance(x, tuple) else jnp.concatenate(velocity, axis=-1)


class Crossed(nnx.Module):
    """X' = a tanh(Y) + b, Y' = c tanh(X) + d."""

    def __init__(self, rngs):
        self.weights = nnx.Param(jax.random.normal(rngs.params(), (4,), jnp.float64))

    def __call__(self, x):
        a, b, c, d = self.weights[...]
        first, second = x if isinstance(x, tuple) else jnp.split(x, 2, axis=-1)
        velocity = (a * jnp.tanh(second) + b, c * jnp.tanh(first) + d)
        return velocity if isinstance(x, tuple) else jnp.concatenate(velocity, axis=-1)


class Half(nnx.Module):
    """One half of the velocity of a field, and zeros in the other half."""

    def __init__(self, whole, number):
        self.whole, self.number = whole, number

    def __call__(self, x, t=None):
        v = nf.fields.evaluate(self.whole, x, t)
        halves = list(v if isinstance(v, tuple) else jnp.split(v, 2, axis=-1))
        halves[1 - self.number] = jnp.zeros_like(halves[1 - self.number])
        return tuple(halves) if isinstance(v, tuple) else jnp.concatenate(halves, axis=-1)


def fitting(scheme, whole) -> Any:
    """The field as a scheme takes it: in two parts for a splitting."""
    return nf.fields.Split(Half(whole, 0), Half(whole, 1)) if traits(scheme).parted else whole


@functools.cache
def exact_pendulum():
    field = nf.from_function(pendulum, jnp.asarray(1.5))
    return field, nf.NeuralODE(field, nf.Adaptive(nf.Dopri8(), 1e-14, 1e-14), 0.0, 2.0)(X)


@every_scheme
def test_order(name):
    make, order = SCHEMES[name]
    field, exact = exact_pendulum()
    counts = (64, 128) if order < 4 else (48, 96)
    errors = []
    for n in counts:
        solve = nf.FixedGrid(make(n), steps=n, memory="full")
        layer = nf.NeuralODE(fitting(make(n), field), solve, 0.0, 2.0)
        errors.append(float(jnp.linalg.norm(layer(X) - exact)))
    slope = np.log2(errors[0] / errors[1])
    assert slope > order - 0.1
    # Tsit5's leading error is so small that the next one shows.
    # Its order conditions are checked in test_analysis.py.
    assert slope < order + 0.1 or name == "Tsit5"


@every_scheme
def test_conformance(name, worst):
    """Constants, gradients, memory and the weights of every step.

    A scheme has one compiled function for all of them.
    """
    make = SCHEMES[name][0]
    n = 18 if name in TWO_LEVEL else 6
    scheme = make(n)
    field = nf.DepthVarying(
        lambda rngs: fitting(scheme, Crossed(rngs)), nf.PiecewiseConstant(n), rngs=nnx.Rngs(0)
    )
    graphdef, params = nnx.split(field)

    def layer(params, memory):
        return nf.NeuralODE(
            nnx.merge(graphdef, params), nf.FixedGrid(scheme, steps=n, memory=memory)
        )(X)

    @jax.jit
    def values(params, dparams):
        y, dy = jax.jvp(lambda p: layer(p, "full"), (params,), (dparams,))
        memory = "two_level" if name in TWO_LEVEL else "remat"
        return y, jnp.sum(2 * y * dy), jax.grad(lambda p: jnp.sum(layer(p, memory) ** 2))(params)

    # A field that does nothing leaves every state as it is.
    # A constant field moves every state by that constant.
    # PolyNet evaluates F(F(u)), which is then F again.
    # The LM-ResNet as published is consistent with its field for k = 0 only.
    def end(p):
        return values(p, params)[0]

    moving = jax.tree.map(lambda a: jnp.zeros_like(a) + jnp.asarray([0.0, 0.3, 0.0, -0.7]), params)
    assert worst(end(jax.tree.map(jnp.zeros_like, params)), X) < 1e-15
    factor = {"PolyNet": 2}.get(name, 1)
    assert name == "LMResNet" or worst(end(moving), X + factor * jnp.asarray([0.3, -0.7])) < 1e-12

    keys = iter(jax.random.split(jax.random.key(2), 99))
    dparams = jax.tree.map(lambda a: jax.random.normal(next(keys), a.shape), params)
    _, slope, gradient = values(params, dparams)
    dot = sum(
        jnp.vdot(a, b)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(dparams), strict=True)
    )
    # Forward and reverse mode agree.
    assert abs(slope - dot) < 1e-9 * abs(slope) + 1e-12
    moved = jax.tree.map(lambda a, b: a + 1e-5 * b, params, dparams)
    back = jax.tree.map(lambda a, b: a - 1e-5 * b, params, dparams)
    difference = (jnp.sum(end(moved) ** 2) - jnp.sum(end(back) ** 2)) / 2e-5
    assert abs(difference - slope) < 1e-6 * max(1, abs(slope))
    # The weights of every step matter.
    assert all(float(jnp.abs(a.reshape(n, -1)).max(1).min()) > 0 for a in jax.tree.leaves(gradient))


@every_scheme
def test_samples_are_alone_and_time_runs_both_ways(name, worst):
    make, order = SCHEMES[name]
    field = fitting(make(40), nf.from_function(pendulum, jnp.asarray(1.5)))
    layer = nf.NeuralODE(field, nf.FixedGrid(make(40), steps=40, memory="full"))
    forward, alone, back = jax.jit(
        lambda: (layer(X), jax.vmap(layer)(X), layer.reverse()(layer(X)))
    )()
    assert worst(alone, forward) < 1e-12
    assert worst(back, X) < 100 / 40**order + 1e-11


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(1, rngs=rngs)

    def __call__(self, x):
        return self.norm(x).astype(x.dtype)


@every_scheme
def test_statistics_of_every_cell_or_a_refusal(name, worst):
    scheme = SCHEMES[name][0](2)

    def make(rngs) -> Any:
        return fitting(scheme, nf.fields.Coupled(Normed(rngs), Normed(rngs)))

    field = nf.DepthVarying(make, nf.PiecewiseConstant(2), rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.FixedGrid(scheme, steps=2))
    if name.startswith("Implicit"):
        with pytest.raises(ValueError, match="model.eval"):
            layer(X)
        return
    layer(X)
    coupled = field.stack.parts[0].whole if traits(scheme).parted else field.stack
    for norm in (coupled.first.norm, coupled.second.norm):
        assert (norm.mean[...] != 0).all()
        assert (norm.var[...] != 1).all()
    assert worst(coupled.first.norm.mean[0], 0.01 * X[:, 1:].mean(0)) < 1e-8


@pytest.mark.parametrize("name", ["AB3", "momentum", "PolyNet", "RevNet", "Reversible"])
def test_schemes_are_diffrax_solvers_of_their_own_right(name, worst):
    scheme = SCHEMES[name][0](16)
    field = nf.from_function(pendulum, jnp.asarray(1.5))
    terms = diffrax.ODETerm(lambda t, x, args: pendulum(args, x, t))
    solution = diffrax.diffeqsolve(terms, scheme, 0.0, 2.0, 0.125, X, jnp.asarray(1.5))
    assert solution.ys is not None
    assert worst(solution.ys[0], nf.NeuralODE(field, grid(scheme, 16), 0.0, 2.0)(X)) < 1e-13


@pytest.mark.parametrize(
    "name", ["AB3", "ConsistentLM", "PolyNet", "FractalExpansion", "Reversible", "ReversibleStrang"]
)
def test_evaluations_are_counted(name):
    calls = []
    field = nf.from_function(lambda p, x: (jax.debug.callback(lambda: calls.append(1)), -x)[1])
    scheme = SCHEMES[name][0](7)
    field = nf.fields.Split(field, field, field) if traits(scheme).parted else field
    solution = nf.NeuralODE(field, grid(scheme, 7)).solve(jnp.ones((1, 1)))
    jax.block_until_ready(solution)
    jax.effects_barrier()
    assert len(calls) == int(solution.evaluations)
