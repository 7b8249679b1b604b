"""Networks as fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.wrong import wrong

import neuralflow as nf


@pytest.mark.parametrize(
    "field",
    [
        lambda time, rngs: nf.fields.MLP(4, hidden=8, layers=2, time=time, rngs=rngs),
        lambda time, rngs: nf.fields.Antisymmetric(4, time=time, rngs=rngs),
        lambda time, rngs: nf.fields.ConvBlock(4, time=time, rngs=rngs),
    ],
    ids=["mlp", "antisymmetric", "conv"],
)
def test_fields_keep_shape_and_dtype_and_use_time_where_asked(field):
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4), jnp.float32)
    for time in (False, True):
        module = field(time, nnx.Rngs(0))
        early, late = module(x, 0.0), module(x, 0.9)
        assert early.shape == x.shape and early.dtype == x.dtype
        assert bool((early == late).all()) is not time
    with pytest.raises(ValueError, match=r"needs f\(x, t\)"):
        field(True, nnx.Rngs(0))(x)


def test_bfloat16_is_the_fields_own_affair():
    field = nf.fields.MLP(4, hidden=8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 4), jnp.float32)
    y = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))(x)
    assert y.dtype == jnp.float32
    exact = nf.NeuralODE(
        nf.fields.MLP(4, hidden=8, rngs=nnx.Rngs(0)), nf.FixedGrid(nf.Euler(), steps=4)
    )(x)
    assert 0 < jnp.abs(y - exact).max() < 0.05


def test_a_small_last_layer_starts_a_long_flow_near_the_identity():
    def flow(**options):
        field = nf.fields.MLP(2, hidden=16, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options)
        return nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=50), 0.0, 25.0)

    x = jax.random.normal(jax.random.key(0), (8, 2))
    small, default = flow(out_kernel_init=nnx.initializers.normal(1e-3)), flow()
    first, last = small.field.dense
    assert (first.kernel[...] == default.field.dense[0].kernel[...]).all()
    # tanh is below one, so no velocity is above the sum of the weights of an output.
    bound = 25 * jnp.abs(last.kernel[...]).sum(axis=0).max()
    assert 0 < jnp.abs(small(x) - x).max() <= bound < 0.6
    assert jnp.abs(default(x) - x).max() > 3


def test_antisymmetric_fields_turn_without_growing():
    field = nf.fields.Antisymmetric(
        6, activation=lambda z: z, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(0), (3, 6))
    y = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-10, 1e-10), 0.0, 5.0)(x)
    assert np.allclose(jnp.linalg.norm(y, axis=1), jnp.linalg.norm(x, axis=1), rtol=1e-8)


def test_bad_construction():
    with pytest.raises(ValueError, match="multiple of groups"):
        nf.fields.ConvBlock(6, groups=4, rngs=nnx.Rngs(0))
    for call, said in (
        (lambda: nf.from_function(wrong(3)), "function must be called"),
        (
            lambda: nf.from_function(lambda x: -x),
            r"got <lambda>\(x\); its first parameter holds the parameters",
        ),
        (lambda: nf.from_function(lambda params, x, t, z: x), r"got <lambda>\(params, x, t, z\)$"),
        (
            lambda: nf.from_function(lambda params, x: x, {"w": "abc"}),
            "arrays, numbers or NNX modules",
        ),
        (
            lambda: nf.fields.MLP(0, hidden=4, rngs=nnx.Rngs(0)),
            "dimension must be at least 1, got 0",
        ),
        (
            lambda: nf.fields.MLP(2, hidden=wrong(2.5), rngs=nnx.Rngs(0)),
            "hidden must be a whole number, got 2.5",
        ),
        (
            lambda: nf.fields.MLP(2, hidden=4, activation=wrong("tanh"), rngs=nnx.Rngs(0)),
            "activation must be a function",
        ),
        (lambda: nf.fields.MLP(2, hidden=4, rngs=wrong(0)), "rngs must be nnx.Rngs"),
        (
            lambda: nf.fields.Antisymmetric(2, damping=-1.0, rngs=nnx.Rngs(0)),
            "damping must be one finite number >= 0",
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            call()
