"""Models on finer and on coarser depth: what stays, what changes, and what is refused."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from support.stochastic import KEY, bent

import neuralflow as nf
from neuralflow import schemes as S
from neuralflow.checks import InputError
from neuralflow.depth import field_at
from neuralflow.labs import stochastic as st

UNEVEN = (0.0, 0.1, 0.5, 1.0)
BASES = [
    nf.PiecewiseConstant(4),
    nf.PiecewiseConstant(UNEVEN),
    nf.PiecewiseLinear(4),
    nf.PiecewiseLinear(UNEVEN),
    nf.Legendre(3),
    nf.CubicSpline(3),
]
X = jnp.asarray([[0.5, -1.0], [2.0, 0.3], [-0.4, 0.1]])


def linear(rngs):
    return nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)


def layer(basis, steps=12, make: Any = linear, scheme=None, **options) -> Any:
    field = nf.DepthVarying(make, basis, rngs=nnx.Rngs(0))
    return nf.NeuralODE(field, nf.FixedGrid(scheme or nf.Euler(), steps=steps), **options)


def arrays(model):
    return jax.tree.leaves(nnx.state(model))


def decay(scheme, steps) -> Any:
    """The layer of x' = -x."""
    field = nf.from_function(lambda a, x: a * x, jnp.asarray(-1.0))
    return nf.NeuralODE(field, nf.FixedGrid(scheme, steps=steps))


class Weight(nnx.Module):
    """A field x -> w x with given rows of w."""

    def __init__(self, rows):
        self.weight = nnx.Param(jnp.asarray(rows))

    def __call__(self, x):
        return self.weight[...] * x


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("basis", BASES, ids=str)
def test_a_finer_model_has_the_same_weights(basis, factor):
    times = UNEVEN if basis.cells == UNEVEN else np.linspace(0, 1, 13)
    rows = np.random.default_rng(0).normal(size=(basis.size, 2))
    field = nf.DepthVarying.from_stack(Weight(rows), basis)
    model = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), times=times), 1.0, 3.0)
    before = arrays(model)
    finer = nf.refined(model, factor)
    assert type(finer.field.basis) is type(basis)
    assert finer.field.stack.weight.shape[0] == finer.field.basis.size > basis.size
    assert finer.plan().steps == factor * model.plan().steps and finer.ends == (1.0, 3.0)
    knots = finer.field.basis.knots
    depths = {*knots, *(knots[1:] + knots[:-1]) / 2, 0.37} - {*basis.knots}
    for s in (*sorted(depths), *basis.knots):
        new, old = (field_at(each.field, s) for each in (finer, model))
        for a, b in zip(arrays(new), arrays(old), strict=True):
            same = (a == b).all() if basis.smoothness < 0 else np.allclose(a, b, rtol=0, atol=1e-12)
            assert same, s
    assert all(a is b for a, b in zip(before, arrays(model), strict=True))
    assert not {map(id, before)} & {map(id, arrays(finer))}


def test_the_penalty_keeps_its_value_where_weights_do_not_jump():
    for basis, times in ((nf.PiecewiseLinear(4), 1), (nf.PiecewiseConstant(4), 8)):
        model = layer(basis)
        start = sum(jnp.sum(leaf**2) for leaf in arrays(field_at(model.field, 0.0)))
        old, new = (nf.regularisers.depth_energy(m) - start for m in (model, nf.refined(model, 8)))
        assert np.isclose(new, times * old, rtol=1e-12)


def test_finer_steps_approach_the_flow_of_the_weights():
    model = layer(nf.PiecewiseLinear(2), 8)
    flow = model.with_solve(nf.Adaptive(nf.Dopri8(), 1e-10, 1e-10))(X)
    errors = [jnp.abs(nf.refined(model, k)(X) - flow).max() for k in (8, 16)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


class Nested(nnx.Module):
    """Two names for one layer, another layer of the same weights, an adaptive one, and a list."""

    def __init__(self):
        self.one = layer(nf.PiecewiseConstant(2), 4)
        self.again = self.one
        self.heun = self.one.with_solve(nf.FixedGrid(nf.Heun(), steps=2))
        self.adaptive = layer(nf.PiecewiseLinear(2)).with_solve(nf.Adaptive(nf.Tsit5(), 1e-6, 1e-6))
        self.list = nnx.List([nnx.Linear(2, 2, rngs=nnx.Rngs(0)), layer(nf.PiecewiseLinear(3), 3)])

    def __call__(self, x):
        return self.adaptive(x)


def test_every_layer_is_refined_once():
    model: Any = Nested()
    finer = nf.refined(model, 2, X)  # No warning: an adaptive layer keeps its outputs.
    assert finer.one is finer.again and finer.one.field is finer.heun.field
    assert finer.one.field.basis == nf.PiecewiseConstant(4)
    assert [each.plan().steps for each in (finer.one, finer.heun, finer.list[1])] == [8, 4, 6]
    assert finer.adaptive.field.basis == nf.PiecewiseLinear(4)
    assert finer.adaptive.discretisation == model.adaptive.discretisation
    assert (finer.list[0].kernel[...] == model.list[0].kernel[...]).all()
    assert len(arrays(finer)) == len(arrays(model))


def test_the_warning_has_the_change_of_the_outputs():
    ordinary = nf.from_branches([linear(nnx.Rngs(k)) for k in range(4)])  # h = 1 on [0, 4]
    with pytest.warns(UserWarning) as caught:
        finer = nf.refined(ordinary, 2, X)
    change = jnp.linalg.norm(finer(X) - ordinary(X)) / jnp.linalg.norm(ordinary(X))
    said = f"changes the outputs on x by {change:.1%} of their norm"
    assert change > 0.1 and said in str(caught[0].message)
    with warnings.catch_warnings(action="error"):
        nf.refined(layer(nf.PiecewiseLinear(2), 4, scheme=nf.RK4()), 2, X)
    half = nf.from_function(lambda a, x: a * x, jnp.asarray(-1.0, jnp.float16))
    with pytest.warns(UserWarning, match="by 26.6% of"):  # Squares of 300 leave float16.
        nf.refined(
            nf.NeuralODE(half, nf.FixedGrid(nf.Euler(), steps=2)),
            2,
            300 * jnp.ones(64, jnp.float16),
        )


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.drop(self.norm(x)))


def test_statistics_are_repeated_and_streams_are_kept():
    model = layer(nf.PiecewiseConstant(2), 2, Normed)
    model(X)
    finer = nf.refined(model, 2)
    before, after = model.field.stack, finer.field.stack
    assert (before.norm.mean[...] != 0).any()
    assert (after.norm.mean[...] == jnp.repeat(before.norm.mean[...], 2, axis=0)).all()
    for name in ("key", "count"):
        assert getattr(after.drop.rngs, name)[...] == getattr(before.drop.rngs, name)[...]
    finer(X)  # Training goes on: the grid has a step in every cell of the statistics.
    assert (after.norm.mean[...] != jnp.repeat(before.norm.mean[...], 2, axis=0)).any()
    with pytest.raises(InputError, match="batch statistics .* belong to the cells"):
        nf.projected(model, nf.PiecewiseLinear(2))


def test_coefficients_of_steps_are_functions_of_depth():
    """A two-step network has the limit u' = f / (1 + k), and its consistent version u' = f."""
    row = S.PerStep(jnp.asarray([0.5]))
    fine = nf.refined(decay(S.LMResNet(row), 2), 3)
    assert fine.discretisation.scheme.k[...].tolist() == [0, 0, 0.5, 0.5, 0.5]
    for scheme, rate in ((S.LMResNet, 0.5 + 0.5 / 1.5), (S.ConsistentLM, 1.0)):
        errors = [
            nf.refined(decay(scheme(row), 2), n)(jnp.ones((1, 1))).item() - np.exp(-rate)
            for n in (64, 128)
        ]
        assert abs(errors[0]) < 0.01 and errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    fractal = nf.refined(decay(S.FractalNet.learned(2), 2), 2).discretisation.scheme
    assert fractal.k1[...].tolist() == [0.5] * 4 and isinstance(fractal.k1, S.PerStep)


@pytest.mark.parametrize("kind", [st.StochasticDepth, st.Dropout])
def test_a_finer_random_network_is_the_one_that_was_built_so(kind):
    field = bent(kind)
    finer = nf.refined(st.RandomNetwork(field, 4, t1=2.0), 2)
    weights = field.field.refine(nf.PiecewiseConstant(8))
    built = st.RandomNetwork(kind(weights, rngs=nnx.Rngs(0)), 8, t1=2.0)
    assert (finer.sample(X, KEY) == built.sample(X, KEY)).all()
    sde: Any = nf.refined(st.NeuralSDE(field, 4), 2)
    assert (sde.steps, sde.resolution) == (8, 1 / 16)
    assert sde.field.field.basis == nf.PiecewiseConstant(8)


def test_sharding_is_kept():
    def make(rngs):
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "wide"))
        return nnx.Linear(2, 2, kernel_init=init, rngs=rngs)

    mesh = jax.make_mesh((1, 1), ("deep", "wide"))
    with jax.set_mesh(mesh):
        field = nf.DepthVarying(
            make, nf.PiecewiseConstant(2), rngs=nnx.Rngs(0), partition_name="deep"
        )
    spread = NamedSharding(mesh, PartitionSpec("deep", None, "wide"))
    field.stack.kernel.set_value(jax.device_put(field.stack.kernel[...], spread))
    finer = nf.refined(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2)), 2).field.stack.kernel
    assert finer.get_metadata()["out_sharding"] == ("deep", None, "wide")
    assert finer[...].shape == (4, 2, 2) and finer[...].sharding == spread


def test_a_projected_model_keeps_its_steps():
    model = layer(nf.PiecewiseConstant(12))
    smaller = nf.projected(model, nf.PiecewiseLinear(3))
    assert smaller.plan().steps == 12 and model.field.basis.size == 12
    want = model.field.project(nf.PiecewiseLinear(3)).stack.kernel[...]
    assert np.allclose(smaller.field.stack.kernel[...], want, atol=1e-14)
    back = nf.projected(nf.refined(model, 2), nf.PiecewiseConstant(12))
    for a, b in zip(arrays(back), arrays(model), strict=True):
        assert np.allclose(a, b, atol=1e-14)
