"""Penalties in depth and the gradients that belong to them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from support.wrong import wrong

import neuralflow as nf
from neuralflow.regularisers import depth_energy, sobolev, whitened


class Carrier(nnx.Module):
    """A user's module: a layer of depth-varying and constant weights between two others."""

    def __init__(self, basis, *, rngs, init=nf.independent):
        self.stem = nnx.Linear(3, 2, param_dtype=jnp.float64, rngs=rngs)

        def make(rngs):
            return nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)

        self.flow = nf.NeuralODE(
            nf.DepthVarying(make, basis, rngs=rngs, init=init),
            nf.FixedGrid(nf.Euler(), steps=basis.count),
        )

    def __call__(self, x):
        return self.flow(self.stem(x))


def _coefficients(model):
    stack = model.flow.field.stack
    return [
        np.asarray(stack.kernel[...]).reshape(len(stack.kernel[...]), -1),
        np.asarray(stack.bias[...]),
    ]


@settings(deadline=None, max_examples=8)
@given(n=st.sampled_from((2, 5, 12)), tau=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_the_energy_of_layers_is_the_papers_sum(n, tau, seed):
    model = Carrier(nf.PiecewiseConstant(n), rngs=nnx.Rngs(seed))
    want = sum(
        n * (np.diff(c, axis=0) ** 2).sum() + tau * (c[0] ** 2).sum() for c in _coefficients(model)
    )
    np.testing.assert_allclose(depth_energy(model, tau), want, rtol=1e-12)


def test_energies_agree_between_bases_that_hold_the_same_function():
    coarse = Carrier(nf.PiecewiseLinear(2), rngs=nnx.Rngs(0))
    fine = Carrier(nf.PiecewiseLinear(2), rngs=nnx.Rngs(0))
    fine.flow.field = coarse.flow.field.refine(nf.PiecewiseLinear(10))
    np.testing.assert_allclose(depth_energy(fine, 0.7), depth_energy(coarse, 0.7), rtol=1e-12)
    line = Carrier(nf.PiecewiseLinear(1), rngs=nnx.Rngs(0))
    spectral = Carrier(nf.PiecewiseLinear(1), rngs=nnx.Rngs(0))
    spectral.flow.field = line.flow.field.refine(nf.Legendre(5))
    np.testing.assert_allclose(depth_energy(spectral), depth_energy(line), rtol=1e-12)


def test_weights_that_are_tied_cost_their_size_alone():
    model = Carrier(nf.PiecewiseLinear(6), rngs=nnx.Rngs(1), init=nf.tied)
    size = sum((c[0] ** 2).sum() for c in _coefficients(model))
    np.testing.assert_allclose(depth_energy(model, 0.5), 0.5 * size, rtol=1e-12)


@pytest.mark.parametrize(
    "basis", [nf.PiecewiseConstant(7), nf.PiecewiseLinear(7), nf.Legendre(4)], ids=str
)
def test_the_sobolev_gradient_of_the_energy_is_twice_the_weights(basis):
    model = Carrier(basis, rngs=nnx.Rngs(2))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    slope = jax.grad(lambda p: depth_energy(nnx.merge(graphdef, p, rest), 0.3))(params)
    turned, _ = sobolev(model, 0.3).update(slope, optax.EmptyState())
    turned = nnx.merge(graphdef, turned, rest)
    for got, want in zip(_coefficients(turned), _coefficients(model), strict=True):
        np.testing.assert_allclose(got, 2 * want, atol=1e-12)
    # The stem stands outside the penalty, and its gradient is handed on.
    assert not np.any(turned.stem.kernel[...])


def test_gradients_find_their_weights_among_many():
    def make(rngs):
        return nf.fields.MLP(2, hidden=3, layers=11, param_dtype=jnp.float64, rngs=rngs)

    field = nf.DepthVarying(make, nf.PiecewiseLinear(3), rngs=nnx.Rngs(0))
    model = nnx.Dict(
        flow=nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=3)),
        head=nnx.Linear(2, 1, rngs=nnx.Rngs(1)),
    )
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    slope = jax.grad(lambda p: depth_energy(nnx.merge(graphdef, p, rest)))(params)
    turned, _ = sobolev(model).update(slope, optax.EmptyState())

    def stack(state):
        merged: Any = nnx.merge(graphdef, state, rest)
        return jax.tree.leaves(nnx.state(merged.flow.field.stack))

    for got, want in zip(stack(turned), stack(params), strict=True):
        np.testing.assert_allclose(got, 2 * want, atol=1e-11)


def test_the_plain_gradient_of_a_layer_falls_with_depth_and_the_sobolev_gradient_does_not():
    sizes = {"plain": [], "sobolev": []}
    x = jax.random.normal(jax.random.key(0), (5, 3))
    for n in (16, 64, 256):
        model = Carrier(nf.PiecewiseLinear(n), rngs=nnx.Rngs(3), init=nf.tied)
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        slope = jax.grad(lambda p, r=rest, g=graphdef: jnp.sum(nnx.merge(g, p, r)(x) ** 2))(params)
        turned, _ = sobolev(model).update(slope, optax.EmptyState())
        for name, tree in (("plain", slope), ("sobolev", turned)):
            sizes[name].append(
                float(jnp.abs(nnx.merge(graphdef, tree, rest).flow.field.stack.kernel[...]).max())
            )
    slopes = {
        name: -np.polyfit(np.log([16, 64, 256]), np.log(values), 1)[0]
        for name, values in sizes.items()
    }
    assert abs(slopes["plain"] - 1) < 0.1
    assert abs(slopes["sobolev"]) < 0.1


def test_momentum_in_the_sobolev_product_is_momentum_in_whitened_increments():
    n, tau = 5, 0.6
    model = Carrier(nf.PiecewiseConstant(n), rngs=nnx.Rngs(4))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(0), (4, 3))

    def loss(p):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, p, rest)(x)))

    optimiser = optax.chain(sobolev(model, tau), optax.sgd(0.05, momentum=0.9))
    state, moved = optimiser.init(params), params
    scale = np.sqrt(np.r_[tau, np.full(n - 1, float(n))])

    def to_weights(xi):
        return jnp.cumsum(xi / scale.reshape(-1, *[1] * (xi.ndim - 1)), axis=0)

    def to_whitened(w):
        return jnp.diff(w, axis=0, prepend=jnp.zeros_like(w[:1])) * scale.reshape(
            -1, *[1] * (w.ndim - 1)
        )

    def deep(path):
        return "field" in jax.tree_util.keystr(path)

    def change(f, p):
        return jax.tree_util.tree_map_with_path(lambda path, w: f(w) if deep(path) else w, p)

    plain = optax.sgd(0.05, momentum=0.9)
    whitened = change(to_whitened, params)
    memory = plain.init(whitened)
    for _ in range(4):
        updates, state = optimiser.update(jax.grad(loss)(moved), state)
        moved = optax.apply_updates(moved, updates)
        updates, memory = plain.update(
            jax.grad(lambda p: loss(change(to_weights, p)))(whitened), memory
        )
        whitened = optax.apply_updates(whitened, updates)
    for a, b in zip(
        jax.tree.leaves(moved), jax.tree.leaves(change(to_weights, whitened)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    "basis", [nf.PiecewiseConstant(5), nf.PiecewiseLinear(5), nf.Legendre(4)], ids=str
)
def test_whitened_gradients_have_the_norm_of_their_sobolev_gradient(basis):
    model = Carrier(basis, rngs=nnx.Rngs(5))
    params = nnx.state(model, nnx.Param)
    slope = jax.tree.map(
        lambda a: jax.random.normal(jax.random.key(a.size), a.shape, a.dtype), params
    )
    turned, _ = sobolev(model, 0.7).update(slope, optax.EmptyState())
    square = sum(jnp.sum(a**2) for a in jax.tree.leaves(whitened(model, slope, 0.7)))
    product = sum(
        jnp.sum(a * b) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(turned), strict=True)
    )
    np.testing.assert_allclose(square, product, rtol=1e-12)


def test_bad_calls_are_refused():
    model = Carrier(nf.PiecewiseConstant(3), rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match="no weight of Linear varies with depth; put a DepthVarying"
    ):
        depth_energy(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="tau must be one finite number > 0"):
        sobolev(model, tau=0)
    with pytest.raises(TypeError, match="model"):
        depth_energy(wrong(3))
    with pytest.raises(
        ValueError, match="made for a model of 4 parameters, with .3. coefficients in depth"
    ):
        sobolev(model).update({"w": jnp.ones(3)}, optax.EmptyState())
