"""Random fields: what they draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.stochastic import KEY, START, A, apart, bent, depth, linear, powers, shake

import neuralflow as nf
from neuralflow.labs import stochastic as st
from neuralflow.labs.stochastic.fields import Per

KINDS = {
    "stochastic depth": lambda: depth(0.8),
    "falling survival": lambda: depth(st.linear(0.5, step=1 / 8)),
    "dropout": lambda: st.Dropout(linear(A), 0.7, rngs=nnx.Rngs(0)),
    "shake-shake": shake,
    "noise": lambda: st.Noise(linear(A), 0.3, rngs=nnx.Rngs(0)),
    "Gaussian": lambda: st.Gaussian(depth(0.8)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_quadrature_is_that_of_the_law(kind):
    field = KINDS[kind]()
    nodes, weights = field.quadrature(0.3)
    assert np.allclose([weights @ nodes**power for power in range(3)], [1, 0, 1], atol=1e-12)
    assert apart(field) < 1e-4


def test_dropout_has_a_brownian_motion_for_every_coordinate():
    field = bent(st.Dropout, survival=0.7)
    network = st.expectation(st.RandomNetwork(field, 32), powers, START, count=20_000, key=KEY)
    limit = st.expectation(
        st.NeuralSDE(field, 32), powers, START, count=5_000, key=jax.random.key(1)
    )
    assert (
        np.abs(np.asarray(network.mean - limit.mean)) / np.hypot(network.error, limit.error)
    ).max() < 4.5


def test_injected_noise_has_its_covariance():
    scale, steps = 0.3, 16
    field = st.Noise(linear(A), scale, rngs=nnx.Rngs(0))
    estimate = st.expectation(st.RandomNetwork(field, steps), powers, START, count=100_000, key=KEY)
    block = np.eye(2) + A / steps
    mean, covariance = START, np.zeros((2, 2))
    for _ in range(steps):
        mean, covariance = block @ mean, block @ covariance @ block.T + scale**2 / steps * np.eye(2)
    exact = np.concatenate([mean, (covariance + np.outer(mean, mean)).ravel()])
    assert (
        np.abs(np.asarray(estimate.mean[:6]) - exact) < 4 * np.asarray(estimate.error[:6])
    ).all()


def test_steps_and_samples_draw_their_own():
    ones = nf.from_function(lambda p, x: jnp.ones_like(x))
    cases: tuple[tuple[Per, bool], ...] = (("sample", True), ("batch", False))
    for per, own in cases:
        field = st.StochasticDepth(ones, 0.5, per=per, rngs=nnx.Rngs(0))
        network = st.RandomNetwork(field, 16, t1=16.0)
        alive = np.diff(
            np.asarray(st.seeded(network, KEY).layer.trajectory(jnp.zeros((64, 3)))), axis=0
        )
        # With steps of length one a block is there or not.
        assert set(np.unique(alive.round(12))) == {0.0, 1.0}
        # There is one draw for all coordinates.
        assert (alive == alive[..., :1]).all()
        assert len(np.unique(alive[:, :, 0].T, axis=0)) == (64 if own else 1)
        assert 0 < alive[:, 0, 0].sum() < 16


def test_a_block_that_is_left_out_leaves_its_statistics():
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(2, momentum=0.5, param_dtype=jnp.float64, rngs=rngs)

        def __call__(self, x):
            return self.norm(x).astype(x.dtype)

    inner = nf.DepthVarying(Normed, nf.PiecewiseConstant(8), rngs=nnx.Rngs(0))
    network = st.RandomNetwork(
        st.StochasticDepth(inner, 0.5, per="batch", rngs=nnx.Rngs(0)), 8, t1=8.0, memory="full"
    )
    x = jax.random.normal(KEY, (16, 2)) + 1.0
    path = nnx.clone(network).layer.trajectory(x)
    network(x)
    moved = np.abs(np.diff(np.asarray(path), axis=0)).max((1, 2)) > 0
    touched = np.abs(np.asarray(inner.stack.norm.mean[...])).max(1) > 0
    assert 0 < moved.sum() < 8
    assert (moved == touched).all()
    gradient = nnx.grad(lambda network: jnp.sum(network(x) ** 2))(network)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_survival_falls_as_published():
    p = st.linear(0.5, length=4.0, step=1.0)
    assert [float(p(t)) for t in range(4)] == [0.875, 0.75, 0.625, 0.5]
