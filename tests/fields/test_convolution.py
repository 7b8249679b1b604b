"""The convolution's values and derivatives are lax's, whatever their layout."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

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
