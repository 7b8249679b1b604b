"""The fixed grid of Euler's steps is the residual network: the bits of the same compiled scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf

UNKIND = (1, 3, 25, 29, 41, 49, 61, 98, 100, 103, 129, 196, 255, 500, 1000)


class Nested(nnx.Module):
    """A user's module with depth-varying weights inside."""

    def __init__(self, inner, dtype):
        self.inner = inner
        self.scale = nnx.Param(jnp.asarray(0.7, dtype))

    def __call__(self, x):
        return self.scale.get_value() * self.inner(x)


def both(field, graphdef, steps, t0, t1, dtype, nested, differentiated):
    """Value and gradients of the hand-written scan and of the layer, as compiled functions."""
    h = jnp.asarray((t1 - t0) / steps, dtype)
    whole, state = nnx.split(field)

    def hand(state, x):
        stack = state["inner"]["stack"] if nested else state["stack"]

        def block(x, params):
            f = nnx.merge(graphdef, params)(x)
            if nested:
                f = state["scale"].get_value() * f
            return x + h * f, None

        return jax.lax.scan(block, x, stack)[0]

    def layer(state, x):
        return nf.NeuralODE(
            nnx.merge(whole, state), nf.FixedGrid(nf.Euler(), steps=steps, memory="full"), t0, t1
        )(x)

    def run(f):
        gradient = jax.grad(lambda s, x: jnp.sum(f(s, x) ** 2), argnums=(0, 1))
        return jax.jit(lambda s, x: (f(s, x), gradient(s, x) if differentiated else ()))

    return run(hand), run(layer), state


def check_bitwise(steps, dtype, t0, t1, nested, differentiated=False):
    def make(rngs):
        return nf.fields.MLP(2, hidden=4, param_dtype=dtype, rngs=rngs)

    varying = nf.DepthVarying(make, nf.PiecewiseConstant(steps), rngs=nnx.Rngs(0))
    field = Nested(varying, dtype) if nested else varying
    hand, layer, state = both(
        field, nnx.split(varying.stack)[0], steps, t0, t1, dtype, nested, differentiated
    )
    x = jax.random.normal(jax.random.key(1), (3, 2), dtype)
    (y, want), (z, got) = hand(state, x), layer(state, x)
    assert (y == z).all()
    eps = jnp.finfo(dtype).eps
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        assert jnp.abs(a - b).max() <= eps * jnp.abs(a).max()
    return nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=steps), t0, t1), x, y


AS_USERS = [pytest.param(n, marks=pytest.mark.optimised) if n in (3, 1000) else n for n in UNKIND]


@pytest.mark.parametrize("steps", AS_USERS)
def test_euler_is_the_resnet_bitwise(steps):
    # Every number of steps has one precision and one interval, and each combination has some.
    # Gradients are taken for three of the numbers.
    k = UNKIND.index(steps)
    interval = ((0.0, 1.0), (0.5, 3.0))[k // 2 % 2]
    check_bitwise(
        steps,
        (jnp.float32, jnp.float64)[k % 2],
        *interval,
        nested=k % 3 == 0,
        differentiated=steps in (3, 49, 1000),
    )


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("dtype", "interval"),
    [(jnp.float32, (0.5, 3.0)), (jnp.float64, (0.0, 1.0)), (jnp.float32, (0.0, 1.0))],
)
def test_called_outside_a_trace_the_bits_are_the_same(dtype, interval):
    layer, x, y = check_bitwise(49, dtype, *interval, nested=False)
    assert (layer(x) == y).all()
    traced = jax.jit(lambda t0, t1: nf.NeuralODE(layer.field, layer.discretisation, t0, t1)(x))
    assert (traced(*(jnp.asarray(t, dtype) for t in interval)) == y).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_residual_network_in_half_precision_is_one_bitwise(dtype):
    """Depth and h are in float32, h is rounded once, and the block adds in half precision."""
    kernel, x = (
        jax.random.normal(key, shape).astype(dtype)
        for key, shape in zip(jax.random.split(jax.random.key(0)), [(8, 8), (16, 8)], strict=True)
    )

    def f(w, x, t):
        assert t.dtype == jnp.float32
        return jnp.tanh(x @ w) * (1 + t).astype(x.dtype)

    def hand(w, x):
        h = jnp.float32(1.5 / 12).astype(dtype)
        times = 0.5 + np.arange(12, dtype=np.float32) * np.float32(1.5) / np.float32(12)
        return jax.lax.scan(lambda x, t: (x + h * f(w, x, t), None), x, times)[0]

    def layer(w, x):
        solve = nf.FixedGrid(nf.Euler(), steps=12, memory="full")
        return nf.NeuralODE(nf.from_function(f, w), solve, 0.5, 2.0)(x)

    def both(function):
        def loss(w, x):
            y = function(w, x)
            return jnp.sum(y.astype(jnp.float32) ** 2), y

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(kernel, x)

    for a, b in zip(jax.tree.leaves(both(hand)), jax.tree.leaves(both(layer)), strict=True):
        assert a.dtype == b.dtype == dtype and (a == b).all()


def test_one_wrong_layer_is_noticed(mlp, x):
    field = mlp(nf.PiecewiseConstant(49), time=False)
    y = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=49))(x)
    hand = x
    looked_up = np.floor(
        np.cumsum(np.full(49, np.float32(1 / 49)), dtype=np.float32) * 49 - 1
    ).astype(int)
    # The obvious lookup by depth reads wrong layers.
    assert (looked_up != np.arange(49)).any()
    for k in looked_up:
        hand = hand + field.at((k + 0.5) / 49)(hand) / 49
    assert jnp.abs(hand - y).max() > 1e-4
