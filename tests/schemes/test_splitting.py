"""Splittings against steps and transformers that are written out by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from flax import nnx
from support.schemes import slope

import neuralflow as nf
from neuralflow import schemes as S
from neuralflow.depth import decayed

STANDARDS = {"lie-trotter": S.LieTrotter(), "parallel": nf.Euler(), "macaron": S.Strang(nf.Euler())}


def parts(dtype):
    def make(rngs):
        return nf.fields.Split(
            nf.fields.Attention(8, heads=2, causal=True, param_dtype=dtype, rngs=rngs),
            nf.fields.FeedForward(8, hidden=16, param_dtype=dtype, rngs=rngs),
        )

    return make


def block(name, parts, x):
    """The residual block of a transformer, as one writes it by hand."""
    first, second = parts
    if name == "lie-trotter":
        y = x + first(x)
        return y + second(y)
    if name == "parallel":
        return x + (first(x) + second(x))
    y = x + 0.5 * first(x)
    y = y + second(y)
    return y + 0.5 * first(y)


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("name", "cells", "dtype"),
    [
        ("lie-trotter", 16, jnp.float32),
        ("lie-trotter", 4, jnp.float64),
        ("parallel", 4, jnp.float32),
        ("macaron", 4, jnp.float32),
    ],
)
def test_transformers_to_the_last_bit(name, cells, dtype):
    field = nf.DepthVarying(parts(dtype), nf.PiecewiseConstant(cells), rngs=nnx.Rngs(0))
    form, weights = nnx.split(field)
    inner = nnx.split(field.stack)[0]
    x = jax.random.normal(jax.random.key(1), (2, 5, 8), dtype)

    def step(x, weights):
        return block(name, nnx.merge(inner, weights).parts, x), None

    def layer(weights, x, memory: Any = "full"):
        solve = nf.FixedGrid(STANDARDS[name], steps=cells, memory=memory)
        return nf.NeuralODE(nnx.merge(form, weights), solve, 0.0, float(cells))(x)

    def by_scan(weights, x):
        return jax.lax.scan(step, x, weights["stack"])[0]

    def by_loop(weights, x):
        for k in range(cells):
            x, _ = step(x, jax.tree.map(lambda a, k=k: a[k], weights["stack"]))
        return x

    def with_gradient(walk):
        def loss(weights):
            y = walk(weights, x)
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights)
        return [y, *jax.tree.leaves(gradient)]

    by_hand = with_gradient(by_scan)
    for memory in ("full", "remat") if name == "lie-trotter" else ("full",):
        own = with_gradient(functools.partial(layer, memory=memory))
        assert all((a == b).all() for a, b in zip(own, by_hand, strict=True))
    if (name, cells) == ("lie-trotter", 4):
        alone = jax.jit(layer)(weights, x)
        for walk in (by_scan, by_loop):
            assert (alone == jax.jit(walk)(weights, x)).all()


def small(rngs):
    def part():
        return nf.fields.MLP(3, hidden=4, param_dtype=jnp.float64, rngs=rngs)

    return nf.fields.Split(part(), part(), part())


@pytest.mark.parametrize(
    "basis", [nf.PiecewiseConstant(2), nf.PiecewiseLinear(2), nf.Legendre(4)], ids=repr
)
@pytest.mark.parametrize(
    ("scheme", "order"), [(S.LieTrotter(), 1), (S.Strang(nf.Euler()), 1), (S.Strang(), 2)], ids=repr
)
def test_orders(scheme, order, basis):
    field = nf.DepthVarying(small, basis, rngs=nnx.Rngs(1))
    x = jax.random.normal(jax.random.key(1), (3, 3))
    exact = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=512))(x)
    steps = np.array([96, 192])
    errors = [
        float(jnp.abs(nf.NeuralODE(field, nf.FixedGrid(scheme, steps=n))(x) - exact).max())
        for n in steps
    ]
    assert abs(slope(errors, 1 / steps) - order) < 0.05


def linear(*matrices):
    return nf.fields.Split(*(nf.from_function(lambda a, x: x @ a.T, a) for a in matrices))


def test_steps_of_linear_parts_are_products_of_matrices(worst):
    a, b, c = np.random.default_rng(0).normal(size=(3, 4, 4)) / 2
    one, h = np.eye(4), 0.4

    def step(scheme, *matrices):
        layer = nf.NeuralODE(linear(*matrices), nf.FixedGrid(scheme, steps=1), 0.0, h)
        return np.asarray(layer(jnp.eye(4))).T

    def middle(m, h):
        return one + h * m + h**2 / 2 * m @ m

    product = (one + h * c) @ (one + h * b) @ (one + h * a)
    assert worst(step(S.LieTrotter(), a, b, c), product) < 1e-15
    assert worst(step(S.LieTrotter(nf.Midpoint()), a, b), middle(b, h) @ middle(a, h)) < 1e-15
    halves = middle(a, h / 2), middle(b, h / 2)
    palindrome = halves[0] @ halves[1] @ middle(c, h) @ halves[1] @ halves[0]
    assert worst(step(S.Strang(), a, b, c), palindrome) < 1e-15
    # Parts that commute leave the error of the substeps alone.
    layer = nf.NeuralODE(linear(a, 2 * a), nf.FixedGrid(S.LieTrotter(nf.RK4()), steps=64), 0.0, h)
    assert worst(layer(jnp.eye(4)), scipy.linalg.expm(3 * h * a).T) < 1e-8


def test_what_a_macaron_block_misses_of_second_order():
    a, b = np.random.default_rng(1).normal(size=(2, 4, 4)) / 2
    h = 1e-3
    layer = nf.NeuralODE(linear(a, b), nf.FixedGrid(S.Strang(nf.Euler()), steps=1), 0.0, h)
    missing = (scipy.linalg.expm(h * (a + b)) - np.asarray(layer(jnp.eye(4))).T) / h**2
    assert np.allclose(missing, a @ a / 4 + b @ b / 2, atol=5 * h)


def timed(weight, x, t):
    return weight * jnp.cos(t) * x**2


def test_parts_take_depth_time_where_their_substeps_are(worst):
    first, second = (nf.from_function(timed, jnp.asarray(w)) for w in (0.5, -0.7))
    field, x, h = nf.fields.Split(first, second), jnp.asarray([[0.8, 1.1]]), 0.3
    layer = nf.NeuralODE(field, nf.FixedGrid(S.Strang(nf.Euler()), steps=1), 0.2, 0.2 + h)
    y = x + h / 2 * timed(0.5, x, 0.2)
    y = y + h * timed(-0.7, y, 0.2)
    y = y + h / 2 * timed(0.5, y, 0.2 + h / 2)
    assert worst(layer(x), y) < 1e-15


def test_a_splitting_walks_and_returns_as_other_schemes_do(worst):
    field = nf.DepthVarying(small, nf.PiecewiseLinear(4), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (5, 3))
    layer = nf.NeuralODE(field, nf.FixedGrid(S.Strang(), steps=8, memory="full"))
    y = layer(x)
    assert worst(layer.invert(y), x) < 1e-12
    assert worst(layer.between(0.5, 1.0)(layer.between(0.0, 0.5)(x)), y) < 1e-14
    assert worst(layer.trajectory(x)[-1], y) < 1e-14
    assert (
        worst(layer.trajectory(x, jnp.asarray([0.25, 0.3]))[0], layer.between(0, 0.25)(x)) < 1e-14
    )
    moved = layer.per_step(x, lambda step, x: step(x) - x)
    assert worst(x + moved.sum(0), y) < 1e-14
    backward = nf.FixedGrid(S.Reversible(S.Strang()), steps=8, memory="reversible")

    def slope_of(layer):
        form, state = nnx.split(layer)
        return jax.grad(lambda s: jnp.sum(nnx.merge(form, s)(x) ** 2))(state)

    full = nf.FixedGrid(S.Reversible(S.Strang()), steps=8, memory="full")
    pair = (slope_of(layer.with_solve(solve)) for solve in (backward, full))
    assert all(worst(a, b) < 1e-9 for a, b in zip(*map(jax.tree.leaves, pair), strict=True))


def test_substeps_draw_the_masks_of_dropout_once_per_evaluation():
    def make(rngs):
        rates = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        return nf.fields.Split(*rates)

    field = nf.DepthVarying(make, nf.PiecewiseConstant(2), rngs=nnx.Rngs(0, dropout=1))
    x = jnp.ones((1, 64))

    @functools.partial(nnx.jit, static_argnames="memory")
    def value_and_slope(field, memory):
        solve = nf.FixedGrid(S.Reversible(S.LieTrotter(), coupling=1.0), steps=2, memory=memory)
        layer = nf.NeuralODE(field, solve)
        return nnx.value_and_grad(lambda layer, x: jnp.sum(layer(x) ** 2), argnums=1)(layer, x)

    kept, walked_back = (value_and_slope(nnx.clone(field), m) for m in ("full", "reversible"))
    assert float(kept[0]) == float(walked_back[0])
    assert np.allclose(kept[1], walked_back[1], rtol=1e-6)
    assert len(np.unique(np.asarray(kept[1]))) > 2


def test_a_part_changes_its_statistics_once_a_step(worst):
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(2, rngs=rngs, param_dtype=jnp.float64)

        def __call__(self, x):
            return self.norm(x).astype(x.dtype)

    field = nf.fields.Split(Normed(nnx.Rngs(0)), Normed(nnx.Rngs(0)))
    x = 1 + jax.random.normal(jax.random.key(0), (32, 2))
    layer = nf.NeuralODE(field, nf.FixedGrid(S.Strang(nf.Euler()), steps=1))
    first, second = (part.norm for part in list[Any](field.parts))
    layer(x)
    assert worst(first.mean[...], 0.01 * x.mean(0)) < 1e-7
    half = x + 0.5 * (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)
    assert worst(second.var[...], 0.99 + 0.01 * half.var(0)) < 1e-7


def test_weights_of_parts_are_masked_for_decay():
    field = nf.DepthVarying(parts(jnp.float32), nf.PiecewiseConstant(3), rngs=nnx.Rngs(0))
    attention, feed_forward = decayed(field)["stack"]["parts"].values()
    dense = feed_forward["perceptron"]["dense"][0]
    assert attention["query"]["kernel"] and dense["kernel"]
    assert not attention["norm"]["scale"] and not dense["bias"]


def test_plain_fields_and_other_walks_are_refused():
    plain = nf.fields.MLP(3, hidden=4, rngs=nnx.Rngs(0))
    for scheme in (S.LieTrotter(), S.Reversible(S.Strang())):
        for field in (plain, nf.fields.OnSphere(small(nnx.Rngs(0)))):
            with pytest.raises(TypeError, match="is no nf.fields.Split; make a Split"):
                nf.NeuralODE(field, nf.FixedGrid(scheme, steps=2))
    layer = nf.NeuralODE(small(nnx.Rngs(0)), nf.FixedGrid(S.LieTrotter(), steps=2))
    with pytest.raises(ValueError, match="LieTrotter"):
        layer.with_solve(nf.Adaptive(S.LieTrotter(), 1e-3, 1e-3))
    with pytest.raises(TypeError, match="depends on how a field is cut into parts"):
        S.analysis.stability_limit(S.Strang())
    with pytest.raises(TypeError, match="here the field is whole"):
        S.LieTrotter().step(*nf_terms(), None, None, False)
    for inner in (nf.ImplicitEuler(), S.adams_bashforth(2), S.LieTrotter(), nf.Euler, None):
        with pytest.raises(TypeError, match="scheme"):
            S.Strang(inner)  # pyright: ignore[reportArgumentType]


def nf_terms():
    import diffrax

    return diffrax.ODETerm(lambda t, x, args: x), 0.0, 1.0, jnp.ones(2)
