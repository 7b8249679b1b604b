import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow.depth import FlatField, field_at, field_in_step, grid as grids


class Tied(nnx.Module):
    """Two names for one layer."""

    def __init__(self, rngs):
        self.a = nnx.Linear(3, 3, rngs=rngs)
        self.b = self.a

    def __call__(self, x):
        return self.b(jnp.tanh(self.a(x)))


def test_independent_nodes_are_ordinary_layers():
    field = nf.DepthVarying(
        lambda rngs: nnx.Linear(64, 64, rngs=rngs), nf.PiecewiseConstant(6), rngs=nnx.Rngs(0)
    )
    kernel = field.stack.kernel.get_value()
    assert kernel.shape == (6, 64, 64)
    one = nnx.Linear(64, 64, rngs=nnx.Rngs(1)).kernel.get_value()
    assert np.allclose(kernel.std(axis=(1, 2)), one.std(), rtol=0.1)
    assert np.abs(np.corrcoef(kernel.reshape(6, -1)) - np.eye(6)).max() < 0.1


def test_tied_and_smooth_initialisation():
    def make(rngs):
        return nnx.Linear(64, 64, rngs=rngs)

    for basis in (nf.PiecewiseConstant(8), nf.PiecewiseLinear(8), nf.Legendre(4)):
        field = nf.DepthVarying(make, basis, rngs=nnx.Rngs(0), init=nf.tied)
        ends = [field.at(s).kernel.get_value() for s in (0.0, 0.37, 1.0)]
        assert np.allclose(ends[0], ends[1], atol=1e-6) and np.allclose(ends[0], ends[2], atol=1e-6)
    length = 0.3
    field = nf.DepthVarying(make, nf.PiecewiseLinear(10), rngs=nnx.Rngs(0), init=nf.smooth(length))
    nodes = field.stack.kernel.get_value().reshape(11, -1)
    s = np.arange(11) / 10
    expected = np.exp(-((s[:, None] - s) ** 2) / (2 * length**2))
    assert np.abs(np.corrcoef(nodes) - expected).max() < 0.1
    assert np.allclose(nodes.std(axis=1), nodes.std(), rtol=0.1)


def test_what_is_not_random_stays_at_every_depth():
    for basis in (nf.PiecewiseLinear(5), nf.Legendre(5)):
        for init in (nf.independent, nf.smooth(0.4)):
            field = nf.DepthVarying(
                lambda rngs: nnx.LayerNorm(4, rngs=rngs), basis, rngs=nnx.Rngs(0), init=init
            )
            for s in (0.0, 0.31, 1.0):
                assert np.allclose(field.at(s).scale.get_value(), 1, atol=1e-6)


def test_shared_submodules_stay_shared():
    field = nf.DepthVarying(Tied, nf.PiecewiseLinear(4), rngs=nnx.Rngs(0))
    assert field.stack.a is field.stack.b
    here = field.at(0.3)
    assert here.a is here.b
    moved = field.refine(nf.PiecewiseLinear(8)).at(0.3)
    assert moved.a is moved.b
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))
    x = jax.random.normal(jax.random.key(0), (2, 3), jnp.float32)
    y = x
    for s in range(4):
        y = y + 0.25 * field.at(s / 4)(y)
    assert np.allclose(layer(x), y, atol=1e-6)
    grads = nnx.grad(lambda m: jnp.sum(m(x) ** 2))(layer)
    assert len(jax.tree.leaves(grads)) == 2  # one kernel and one bias, not two of each


def test_from_modules_takes_their_values_at_the_nodes():
    modules = [nnx.Linear(2, 2, rngs=nnx.Rngs(k)) for k in range(4)]
    for basis in (nf.PiecewiseConstant(4), nf.PiecewiseLinear(3), nf.Legendre(4)):
        field = nf.DepthVarying.from_modules(modules, basis)
        for module, s in zip(modules, basis.nodes, strict=True):
            assert np.allclose(field.at(s).kernel.get_value(), module.kernel.get_value(), atol=1e-5)


def test_refine_and_project_carry_the_weights():
    field = nf.DepthVarying(
        lambda rngs: nnx.Linear(2, 2, rngs=rngs), nf.PiecewiseConstant(7), rngs=nnx.Rngs(0)
    )
    fine = field.refine(nf.PiecewiseConstant(49))
    for s in np.linspace(0, 1, 50):
        assert (fine.at(s).kernel.get_value() == field.at(s).kernel.get_value()).all()
    back = fine.project(nf.PiecewiseConstant(7))
    assert np.allclose(back.stack.kernel.get_value(), field.stack.kernel.get_value(), atol=1e-6)
    with pytest.raises(ValueError, match="does not contain"):
        field.refine(nf.PiecewiseConstant(10))


def test_unfolding_finds_varying_weights_in_a_users_module():
    class Mixed(nnx.Module):
        def __init__(self, rngs):
            self.outer = nnx.Linear(2, 2, rngs=rngs)
            self.blocks = nnx.List(
                nf.DepthVarying(lambda rngs: nnx.Linear(2, 2, rngs=rngs), basis, rngs=rngs)
                for basis in (nf.PiecewiseConstant(4), nf.PiecewiseLinear(2))
            )

        def __call__(self, x):
            return self.blocks[1](self.blocks[0](self.outer(x)))

    field = Mixed(nnx.Rngs(0))
    flat = FlatField(field)
    assert flat.bases == [nf.PiecewiseConstant(4), nf.PiecewiseLinear(2)]
    assert [basis is None for basis in flat.array_bases].count(True) == 2
    x = jax.random.normal(jax.random.key(0), (3, 2), jnp.float32)
    y = x
    for k in range(8):
        inner = field.blocks[1].at(k / 8)(field.blocks[0].at(k / 8)(field.outer(y)))
        y = y + inner / 8
    assert np.allclose(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=8))(x), y, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: nf.DepthVarying(
                lambda rngs: jnp.tanh, nf.PiecewiseConstant(2), rngs=nnx.Rngs(0)
            ),
            "must return an nnx.Module",
        ),
        (
            lambda: nf.DepthVarying(
                lambda rngs: nnx.BatchNorm(2, rngs=rngs), nf.PiecewiseLinear(2), rngs=nnx.Rngs(0)
            ),
            "belong to the cells",
        ),
        (
            lambda: nf.DepthVarying.from_modules(
                [nnx.Linear(2, 2, rngs=nnx.Rngs(0))], nf.PiecewiseConstant(2)
            ),
            "takes 2 modules",
        ),
        (lambda: nf.smooth(0.0), "positive correlation length, got 0.0"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_a_field_without_a_depth_says_so():
    field = nf.DepthVarying(
        lambda rngs: nnx.Linear(2, 2, rngs=rngs), nf.PiecewiseConstant(2), rngs=nnx.Rngs(0)
    )
    with pytest.raises(TypeError, match=r"field\.at\(s\)"):
        field(jnp.ones((1, 2)))


def test_bad_construction(mlp):
    def make(rngs):
        return nf.fields.MLP(2, hidden=3, rngs=rngs)

    field = mlp(nf.PiecewiseConstant(4))
    for call, said in (
        (
            lambda: nf.DepthVarying(make(nnx.Rngs(0)), nf.PiecewiseConstant(4), rngs=nnx.Rngs(0)),
            "make must be a function",
        ),
        (lambda: nf.DepthVarying(make, 4, rngs=nnx.Rngs(0)), "basis must be a depth basis.*got 4"),
        (
            lambda: nf.DepthVarying(make, nf.PiecewiseConstant, rngs=nnx.Rngs(0)),
            "basis must be a depth basis",
        ),
        (lambda: nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=0), "rngs must be nnx.Rngs"),
        (
            lambda: nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0), init="smooth"),
            "init must be a function",
        ),
        (
            lambda: nf.DepthVarying(
                make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0), init=nf.smooth
            ),
            "correlation length",
        ),
        (lambda: field.project(8), "target basis must be a depth basis"),
        (lambda: field.refine(8), "finer basis must be a depth basis"),
        (lambda: field.at(0.5, side="up"), "'left', 'right', got 'up'"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            call()


def test_the_field_at_a_depth_and_in_a_step_are_the_plain_module():
    def make(rngs):
        return nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)

    outer = nnx.List(
        nf.DepthVarying(make, basis, rngs=nnx.Rngs(k))
        for k, basis in enumerate((nf.PiecewiseConstant(4), nf.PiecewiseLinear(2)))
    )
    x = jnp.ones((3, 2))
    plan = grids.plan(grids.uniform(8), FlatField(outer).bases)
    for k, depth in enumerate((0.0, 0.125, 0.25, 0.375, 0.5)):
        want = [part.at(depth)(x) for part in outer]
        for modules in (field_at(outer, depth), field_in_step(outer, plan.local(0.0, k))):
            assert all((module(x) == y).all() for module, y in zip(modules, want, strict=True))
    left = field_at(outer, 0.25, "left")
    assert (left[0](x) == outer[0].at(0.25, "left")(x)).all() and not (
        left[0](x) == outer[0].at(0.25)(x)
    ).all()
    traced = jax.jit(lambda s: field_at(outer, s)[1](x))(0.3)
    assert np.allclose(traced, outer[1].at(0.3)(x), atol=1e-14)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        field_at(outer, 1.5)
