"""Attention against JAX's own, masks, and flows on the sphere against their equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from flax import nnx

import neuralflow as nf

X = jax.random.normal(jax.random.key(0), (2, 5, 8))


def attention(**options):
    defaults = {"heads": 2, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    return nf.fields.Attention(8, **{**defaults, **options})


def by_jax(field, x, mask=None, causal=False):
    """The same velocity by JAX's attention, which computes its softmax in float32."""
    y = field.norm(x)
    q, k, v = (
        jnp.tensordot(y, dense.kernel[...], 1) + dense.bias[...]
        for dense in (field.query, field.key, field.value)
    )
    mixed = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal)
    return jnp.tensordot(mixed, field.out.kernel[...], 2) + field.out.bias[...]


def test_attention_is_that_of_jax():
    field = attention()
    allowed = jax.random.bernoulli(jax.random.key(1), 0.6, (2, 5, 5)) | jnp.eye(5, dtype=bool)
    assert np.allclose(field(X), by_jax(field, X), atol=1e-6)
    assert (field(X, context={"mask": None}) == field(X)).all()
    masked = field(X, context={"mask": allowed, "other": 1.0})
    assert np.allclose(masked, by_jax(field, X, allowed[:, None]), atol=1e-6)
    causal = attention(causal=True)
    assert np.allclose(causal(X), by_jax(causal, X, causal=True), atol=1e-6)


@pytest.mark.parametrize("dtype", [bool, jnp.int8, jnp.float32])
def test_masks_of_any_dtype_hide_what_they_hide(dtype):
    field = attention(causal=True)
    padding = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).astype(dtype)[:, None]
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2))
    seen = layer(X, context={"mask": padding})
    other = layer(X.at[0, 3:].set(9.0), context={"mask": padding})
    assert (seen[0, :3] == other[0, :3]).all() and (seen[1] == other[1]).all()
    assert not np.allclose(seen[0, 3:], other[0, 3:])


def test_no_token_to_attend_to_means_no_values():
    field = attention(norm=False)
    nothing = jnp.zeros((2, 1, 5), bool)

    def total(x):
        return jnp.sum(field(x, context={"mask": nothing}))

    bias: Any = field.out.bias
    assert np.allclose(field(X, context={"mask": nothing}), bias[...])
    assert (jax.grad(total)(X) == 0).all()
    added = jnp.where(jnp.eye(5, dtype=bool), 0.0, -1e9)[None]
    assert jnp.isnan(field(X, context={"mask": added})).any()


def test_attention_forgets_the_order_of_tokens():
    field, order = attention(), jnp.asarray([3, 0, 4, 1, 2])
    assert np.allclose(field(X[:, order]), field(X)[:, order], atol=1e-14)


def test_half_precision_keeps_the_softmax_in_float32():
    x, options = X.astype(jnp.float32), {"param_dtype": jnp.float32}
    full = attention(**options)(x)
    half = attention(dtype=jnp.bfloat16, **options)(x)
    assert half.dtype == jnp.float32
    assert 0 < float(jnp.abs(half - full).max()) < 0.05


def test_a_split_is_the_sum_of_its_parts(worst):
    parts = attention(), nf.fields.FeedForward(8, hidden=16, param_dtype=float, rngs=nnx.Rngs(1))
    field, mask = nf.fields.Split(*parts), jnp.tri(5, dtype=bool)[None]
    velocity = parts[0](X, context={"mask": mask}) + parts[1](X)
    assert worst(field(X, context={"mask": mask}), velocity) == 0
    assert worst(field.along(1, X), parts[1](X)) == 0
    assert worst(nf.fields.Split(field, *parts)(X), 2 * field(X)) < 1e-14
    tree = nf.from_function(lambda a, x: {"p": a * x["q"], "q": -x["p"]}, 2.0)
    state = {"p": jnp.ones(2), "q": 3 * jnp.ones(2)}
    moved = nf.fields.Split(tree, tree)(state)
    assert worst(moved["p"], 12) == 0 and worst(moved["q"], -2) == 0


def test_a_velocity_of_another_shape_is_named():
    wide = nf.from_function(lambda w, x: x[..., None] * w, jnp.ones(1))
    field = nf.fields.Split(attention(), wide)
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.schemes.LieTrotter(), steps=1))
    for call in (field, layer):
        with pytest.raises(ValueError, match=r"part 1 of a Split, _Function, must have the shape"):
            call(X)


def drift(beta, x):
    """Attention with Q = K = V = 1 among the points of a set, `(n, d)`."""
    return jax.nn.softmax(beta * x @ x.T, axis=-1) @ x


def sphere(beta, solve, time):
    return nf.NeuralODE(nf.fields.OnSphere(nf.from_function(drift, beta)), solve, 0.0, time)


def start(n, d, spread):
    x = jnp.eye(d)[0] + spread * jax.random.normal(jax.random.key(2), (n, d))
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_orthogonal_particles_follow_the_equation_of_their_cosine(beta):
    n, times = 4, jnp.linspace(0, 5, 6)
    layer = sphere(beta, nf.Adaptive(nf.Dopri8(), 1e-12, 1e-12, output="stepped"), 5.0)
    states = layer.trajectory(jnp.eye(n), times)

    def rate(t, g):
        e = np.exp
        return 2 * e(beta * g) * (1 - g) * ((n - 1) * g + 1) / (e(beta) + (n - 1) * e(beta * g))

    exact = scipy.integrate.solve_ivp(
        rate, (0, 5), [0.0], "DOP853", times, rtol=1e-12, atol=1e-13
    ).y[0]
    cosine = jnp.sum(states[:, 0] * states[:, 1], axis=-1)
    assert np.abs(cosine - exact).max() < 1e-8
    assert np.allclose(jnp.linalg.norm(states, axis=-1), 1, atol=1e-9)


def test_a_cluster_contracts_at_rate_two():
    layer = sphere(1.0, nf.Adaptive(nf.Dopri8(), 1e-13, 1e-16, output="stepped"), 6.0)
    apart = layer.trajectory(start(6, 3, 0.1), jnp.asarray([3.0, 6.0]))
    # 1 - cos from the difference, which keeps its digits where the cosine is close to one.
    gaps = jnp.sum((apart[:, 0] - apart[:, 1]) ** 2, axis=-1) / 2
    assert abs(float(jnp.log(gaps[0] / gaps[1])) / 3 - 2) < 0.01


@pytest.mark.parametrize("beta", [1.0, 9.0])
def test_the_interaction_energy_never_falls(beta):
    x = start(12, 3, 5.0)
    states = sphere(beta, nf.FixedGrid(nf.RK4(), steps=200), 20.0).trajectory(x)
    energy = jnp.sum(jnp.exp(beta * jnp.einsum("tid,tjd->tij", states, states)), axis=(1, 2))
    assert (jnp.diff(energy) > -1e-9 * energy[:-1]).all()
    assert energy[-1] > 1.1 * energy[0]
