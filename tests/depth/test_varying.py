"""Weights that vary with depth: what they hold, and where they are taken from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.wrong import wrong

import neuralflow as nf


class Tied(nnx.Module):
    """Two names for one layer."""

    def __init__(self, rngs):
        self.a = nnx.Linear(3, 3, rngs=rngs)
        self.b = self.a

    def __call__(self, x):
        return self.b(jnp.tanh(self.a(x)))


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
    # There is one kernel and one bias, not two of each.
    assert len(jax.tree.leaves(grads)) == 2


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


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: nf.DepthVarying(
                wrong(lambda rngs: jnp.tanh), nf.PiecewiseConstant(2), rngs=nnx.Rngs(0)
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
            lambda: nf.DepthVarying(
                wrong(make(nnx.Rngs(0))), nf.PiecewiseConstant(4), rngs=nnx.Rngs(0)
            ),
            "make must be a function",
        ),
        (
            lambda: nf.DepthVarying(make, wrong(4), rngs=nnx.Rngs(0)),
            "basis must be a depth basis.*got 4",
        ),
        (
            lambda: nf.DepthVarying(make, wrong(nf.PiecewiseConstant), rngs=nnx.Rngs(0)),
            "basis must be a depth basis",
        ),
        (
            lambda: nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=wrong(0)),
            "rngs must be nnx.Rngs",
        ),
        (
            lambda: nf.DepthVarying(
                make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0), init=wrong("smooth")
            ),
            "init must be a function",
        ),
        (
            lambda: nf.DepthVarying(
                make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0), init=wrong(nf.smooth)
            ),
            "correlation length",
        ),
        (lambda: field.project(8), "target must be a depth basis"),
        (lambda: field.refine(8), "finer must be a depth basis"),
        (lambda: field.at(0.5, side="up"), "'left', 'right', got 'up'"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            call()
