"""Densities and integrals carried along flows: closed forms and autodiff as oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.scipy.linalg import expm
from support.transport import MATRIX, TIGHT, Normal, gauss, linear
from support.wrong import wrong

import neuralflow as nf
from neuralflow.regularisers import jacobian_frobenius, kinetic_energy
from neuralflow.transport import (
    Continuity,
    Exact,
    Hutchinson,
    HutchPlusPlus,
    NormalisingFlow,
    along,
)


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
        """A pair of halves has the density of the flat points, and so have points of two axes."""

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
        """On x' = A x they are the integrals of |A x|^2, tr A and |A|_F^2."""

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

    def test_without_a_rate_the_layer_walks_alone(self, x):
        y, integrals = along(linear(), x)
        assert jnp.array_equal(y, linear()(x)) and integrals == ()

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
        """A linear field and a base that learns its scale find a Gaussian of scale 1/2."""
        data = 0.5 * jax.random.normal(jax.random.key(0), (256, 2))
        field = nf.from_function(lambda a, x: x @ a, jnp.zeros((2, 2)))
        flow = NormalisingFlow(nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=4)), Normal(2))

        def loss(model, batch):
            return (-model.log_prob(batch["x"]).mean(), {})

        nf.training.fit(
            flow,
            loss,
            optax.adam(0.05),
            {"x": np.asarray(data)},
            epochs=60,
            batch=256,
            progress=False,
        )
        sigma = np.cov(data.T, bias=True)
        entropy = (
            0.5
            * np.linalg.slogdet(2 * np.pi * np.e * (sigma + np.outer(data.mean(0), data.mean(0))))[
                1
            ]
        )
        assert float(-flow.log_prob(data).mean()) < entropy + 0.005
        assert isinstance(flow.base, Normal) and float(flow.base.scale[...]) != 1

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
        with pytest.raises(TypeError, match="log_prob of the base distribution must be a function"):
            NormalisingFlow(layer, wrong(3))
        with pytest.raises(ValueError, match="without noise"):
            Continuity(layer, gauss, divergence=Hutchinson()).residual(x, 0.5)
        with pytest.raises(ValueError, match="at least 1"):
            HutchPlusPlus(0)
        with pytest.raises(TypeError, match="a NeuralODE"):
            NormalisingFlow(wrong(layer.field), Normal(2))
        with pytest.raises(TypeError, match="give it without reverse"):
            NormalisingFlow(layer.reverse(), Normal(2))
        with pytest.raises(TypeError, match="divergence must be Exact"):
            Continuity(layer, gauss, divergence=wrong(Exact))
        with pytest.raises(TypeError, match="write jnp.asarray"):
            along(layer, [[1.0, 2.0]], kinetic_energy)
