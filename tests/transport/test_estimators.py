"""Estimators of the divergence against its exact value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.transport import Normal, gauss

import neuralflow as nf
from neuralflow.transport import Continuity, Exact, Hutchinson, HutchPlusPlus, NormalisingFlow


class TestEstimators:
    """Estimates for the Jacobian J of a field of six coordinates, against its exact trace."""

    keys = jax.random.split(jax.random.key(3), 4000)

    @pytest.fixture(scope="class")
    @classmethod
    def jacobians(cls):
        """Traces and squares, of shape (keys, 2 points), of one Jacobian for each point."""
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
        """Means lie within four standard errors, and these are small."""
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
        """The log-density is that after a flow in four dimensions, over five hundred draws."""
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
