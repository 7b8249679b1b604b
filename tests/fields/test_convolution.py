"""The convolution's values and derivatives are lax's, whatever their layout."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

import neuralflow as nf
from neuralflow.fields import convolution

CASES = {
    "plane": (2, (1, 1), "SAME", {}),
    "strides": (2, (2, 1), "SAME", {}),
    "line": (1, (1,), "VALID", {}),
    "space, uneven padding": (3, (1, 2, 1), ((1, 0), (2, 2), (0, 0)), {}),
    "dilated": (2, (1, 1), "SAME", {"rhs_dilation": (2, 1)}),
    "grouped": (2, (1, 1), "SAME", {"feature_group_count": 2}),
    "depthwise": (2, (1, 1), "SAME", {"feature_group_count": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_are_those_of_lax(case, worst):
    n, strides, padding, options = CASES[case]
    space = "012"[:n]
    specs = (f"N{space}C", f"{space}IO", f"N{space}C")
    x = jax.random.normal(jax.random.key(0), (3, *(7, 8, 6)[:n], 4))
    groups = options.get("feature_group_count", 1)
    kernel = jax.random.normal(
        jax.random.key(1), (*(3, 3, 3)[:n], 4 // groups, 4 if groups == 4 else 6)
    )

    def ours(x, kernel):
        return convolution(x, kernel, strides, padding, dimension_numbers=specs, **options)

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=specs, **options
        )

    assert worst(ours(x, kernel), plain(x, kernel)) <= (1e-14 if groups == 4 else 0)

    def gradients(f):
        return jax.grad(lambda *inputs: jnp.sum(f(*inputs) ** 3), argnums=(0, 1))

    def curvature(f):
        return jax.jvp(gradients(f), (x, kernel), (jnp.cos(x), jnp.sin(kernel)))[1]

    def twice(f):
        return jax.grad(lambda *inputs: sum(map(jnp.sum, gradients(f)(*inputs))), argnums=(0, 1))(
            x, kernel
        )

    for derivative in (lambda f: gradients(f)(x, kernel), curvature, twice):
        scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in derivative(plain))
        assert worst(derivative(ours), derivative(plain)) < 1e-13 * scale


def test_a_flax_layer_takes_it():
    def build(**options):
        return nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0), **options)

    x = jnp.ones((2, 5, 5, 2), jnp.float32)
    assert (build(conv_general_dilated=convolution)(x) == build()(x)).all()


N = 3
IMAGES = jax.random.normal(jax.random.key(1), (2, 5, 5, 4))


def by_name(*arguments, **options):
    """JAX's own convolution under another name, which no solve replaces."""
    return lax.conv_general_dilated(*arguments, **options)


class Twice(nnx.Conv):
    """A user's convolution."""

    def __call__(self, inputs, out_sharding=None):
        return jnp.tanh(super().__call__(2 * inputs, out_sharding))


def flow(build=nnx.Conv, dtype=jnp.float64, **options):
    """A layer whose blocks are convolutions."""

    def make(rngs):
        return build(4, 4, (3, 3), param_dtype=dtype, rngs=rngs, **options)

    field = nf.DepthVarying(make, nf.PiecewiseConstant(N), rngs=nnx.Rngs(0))
    return nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=N))


def cubes(layer, x):
    return jnp.sum(layer(x) ** 3)


GRADIENT = nnx.jit(nnx.value_and_grad(cubes, argnums=(0, 1)))


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (jnp.float32, {}),
        (jnp.float64, {"build": Twice, "use_bias": False}),
        (jnp.float64, {"padding": "CIRCULAR", "kernel_dilation": 2}),
    ],
    ids=str,
)
def test_a_layer_takes_it_for_flaxs_own_convolutions(options, dtype, worst):
    x = IMAGES.astype(dtype)
    ours, plain = (
        flow(dtype=dtype, **options),
        flow(dtype=dtype, conv_general_dilated=by_name, **options),
    )
    (value, got), (same, want) = GRADIENT(ours, x), GRADIENT(plain, x)
    assert (ours(x) == plain(x)).all() and value == same
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    assert worst(got, want) < (1e-5 if dtype == jnp.float32 else 1e-12) * scale
    y = x
    for k in range(N):
        y = y + ours.field.at((k + 0.5) / N)(y) / N
    assert worst(ours(x), y) < (1e-5 if dtype == jnp.float32 else 1e-13)
    text = [str(jax.make_jaxpr(jax.grad(cubes, argnums=1))(layer, x)) for layer in (ours, plain)]
    assert ["platform_index" in written for written in text] == [True, False]
    # The user's module stays as it is.
    assert ours.field.stack.conv_general_dilated is lax.conv_general_dilated


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 4},
        {"feature_group_count": 2},
        {"conv_general_dilated": by_name},
        {"preferred_element_type": jnp.float64},
    ],
    ids=lambda options: ",".join(options),
)
def test_a_layer_leaves_other_convolutions_as_they_are(options):
    text = str(jax.make_jaxpr(jax.grad(cubes, argnums=1))(flow(**options), IMAGES))
    assert "conv_general_dilated" in text and "platform_index" not in text


def test_it_passes_through_every_transformation(worst):
    def forward(layer):
        return jax.jvp(layer, (IMAGES,), (jnp.cos(IMAGES),))

    def twice(layer):
        return jax.grad(lambda x: jnp.sum(jax.grad(cubes, argnums=1)(layer, x) ** 2))(IMAGES)

    def samples(layer):
        return jax.vmap(jax.grad(cubes, argnums=1), (None, 0))(layer, IMAGES[:, None])

    def stacked(layer):
        graphdef, state = nnx.split(layer)
        states = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), state)
        gradient = jax.grad(lambda state: cubes(nnx.merge(graphdef, state), IMAGES))
        return jax.vmap(gradient)(states)

    for transformed in (forward, twice, samples, stacked):
        got, want = transformed(flow()), transformed(flow(conv_general_dilated=by_name))
        scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
        assert worst(got, want) < 1e-12 * scale


def test_other_platforms_keep_the_layout_of_jax():
    def layouts(layer, platform):
        graphdef, state = nnx.split(layer)

        @jax.jit
        def gradient(state, x):
            def loss(state, x):
                return cubes(nnx.merge(graphdef, state), x)

            return jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(state, x))

        text = jax.export.export(gradient, platforms=[platform])(state, IMAGES).mlir_module()
        return sorted(re.findall(r"dim_numbers = (.+?), window", text))

    ours, plain = flow(), flow(conv_general_dilated=by_name)
    for platform in ("tpu", "cuda"):
        assert layouts(ours, platform) == layouts(plain, platform) != []
    assert layouts(ours, "cpu") != layouts(plain, "cpu")
