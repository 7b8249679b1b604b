"""Random networks and SDEs as layers."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.linalg import expm
from support.stochastic import KEY, START, A, bent, depth, flat, linear, powers, shake

import neuralflow as nf
from neuralflow.labs import stochastic as st


@pytest.mark.parametrize(
    "scheme", [diffrax.ItoMilstein(), diffrax.EulerHeun()], ids=lambda s: type(s).__name__
)
def test_sdes_have_the_moments_of_the_limit(scheme):
    field = shake()
    estimate = st.expectation(st.NeuralSDE(field, 32, scheme), powers, START, count=10_000, key=KEY)
    assert (
        np.abs(np.asarray(estimate.mean) - flat(st.limit_moments(field, START)))
        < 4 * np.asarray(estimate.error) + 0.01
    ).all()


def test_milstein_paths_are_of_order_one_and_euler_paths_are_not():
    """Equal keys and resolutions give one Brownian path.

    They do so also where steps do not end at powers of two of its resolution.
    """
    field, x = shake(), jnp.broadcast_to(START, (500, 2))

    def run(scheme, steps):
        return st.NeuralSDE(field, steps, scheme, resolution=1 / 256).sample(x, KEY)

    fine = run(diffrax.ItoMilstein(), 120)

    def error(scheme, steps):
        return float(jnp.mean(jnp.abs(run(scheme, steps) - fine)))

    coarse, finer = error(diffrax.ItoMilstein(), 5), error(diffrax.ItoMilstein(), 20)
    assert np.log(coarse / finer) / np.log(4) == pytest.approx(1.0, abs=0.15)
    assert error(diffrax.Euler(), 20) > 1.5 * finer


def test_keys_decide_and_evaluation_draws_nothing():
    network = st.RandomNetwork(bent(survival=0.7), 8)
    x = jax.random.normal(KEY, (8, 2))
    one = network.sample(x, KEY)
    assert (one == network.sample(x, KEY)).all()
    assert (one == jax.jit(lambda x: network.sample(x, KEY))(x)).all()
    assert (one != network.sample(x, jax.random.key(1))).any()
    keys = jax.random.split(KEY, 3)
    both = jax.vmap(lambda key: network.sample(x, key))(keys)
    assert (both == jnp.stack([network.sample(x, key) for key in keys])).all()
    # A call draws anew.
    assert (network(x) != network(x)).any()
    network.eval()
    before = jax.tree.leaves(nnx.state(network, nnx.RngState))
    mean = network(x)
    assert (mean == network(x)).all()
    assert all(
        (a == b).all()
        for a, b in zip(before, jax.tree.leaves(nnx.state(network, nnx.RngState)), strict=True)
    )
    random = network.field
    assert isinstance(random, st.StochasticDepth)
    # The field p f is walked for a time of one.
    expected = nf.NeuralODE(random.field, nf.FixedGrid(nf.Euler(), steps=8), 0.0, 0.7)(x)
    assert float(jnp.abs(mean - expected).max()) < 1e-14
    assert (network.sample(x, KEY) == one).all()
    # The same field on other steps leaves the first network as it was.
    other = st.RandomNetwork(network.field, 16)
    assert (network.sample(x, KEY) == one).all() and (other.sample(x, KEY) != one).any()


def test_an_sde_is_a_layer():
    """It draws in training and not in evaluation, and tells its status.

    It steps to the depths asked for, and has the gradient of its own path.
    """
    field = bent(survival=0.7)
    sde = st.NeuralSDE(field, 8)
    x = jax.random.normal(KEY, (4, 2))
    assert (sde(x) != sde(x)).any()
    one = sde.sample(x, KEY)
    assert (one == sde.sample(x, KEY)).all() and (
        one == jax.jit(lambda x: sde.sample(x, KEY))(x)
    ).all()
    solution = sde.solve(x, KEY, depths=[0.0, 0.5, 1.0])
    assert (
        solution.states.shape == (3, 4, 2)
        and not solution.status.any()
        and int(solution.accepted) == 8
    )
    np.testing.assert_allclose(solution.states[0], x, atol=1e-15)
    np.testing.assert_allclose(solution.states[2], one, atol=1e-15)
    bad = sde.solve(x.at[1].set(jnp.nan), KEY)
    assert [bool(s) for s in bad.status] == [False, True, False, False]
    with pytest.raises(nf.SolveError, match="x held 2 values that are not finite"):
        sde.sample(x.at[1].set(jnp.nan), KEY)
    cubed = st.Noise(nf.from_function(lambda p, x: p * x**3, 1.0), 0.1, rngs=nnx.Rngs(0))
    with pytest.raises(
        nf.SolveError, match="1 of 4 paths left the range of floating point within 8 steps"
    ):
        st.NeuralSDE(cubed, 8).sample(x.at[1].set(1e200), KEY)
    # The derivative along a direction of all weights is held against differences.
    graphdef, weights, rest = nnx.split(sde, nnx.Param, ...)
    loss = jax.jit(lambda weights: jnp.sum(nnx.merge(graphdef, weights, rest).sample(x, KEY) ** 2))
    along = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=float)).reshape(leaf.shape), weights
    )
    slope = sum(
        jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), jax.grad(loss)(weights), along))
    )

    def moved(h):
        return loss(jax.tree.map(lambda a, b: a + h * b, weights, along))

    assert float(slope) == pytest.approx(float(moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-7)
    sde.eval()
    network = st.RandomNetwork(field, 8)
    assert (sde(x) == sde(x)).all() and float(jnp.abs(sde(x) - network(x)).max()) < 1e-15
    assert (sde.sample(x, KEY) == one).all()


def test_an_sde_of_any_state_steps_to_its_own_edges():
    """The states are trees of float32 arrays.

    Depths that are edges of the grid, except for rounding, add no step.
    """
    inner = nf.from_function(lambda p, x: jax.tree.map(lambda leaf: -p * leaf, x), jnp.float32(0.5))
    x = {"a": jnp.ones((3, 2), jnp.float32), "b": jnp.ones((3, 1, 2), jnp.float32)}
    for field in (st.StochasticDepth(inner, rngs=nnx.Rngs(0)), st.Dropout(inner, rngs=nnx.Rngs(0))):
        solution = st.NeuralSDE(field, 10).solve(x, KEY, [0.1, 0.3, 0.7])
        assert int(solution.accepted) == 10 and solution.states["b"].shape == (3, 3, 1, 2)
        first = solution.states["a"]
        assert (first[..., 0] == first[..., 1]).all() == field.shared
    noisy = st.Noise(linear(A), 0.3, rngs=nnx.Rngs(0))
    few, many = (
        st.NeuralSDE(noisy, steps, diffrax.SRA1(), resolution=1 / 128) for steps in (8, 64)
    )
    x = jnp.broadcast_to(START, (4, 2))
    assert float(jnp.abs(few.sample(x, KEY) - many.sample(x, KEY)).max()) < 0.01


def test_networks_and_sdes_train():
    """`fit` carries their streams.

    The expectation fits the data better than the draws it was trained on.
    """
    x = np.asarray(jax.random.normal(KEY, (256, 2)))
    data = {"x": x, "y": x @ expm(A).T}

    def loss(model, batch):
        return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)

    for kind in (st.RandomNetwork, st.NeuralSDE):
        field = st.StochasticDepth(
            nnx.Linear(2, 2, param_dtype=float, rngs=nnx.Rngs(0)), 0.9, rngs=nnx.Rngs(1)
        )
        model = kind(field, 4)
        losses = nf.training.fit(
            model, loss, optax.adam(0.05), data, epochs=6, batch=32, progress=False
        ).history["loss"]
        assert losses[-1] < 0.3 * losses[0]
        model.eval()
        assert float(loss(model, data)) < losses[-1]


def test_an_lm_network_with_stochastic_depth_keeps_its_two_steps():
    """The step is X_{n+1} = (2 + g) X_n - (1 + g) X_{n-1} + eta f(X_n) with g = -1 - k.

    The branch is dropped, and the two steps stay.
    """
    field = depth(0.5, per="batch")
    network = st.RandomNetwork(field, 10, nf.schemes.LMResNet(-0.3), t1=10.0)
    x = jnp.asarray([START])
    path = np.asarray(st.seeded(network, KEY).layer.trajectory(x))[:, 0]
    g = -1 + 0.3
    etas = [(path[1] - path[0]) / (A @ path[0])]
    etas += [
        (path[n + 1] - (2 + g) * path[n] + (1 + g) * path[n - 1]) / (A @ path[n])
        for n in range(1, 10)
    ]
    etas = np.asarray(etas)
    np.testing.assert_allclose(etas, np.broadcast_to(etas[:, :1].round(), (10, 2)), atol=1e-8)
    assert set(etas.round().ravel()) == {0.0, 1.0}
