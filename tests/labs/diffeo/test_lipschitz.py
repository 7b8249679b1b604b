"""Lipschitz bounds of fields, blocks and layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from support.diffeo import TIGHT, euler

import neuralflow as nf
from neuralflow.labs import diffeo as D
from neuralflow.labs.diffeo import sampled


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
        # The layer walked backward is x - diag(3, 0.3) x.
        back = nf.NeuralODE(field, euler(1)).reverse()
        np.testing.assert_allclose(D.bounds(back).residual, 3.0, rtol=1e-2)
        with pytest.raises(ValueError, match="block 0 of 1"):
            D.check(back)

    def test_what_is_known_of_a_class_says_nothing_of_its_children(self, x):
        class Twice(nnx.Linear):
            def __call__(self, x, out_sharding=None):
                return 2 * super().__call__(x, out_sharding)

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
        inner = field.field
        # The weights alone would fold.
        assert isinstance(inner, nf.DepthVarying) and float(D.lipschitz(inner.at(0.1))) > 1.8
        assert values[-1] < values[0]
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
