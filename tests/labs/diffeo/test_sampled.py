"""Maps sampled on a grid: group laws, and folds that must be found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.test_util import check_grads
from scipy.interpolate import RegularGridInterpolator
from support.diffeo import TIGHT

import neuralflow as nf
from neuralflow.labs import diffeo as D
from neuralflow.labs.diffeo import sampled


def swirl(p):
    """A smooth velocity on the unit square, which is zero at its edges."""
    a, b = p[..., 0], p[..., 1]
    bump = jnp.sin(jnp.pi * a) ** 2 * jnp.sin(jnp.pi * b) ** 2
    return jnp.stack([bump * jnp.cos(5 * b + a), bump * jnp.sin(4 * a)], axis=-1)


def on_grid(size, strength):
    """The same velocity at the nodes, in units of their spacing."""
    return strength * (size - 1) * swirl(sampled.nodes((size, size)) / (size - 1))


class TestSampled:
    def test_interpolation_is_scipys(self):
        rng = np.random.default_rng(0)
        values = rng.normal(size=(5, 4, 6, 3))
        points = rng.uniform(size=(50, 3)) * [4, 3, 5]
        want = RegularGridInterpolator([np.arange(n) for n in (5, 4, 6)], values)(points)
        np.testing.assert_allclose(
            sampled.interpolate(jnp.asarray(values), jnp.asarray(points)), want, rtol=0, atol=1e-14
        )
        edge = sampled.interpolate(jnp.asarray(values), jnp.asarray([[-3.0, 9.0, 2.0]]))
        # Beyond the edges the nearest value holds.
        np.testing.assert_array_equal(edge[0], values[0, 3, 2])
        image = jnp.asarray(values[..., 0])
        np.testing.assert_array_equal(sampled.warp(image, jnp.zeros((5, 4, 6, 3))), image)

    @pytest.mark.parametrize("grid", [(5,), (4, 3), (3, 2, 4)])
    def test_interpolation_has_its_derivatives_in_both_modes(self, grid):
        rng = np.random.default_rng(0)
        values = rng.normal(size=(*grid, 2))
        # The points stay inside their cells under the steps of the differences.
        cells = rng.integers(0, np.asarray(grid) - 1, size=(6, len(grid)))
        points = jnp.asarray(cells + rng.uniform(0.1, 0.9, size=cells.shape))
        check_grads(sampled.interpolate, (jnp.asarray(values), points), order=2, atol=1e-6)
        # Values of numpy and of whole numbers are values too.
        assert sampled.interpolate(values, points).shape == (6, 2)  # pyright: ignore[reportArgumentType]
        slope = jax.grad(lambda p: sampled.interpolate(np.arange(grid[0]), p).sum())(points[:, :1])
        np.testing.assert_allclose(slope, 1, rtol=1e-14)

    def test_the_exponential_converges_to_that_of_the_field_in_n_compositions(self):
        flow = D.exponential(nf.from_function(lambda _, p: 0.15 * swirl(p)), TIGHT)
        errors = []
        for size in (17, 33, 65):
            places = sampled.nodes((size, size)) / (size - 1)
            want = flow(places.reshape(-1, 2)).reshape(places.shape) - places
            errors.append(
                float(
                    jnp.abs(sampled.exponential(on_grid(size, 0.15), 12) / (size - 1) - want).max()
                )
            )
        # Every squaring that moves nodes by more than a spacing adds an error of order h^2.
        # Every halving of h adds one such squaring.
        ratios = np.log2(errors[:-1]) - np.log2(errors[1:])
        assert (ratios > 1.5).all() and (ratios < 2.1).all()
        loops = [
            e
            for e in jax.make_jaxpr(lambda v: sampled.exponential(v, 9))(on_grid(17, 0.1)).eqns
            if e.primitive.name == "scan"
        ]
        assert [loop.params["length"] for loop in loops] == [9]

    def test_group_laws(self):
        velocity = on_grid(33, 0.15)
        u = sampled.exponential(velocity, 8)
        half = sampled.exponential(velocity / 2, 7)
        # These are the same steps.
        np.testing.assert_allclose(sampled.compose(half, half), u, rtol=0, atol=1e-13)
        ahead = sampled.compose(sampled.exponential(-velocity, 8), u)
        # What is left is the interpolation's error, in spacings.
        assert 1e-3 < float(jnp.abs(ahead).max()) < 0.1
        np.testing.assert_allclose(sampled.compose(u, sampled.inverse(u)), 0, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("strength", [0.05, 0.5])
    def test_the_logarithm_returns_the_field_also_far_from_the_identity(self, strength):
        velocity = on_grid(33, strength)
        u = sampled.exponential(velocity, 7)
        np.testing.assert_allclose(sampled.logarithm(u, 7), velocity, rtol=0, atol=1e-10)
        np.testing.assert_allclose(sampled.compose(u, sampled.inverse(u)), 0, rtol=0, atol=1e-12)
        # The plain iteration does not get there.
        # At the larger strength the map is far from the identity.
        plain = velocity
        for _ in range(20):
            plain = plain + (u - sampled.exponential(plain, 7)) if strength > 0.1 else plain
        largest = float(jnp.abs(jnp.diff(u, axis=0)).max())
        assert (largest > 1) == (strength > 0.1)

    def test_derivatives_of_inverse_and_logarithm(self):
        u = sampled.exponential(on_grid(9, 0.1), 4)
        # An array of float32 keeps its dtype where float64 is enabled.
        assert sampled.inverse(u.astype(jnp.float32)).dtype == jnp.float32
        step = jnp.zeros_like(u).at[4, 5, 0].set(1e-6)
        height = jax.jit(
            jax.value_and_grad(
                lambda u: jnp.sum(jnp.sin(sampled.inverse(u)) + sampled.logarithm(u, 4) ** 2)
            )
        )
        slope = height(u)[1][4, 5, 0]
        assert abs((height(u + step)[0] - height(u - step)[0]) / 2e-6 - slope) < 1e-6

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 2**31), st.sampled_from([0.1, 0.4, 1.0]))
    def test_folds_are_those_of_the_interpolated_map(self, seed, size):
        rng = np.random.default_rng(seed)
        u = jnp.asarray(size * rng.normal(size=(3, 4, 2)))
        cells = np.stack(np.meshgrid(np.arange(2), np.arange(3), indexing="ij"), axis=-1)[
            ..., None, :
        ]
        corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        near = (cells + 1e-9 + corners * (1 - 2e-9)).reshape(-1, 2)
        inside = rng.uniform(size=(400, 2)) * [2, 3]
        slopes = jax.vmap(jax.jacfwd(lambda p: p + sampled.interpolate(u, p)))(
            jnp.asarray(np.concatenate([near, inside]))
        )
        determinants = np.linalg.det(np.asarray(slopes))
        np.testing.assert_allclose(
            determinants[: len(near)], sampled.determinants(u).ravel(), rtol=0, atol=1e-6
        )
        places = np.asarray(inside).astype(int)
        assert np.asarray(sampled.folded(u))[places[:, 0], places[:, 1]][
            determinants[len(near) :] <= 0
        ].all()

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"shape \(n_1, ..., n_d, d\)"):
            sampled.exponential(jnp.zeros((4, 4, 3)))
        with pytest.raises(nf.SolveError, match="it folds"):
            sampled.logarithm(3.0 * jax.random.normal(jax.random.key(0), (9, 9, 2)))
        with pytest.raises(nf.SolveError, match="it folds"):
            sampled.inverse(3.0 * jax.random.normal(jax.random.key(0), (9, 9, 2)))
        assert np.isnan(
            jax.jit(sampled.logarithm)(3.0 * jax.random.normal(jax.random.key(0), (9, 9, 2)))
        ).all()
        with pytest.raises(ValueError, match="low must lie below high"):
            sampled.sample(jnp.tanh, 0, 0, (4, 4))
        with pytest.raises(ValueError, match=r"what the map gives must have shape \(16, 2\)"):
            sampled.sample(lambda p: p[:, :1], 0, 1, (4, 4))
        with pytest.raises(ValueError, match="live on one grid"):
            sampled.compose(jnp.zeros((4, 4, 2)), jnp.zeros((3, 4, 2)))
        with pytest.raises(TypeError, match="array of floating numbers, got int"):
            sampled.exponential(jnp.zeros((4, 4, 2), int))
        with pytest.raises(ValueError, match="not finite"):
            sampled.inverse(jnp.full((4, 4, 2), jnp.nan))
