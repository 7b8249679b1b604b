"""Flows as diffeomorphisms: closed forms, group laws, autodiff and independent solutions as oracles, folds that must be found."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from jax.scipy.linalg import expm
from scipy.integrate import quad
from scipy.interpolate import RegularGridInterpolator

import neuralflow as nf
from neuralflow import regularisers
from neuralflow.labs.diffeo import sampled
from neuralflow.transport import along, divergence

TIGHT = nf.Adaptive(nf.Tsit5(), 1e-11, 1e-11)
D = nf.labs.diffeo


def euler(steps):
    return nf.FixedGrid(nf.Euler(), steps=steps)


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.fixture
def field(mlp):
    """A stationary field."""
    return mlp(nf.PiecewiseConstant(1), time=False)


def swirl(p):
    """A smooth velocity on the unit square that rests at its edges."""
    a, b = p[..., 0], p[..., 1]
    bump = jnp.sin(jnp.pi * a) ** 2 * jnp.sin(jnp.pi * b) ** 2
    return jnp.stack([bump * jnp.cos(5 * b + a), bump * jnp.sin(4 * a)], axis=-1)


def on_grid(size, strength):
    """The same at nodes, in spacings."""
    return strength * (size - 1) * swirl(sampled.nodes((size, size)) / (size - 1))


class TestExponential:
    def test_shared_blocks_come_to_it_at_order_one_and_back_again(self, field, x):
        exact = D.exponential(field, TIGHT)
        y, counts = exact(x), np.array([16, 32, 64])
        gaps, returns = [], []
        for n in counts:
            blocks = D.exponential(field, euler(int(n)))
            gaps.append(float(jnp.abs(blocks(x) - y).max()))
            returns.append(
                float(jnp.abs(D.exponential(field, euler(int(n)), -1.0)(blocks(x)) - x).max())
            )
            np.testing.assert_allclose(D.inverse(blocks)(blocks(x)), x, rtol=0, atol=1e-14)
        assert abs(slope(counts, gaps) + 1) < 0.05 and abs(slope(counts, returns) + 1) < 0.05
        np.testing.assert_allclose(D.exponential(field, TIGHT, -1.0)(y), x, rtol=0, atol=1e-9)
        half = D.exponential(field, TIGHT, 0.5)
        np.testing.assert_allclose(half(half(x)), y, rtol=0, atol=1e-9)

    def test_a_linear_field_has_the_matrix_exponential(self, x):
        matrix = jnp.asarray([[0.3, -1.1], [0.7, -0.5]])
        field = nf.from_function(lambda a, x: x @ a.T, matrix)
        for scale in (1.0, -0.4):
            np.testing.assert_allclose(
                D.exponential(field, TIGHT, scale)(x), x @ expm(scale * matrix).T, rtol=0, atol=1e-9
            )

    def test_squaring_is_the_same_blocks_to_rounding(self, field, x):
        blocks = D.exponential(field, euler(32))
        block = D.exponential(field, euler(1), 1 / 32)
        np.testing.assert_allclose(jax.jit(D.squared(block, 5))(x), blocks(x), rtol=0, atol=1e-15)
        half = D.exponential(field, euler(16), 0.5)
        np.testing.assert_allclose(half(half(x)), blocks(x), rtol=0, atol=1e-15)

    def test_the_logarithm_of_an_exponential_is_its_field(self, field, x):
        flow = D.exponential(field, nf.FixedGrid(nf.RK4(), steps=8), 0.1)
        errors = [
            float(jnp.abs(D.logarithm(flow, terms=n)(x) - 0.1 * field.at(0.0)(x)).max())
            for n in (1, 8)
        ]
        assert errors[1] < 1e-9 and errors[0] > 1e4 * errors[1]
        matrix = jnp.asarray([[0.1, -0.6], [0.4, -0.2]])
        logarithm = D.logarithm(
            lambda x: x @ expm(matrix).T, lambda y: y @ expm(-matrix).T, terms=16
        )
        np.testing.assert_allclose(logarithm(x), x @ matrix.T, rtol=0, atol=1e-9)

    def test_refusals(self, mlp, x):
        with pytest.raises(ValueError, match="only a stationary field has an exponential"):
            D.exponential(mlp(nf.PiecewiseConstant(4)), euler(4))
        with pytest.raises(ValueError, match="built with time=True"):
            D.exponential(nf.fields.MLP(2, hidden=2, time=True, rngs=nnx.Rngs(0)), euler(4))
        with pytest.raises(TypeError, match="wrap it: nf.from_function"):
            D.exponential(lambda x: x, euler(4))
        with pytest.raises(TypeError, match="the inverse of a plain function is not known"):
            D.logarithm(lambda x: x)
        with pytest.raises(ValueError, match="times must be at least 0"):
            D.squared(lambda x: x, -1)


class TestInverses:
    @pytest.mark.parametrize(
        "scheme", [nf.Heun(), nf.schemes.RevNet()], ids=lambda s: type(s).__name__
    )
    def test_a_fixed_grid_is_inverted_to_rounding(self, x, scheme):
        def net(rngs):
            return nf.fields.MLP(1, hidden=8, param_dtype=jnp.float64, rngs=rngs)

        field = nf.DepthVarying(
            lambda rngs: nf.fields.Coupled(net(rngs), net(rngs)),
            nf.PiecewiseConstant(3),
            rngs=nnx.Rngs(0),
        )
        layer = nf.NeuralODE(field, nf.FixedGrid(scheme, steps=6))
        back = D.inverse(layer)
        np.testing.assert_allclose(back(layer(x)), x, rtol=0, atol=1e-14)
        assert D.inverse(back) is layer
        np.testing.assert_allclose(
            D.inverse(layer.reverse())(layer.reverse()(x)), x, rtol=0, atol=1e-14
        )

    def test_float32_beside_float64(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2), dtype=jnp.float32), euler(4))
        x = x.astype(jnp.float32)
        np.testing.assert_allclose(D.inverse(layer)(layer(x)), x, rtol=0, atol=1e-5)

    def test_compositions(self, field, mlp, x):
        first = nf.NeuralODE(mlp(nf.PiecewiseConstant(3)), euler(12))
        second = D.exponential(field, nf.FixedGrid(nf.Heun(), steps=8), 0.7)
        both = D.Composition(first, second)
        np.testing.assert_array_equal(both(x), second(first(x)))
        np.testing.assert_allclose(both.invert(both(x)), x, rtol=0, atol=1e-9)
        np.testing.assert_allclose(D.inverse(D.inverse(both))(x), both(x), rtol=0, atol=1e-9)
        chain = D.jacobian(second, first(x)) @ D.jacobian(first, x)
        np.testing.assert_allclose(D.jacobian(both, x), chain, rtol=1e-10)
        np.testing.assert_allclose(
            D.log_determinant(both, x).log, jnp.linalg.slogdet(chain)[1], rtol=0, atol=1e-12
        )

    def test_refusals(self, x):
        steep = nf.NeuralODE(nf.from_function(lambda a, x: a * x, jnp.asarray(-3.0)), euler(1))
        with pytest.raises(nf.SolveError, match="a block has no fixed point"):
            D.inverse(steep)(x)
        with pytest.raises(TypeError, match="flow 1 must be a NeuralODE"):
            D.Composition(steep, jnp.tanh)


class TestJacobians:
    def test_blocks_and_divergence_agree_at_order_one(self, field, x):
        counts, gaps = np.array([32, 64, 128]), []
        for n in counts:
            layer = D.exponential(field, euler(int(n)))
            total = along(layer, x, divergence)[1][0]
            gaps.append(float(jnp.abs(D.log_determinant(layer, x).log - total).max()))
        assert abs(slope(counts, gaps) + 1) < 0.05

    def test_blocks_multiply_to_the_determinant_of_the_map(self, mlp, x):
        layer = nf.NeuralODE(
            mlp(nf.PiecewiseConstant(3)), nf.FixedGrid(nf.RK4(), steps=6), 0.0, 2.0
        )
        exact = jax.vmap(jax.jacfwd(lambda p: layer(p[None])[0]))(x)
        sign, log = D.log_determinant(layer, x)
        np.testing.assert_allclose(log, jnp.linalg.slogdet(exact)[1], rtol=0, atol=1e-10)
        np.testing.assert_array_equal(sign, jnp.linalg.slogdet(exact)[0])
        np.testing.assert_allclose(D.jacobian(layer, x), exact, rtol=0, atol=1e-12)
        steps = D.block_determinants(layer, x)
        assert steps.log.shape == (6, len(x))

    def test_an_adaptive_layer_has_the_integral_of_its_divergence(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseLinear(2)), TIGHT)
        exact = jnp.linalg.slogdet(D.jacobian(layer, x))[1]
        np.testing.assert_allclose(D.log_determinant(layer, x).log, exact, rtol=0, atol=1e-10)

    def test_penalties_are_differentiated(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.Heun(), steps=4))

        @nnx.jit
        def slopes(layer, x):
            def penalty(layer):
                return jnp.sum(
                    regularisers.inverse_consistency(layer, x)
                    + regularisers.volume_change(layer, x)
                )

            return nnx.value_and_grad(penalty)(layer)

        value, gradient = slopes(layer, x)
        kernel = layer.field.stack.dense[0].kernel
        entry = (0, 1, 2)
        shifted = []
        for step in (1e-6, -1e-6):
            kernel.set_value(kernel[...].at[entry].add(step))
            shifted.append(float(slopes(layer, x)[0]))
            kernel.set_value(kernel[...].at[entry].add(-step))
        derivative = gradient["field"]["stack"]["dense"][0]["kernel"].get_value()[entry]
        assert value > 0 and abs((shifted[0] - shifted[1]) / 2e-6 - derivative) < 1e-7

    def test_refusals(self, mlp, x):
        layer = nf.NeuralODE(
            mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.schemes.leapfrog(), steps=4)
        )
        with pytest.raises(TypeError, match="carries more than the state"):
            D.log_determinant(layer, x)
        with pytest.raises(TypeError, match="an adaptive layer has no steps"):
            D.block_determinants(layer.with_solve(TIGHT), x)
        with pytest.raises(TypeError, match="leading axis of samples"):
            D.jacobian(jnp.tanh, x[0])
        with pytest.raises(TypeError, match="taken at floating points, got int"):
            D.jacobian(jnp.tanh, jnp.ones((3, 2), int))
        with pytest.raises(ValueError, match="a value for each of 5 samples"):
            D.jacobian(jnp.sum, x)


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
        np.testing.assert_array_equal(
            edge[0], values[0, 3, 2]
        )  # beyond the edges the nearest value holds
        image = jnp.asarray(values[..., 0])
        np.testing.assert_array_equal(sampled.warp(image, jnp.zeros((5, 4, 6, 3))), image)

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
        # h^2 for every squaring that moves nodes by more than a spacing, of which every halving of h has one more.
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
        np.testing.assert_allclose(
            sampled.compose(half, half), u, rtol=0, atol=1e-13
        )  # the same steps
        ahead = sampled.compose(sampled.exponential(-velocity, 8), u)
        assert 1e-3 < float(jnp.abs(ahead).max()) < 0.1  # the interpolation's error, in spacings
        np.testing.assert_allclose(sampled.compose(u, sampled.inverse(u)), 0, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("strength", [0.05, 0.5])
    def test_the_logarithm_returns_the_field_also_far_from_the_identity(self, strength):
        velocity = on_grid(33, strength)
        u = sampled.exponential(velocity, 7)
        np.testing.assert_allclose(sampled.logarithm(u, 7), velocity, rtol=0, atol=1e-10)
        np.testing.assert_allclose(sampled.compose(u, sampled.inverse(u)), 0, rtol=0, atol=1e-12)
        # The plain iteration does not get there: at the larger strength the map is far from the identity.
        plain = velocity
        for _ in range(20):
            plain = plain + (u - sampled.exponential(plain, 7)) if strength > 0.1 else plain
        largest = float(jnp.abs(jnp.diff(u, axis=0)).max())
        assert (largest > 1) == (strength > 0.1)

    def test_derivatives_of_inverse_and_logarithm(self):
        u = sampled.exponential(on_grid(9, 0.1), 4)
        assert sampled.inverse(u.astype(jnp.float32)).dtype == jnp.float32  # beside float64
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
        with pytest.raises(ValueError, match="low < high, one number or 2 each"):
            sampled.sample(jnp.tanh, 0, 0, (4, 4))
        with pytest.raises(ValueError, match=r"to such points, got shape \(16, 1\)"):
            sampled.sample(lambda p: p[:, :1], 0, 1, (4, 4))
        with pytest.raises(ValueError, match="live on one grid"):
            sampled.compose(jnp.zeros((4, 4, 2)), jnp.zeros((3, 4, 2)))
        with pytest.raises(TypeError, match="array of floating numbers, got int"):
            sampled.exponential(jnp.zeros((4, 4, 2), int))
        with pytest.raises(ValueError, match="not finite"):
            sampled.inverse(jnp.full((4, 4, 2), jnp.nan))


def measured(module, shape, count=40):
    """The largest stretch of a module's Jacobians at some points."""
    x = jax.random.normal(jax.random.key(3), (count, *shape))
    slopes = jax.vmap(jax.jacrev(lambda p: module(p[None])[0].ravel()))(x).reshape(
        count, -1, int(np.prod(shape))
    )
    return float(jnp.linalg.norm(slopes, ord=2, axis=(1, 2)).max())


class Net(nnx.Module):
    """A field of normalised layers, taught to `lipschitz`."""

    def __init__(self, rngs, bound=0.7):
        wide = {"param_dtype": jnp.float64, "rngs": rngs}
        self.first = D.SpectralNorm(nnx.Linear(2, 16, **wide), bound, rngs=rngs)
        self.last = D.SpectralNorm(nnx.Linear(16, 2, **wide), bound, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.sin(self.first(x)))


@D.lipschitz_rule.register
def _(module: Net):
    return D.lipschitz(module.first) * D.lipschitz(module.last)


class TestLipschitz:
    @settings(max_examples=25, deadline=None)
    @given(
        st.integers(1, 9),
        st.integers(1, 9),
        st.integers(0, 2**31),
        st.sampled_from([1e-150, 1e-3, 1.0, 1e3]),
    )
    def test_the_norm_is_bounded_from_above_and_closely(self, rows, columns, seed, size):
        weight = size * np.random.default_rng(seed).normal(size=(rows, columns))
        exact = np.linalg.norm(weight, 2)
        bound = float(D.spectral_norm(jnp.asarray(weight)))
        assert (
            exact * (1 - 1e-12)
            <= bound
            <= exact * min(rows, columns) ** 2.0**-9 * (1 + 1e-12) + 1e-300
        )

    def test_its_gradient_is_finite_and_right(self):
        assert (
            D.spectral_norm(jnp.zeros((3, 4))) == 0
            and not jax.grad(D.spectral_norm)(jnp.zeros((3, 4))).any()
        )
        weight = jnp.diag(jnp.asarray([3.0, 1.0]))
        np.testing.assert_allclose(
            jax.grad(D.spectral_norm)(weight), np.diag([1.0, 0.0]), atol=1e-12
        )

    @pytest.mark.parametrize(
        "kind",
        [
            "linear",
            "conv",
            "strided",
            "sequential",
            "mlp",
            "timed",
            "antisymmetric",
            "kernel",
            "bounded",
        ],
    )
    def test_no_field_stretches_more_than_its_bound(self, kind):
        rngs = nnx.Rngs(0)
        wide = {"param_dtype": jnp.float64, "rngs": rngs}

        def sharp(module):
            return jax.tree.map(lambda a: 3 * a, module)

        centres = jax.random.normal(jax.random.key(5), (6, 2))
        module, shape = {
            "linear": lambda: (nnx.Linear(3, 5, **wide), (3,)),
            "conv": lambda: (nnx.Conv(2, 3, (3, 3), **wide), (6, 5, 2)),
            "strided": lambda: (
                nnx.Conv(2, 3, (3, 3), strides=2, padding="VALID", **wide),
                (7, 5, 2),
            ),
            "sequential": lambda: (
                nnx.Sequential(nnx.Linear(3, 8, **wide), jax.nn.gelu, nnx.Linear(8, 2, **wide)),
                (3,),
            ),
            "mlp": lambda: (
                nf.fields.MLP(3, hidden=8, layers=2, activation=jax.nn.silu, **wide),
                (3,),
            ),
            "timed": lambda: (nf.fields.MLP(3, hidden=8, time=True, **wide), (3,)),
            "antisymmetric": lambda: (nf.fields.Antisymmetric(4, damping=0.5, **wide), (4,)),
            "kernel": lambda: (D.KernelField(centres, 0.4, jnp.roll(centres, 1, 0)), (2,)),
            "bounded": lambda: (D.Bounded(sharp(nf.fields.MLP(3, hidden=8, **wide)), 0.3), (3,)),
        }[kind]()
        call = (lambda x: module(x, 0.3)) if kind == "timed" else module
        bound, stretch = float(D.lipschitz(module)), measured(call, shape)
        assert stretch <= bound * (1 + 1e-12)
        tight = {"linear": 1.01, "conv": 2.0, "strided": 3.0, "kernel": 5.0}
        assert bound <= stretch * tight.get(kind, 10.0)

    def test_layers_stretch_within_their_bounds(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseLinear(2)), nf.FixedGrid(nf.RK4(), steps=12), 0.0, 0.5)
        bounds = D.bounds(layer)
        assert bool(bounds.certified) and bounds.residual.shape == (12,)
        stretches = jnp.linalg.svd(D.jacobian(layer, x), compute_uv=False)
        assert bounds.contraction <= stretches.min() and stretches.max() <= bounds.expansion
        step = layer.per_step(
            x, lambda block, y: jax.vmap(jax.jacfwd(lambda p: (block(p[None]) - p)[0]))(y)
        )
        assert (jnp.linalg.norm(step, ord=2, axis=(-2, -1)).max(1) <= bounds.residual).all()

    def test_euler_blocks_have_h_times_the_bound_and_flows_its_integral(self, mlp):
        field = mlp(nf.PiecewiseConstant(3))
        each = np.array([float(D.lipschitz(field.at(s))) for s in (0.1, 0.5, 0.9)])
        bounds = D.bounds(nf.NeuralODE(field, euler(6), 0.0, 2.0))
        np.testing.assert_allclose(bounds.residual, np.repeat(each, 2) / 3, rtol=1e-12)
        exact = D.bounds(nf.NeuralODE(field, TIGHT, 0.0, 2.0))
        np.testing.assert_allclose(
            [exact.expansion, 1 / exact.contraction], np.exp(2 * each.mean()), rtol=1e-12
        )
        part = D.bounds(nf.NeuralODE(field, TIGHT, 0.0, 2.0).between(1.0, 2.0))
        np.testing.assert_allclose(
            part.expansion, np.exp(each[1] / 3 + each[2] * 2 / 3), rtol=1e-12
        )
        with pytest.raises(TypeError, match="constant in cells of depth"):
            D.bounds(nf.NeuralODE(mlp(nf.PiecewiseLinear(3)), TIGHT))

    def test_a_layer_walked_backward_has_the_bounds_of_its_own_steps(self, x):
        def make(rngs):
            return nnx.Linear(2, 2, use_bias=False, param_dtype=jnp.float64, rngs=rngs)

        field = nf.DepthVarying(make, nf.PiecewiseLinear(1), rngs=nnx.Rngs(0))
        field.stack.kernel.set_value(
            jnp.stack([0.1 * jnp.eye(2), jnp.diag(jnp.asarray([3.0, 0.3]))])
        )
        back = nf.NeuralODE(field, euler(1)).reverse()  # x - diag(3, 0.3) x
        np.testing.assert_allclose(D.bounds(back).residual, 3.0, rtol=1e-2)
        with pytest.raises(ValueError, match="block 0 of 1"):
            D.check(back)

    def test_what_is_known_of_a_class_says_nothing_of_its_children(self, x):
        class Twice(nnx.Linear):
            def __call__(self, x):
                return 2 * super().__call__(x)

        twice = Twice(2, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        with pytest.raises(TypeError, match="no Lipschitz bound of Twice is known"):
            D.lipschitz(twice)
        D.lipschitz_rule.register(Twice, lambda module: 1e-3 * jnp.max(jnp.abs(module.kernel[...])))
        report = D.report(nf.NeuralODE(twice, euler(1)), x)
        assert not report.certified and "is wrong" in report.reason

    def test_an_unbounded_block_folds_and_a_bounded_one_does_not(self):
        def steep(rngs):
            net = nf.fields.MLP(2, hidden=2, param_dtype=jnp.float64, rngs=rngs)
            for dense, size in zip(net.dense, (2.0, -2.0), strict=True):
                dense.kernel.set_value(size * jnp.eye(2))
            return net

        points = jax.random.uniform(jax.random.key(0), (20000, 2), minval=-1.0)
        wild = nf.NeuralODE(steep(nnx.Rngs(0)), euler(1))
        tame = nf.NeuralODE(D.Bounded(steep(nnx.Rngs(0)), 0.9), euler(1))
        cells = [
            sampled.folded(sampled.sample(layer, (-1, -1), (1, 1), (41, 41)))
            for layer in (wild, tame)
        ]
        assert cells[0].mean() > 0.2 and not cells[1].any()
        signs = [D.log_determinant(layer, points).sign for layer in (wild, tame)]
        assert (signs[0] < 0).mean() > 0.2 and (signs[1] == 1).all()
        with pytest.raises(
            ValueError, match="block 0 of 1 is not known to be a diffeomorphism.* take 6 steps"
        ):
            D.check(wild)
        D.check(tame)
        D.check(wild.with_solve(euler(6)))

    def test_bounded_fields_train_and_stay_bounded(self, x):
        def make(rngs):
            return nf.fields.MLP(2, hidden=8, param_dtype=jnp.float64, rngs=rngs)

        field = D.Bounded(nf.DepthVarying(make, nf.PiecewiseConstant(2), rngs=nnx.Rngs(0)), 1.8)
        layer = nf.NeuralODE(field, euler(2))

        @nnx.jit
        def step(layer, x):
            value, slopes = nnx.value_and_grad(lambda layer: jnp.mean((layer(x) + 4 * x) ** 2))(
                layer
            )
            nnx.update(
                layer, jax.tree.map(lambda p, g: p - 0.5 * g, nnx.state(layer, nnx.Param), slopes)
            )
            return value

        values = [float(step(layer, x)) for _ in range(20)]
        assert (
            values[-1] < values[0] and float(D.lipschitz(field.field.at(0.1))) > 1.8
        )  # the weights alone would fold
        D.check(layer)

    def test_power_iteration_comes_to_the_norm_in_every_cell(self, x):
        field = nf.DepthVarying(Net, nf.PiecewiseConstant(3), rngs=nnx.Rngs(0))
        layer = nf.NeuralODE(field, euler(3))
        walk = nnx.jit(lambda layer, x: layer(x))
        for _ in range(60):
            walk(layer, x)
        layer.eval()
        lipschitz = D.bounds(layer).residual * 3
        assert (lipschitz <= 0.49 * 1.02).all() and (lipschitz >= 0.2).all()
        np.testing.assert_array_equal(walk(layer.with_solve(euler(6)), x).shape, x.shape)

    def test_refusals(self, mlp, x):
        with pytest.raises(TypeError, match="no Lipschitz bound of ConvBlock is known"):
            D.lipschitz(nf.fields.ConvBlock(4, rngs=nnx.Rngs(0)))
        with pytest.raises(TypeError, match="no Lipschitz bound of square is known"):
            D.lipschitz(jnp.square)
        with pytest.raises(TypeError, match="one group"):
            D.lipschitz(nnx.Conv(4, 4, (3,), feature_group_count=2, rngs=nnx.Rngs(0)))
        with pytest.raises(ValueError, match="bound is a positive number, got 0"):
            D.Bounded(mlp(nf.PiecewiseConstant(2)), 0)
        with pytest.raises(TypeError, match="without a mask"):
            D.lipschitz(nnx.Conv(1, 1, (1,), mask=jnp.ones((1, 1, 1)), rngs=nnx.Rngs(0)))
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2), time=False), euler(2))
        with pytest.raises(TypeError, match="outside of transformations"):
            nnx.jit(D.check)(layer)
        with pytest.raises(TypeError, match="outside of transformations"):
            jax.jit(lambda x: D.report(layer, x))(x)
        layer.field.stack.dense[0].kernel.set_value(jnp.full((2, 2, 8), jnp.nan))
        with pytest.raises(ValueError, match="are not finite"):
            D.check(layer)
        with pytest.raises(TypeError, match="not for ImplicitEuler"):
            D.bounds(
                nf.NeuralODE(
                    mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.ImplicitEuler(), steps=2)
                )
            )


class TestGeodesics:
    def test_two_landmarks_on_a_line_against_a_quadrature(self):
        """With the sum of the momenta kept, the distance r obeys r'^2 = 4 (1 - k)(H - P^2 (1 + k) / 4), k = k(r)."""
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
        with pytest.raises(ValueError, match=r"points in rows, \(m, 2\), got \(2,\)"):
            D.Geodesic(points, points, 1.0)(jnp.zeros(2))
        with pytest.raises(ValueError, match="points of 2 coordinates belong to these centres"):
            D.KernelField(points, 1.0)(jnp.zeros((4, 1)))
        with pytest.raises(ValueError, match="landmarks 0 and 1 of the source coincide"):
            D.register(np.zeros((2, 2)), np.eye(2), 1.0)
        with pytest.raises(ValueError, match="width, the kernel's, is a positive number"):
            D.KernelField(points, 0.0)
        with pytest.raises(ValueError, match=r"points in rows, \(n, d\), got shape \(3,\)"):
            D.register(np.zeros(3), np.zeros(3), 1.0)
        with pytest.raises(ValueError, match="source must be finite"):
            D.register(points * np.nan, points, 1.0)
        with pytest.raises(TypeError, match="must be a nf.labs.diffeo.KernelField"):
            D.action(nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), euler(2)))


class TestReport:
    def test_a_tame_layer(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2), time=False), euler(32))
        report = D.report(layer, x)
        slopes = D.jacobian(layer, x)
        assert (
            report.certified
            and report.folded == 0
            and "diffeomorphism everywhere" in report.sentence()
        )
        assert report.inverse_error < 1e-13 < report.reverse_error < 0.1
        np.testing.assert_allclose(
            report.least_determinant, jnp.linalg.det(slopes).min(), rtol=1e-10
        )
        assert report.contraction <= report.squeeze <= report.stretch <= report.expansion
        paths = np.asarray(layer.trajectory(x))
        lengths = np.linalg.norm(np.diff(paths, axis=0), axis=2)
        np.testing.assert_allclose(report.path_length, lengths.sum(0).mean(), rtol=1e-12)
        np.testing.assert_allclose(report.speeds, 32 * np.sqrt((lengths**2).mean(1)), rtol=1e-12)
        text = str(report)
        assert all(name in text for name, _, _ in report.rows()) and report.sentence() in text
        # Of very many blocks the product has no number, although each of them is bounded.
        assert dataclasses.replace(report, residual=0.99, contraction=0.0).certified

    def test_folds_adaptive_layers_and_kernels(self, x):
        wild = nf.NeuralODE(
            nf.from_function(lambda a, x: a * jnp.tanh(x), jnp.asarray(-4.0)), euler(1)
        )
        report = D.report(wild, x)
        assert (
            report.folded > 0
            and report.least_determinant < 0
            and report.inverse_error > 1
            and not report.certified
        )
        assert (
            "It folds" in report.sentence()
            and "unknown" in str(report)
            and "teach it" in report.reason
        )
        exact = D.report(wild.with_solve(TIGHT), x)
        assert (
            exact.folded == 0
            and exact.inverse_error < 1e-9
            and len(exact.speeds) == 32
            and not exact.certified
        )
        with pytest.raises(ValueError, match="needs samples"):
            D.report(wild, x[:0])
        field = D.KernelField(x, 1.0, 0.1 * x)
        kernel = D.report(nf.NeuralODE(field, euler(4)), x)
        assert kernel.variation == 0 and kernel.certified
        np.testing.assert_allclose(kernel.speeds, float(field.energy()) ** 0.5, rtol=1e-12)
