"""Equations as fields."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from support.operators import DX, equation, slope

import neuralflow as nf
from neuralflow.labs import operators as op


def test_a_differential_operator_is_its_equation():
    """Waves on a periodic grid are multiplied by the symbol.

    On smooth functions the operator is of order two.
    """
    errors = []
    for n in (16, 32, 64):
        h = 2 * np.pi / n
        field = equation(0.3, -1.0, 0.7, 0.1, 0.4, 0.2, dimension=2, spacing=h)
        y, x = np.meshgrid(h * np.arange(n), h * np.arange(n), indexing="ij")
        u, ux, uy = np.sin(x + 2 * y), np.cos(x + 2 * y), 2 * np.cos(x + 2 * y)
        exact = 0.3 * u - ux + 0.7 * uy - u * (0.1 + 0.4 * 2 + 0.2 * 4)
        errors.append(
            np.abs(np.asarray(field(jnp.asarray(u)[None, ..., None]))[0, ..., 0] - exact).max()
        )
    np.testing.assert_allclose(slope(errors), 2.0, atol=0.05)
    assert (
        equation(0.0, 0.3, 0.1, spacing=1 / 256, param_dtype=jnp.float32).formula()
        == "0.3 ∂x + 0.1 ∂xx"
    )
    assert field.formula() == "0.3 - ∂x + 0.7 ∂y + 0.1 ∂xx + 0.4 ∂xy + 0.2 ∂yy"


def test_boundaries():
    ones = jnp.ones((1, 6, 1))

    def heat(boundary):
        return equation(0.0, 0.0, DX**2, boundary=boundary)(ones)[0, :, 0]

    assert float(jnp.abs(heat("neumann")).max()) < 1e-14
    assert float(jnp.abs(heat("periodic")).max()) < 1e-14
    np.testing.assert_allclose(heat("dirichlet"), [-1, 0, 0, 0, 0, -1], atol=1e-14)
    free = op.DifferentialOperator(2, 3, rngs=nnx.Rngs(0))
    conv = nnx.Conv(2, 3, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
    conv.kernel.set_value(free.kernel)
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 2), jnp.float32)
    assert float(jnp.abs(free(x) - conv(x)).max()) < 1e-6


def test_the_operator_block_is_a_residual_branch_with_fewer_weights():
    def size(module):
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module.convs, nnx.Param)))

    block = op.block(8, rngs=nnx.Rngs(0))
    assert size(block) == 2 * 6 * 8**2
    assert size(nf.fields.ConvBlock(8, rngs=nnx.Rngs(0))) == 2 * (9 * 8**2 + 8)
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 8), jnp.float32)
    # The coefficients are drawn so that white noise keeps its variance.
    # The convolution's own initialisation does the same.
    assert (
        0.5
        < float(jnp.var(op.DifferentialOperator(8, 64, rngs=nnx.Rngs(0))(x)[:, 1:-1, 1:-1]))
        < 2.0
    )
    layer = nf.NeuralODE(block, nf.FixedGrid(nf.Euler(), steps=1))
    assert float(jnp.abs(layer(x) - jax.jit(lambda x: x + block(x))(x)).max()) < 1e-6


class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        field = nf.DepthVarying(
            lambda rngs: op.block(4, rngs=rngs), nf.PiecewiseConstant(2), rngs=rngs
        )
        self.flow = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2))
        self.rest = nnx.List(
            [nnx.Linear(4, 2, rngs=rngs), nnx.Conv(4, 4, (5,), kernel_dilation=2, rngs=rngs)]
        )


def test_every_convolution_of_a_model_is_read():
    net = Net(nnx.Rngs(0))
    operators = op.read(net)
    assert [*operators] == [
        "stem",
        *(f"flow.field.convs.{k} at {s}" for s in (0.25, 0.75) for k in (0, 1)),
        "rest.1",
    ]
    np.testing.assert_allclose(op.to_kernel(operators["stem"]), net.stem.kernel[...], atol=1e-6)
    np.testing.assert_allclose(
        op.to_kernel(operators["rest.1"], 2.0), net.rest[1].kernel[...], atol=1e-6
    )
    second = operators["flow.field.convs.1 at 0.75"]
    convs: Any = net.flow.field.stack.convs
    np.testing.assert_allclose(second[0, 0], convs[1].coefficients[...][1, 0], atol=1e-6)
    # There are no derivatives above the second.
    assert float(jnp.abs(second[2, 1]).max()) < 1e-6
    assert op.read(nf.fields.MLP(2, hidden=4, rngs=nnx.Rngs(0))) == {}
