"""Sums over paths against the networks they expand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.paths import KEY, X, apart, network

import neuralflow as nf
from neuralflow.labs import paths


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
def test_all_subpaths_add_up_to_the_output(depth):
    net = network(depth)
    lengths, parts = paths.subpaths(net, X)
    assert np.bincount(lengths).tolist() == paths.counts(depth)
    assert apart(parts.sum(0), net(X)) < 1e-12
    by_length = paths.contributions(net, X)
    for k in range(depth + 1):
        assert apart(parts[lengths == k].sum(0), by_length[k]) < 1e-12


@pytest.mark.parametrize("depth", [12, 1024])
def test_contributions_by_length(depth):
    """The output of a network whose branches are multiplied by s is a polynomial in s.

    The contributions c_k are its coefficients of s^k.
    """
    net = network(depth)
    parts = paths.contributions(net, X)
    for s in (0.5, 1.0, -1.0):
        scaled = paths.Branches.of(s * net.matrices, s * net.offsets)
        assert apart(jnp.tensordot(s ** jnp.arange(depth + 1.0), parts, 1), scaled(X)) < 1e-12
    shares = paths.length_shares(parts)
    assert float(shares.sum()) == pytest.approx(1)


@pytest.mark.parametrize("depth", [12, 1024])
def test_gradients_by_length_add_up_to_the_gradient(depth):
    net = network(depth)
    g = jnp.cos(X)
    exact = jax.vjp(net, X)[1](g)[0]
    parts = paths.gradients(net, g)
    assert apart(parts.sum(0), exact) < 1e-12
    # The path of skips alone has the identity for its Jacobian.
    assert apart(parts[0], g) == 0
    along = paths.adjoints(net, g)
    assert along.shape == (depth + 1, 4)
    assert apart(along[0], exact) < 1e-12
    plain = paths.adjoints(net, g, skip=False)
    assert apart(plain[-2], net.matrices[-1].T @ g) < 1e-12
    # Without skips there is one path, through all branches.
    assert apart(plain[0], parts[depth]) < 1e-12


def test_a_relu_network_is_its_gated_linear_network_at_every_input():
    def make(rngs):
        return nf.fields.MLP(
            3, hidden=16, layers=2, activation=jax.nn.relu, param_dtype=jnp.float64, rngs=rngs
        )

    field = nf.DepthVarying(make, nf.PiecewiseConstant(6), rngs=nnx.Rngs(0))
    # The biases of a new module are zero; these are not.
    nnx.update(
        field,
        jax.tree.map(
            lambda p: p + 0.3 * jax.random.normal(KEY, p.shape), nnx.state(field, nnx.Param)
        ),
    )
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=6))
    x = 2 * jax.random.normal(KEY, (100, 3))
    gated = paths.linearised(layer, x)
    parts = paths.contributions(gated, x)
    assert apart(parts.sum(0), layer(x)) < 1e-12
    # It is the network itself, and not only its value.
    # Both are equal in a neighbourhood in which no gate switches.
    near = x + 1e-9 * jnp.sin(x)
    assert apart(gated(near), layer(near)) < 1e-12
    g = jnp.ones_like(x)
    assert apart(paths.gradients(gated, g).sum(0), jax.vjp(layer, x)[1](g)[0]) < 1e-12


def test_paths_over_coordinates():
    net = network(5, 2)
    kernels, state = net.kernels(), jnp.asarray([0.5, -1.0, 1.0])
    weights = paths.amplitudes(kernels, state)
    assert weights.shape == (3,) * 6
    assert apart(weights.sum((0, 1, 2, 3, 4))[:2], net(state[:2])) < 1e-14
    drawn = paths.sample(kernels, state, KEY, 20_000)
    estimate = paths.estimate(drawn.weights)
    assert (jnp.abs(estimate.mean[:2] - net(state[:2])) < 4 * estimate.error[:2]).all()
    assert float(estimate.error.max()) < 0.02
    # A path's weight is its amplitude over the probability that it was drawn with.
    nodes, weight = np.asarray(drawn.nodes[0, 1]), float(drawn.weights[0, 1])
    assert nodes[-1] == 1
    chances = np.abs(kernels) / np.abs(kernels).sum(-1, keepdims=True)
    chance = np.prod([chances[n, nodes[n + 1], nodes[n]] for n in range(5)])
    assert weight == pytest.approx(float(weights[tuple(nodes)]) / chance)
