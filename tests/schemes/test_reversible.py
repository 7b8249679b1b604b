"""Walking back."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support.schemes import grid

import neuralflow as nf
from neuralflow import schemes as S

pytestmark = pytest.mark.device

REVERSIBLE = {
    "RevNet": S.RevNet(),
    "leapfrog": S.leapfrog(),
    "momentum": S.momentum(0.99),
    "Heun": S.Reversible(nf.Heun()),
}


def coupled(cells, width=2, seed=0):
    def part(rngs):
        return nf.fields.MLP(width, hidden=3, time=True, param_dtype=jnp.float64, rngs=rngs)

    def make(rngs):
        return nf.fields.Coupled(part(rngs), part(rngs))

    return nf.DepthVarying(make, nf.PiecewiseConstant(cells), rngs=nnx.Rngs(seed))


@pytest.mark.parametrize("name", REVERSIBLE)
def test_walking_back_gives_the_gradient_of_backpropagation(name, worst):
    cells, n = 4, 12
    x = jax.random.normal(jax.random.key(3), (5, 4))
    layer = nf.NeuralODE(
        coupled(cells), grid(REVERSIBLE[name], n), jnp.asarray(0.2), jnp.asarray(1.7)
    )
    graphdef, state = nnx.split(layer)

    def gradient(memory):
        def loss(state, x):
            layer = nnx.merge(graphdef, state)
            return jnp.sum(layer.with_solve(grid(REVERSIBLE[name], n, memory=memory))(x) ** 3)

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(state, x)

    assert worst(gradient("reversible"), gradient("full")) < 1e-10


def test_revnet_inverts_and_differentiates_at_depth_1024_in_memory_that_does_not_grow(worst):
    x = jax.random.normal(jax.random.key(3), (512, 16))
    y = {}

    def compiled(n, memory):
        layer = nf.NeuralODE(coupled(n, width=8), grid(S.RevNet(), n, memory=memory))
        graphdef, state = nnx.split(layer)

        def run(state, x):
            return (nnx.merge(graphdef, state)(x) ** 2).sum()

        function = jax.jit(jax.grad(run, argnums=1)).lower(state, x).compile()
        if n == 1024:
            y[memory] = function(state, x)
            y["layer"] = layer
        memory_use = function.memory_analysis()
        assert memory_use is not None
        return memory_use.temp_size_in_bytes

    sizes = [compiled(n, "reversible") for n in (16, 1024)]
    assert sizes[1] < 1.1 * sizes[0]
    assert compiled(1024, "remat") > 10 * sizes[1]
    assert worst(y["reversible"], y["remat"]) < 1e-10
    layer = y["layer"]
    assert worst(layer.invert(layer(x)), x) < 1e-12
    pair = (x[:, :8], x[:, 8:])
    assert worst(jnp.concatenate(layer(pair), axis=1), layer(x)) == 0
