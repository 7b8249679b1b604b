"""Kernel fields and geodesics."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from flax import nnx
from scipy.integrate import quad
from support.diffeo import TIGHT, euler

import neuralflow as nf
from neuralflow.labs import diffeo as D


class TestGeodesics:
    def test_two_landmarks_on_a_line_against_a_quadrature(self):
        """The sum P of the momenta is kept.

        The distance r then obeys r'^2 = 4 (1 - k)(H - P^2 (1 + k) / 4) with k = k(r).
        """
        q, p, width = np.array([[0.0], [1.0]]), np.array([[1.3], [-0.4]]), 0.6
        flow = D.Geodesic(q, p, width, TIGHT)
        path, momenta = flow.path(jnp.linspace(0, 1, 9))
        energies = flow.hamiltonian(path, momenta)
        assert float(jnp.ptp(energies)) < 1e-8
        total, height = p.sum(), float(flow.energy)

        def kernel(r):
            return np.exp(-(r**2) / (2 * width**2))

        def speed(r):
            return 2 * np.sqrt((1 - kernel(r)) * (height - total**2 * (1 + kernel(r)) / 4))

        gap = np.asarray(path[:, 1, 0] - path[:, 0, 0])
        assert (np.diff(gap) < 0).all()
        time = quad(lambda r: 1 / speed(r), gap[-1], 1.0, epsabs=1e-13, epsrel=1e-13)[0]
        assert abs(time - 1) < 1e-9
        np.testing.assert_allclose(momenta.sum(1)[:, 0], total, rtol=0, atol=1e-10)
        assert abs(float(flow.length) - np.sqrt(2 * height)) < 1e-14

    def test_points_go_with_the_landmarks_and_come_back(self, x):
        q = jax.random.normal(jax.random.key(4), (5, 2))
        flow = D.Geodesic(q, 0.5 * x, 0.7)
        path, momenta = flow.path()
        assert path.shape == (33, 5, 2) and float(jnp.ptp(flow.hamiltonian(path, momenta))) < 1e-8
        np.testing.assert_allclose(flow(q), path[-1], rtol=0, atol=1e-12)
        np.testing.assert_allclose(flow.invert(flow(x)), x, rtol=0, atol=1e-8)
        assert (np.linalg.det(D.jacobian(flow, x)) > 0).all()

    def test_registration_finds_the_momenta_that_moved_the_landmarks(self):
        angle = 2 * np.pi * np.arange(8) / 8
        source = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        truth = D.Geodesic(source, 0.3 * np.random.default_rng(0).normal(size=source.shape), 0.6)
        geodesic = D.register(source, truth(jnp.asarray(source)), 0.6, fidelity=1e9)
        np.testing.assert_allclose(geodesic.momenta[...], truth.momenta[...], rtol=0, atol=1e-3)
        assert float(geodesic.length) <= float(truth.length) + 1e-8
        loose = D.register(source, truth(jnp.asarray(source)), 0.6, fidelity=1.0)
        assert float(loose.length) < float(geodesic.length)

    def test_the_action_of_a_time_dependent_field_is_least_at_constant_norm(self):
        centres = np.array([[0.0, 0.0], [1.0, 0.0], [0.3, 0.8]])

        def make(rngs):
            return D.KernelField(centres, 0.7)

        field = nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0))
        layer = nf.NeuralODE(field, nf.FixedGrid(nf.Heun(), steps=4))
        assert float(D.action(layer)) == 0.0
        x, y = (
            jnp.asarray(centres),
            jnp.asarray(centres) + jnp.asarray([[0.5, 0.1], [0.2, 0.4], [-0.1, 0.3]]),
        )
        graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

        def loss(params):
            layer = nnx.merge(graphdef, params, rest)
            return D.action(layer) + 1e2 * jnp.sum((layer(x) - y) ** 2)

        best = optx.minimise(
            lambda p, _: loss(p), optx.BFGS(1e-7, 1e-7), params, max_steps=300, throw=False
        ).value
        uneven = jax.tree.map(lambda a: a * jnp.asarray([0.5, 1.5, 1.3, 0.7])[:, None, None], best)
        norms = [D.norms(nnx.merge(graphdef, p, rest)) for p in (best, uneven)]
        assert (
            float(jnp.ptp(norms[0]) / norms[0].mean())
            < 0.02
            < 0.5
            < float(jnp.ptp(norms[1]) / norms[1].mean())
        )
        np.testing.assert_allclose(
            D.action(nnx.merge(graphdef, best, rest)), jnp.mean(norms[0] ** 2), rtol=1e-12
        )

    def test_refusals(self, mlp):
        points = np.eye(3, 2)
        with pytest.raises(ValueError, match="momenta and landmarks belong together"):
            D.Geodesic(points, np.zeros((2, 2)), 1.0)
        with pytest.raises(ValueError, match=r"x must have shape \(..., 2\), got \(4, 1\)"):
            D.KernelField(points, 1.0)(jnp.zeros((4, 1)))
        with pytest.raises(ValueError, match="landmarks 0 and 1 of the source coincide"):
            D.register(np.zeros((2, 2)), np.eye(2), 1.0)
        with pytest.raises(TypeError, match="must be a nf.labs.diffeo.KernelField"):
            D.action(nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), euler(2)))
