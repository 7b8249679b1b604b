"""Parts of flax and of its neighbours inside a field: the layer is the loop over their calls."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import neuralflow as nf
from neuralflow.checks import InputError

N = 3
X = jax.random.normal(jax.random.key(1), (6, 4))
GRID = nf.FixedGrid(nf.Euler(), steps=N)


def linear(rngs, size=4):
    return nnx.Linear(4, size, param_dtype=jnp.float64, rngs=rngs)


def called(net) -> Any:
    """A module that takes *args, as a field."""
    return nf.from_function(lambda net, x: net(x), net)


class Weighted(nnx.Module):
    """A user's module with a norm of weights inside."""

    def __init__(self, rngs):
        self.net = weighted(rngs)

    def __call__(self, x):
        return jnp.tanh(self.net(x))


def weighted(rngs):
    return called(nnx.WeightNorm(linear(rngs), param_dtype=jnp.float64, rngs=rngs))


def spectral(rngs) -> Any:
    return nnx.SpectralNorm(linear(rngs), param_dtype=jnp.float64, rngs=rngs)


def from_linen(rngs):
    dense = linen.Dense(4, param_dtype=jnp.float64)
    return called(nnx.bridge.ToNNX(dense, rngs=rngs).lazy_init(X))


def from_equinox(rngs):
    net = eqx.nn.MLP(4, 4, 8, 1, key=rngs.params(), dtype=jnp.float64)
    arrays, rest = eqx.partition(net, eqx.is_array)
    return nf.from_function(lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x), arrays)


def attention(rngs):
    return nnx.MultiHeadAttention(
        2, 4, decode=False, dtype=jnp.float64, param_dtype=jnp.float64, rngs=rngs
    )


def sequential(rngs):
    return nnx.Sequential(linear(rngs, 8), jnp.tanh, nnx.Linear(8, 4, rngs=rngs))


PARTS = {
    "WeightNorm": weighted,
    "WeightNorm inside": Weighted,
    "SpectralNorm": spectral,
    "MultiHeadAttention": attention,
    "Sequential": sequential,
    "linen": from_linen,
    "equinox": from_equinox,
}


def loop(field, x):
    """The residual blocks of a field, written by hand."""
    for k in range(N):
        x = x + field.at((k + 0.5) / N)(x) / N
    return x


@pytest.mark.parametrize("part", PARTS)
def test_the_layer_is_the_loop_over_the_parts_calls(part, worst):
    field = nf.DepthVarying(PARTS[part], nf.PiecewiseConstant(N), rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, GRID)
    before = jax.tree.map(jnp.copy, nnx.state(field, nnx.Param))

    def squared(run):
        def loss(field):
            y = run(field, X)
            return jnp.sum(y**2), y

        # A clone, because training moves the estimates of a spectral norm.
        return nnx.grad(loss, has_aux=True)(nnx.clone(field))

    got = squared(lambda field, x: layer.with_field(field)(x))
    # Softmax in flax's attention is computed in float32.
    assert worst(got, squared(loop)) < (1e-6 if part == "MultiHeadAttention" else 1e-13)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    layer(X)
    # What a call writes into weights belongs to the call.
    assert worst(nnx.state(field, nnx.Param), before) == 0


def test_spectral_norms_estimate_once_a_step_in_training_and_hold_in_evaluation(worst):
    field = nf.DepthVarying(spectral, nf.PiecewiseConstant(N), rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, GRID)
    sigma = field.stack.batch_stats[("kernel", "sigma")]
    kernels = field.stack.layer_instance.kernel[...]
    for _ in range(200):
        layer(X)
    # The power iteration of every block has found the largest singular value of its own weights.
    assert worst(sigma[...], jnp.linalg.norm(kernels, ord=2, axis=(1, 2))) < 1e-6
    before = jax.tree.map(jnp.copy, nnx.state(layer, nnx.BatchStat))
    layer.eval()
    fine = layer.with_solve(nf.Adaptive(nf.Tsit5(), 1e-8, 1e-8))
    assert worst(layer(X), loop(field, X)) < 1e-13 and fine(X).shape == X.shape
    assert worst(nnx.state(layer, nnx.BatchStat), before) == 0
    layer.train()
    with pytest.raises(ValueError, match="train with FixedGrid"):
        layer.with_solve(nf.Adaptive(nf.Tsit5()))(X)


def test_dropout_draws_in_training_and_rests_in_evaluation(worst):
    def make(rngs):
        return nnx.Sequential(linear(rngs), nnx.Dropout(0.5, rngs=rngs))

    layer = nf.NeuralODE(nf.DepthVarying(make, nf.PiecewiseConstant(N), rngs=nnx.Rngs(0)), GRID)
    plain: Any = layer.field.stack.layers[0]
    step = layer.trajectory(X)[1] - X
    whole = 2 * (X @ plain.kernel[0] + plain.bias[0]) / N
    kept = step != 0
    assert 0.2 < kept.mean() < 0.8 and worst(step, jnp.where(kept, whole, 0)) < 1e-14
    assert worst(layer(X), layer(X)) > 1e-2
    layer.eval()
    assert worst(layer(X), loop(layer.field, X)) < 1e-14
    assert worst(layer(X), layer(X)) == 0


class Block(nnx.Module):
    """A block with a random stream."""

    def __init__(self, rngs):
        self.linear = linear(rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(jnp.tanh(self.linear(x)))


def test_layers_that_flax_stacks_become_a_field(worst):
    @nnx.split_rngs(splits=N)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return Block(rngs)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def blocks(block, x):
        return x + block(x) / N

    stack = make(nnx.Rngs(0))
    field = nf.DepthVarying.from_stack(stack, nf.PiecewiseConstant(N))
    layer = nf.NeuralODE(field, GRID)
    # All depths draw from one stream.
    assert jnp.abs(layer(X) - layer(X)).max() > 1e-2
    layer.eval()
    stack.eval()
    assert worst(layer(X), blocks(stack, X)) < 1e-14
    got, want = (
        nnx.grad(lambda module, f=f: jnp.sum(f(module, X) ** 2))(module)
        for f, module in ((lambda layer, x: layer(x), layer), (blocks, stack))
    )
    assert worst(got, want) < 1e-13
    with pytest.raises(ValueError, match="a leading axis of 4"):
        nf.DepthVarying.from_stack(stack, nf.PiecewiseConstant(4))


def test_streams_of_vmapped_parts_of_one_block_stay_as_they_are():
    def make(rngs):
        keys = jax.random.split(rngs.params(), 2)
        return nnx.List([nnx.vmap(lambda key: Block(nnx.Rngs(key)))(keys)])

    field = nf.DepthVarying(make, nf.PiecewiseConstant(1), rngs=nnx.Rngs(0))
    finer = field.refine(nf.PiecewiseConstant(2))
    stream: Any = finer.stack[0].drop.rngs
    assert stream.key.shape == (2,)


@pytest.mark.parametrize("part", ["linen", "Sequential"])
def test_an_adaptive_solve_takes_what_draws_nothing(part):
    field = PARTS[part](nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.Adaptive(nf.Bosh3(), 1e-3, 1e-3))
    if part == "linen":
        with pytest.raises(ValueError, match="to_nnx__rngs"):
            layer(X)
        field.params.to_nnx__rngs = None
    assert layer(X).shape == X.shape


REFUSED = {
    "a module with *args": (
        lambda: nf.NeuralODE(nnx.WeightNorm(linear(nnx.Rngs(0)), rngs=nnx.Rngs(0)), GRID),
        r"wrap it: nf.from_function\(lambda net, x: net\(x\), net\)",
    ),
    "a cache": (lambda: nf.NeuralODE(_decoding(), GRID), "Cache at 'cache.*stays around it"),
    "functions among parameters": (
        lambda: nf.from_function(
            lambda net, x: jax.vmap(net)(x), eqx.nn.MLP(2, 2, 2, 1, key=jax.random.key(0))
        ),
        r"eqx.partition\(net, eqx.is_array\)",
    ),
}


def _decoding():
    net = attention(nnx.Rngs(0))
    net.init_cache((2, 5, 4))
    return net


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_names_what_can(case):
    call, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        call()
