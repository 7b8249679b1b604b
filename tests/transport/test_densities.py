"""Values, densities and integrals carried along flows: closed forms, autodiff and the equations themselves as oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.scipy.linalg import expm

import neuralflow as nf
from neuralflow.regularisers import jacobian_frobenius, kinetic_energy
from neuralflow.transport import (
    Continuity,
    Exact,
    Hutchinson,
    HutchPlusPlus,
    NormalisingFlow,
    Transport,
    along,
)

TIGHT = nf.Adaptive(nf.Tsit5(), 1e-10, 1e-10)
MATRIX = jnp.asarray([[0.3, -1.1], [0.7, -0.5]])


def linear():
    """x' = A x on [0, 1], whose every answer is known."""
    return nf.NeuralODE(nf.from_function(lambda a, x: x @ a.T, MATRIX), TIGHT)


def gauss(x):
    return -0.5 * jnp.sum(x**2, axis=-1) - x.shape[-1] / 2 * jnp.log(2 * jnp.pi)


def wave(x):
    return jnp.sin(x[:, 0]) * x[:, 1]


class Normal(nnx.Module):
    """A base distribution of one's own, with a scale that is learned."""

    def __init__(self, dimension):
        self.dimension = dimension
        self.scale = nnx.Param(jnp.ones(()))

    def log_prob(self, y):
        scale = self.scale[...]
        return gauss(y / scale) - self.dimension * jnp.log(scale)

    def sample(self, key, shape=()):
        return self.scale[...] * jax.random.normal(key, (*shape, self.dimension))


class TestBetween:
    @pytest.mark.parametrize("basis", [nf.PiecewiseConstant(6), nf.PiecewiseLinear(3)])
    def test_the_blocks_of_a_part_are_those_of_the_whole_to_the_last_bit(self, mlp, x, basis):
        for solve in (
            nf.FixedGrid(nf.Euler(), steps=12),
            nf.FixedGrid(nf.Heun(), times=np.arange(7) / 6),
        ):
            layer = nf.NeuralODE(mlp(basis), solve, 0.5, 2.0)
            edges = layer.trajectory(x)
            half = len(edges) // 2
            np.testing.assert_array_equal(layer.between(0.5, 1.25)(x), edges[half])
            np.testing.assert_array_equal(layer.between(1.25, 2.0)(edges[half]), edges[-1])
            np.testing.assert_array_equal(
                layer.between(1.25, 2.0).trajectory(edges[half]), edges[half:]
            )

    def test_steps_that_are_cut_are_the_schemes_own_shortened(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Heun(), steps=4))
        inside = layer.trajectory(x, jnp.asarray([0.3, 0.9]))
        np.testing.assert_allclose(layer.between(0, 0.3)(x), inside[0], rtol=0, atol=1e-15)
        assert int(layer.between(0.3, 0.9).solve(x).accepted) == 3

    def test_an_adaptive_part_composes_and_its_ends_differentiate(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseLinear(3)), TIGHT, 0.5, 2.0)
        walk = jax.jit(lambda a, b, x: layer.between(a, b)(x))
        np.testing.assert_allclose(walk(1.2, 2.0, walk(0.5, 1.2, x)), layer(x), rtol=0, atol=1e-9)
        loss = jax.jit(lambda a, b: jnp.sum(jnp.sin(layer.between(a, b)(x))))
        gradient = jax.jit(jax.grad(lambda a, b: loss(a, b), argnums=(0, 1)))(0.8, 1.7)
        for k, step in enumerate(1e-4 * np.eye(2)):
            ends = np.array([0.8, 1.7])
            assert abs((loss(*(ends + step)) - loss(*(ends - step))) / 2e-4 - gradient[k]) < 1e-6

    def test_new_ends_compile_nothing_and_an_empty_part_is_the_identity(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), TIGHT)
        layer.between(0.25, 1.0)(x)
        before = nf.layers._integrate._cache_size()
        np.testing.assert_array_equal(layer.between(0.75, 0.75)(x), x)
        assert nf.layers._integrate._cache_size() == before

    def test_a_part_has_parts_and_ends_of_its_own(self, mlp, x):
        layer = nf.NeuralODE(
            mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Euler(), steps=4), 0.0, 2.0
        )
        part = layer.between(0.5, 1.5)
        assert part.ends == (0.5, 1.5) and layer.ends == (0.0, 2.0)
        np.testing.assert_array_equal(part.between(0.5, 1.0)(x), layer.between(0.5, 1.0)(x))
        with pytest.raises(ValueError, match="order of 0.5 to 1.5 and inside, got 1.0 and 1.8"):
            part.between(1.0, 1.8)
        u = Transport(part, wave)
        np.testing.assert_array_equal(u(x, 0.5), wave(part(x)))
        np.testing.assert_array_equal(u(x, 1.5), wave(x))
        flow = NormalisingFlow(
            layer.with_solve(nf.FixedGrid(nf.RK4(), steps=32)).between(0.5, 1.5), Normal(2)
        )
        points, log_prob = flow.sample_and_log_prob(jax.random.key(0), 3)
        np.testing.assert_allclose(flow.log_prob(points), log_prob, rtol=0, atol=1e-4)

    def test_in_a_trace_what_lies_outside_is_nan(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.Adaptive(nf.Tsit5(), 1e-6, 1e-6))
        walk = jax.jit(lambda a, b: layer.between(a, b)(x))
        assert np.isfinite(walk(0.2, 0.7)).all()
        for ends in ((0.2, 1.5), (-0.1, 0.5), (0.6, 0.3)):
            assert np.isnan(walk(*ends)).all()
        velocities = jax.vmap(lambda t: layer.velocity(x, t))(jnp.asarray([0.2, 0.7]))
        np.testing.assert_allclose(velocities[1], layer.velocity(x, 0.7), rtol=1e-14)

    def test_refusals(self, mlp, x):
        layer = nf.NeuralODE(
            mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Euler(), steps=4), 0.0, 2.0
        )
        for start, stop in ((-0.1, 1), (0, 2.1), (1.5, 1), (np.nan, 1), ("0", 1), (np.zeros(2), 1)):
            with pytest.raises(ValueError, match="two depth times in the order of 0 to 2"):
                layer.between(start, stop)
        with pytest.raises(TypeError, match="the ends of a fixed grid are numbers"):
            jax.jit(lambda t: layer.between(t, 2.0)(x))(1.0)
        with pytest.raises(ValueError, match="direction of the walk between 1 and 2"):
            layer.between(1, 2).trajectory(x, jnp.asarray([0.5]))
        with pytest.raises(ValueError, match="cannot start or stop inside"):
            layer.with_solve(nf.FixedGrid(nf.schemes.LMResNet(0.1), steps=4)).between(0.5, 1)
        with pytest.raises(ValueError, match="increasing normalised depths"):
            nf.FixedGrid(nf.Euler(), steps=4, ends=(0.5, 0.5))
        with pytest.raises(ValueError, match="one depth time between 0 and 2, got 3"):
            layer.velocity(x, 3)

    def test_the_velocity_has_the_weights_of_its_depth(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseLinear(2)), TIGHT, 1.0, 3.0)
        np.testing.assert_allclose(layer.velocity(x, 1.5), layer.field.at(0.25)(x, 1.5), rtol=1e-14)


class TestTransport:
    def test_a_linear_flow_has_its_closed_form(self, x):
        flow, t = linear(), 0.3
        ahead = x @ expm(0.7 * MATRIX).T
        np.testing.assert_allclose(Transport(flow, wave)(x, t), wave(ahead), rtol=0, atol=1e-9)
        behind = x @ expm(-0.3 * MATRIX).T
        np.testing.assert_allclose(
            Transport(flow, wave, "start")(x, t), wave(behind), rtol=0, atol=1e-9
        )

    def test_the_equations_hold(self, mlp, x):
        """Also where the weights jump (t = 1): inside the cell that begins there."""
        flow = nf.NeuralODE(mlp(nf.PiecewiseConstant(3)), TIGHT, 0.5, 2.0)

        def plane(x):
            return jnp.stack([wave(x), x[:, 0] ** 2], axis=1)

        for carried in (Transport(flow, plane), Continuity(flow, gauss, "start")):
            for t in (0.8, 1.0):
                assert np.abs(carried.residual(x, t)).max() < 1e-6

    def test_a_wrong_velocity_leaves_a_residual(self, mlp, x):
        flow = nf.NeuralODE(mlp(nf.PiecewiseConstant(3)), TIGHT)
        other = nf.NeuralODE(mlp(nf.PiecewiseConstant(3), seed=1), TIGHT)
        u = Transport(flow, wave)
        u.layer.velocity = other.velocity
        assert np.abs(u.residual(x, 0.5)).max() > 1e-2

    def test_a_resnet_meets_the_transport_equation_at_order_one(self, mlp, x):
        field = mlp(nf.PiecewiseLinear(2))
        exact = Transport(nf.NeuralODE(field, TIGHT), wave)(x, 0.0)
        depths = (32, 64, 128)
        nets = (
            Transport(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=n)), wave) for n in depths
        )
        errors = [np.abs(net(x, 0.0) - exact).max() for net in nets]
        assert abs(np.polyfit(np.log(depths), np.log(errors), 1)[0] + 1) < 0.05

    def test_on_a_grid_it_is_the_rest_of_the_network(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(5)), nf.FixedGrid(nf.Euler(), steps=5))
        head = nnx.Linear(2, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        y = layer.trajectory(x)[2]
        for block in nf.to_branches(layer)[2:]:
            y = y + 0.2 * block(y)
        u = Transport(layer, head)
        np.testing.assert_allclose(u(layer.trajectory(x)[2], 0.4), head(y), rtol=0, atol=1e-15)
        np.testing.assert_array_equal(u(x, 0.0), head(layer(x)))
        np.testing.assert_array_equal(u(x, 1.0), head(x))

    def test_gradients_are_those_of_autodiff(self, mlp, x):
        flow = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Midpoint(), steps=4))

        def plane(x):
            return jnp.stack([wave(x), x[:, 0] ** 2], axis=1)

        def one(p):
            return plane(flow(p[None]))[0]

        want = jax.jit(jax.vmap(jax.jacrev(one)))(x)
        np.testing.assert_allclose(Transport(flow, plane).gradient(x, 0.0), want, rtol=0, atol=1e-8)
        np.testing.assert_allclose(
            Transport(flow, wave).gradient(x, 0.0), want[:, 0], rtol=0, atol=1e-8
        )

    def test_refusals(self, mlp, x):
        flow = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), TIGHT)
        for t in (-0.1, 1.5, np.nan, "0", np.zeros(2)):
            with pytest.raises(ValueError, match="one depth time between 0 and 1"):
                Transport(flow, wave)(x, t)
        with pytest.raises(ValueError, match="given must be one of 'start', 'end'"):
            Transport(flow, wave, "middle")
        with pytest.raises(TypeError, match="must be a function"):
            Transport(flow, 3)
        with pytest.raises(TypeError, match="forward layer"):
            Transport(flow.reverse(), wave)
        with pytest.raises(ValueError, match="step is a share of the interval"):
            Transport(flow, wave).residual(x, 0.3, step=0)
        with pytest.raises(ValueError, match="a row a sample"):
            Transport(flow, jnp.sum).gradient(x, 1.0)


class TestDensities:
    def test_a_gaussian_under_a_linear_flow(self, x):
        flow, t = linear(), 0.6
        moved = expm(t * MATRIX)
        want = gauss(x @ jnp.linalg.inv(moved).T) - t * jnp.trace(MATRIX)
        np.testing.assert_allclose(Continuity(flow, gauss)(x, t), want, rtol=0, atol=1e-9)

    def test_the_log_density_against_autodiffs_determinant(self, mlp, x):
        flow = nf.NeuralODE(mlp(nf.PiecewiseConstant(3)), TIGHT)
        jacobians = jax.jit(jax.vmap(jax.jacrev(lambda p: flow(p[None])[0])))(x)
        want = gauss(flow(x)) + jnp.linalg.slogdet(jacobians)[1]
        np.testing.assert_allclose(
            NormalisingFlow(flow, Normal(2)).log_prob(x), want, rtol=0, atol=1e-8
        )

    def test_the_mass_is_one(self, mlp):
        density = Continuity(
            nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.RK4(), steps=16)),
            gauss,
            "end",
        )
        line = np.linspace(-12, 12, 241)
        points = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2))
        for t in (0.0, 0.5):
            assert abs(float(jnp.exp(density(points, t)).sum()) * 0.1**2 - 1) < 1e-3

    def test_samples_have_the_density_they_say(self, mlp):
        flow = NormalisingFlow(nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), TIGHT), Normal(2))
        points, log_prob = flow.sample_and_log_prob(jax.random.key(0), 6)
        np.testing.assert_allclose(flow.log_prob(points), log_prob, rtol=0, atol=1e-8)
        np.testing.assert_array_equal(flow.sample(jax.random.key(0), 6).shape, (6, 2))

    def test_any_pytree_of_samples_is_a_point(self, x):
        """A pair of halves and points with two axes have the density of the flat points."""

        def density(function, points, rest):
            flow = nf.NeuralODE(nf.from_function(function, MATRIX), TIGHT)
            return Continuity(flow, lambda y: gauss(rest(y)), "end")(points, 0.0)

        want = density(lambda a, x: jnp.tanh(x @ a), x, lambda y: y)

        def pairs(a, x):
            return tuple(jnp.split(jnp.tanh(jnp.concatenate(x, 1) @ a), 2, 1))

        halves = density(pairs, tuple(jnp.split(x, 2, 1)), lambda y: jnp.concatenate(y, 1))
        np.testing.assert_allclose(halves, want, rtol=0, atol=1e-9)
        same = Continuity(
            nf.NeuralODE(nf.from_function(pairs, MATRIX), TIGHT),
            lambda y: gauss(jnp.concatenate(y, 1)),
            "end",
        )
        np.testing.assert_allclose(same(tuple(jnp.split(x, 2, 1)), 1.0), gauss(x), rtol=1e-14)
        tall = density(
            lambda a, x: jnp.tanh(x[..., 0] @ a)[..., None], x[..., None], lambda y: y[..., 0]
        )
        np.testing.assert_allclose(tall, want, rtol=0, atol=1e-9)

    def test_rates_ride_along(self, x):
        """On x' = A x: |A x|^2, tr A and |A|_F^2, integrated."""

        def moves(motion):
            return motion.divergence

        y, (energy, trace, square) = along(linear(), x, kinetic_energy, moves, jacobian_frobenius)
        np.testing.assert_allclose(y, x @ expm(MATRIX).T, rtol=0, atol=1e-9)
        np.testing.assert_allclose(trace, np.full(len(x), jnp.trace(MATRIX)), rtol=1e-9)
        np.testing.assert_allclose(square, np.full(len(x), jnp.sum(MATRIX**2)), rtol=1e-9)
        nodes, weights = np.polynomial.legendre.leggauss(12)
        paths = np.stack([x @ expm(s * MATRIX).T @ MATRIX.T for s in (nodes + 1) / 2])
        np.testing.assert_allclose(
            energy, np.tensordot(weights / 2, np.sum(paths**2, -1), 1), rtol=1e-8
        )
        back = along(linear().reverse(), y, moves)[1][0]
        np.testing.assert_allclose(back, -trace, rtol=1e-9)

    def test_an_energy_alone_takes_no_jacobian(self, mlp, x):
        """A field without derivatives in forward mode serves for it."""

        @jax.custom_vjp
        def stiff(x):
            return jnp.tanh(x)

        stiff.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g / jnp.cosh(x) ** 2,))
        flow = nf.NeuralODE(
            nf.from_function(lambda _, x: stiff(x), jnp.zeros(1)), nf.FixedGrid(nf.Euler(), steps=2)
        )
        assert along(flow, x, kinetic_energy)[1][0].shape == (len(x),)

    def test_training_moves_a_density_to_the_data(self):
        """A Gaussian of scale 1/2 is found by a linear field and by a base that learns its scale."""
        data = 0.5 * jax.random.normal(jax.random.key(0), (256, 2))
        field = nf.from_function(lambda a, x: x @ a, jnp.zeros((2, 2)))
        flow = NormalisingFlow(nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=4)), Normal(2))

        def loss(model, batch):
            return (-model.log_prob(batch["x"]).mean(), {})

        nf.training.fit(
            flow, loss, optax.adam(0.05), {"x": data}, epochs=60, batch=256, progress=False
        )
        sigma = np.cov(data.T, bias=True)
        entropy = (
            0.5
            * np.linalg.slogdet(2 * np.pi * np.e * (sigma + np.outer(data.mean(0), data.mean(0))))[
                1
            ]
        )
        assert float(-flow.log_prob(data).mean()) < entropy + 0.005
        assert float(flow.base.scale[...]) != 1

    def test_a_distribution_of_numpyro_is_a_base(self, mlp, x):
        dist = pytest.importorskip("numpyro.distributions")
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.RK4(), steps=4))
        flow = NormalisingFlow(layer, dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        want = NormalisingFlow(layer, Normal(2)).log_prob(x)
        np.testing.assert_allclose(
            nnx.jit(lambda flow, x: flow.log_prob(x))(flow, x), want, rtol=1e-12
        )
        assert flow.sample(jax.random.key(0), 3).shape == (3, 2)
        assert jax.tree.structure(nnx.state(flow)["layer"]) == jax.tree.structure(nnx.state(layer))
        assert set(nnx.state(flow)) == {"layer"}
        bad = NormalisingFlow(layer, dist.Normal(jnp.zeros(2), 1.0))
        with pytest.raises(ValueError, match=r"one number a sample, \(5,\), got \(5, 2\)"):
            bad.log_prob(x)

    def test_refusals(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), TIGHT)
        with pytest.raises(TypeError, match="leading axis of samples"):
            along(layer, x[0], kinetic_energy)
        with pytest.raises(TypeError, match="those of real points"):
            along(linear(), x.astype(complex), kinetic_energy)
        with pytest.raises(
            ValueError, match=r"changes its state where its Jacobian is taken.*model.eval\(\)"
        ):
            norm = nnx.BatchNorm(2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
            along(nf.NeuralODE(norm, nf.FixedGrid(nf.Euler(), steps=1)), x, jacobian_frobenius)
        with pytest.raises(ValueError, match="draws random probes; give a key"):
            along(layer, x, kinetic_energy, divergence=Hutchinson())
        with pytest.raises(ValueError, match="random probes belong to samples"):
            each = layer.with_solve(nf.Adaptive(nf.Tsit5(), per_sample=True))
            along(each, x, jacobian_frobenius, divergence=Hutchinson(), key=jax.random.key(0))
        with pytest.raises(TypeError, match=r"rngs must be nnx.Rngs\(seed\)"):
            NormalisingFlow(layer, Normal(2), Hutchinson())
        with pytest.raises(TypeError, match="log_prob must be a function"):
            NormalisingFlow(layer, 3)
        with pytest.raises(ValueError, match="without noise"):
            Continuity(layer, gauss, divergence=Hutchinson()).residual(x, 0.5)
        with pytest.raises(ValueError, match="at least 1"):
            HutchPlusPlus(0)
        with pytest.raises(TypeError, match="a NeuralODE"):
            NormalisingFlow(layer.field, Normal(2))
        with pytest.raises(TypeError, match="give it without reverse"):
            NormalisingFlow(layer.reverse(), Normal(2))
        with pytest.raises(TypeError, match="divergence must be Exact"):
            Continuity(layer, gauss, divergence=Exact)
        with pytest.raises(TypeError, match="write jnp.asarray"):
            along(layer, [[1.0, 2.0]], kinetic_energy)


class TestEstimators:
    """J of a field of six coordinates, against its exact trace."""

    keys = jax.random.split(jax.random.key(3), 4000)

    @pytest.fixture(scope="class")
    @classmethod
    def jacobians(cls):
        """Traces and squares (keys, 2 points) of one Jacobian a point."""
        matrices = jax.random.normal(jax.random.key(0), (2, 6, 6))

        def push(e):
            return jnp.einsum("bij,kbj->kbi", matrices, e)

        points = jnp.zeros((2, 6))

        def run(estimator):
            def one(key):
                return estimator.jacobian(push, points, estimator.draw(key, points))

            return jax.jit(jax.vmap(one))(cls.keys)

        exact = Exact().jacobian(push, points, None)
        return (
            matrices,
            exact,
            {
                e: run(e)
                for e in (
                    Hutchinson(),
                    Hutchinson(3),
                    HutchPlusPlus(1),
                    HutchPlusPlus(2),
                    HutchPlusPlus(6),
                )
            },
        )

    def test_exact(self, jacobians):
        matrices, exact, _ = jacobians
        np.testing.assert_allclose(exact.trace, jnp.trace(matrices, axis1=1, axis2=2), rtol=1e-12)
        np.testing.assert_allclose(exact.square, jnp.sum(matrices**2, (1, 2)), rtol=1e-12)

    def test_estimates_have_no_bias(self, jacobians):
        """Means within four standard errors, and these are small."""
        for estimator, jacobian in jacobians[2].items():
            for values, want in zip(jacobian, jacobians[1], strict=True):
                error = np.asarray(values).std(0) / np.sqrt(len(self.keys))
                assert (np.abs(values.mean(0) - want) <= 4 * error + 1e-12).all(), estimator
                assert (error < 0.02 * (1 + np.abs(want)) * 6).all()

    def test_the_variance_is_the_one_stated(self, jacobians):
        matrices, _, estimates = jacobians
        symmetric = (matrices + jnp.swapaxes(matrices, 1, 2)) / 2
        apart = jnp.sum(symmetric**2, (1, 2)) - jnp.sum(
            jnp.diagonal(symmetric, axis1=1, axis2=2) ** 2, 1
        )
        for probes in (1, 3):
            np.testing.assert_allclose(
                estimates[Hutchinson(probes)].trace.var(0), 2 * apart / probes, rtol=0.1
            )

    def test_a_full_span_is_exact_and_low_rank_is_seen(self, jacobians):
        np.testing.assert_allclose(
            jacobians[2][HutchPlusPlus(6)].trace, np.tile(jacobians[1].trace, (4000, 1)), atol=1e-10
        )
        a, b = jax.random.normal(jax.random.key(5), (2, 1, 20))

        def push(e):
            return jnp.einsum("bi,bj,kbj->kbi", a, b, e)

        points = jnp.zeros((1, 20))
        for key in self.keys[:3]:
            value = (
                HutchPlusPlus(1).jacobian(push, points, HutchPlusPlus(1).draw(key, points)).trace
            )
            np.testing.assert_allclose(value, jnp.sum(a * b, 1), rtol=1e-10)

    @pytest.mark.parametrize("estimator", [Hutchinson(2), HutchPlusPlus(1)])
    def test_log_densities_and_their_gradients_have_no_bias(self, estimator):
        """Of the log-density after a flow in four dimensions, over five hundred draws."""
        x = jax.random.normal(jax.random.key(1), (2, 4))
        matrix = jax.random.normal(jax.random.key(2), (4, 4)) / 2
        solve = nf.FixedGrid(nf.RK4(), steps=3)

        def mean(matrix, divergence, key):
            field = nf.from_function(lambda a, x: jnp.tanh(x @ a.T), matrix)
            return Continuity(nf.NeuralODE(field, solve), gauss, "end", divergence)(
                x, 0.0, key
            ).mean()

        both = jax.value_and_grad(mean)
        want = jax.jit(both, static_argnums=1)(matrix, Exact(), None)
        values = jax.jit(jax.vmap(lambda key: both(matrix, estimator, key)))(self.keys[:500])
        for value, exact in zip(values, want, strict=True):
            error = np.asarray(value).std(0) / np.sqrt(500)
            assert (np.abs(value.mean(0) - exact) <= 4.5 * error + 1e-12).all()

    def test_a_flow_draws_new_probes_at_every_call(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.RK4(), steps=4))
        flow = NormalisingFlow(layer, Normal(2), Hutchinson(), rngs=nnx.Rngs(0))
        log_prob = nnx.jit(lambda flow, x: flow.log_prob(x))
        assert not np.array_equal(log_prob(flow, x), log_prob(flow, x))
        again = NormalisingFlow(layer, Normal(2), Hutchinson(), rngs=nnx.Rngs(0))
        first = again.log_prob(x)
        np.testing.assert_allclose(
            first, NormalisingFlow(layer, Normal(2), Hutchinson(), rngs=nnx.Rngs(0)).log_prob(x)
        )
