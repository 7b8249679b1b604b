"""Residual branches as a layer, and a layer as residual branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf


def test_branches_of_a_resnet_make_a_layer_to_the_last_bit():
    block = jax.jit(lambda branch, x: x + branch(x))
    for count in (1, 7, 50):
        branches = [nf.fields.MLP(3, hidden=5, rngs=nnx.Rngs(k)) for k in range(count)]
        x = jax.random.normal(jax.random.key(0), (4, 3), jnp.float32)

        layer = nf.from_branches(branches)
        by_block = x
        for branch in branches:
            by_block = block(branch, by_block)
        assert (layer(x) == by_block).all()
        again = nf.to_branches(layer)
        assert len(again) == count
        for one, two in zip(branches, again, strict=True):
            assert (one(x) == two(x)).all()


def test_branches_of_a_timed_field_are_its_blocks():
    def make(rngs):
        return nf.fields.MLP(2, hidden=4, time=True, param_dtype=jnp.float64, rngs=rngs)

    field = nf.DepthVarying(make, nf.PiecewiseLinear(3), rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=6), 0.5, 2.0)
    x = jax.random.normal(jax.random.key(0), (64, 2))
    y = x
    for branch in nf.to_branches(layer):
        y = y + 0.25 * branch(y)
    assert np.allclose(layer(x), y, atol=1e-14)


class Gated(nnx.Module):
    """A branch with a gate from outside, and depth time if it is asked for."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, x, context):
        return context * jnp.tanh(self.linear(x))


class Timed(Gated):
    def __call__(self, x, t, context):  # pyright: ignore[reportIncompatibleMethodOverride]
        return (1 + t) * super().__call__(x, context)


def test_branches_take_a_context_there_and_back():
    x = jax.random.normal(jax.random.key(0), (3, 2))
    gate = jnp.asarray([[0.5], [1.0], [0.0]])
    branches = [Gated(nnx.Rngs(k)) for k in range(3)]
    layer = nf.from_branches(branches)
    y = x
    for one, two in zip(branches, nf.to_branches(layer), strict=True):
        assert (two(y, context=gate) == one(y, gate)).all()
        y = y + one(y, gate)
    assert np.allclose(layer(x, context=gate), y, atol=1e-14)

    timed = nf.NeuralODE(Timed(nnx.Rngs(0)), nf.FixedGrid(nf.Euler(), steps=2), 0.0, 2.0)
    y = x
    for branch in nf.to_branches(timed):
        y = y + branch(y, context=gate)
    assert np.allclose(timed(x, context=gate), y, atol=1e-14)
    with pytest.raises(TypeError, match="no other input, such as depth time"):
        nf.from_branches([Timed(nnx.Rngs(0))])


def test_the_option_that_differs_is_named():
    with pytest.raises(ValueError, match=r"rate is 0.2, and not 0.1; give modules of one class"):
        nf.from_branches([nnx.Dropout(0.1, rngs=nnx.Rngs(0)), nnx.Dropout(0.2, rngs=nnx.Rngs(0))])
    quiet = nnx.Dropout(0.1, rngs=nnx.Rngs(0))
    quiet.eval()
    with pytest.raises(ValueError, match="deterministic is True, and not False"):
        nf.from_branches([nnx.Dropout(0.1, rngs=nnx.Rngs(0)), quiet])
    with pytest.raises(
        ValueError,
        match="module 1 is built differently from module 0: it is a Timed, and not a Gated",
    ):
        nf.DepthVarying.from_modules(
            [Gated(nnx.Rngs(0)), Timed(nnx.Rngs(0))], nf.PiecewiseConstant(2)
        )


def test_branches_that_do_not_fit_are_refused():
    def mlp(h):
        return nf.fields.MLP(2, hidden=h, rngs=nnx.Rngs(0))

    with pytest.raises(ValueError, match="module 1 has parameters"):
        nf.from_branches([mlp(3), mlp(4)])
    with pytest.raises(ValueError, match="at least one"):
        nf.from_branches([])
    with pytest.raises(TypeError, match="Euler.*is a stack of residual blocks"):
        nf.to_branches(nf.NeuralODE(mlp(3), nf.FixedGrid(nf.Heun(), steps=4)))


class Block(nnx.Module):
    """A user's block of a pre-norm transformer, with flax's attention and a mask for padding."""

    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.first, self.second = nnx.LayerNorm(4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs)
        self.up, self.down = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x, mask):
        x = x + attend(self, x, mask)
        return x + feed_forward(self, x)


def attend(block, x, context):
    return block.attention(block.first(x), mask=context)


def feed_forward(block, x):
    return block.down(nnx.gelu(block.up(block.second(x))))


def in_two_parts(block):
    return nf.fields.Split(nf.from_function(attend, block), nf.from_function(feed_forward, block))


@pytest.mark.optimised
def test_transformers_become_layers_and_go_back_to_the_last_bit():
    blocks = [Block(nnx.Rngs(seed)) for seed in range(3)]
    layer = nf.from_branches([in_two_parts(b) for b in blocks], nf.schemes.LieTrotter())
    x = jax.random.normal(jax.random.key(0), (2, 5, 4), jnp.float32)
    forms, states = zip(*map(nnx.split, blocks), strict=True)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *states)

    @jax.jit
    def by_scan(x, mask):
        def step(x, state):
            return nnx.merge(forms[0], state)(x, mask), None

        return jax.lax.scan(step, x, stacked)[0]

    causal = nnx.make_causal_mask(jnp.ones((2, 5)))
    padding = jnp.asarray([1, 1, 1, 0, 0])[None, None, None] * jnp.ones((2, 1, 1, 1), int) > 0
    for mask in (causal, padding):
        assert (layer(x, context=mask) == by_scan(x, mask)).all()
    back = [branch.parts[0].params for branch in nf.to_branches(layer)]  # pyright: ignore
    for one, two in zip(blocks, back, strict=True):
        leaves = (jax.tree.leaves(nnx.state(module, nnx.Param)) for module in (one, two))
        assert all((a == b).all() for a, b in zip(*leaves, strict=True))
    again = nf.from_branches(nf.to_branches(layer), nf.schemes.LieTrotter())
    assert (again(x, context=causal) == layer(x, context=causal)).all()
    # The weights of a block that stand in both parts are there once.
    assert len(jax.tree.leaves(nnx.state(layer.field))) == len(jax.tree.leaves(states[0]))


def test_parts_with_depth_time_become_parts_at_their_depths():
    first = nf.fields.MLP(2, hidden=3, time=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    field = nf.fields.Split(first, nf.fields.Antisymmetric(2, rngs=nnx.Rngs(1), param_dtype=float))
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.schemes.LieTrotter(), steps=2), 0.5, 2.5)
    x = jax.random.normal(jax.random.key(0), (4, 2))
    y = x
    for branch in nf.to_branches(layer):
        y = y + branch.along(0, y)  # pyright: ignore
        y = y + branch.along(1, y)  # pyright: ignore
    assert np.allclose(layer(x), y, atol=1e-14)
