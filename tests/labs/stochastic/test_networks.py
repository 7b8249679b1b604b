"""Random networks against their laws, their limits, and closed forms."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from refusals import refuses
from scipy.linalg import expm

import neuralflow as nf
from neuralflow.labs import stochastic as st

KEY = jax.random.key(0)
A = np.asarray([[-0.5, 1.0], [-0.3, -0.2]])
B = np.asarray([[0.2, -0.4], [0.6, 0.1]])
START = np.asarray([1.0, -0.5])


def linear(matrix):
    return nf.from_function(lambda a, x: x @ a.T, jnp.asarray(matrix))


def depth(survival, **options):
    return st.StochasticDepth(linear(A), survival, rngs=nnx.Rngs(0), **options)


def shake():
    return st.ShakeShake(linear(A), linear(B), rngs=nnx.Rngs(0))


def powers(y):
    """All products of one, two and three coordinates, (batch, 14)."""
    two = jnp.einsum("bi,bj->bij", y, y)
    three = jnp.einsum("bij,bk->bijk", two, y)
    return jnp.concatenate([y, two.reshape(len(y), -1), three.reshape(len(y), -1)], axis=-1)


def flat(moments):
    return np.concatenate([m.ravel() for m in moments])


FIELDS = {
    "stochastic depth": lambda: depth(0.8),
    "falling survival": lambda: depth(st.linear(0.5, step=1 / 8)),
    "shake-shake": shake,
}


@pytest.mark.parametrize("case", FIELDS)
def test_moments_of_linear_networks_are_those_of_all_their_outcomes(case):
    """Two-point laws by writing out every outcome of a few blocks; the uniform one by sampling."""
    field, steps = FIELDS[case](), 8
    moments = flat(st.network_moments(field, START, steps))
    if case == "shake-shake":
        drawn = st.expectation(
            st.RandomNetwork(field, steps), powers, START, count=100_000, key=KEY
        )
        assert (np.abs(np.asarray(drawn.mean) - moments) < 4 * np.asarray(drawn.error)).all()
        return
    h, total = 1 / steps, 0.0
    for outcome in np.ndindex(*(2,) * steps):
        weight, x = 1.0, START
        for n, alive in enumerate(outcome):
            p = float(field.probability(n * h))
            weight *= p if alive else 1 - p
            x = x + h * p * (A @ x) + h**0.5 * (alive - p) * (A @ x)
        total = total + weight * np.asarray(powers(x[None]))[0]
    np.testing.assert_allclose(moments, total, atol=1e-12)


@pytest.mark.parametrize("case", ["stochastic depth", "shake-shake"])
def test_moments_of_the_limit_against_closed_forms(case):
    """With commuting A and B, X = exp((A - B^2/2) T + B W): E X, and E X (x) X, by the exponentials of matrices."""
    field = FIELDS[case]()
    a, b = st.matrices(field, 2)
    p = 0.8
    if case == "stochastic depth":
        np.testing.assert_allclose(a, p * A, atol=1e-14)
        np.testing.assert_allclose(b, (p * (1 - p)) ** 0.5 * A, atol=1e-14)
    else:
        np.testing.assert_allclose(a, (A + B) / 2, atol=1e-14)
        np.testing.assert_allclose(b, (A - B) / 12**0.5, atol=1e-14)
    mean, second, third = st.limit_moments(field, START)
    np.testing.assert_allclose(mean, expm(a) @ START, atol=1e-12)
    if case == "stochastic depth":
        # A alone decides: in its eigenvectors X_i = x_i exp((l_i - m_i^2/2) + m_i W), so products have exponents that add up.
        values, vectors = np.linalg.eig(A)
        drift, noise = p * values, (p * (1 - p)) ** 0.5 * values
        y = np.linalg.solve(vectors, START)

        def product(*index):
            m = noise[list(index)]
            return np.prod(y[list(index)]) * np.exp(
                drift[list(index)].sum() + (m.sum() ** 2 - (m**2).sum()) / 2
            )

        exact = np.einsum(
            "ai,bj,ij->ab", vectors, vectors, [[product(i, j) for j in (0, 1)] for i in (0, 1)]
        )
        np.testing.assert_allclose(second, exact, atol=1e-12)
        cubes = np.asarray([[[product(i, j, k) for k in (0, 1)] for j in (0, 1)] for i in (0, 1)])
        np.testing.assert_allclose(
            third, np.einsum("ai,bj,ck,ijk->abc", vectors, vectors, vectors, cubes), atol=1e-12
        )


def test_moments_follow_what_varies_along_depth():
    """The mean of a linear network is its evaluation; that of the limit comes from steps at order one, the moments' own of order two."""
    timed = nf.from_function(lambda a, x, t: (1 + 3 * t**2) * (x @ a.T), jnp.asarray(A))

    def make(rngs):
        return nnx.Linear(2, 2, use_bias=False, param_dtype=jnp.float64, rngs=rngs)

    for inner in (timed, nf.DepthVarying(make, nf.PiecewiseLinear(3), rngs=nnx.Rngs(0))):
        for field in (
            st.StochasticDepth(inner, 0.7, rngs=nnx.Rngs(0)),
            st.ShakeShake(inner, linear(B), rngs=nnx.Rngs(0)),
        ):
            network = st.RandomNetwork(field, 9)
            network.eval()
            moments = st.network_moments(field, START, 9)
            np.testing.assert_allclose(moments[0], network(START[None])[0], atol=1e-12)
            limit = [flat(st.limit_moments(field, START, steps=3 * n)) for n in (4, 8, 16)]
            assert np.log2(
                np.abs(limit[0] - limit[1]).max() / np.abs(limit[1] - limit[2]).max()
            ) == pytest.approx(2, abs=0.1)


def orders(field, steps):
    limit = st.limit_moments(field, START)
    errors = [
        [
            np.abs(m - e).max()
            for m, e in zip(st.network_moments(field, START, n), limit, strict=True)
        ]
        for n in steps
    ]
    return -np.diff(np.log2(errors), axis=0)


def test_weak_orders():
    """First and second moments 1 at any p; the third 1 at p = 1/2, and towards 1/2 at p = 0.8 (measured in the notes)."""
    np.testing.assert_allclose(orders(depth(0.5), (64, 128, 256)), 1.0, atol=0.1)
    np.testing.assert_allclose(orders(shake(), (64, 128, 256)), 1.0, atol=0.1)
    observed_orders = orders(depth(0.8), (64, 128, 256, 512))
    np.testing.assert_allclose(observed_orders[:, :2], 1.0, atol=0.1)
    np.testing.assert_allclose(observed_orders[:, 2], 0.5, atol=0.05)


def test_a_brownian_motion_for_every_coordinate_has_another_covariance():
    """The falsifier: dX_i = a_i dt + b_i dB_i keeps the mean and gets E X X' wrong, which sampling and closed form both see."""
    field = depth(0.5)
    a, b = st.matrices(field, 2)
    shared = st.limit_moments(field, START)
    one = np.eye(2)
    apart = np.zeros((4, 4))
    for i in range(2):  # only the diagonal of E X X' has a quadratic variation
        row = np.zeros((2, 2))
        row[i] = b[i]
        apart += np.kron(row, row)
    wrong = (expm(np.kron(a, one) + np.kron(one, a) + apart) @ np.kron(START, START)).reshape(2, 2)
    assert abs(wrong - shared[1])[0, 1] > 0.02

    def outer(y):
        return jnp.einsum("bi,bj->bij", y, y)

    for model, count, far in (
        (st.RandomNetwork(field, 64), 40_000, 20),
        (st.NeuralSDE(field, 32), 10_000, 10),
    ):
        estimate = st.expectation(model, outer, START, count=count, key=KEY)

        right, off = (
            np.abs(np.asarray(estimate.mean) - exact)[0, 1] / float(estimate.error[0, 1])
            for exact in (shared[1], wrong)
        )
        assert right < 4 < far < off


class Bent(nnx.Module):
    """A nonlinear field with weights that vary with depth."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.dense(x)) - x


def bent(kind=st.StochasticDepth, **options):
    field = nf.DepthVarying(Bent, nf.PiecewiseConstant(4), rngs=nnx.Rngs(1))
    return kind(field, rngs=nnx.Rngs(0), **options)


def bend(y):
    return jnp.tanh(y[:, 0] - y[:, 1])


def test_sampled_weak_errors_of_a_linear_field_are_the_exact_ones():
    field, steps = depth(0.8), (3, 6)

    def cube(y):
        return y[:, 1] ** 3

    weak_errors = st.weak_errors(field, cube, START, steps=steps, count=200_000, key=KEY)
    limit = st.limit_moments(field, START)[2][1, 1, 1]
    exact = np.asarray([st.network_moments(field, START, n)[2][1, 1, 1] - limit for n in steps])
    assert (
        np.abs(np.asarray(weak_errors.errors.mean) - exact)
        < 4 * np.asarray(weak_errors.errors.error)
    ).all()
    assert (np.abs(exact) > 10 * np.asarray(weak_errors.errors.error)).all()
    assert weak_errors.interval[0] < np.log2(exact[0] / exact[1]) < weak_errors.interval[1]


def test_weak_error_of_a_nonlinear_field_falls_with_depth():
    """Order one at p = 1/2, found within a tenth; paths that share their Brownian motion tell it with less noise than their own would."""
    field = bent(survival=0.5)
    weak_errors = st.weak_errors(field, bend, START, steps=(8, 16), count=150_000, key=KEY)
    assert weak_errors.order == pytest.approx(1.0, abs=0.1)
    assert (
        weak_errors.interval[0]
        < weak_errors.order
        < weak_errors.interval[1]
        < weak_errors.interval[0] + 0.3
    )
    alone = st.expectation(st.RandomNetwork(field, 16), bend, START, count=150_000, key=KEY)
    assert float(weak_errors.errors.error[-1]) < 0.9 * 2**0.5 * float(alone.error)


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
    """Equal keys and resolutions are one Brownian path, also where steps end at no power of two of it."""
    field, x = shake(), jnp.broadcast_to(START, (500, 2))

    def run(scheme, steps):
        return st.NeuralSDE(field, steps, scheme, resolution=1 / 256).sample(x, KEY)

    fine = run(diffrax.ItoMilstein(), 120)

    def error(scheme, steps):
        return float(jnp.mean(jnp.abs(run(scheme, steps) - fine)))

    coarse, finer = error(diffrax.ItoMilstein(), 5), error(diffrax.ItoMilstein(), 20)
    assert np.log(coarse / finer) / np.log(4) == pytest.approx(1.0, abs=0.15)
    assert error(diffrax.Euler(), 20) > 1.5 * finer


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
    assert (network(x) != network(x)).any()  # a call draws anew
    network.eval()
    before = jax.tree.leaves(nnx.state(network, nnx.RngState))
    mean = network(x)
    assert (mean == network(x)).all()
    assert all(
        (a == b).all()
        for a, b in zip(before, jax.tree.leaves(nnx.state(network, nnx.RngState)), strict=True)
    )
    field = network.field.field
    expected = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=8), 0.0, 0.7)(
        x
    )  # p f, walked for a time of one
    assert float(jnp.abs(mean - expected).max()) < 1e-14
    assert (network.sample(x, KEY) == one).all()
    other = st.RandomNetwork(
        network.field, 16
    )  # the same field on other steps leaves the first as it was
    assert (network.sample(x, KEY) == one).all() and (other.sample(x, KEY) != one).any()


def test_an_sde_is_a_layer():
    """It draws in training and not in evaluation, tells its status, steps to the depths asked for, and has the gradient of its own path."""
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
    # The derivative along a direction of all weights, against differences.
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
    """Trees of float32 arrays; depths that are edges of the grid, but for rounding, add no step."""
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
    """`fit` carries their streams; the expectation fits the data better than the draws it was trained on."""
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


def test_steps_and_samples_draw_their_own():
    ones = nf.from_function(lambda p, x: jnp.ones_like(x))
    for per, own in (("sample", True), ("batch", False)):
        field = st.StochasticDepth(ones, 0.5, per=per, rngs=nnx.Rngs(0))
        network = st.RandomNetwork(field, 16, t1=16.0)
        alive = np.diff(
            np.asarray(st.seeded(network, KEY).layer.trajectory(jnp.zeros((64, 3)))), axis=0
        )
        assert set(np.unique(alive.round(12))) == {
            0.0,
            1.0,
        }  # with steps of one a block is there or not
        assert (alive == alive[..., :1]).all()  # one draw for all coordinates
        assert len(np.unique(alive[:, :, 0].T, axis=0)) == (64 if own else 1)
        assert 0 < alive[:, 0, 0].sum() < 16


def test_an_lm_network_with_stochastic_depth_keeps_its_two_steps():
    """X_{n+1} = (2 + g) X_n - (1 + g) X_{n-1} + eta f(X_n), g = -1 - k: the branch is dropped, the two steps stay."""
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


def test_fractional_weights_have_their_covariance():
    nodes = nf.PiecewiseConstant(64).nodes
    np.testing.assert_allclose(nf.fractional(0.5)(nodes), np.eye(64), atol=1e-12)
    assert nf.fractional(1.0)(nodes).shape == (64, 1)
    mix = nf.fractional(0.8)(nodes)
    np.testing.assert_allclose((mix**2).sum(1), 1.0, atol=1e-12)
    walk = mix.cumsum(0)
    # Fractional Brownian motion: variance k^2H.
    np.testing.assert_allclose((walk**2).sum(1), np.arange(1, 65) ** 1.6, rtol=1e-10)
    assert (nf.fractional(0.3)(nodes) @ nf.fractional(0.3)(nodes).T)[0, 1] < 0


def test_survival_falls_as_published():
    p = st.linear(0.5, length=4.0, step=1.0)
    assert [float(p(t)) for t in range(4)] == [0.875, 0.75, 0.625, 0.5]


REFUSED = {
    "a survival of zero": (lambda: depth(0.0), "survival is a probability above zero"),
    "a survival above one": (lambda: depth(1.5), "probability above zero and up to one, got 1.5"),
    "another per": (lambda: depth(0.5, per="pixel"), "per must be one of 'sample', 'batch'"),
    "a function for a field": (
        lambda: st.StochasticDepth(lambda x: x, rngs=nnx.Rngs(0)),
        "field must be an nnx.Module",
    ),
    "noise of no size": (
        lambda: st.Noise(linear(A), 0.0, rngs=nnx.Rngs(0)),
        "scale is a positive number",
    ),
    "a plain field": (lambda: st.RandomNetwork(linear(A), 4), "a random field such as"),
    "a network backward": (lambda: st.RandomNetwork(depth(0.5), 4, t0=1.0, t1=0.0), "runs forward"),
    "many evaluations a step": (
        lambda: st.RandomNetwork(depth(0.5), 4, nf.Heun()),
        "one draw, so one evaluation.*Heun",
    ),
    "a scheme that is none": (
        lambda: st.NeuralSDE(depth(0.5), 4, "euler"),
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
    "moments of many motions": (
        lambda: st.network_moments(st.Dropout(linear(A), rngs=nnx.Rngs(0)), START, 4),
        "each has its own in Dropout",
    ),
    "moments of many points": (
        lambda: st.limit_moments(depth(0.5), np.ones((2, 2))),
        r"one point \(d,\) of finite numbers, got \[\[1.0",
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
    "a key that is a number": (
        lambda: st.RandomNetwork(depth(0.5), 4).sample(jnp.ones((1, 2)), 3),
        "random key such as .* got 3",
    ),
    "a point without a batch": (
        lambda: st.NeuralSDE(depth(0.5), 4).sample(jnp.asarray(1.0), KEY),
        "x has no axis",
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
    "depths that are none": (
        lambda: st.NeuralSDE(depth(0.5), 4).solve(START[None], KEY, [jnp.nan]),
        "depths must rise",
    ),
    "integers": (
        lambda: st.NeuralSDE(depth(0.5), 4).sample(jnp.ones((3, 2), int), KEY),
        "float32 or float64, got int64",
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
    "moments backward": (
        lambda: st.network_moments(depth(0.5), START, 4, -1.0),
        "time is a positive number",
    ),
    "a Hurst index of zero": (lambda: nf.fractional(0.0), "Hurst index above 0"),
    "nodes at odd places": (
        lambda: nf.fractional(0.7)(nf.Legendre(5).nodes),
        "equally spaced nodes",
    ),
}


test_bad_input_is_refused_in_one_sentence = refuses(REFUSED)
