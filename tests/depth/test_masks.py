"""Masks of optimisers see the shapes that parameters have at one depth."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers, muon
from support.wrong import wrong

import neuralflow as nf
from neuralflow.checks import InputTypeError
from neuralflow.depth import decayed


class Block(nnx.Module):
    """A block with a matrix, a bias and the scale of a norm."""

    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(3, use_bias=False, param_dtype=jnp.float64, rngs=rngs)
        self.linear = nnx.Linear(3, 3, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, x):
        return self.linear(self.norm(x))


class Classifier(nnx.Module):
    """Blocks that vary with depth, and beside them a head that does not."""

    def __init__(self, basis):
        rngs = nnx.Rngs(0)
        self.field = nf.DepthVarying(Block, basis, rngs=rngs)
        self.head = nnx.Linear(3, 2, param_dtype=jnp.float64, rngs=rngs)


@pytest.mark.parametrize(
    "basis", [nf.PiecewiseConstant(4), nf.PiecewiseConstant(1), nf.PiecewiseLinear(2)]
)
def test_the_axis_of_coefficients_is_no_axis_of_a_parameter(basis):
    mask = decayed(Classifier(basis))
    assert nnx.to_pure_dict(mask) == {
        "field": {
            "stack": {"norm": {"scale": False}, "linear": {"kernel": True, "bias": False}},
        },
        "head": {"kernel": True, "bias": False},
    }


def test_weight_decay_shrinks_kernels_and_moves_nothing_else():
    model = Classifier(nf.PiecewiseConstant(4))
    nnx.update(model, jax.tree.map(lambda a: a + 1.0, nnx.state(model, nnx.Param)))
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    rule = optax.adamw(0.1, weight_decay=0.5, mask=decayed(model))
    optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))

    step(model, optimizer)
    after = nnx.state(model, nnx.Param)
    for (path, old), (_, new) in zip(
        nnx.to_flat_state(before), nnx.to_flat_state(after), strict=True
    ):
        factor = 0.95 if path[-1] == "kernel" else 1.0
        assert jnp.allclose(new[...], factor * old[...], rtol=1e-14, atol=0), path


def test_muon_takes_stacked_kernels_for_as_many_matrices():
    blocks = [Block(nnx.Rngs(seed)) for seed in range(3)]
    field = nf.DepthVarying.from_modules(blocks, nf.PiecewiseConstant(3))

    def slope(state):
        return jax.tree.map(lambda a: jnp.sin(3 * a) + a**2, state)

    def move(model, rule):
        optimizer = nnx.Optimizer(model, rule, wrt=nnx.Param)
        for _ in range(3):
            optimizer.update(model, slope(nnx.state(model, nnx.Param)))

    mask = decayed(field)
    axes = jax.tree.map(lambda matrix: MuonDimensionNumbers(-2, -1) if matrix else None, mask)
    stacked = muon(
        0.1, weight_decay_mask=mask, muon_weight_dimension_numbers=axes, weight_decay=0.1
    )
    move(field, stacked)
    move(nnx.List(blocks), muon(0.1, weight_decay_mask=decayed(nnx.List(blocks)), weight_decay=0.1))
    for k, block in enumerate(blocks):
        one = nnx.state(field.at((k + 0.5) / 3), nnx.Param)
        for (path, ours), (_, theirs) in zip(
            nnx.to_flat_state(one), nnx.to_flat_state(nnx.state(block, nnx.Param)), strict=True
        ):
            assert jnp.allclose(ours[...], theirs[...], rtol=0, atol=1e-6), path


def test_a_mask_is_that_of_a_module():
    with pytest.raises(InputTypeError, match="model must be an nnx.Module"):
        decayed(wrong({"kernel": jnp.ones((2, 2))}))


def test_biases_of_several_axes_are_no_kernels():
    def make(rngs):
        return nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)

    for module in (
        make(nnx.Rngs(0)),
        nf.DepthVarying(make, nf.PiecewiseConstant(3), rngs=nnx.Rngs(0)),
    ):
        mask = nnx.to_flat_state(decayed(module))
        assert {path[-1] for path, chosen in mask if chosen} == {"kernel"}
        assert all(chosen for path, chosen in mask if path[-1] == "kernel")
