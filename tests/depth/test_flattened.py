"""A field as a flat list of arrays, and the plain module that it is at one depth."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow.depth import FlatField, field_at, field_in_step, grid as grids


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
        fields: list[Any] = [field_at(outer, depth), field_in_step(outer, plan.local(0.0, k))]
        for modules in fields:
            assert all((module(x) == y).all() for module, y in zip(modules, want, strict=True))
    left: Any = field_at(outer, 0.25, "left")
    assert (left[0](x) == outer[0].at(0.25, "left")(x)).all() and not (
        left[0](x) == outer[0].at(0.25)(x)
    ).all()

    @jax.jit
    def traced(s):
        modules: Any = field_at(outer, s)
        return modules[1](x)

    assert np.allclose(traced(0.3), outer[1].at(0.3)(x), atol=1e-14)
    with pytest.raises(ValueError, match=">= 0 and <= 1"):
        field_at(outer, 1.5)
