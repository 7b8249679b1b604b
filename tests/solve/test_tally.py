"""The work of layers, counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf

X = jnp.ones((2, 1))
FIELD = nf.from_function(lambda rate, x: -rate * x, 1.0)
GRID = nf.NeuralODE(FIELD, nf.FixedGrid(nf.RK4(), steps=3))
ADAPTIVE = GRID.with_solve(nf.Adaptive(nf.Bosh3(), 1e-3, 1e-3))


def test_the_work_of_nested_layers_is_counted():
    def counted(x):
        with nf.tally() as work:
            y = GRID(GRID(x))
        return y.sum(), work

    for run in (counted, jax.jit(counted), jax.value_and_grad(counted, has_aux=True)):
        outputs = run(X)
        work = outputs[0][1] if isinstance(outputs[0], tuple) else outputs[1]
        assert int(work.evaluations) == 24 and int(work.accepted) == 6 and int(work.rejected) == 0


def loss(layer, x):
    return jnp.sum(layer(x) ** 2)


TRANSFORMED = {
    "gradient of the input": (GRID, jax.grad(loss, argnums=1)),
    "gradient of the weights": (GRID, nnx.value_and_grad(loss)),
    "second derivative": (
        GRID,
        lambda layer, x: jax.grad(lambda x: jnp.sum(jax.grad(loss, argnums=1)(layer, x)))(x),
    ),
    "forward mode": (GRID, lambda layer, x: jax.jvp(layer, (x,), (x,))),
    "gradient of an adaptive solve": (ADAPTIVE, nnx.grad(loss)),
}


@pytest.mark.parametrize("transformed", TRANSFORMED)
def test_a_derivative_inside_the_block_counts_the_call_once(transformed):
    layer, derivative = TRANSFORMED[transformed]
    want = layer.solve(X)

    def counted(layer, x):
        with nf.tally() as work:
            derivative(layer, x)
        return work

    for run in (counted, nnx.jit(counted)):
        work = run(layer, X)
        assert int(work.evaluations) == int(want.evaluations) > 0
        assert int(work.accepted) == int(want.accepted) > 0


def test_a_block_inside_a_vmap_counts_each_sample():
    def counted(x):
        with nf.tally() as work:
            jax.grad(loss, argnums=1)(GRID, x)
            ADAPTIVE(x)
        return work

    x = jnp.array([[0.1], [10.0]])
    each = [int(ADAPTIVE.solve(row).evaluations) for row in x]
    assert each[0] != each[1]
    assert jax.vmap(counted)(x).evaluations.tolist() == [12 + n for n in each]


def test_a_vmap_inside_the_block_adds_the_mean_over_its_samples():
    x = jnp.array([[[0.1], [10.0]], [[0.2], [20.0]]])
    mean = np.mean([int(ADAPTIVE.solve(row).evaluations) for row in x.reshape(4, 1)])

    def counted(x):
        with nf.tally() as work:
            jax.grad(lambda x: jnp.sum(jax.vmap(jax.vmap(ADAPTIVE))(x)))(x)
            jax.vmap(GRID)(x)
        return work.evaluations

    for run in (counted, jax.jit(counted)):
        assert run(x) == mean + 12


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint])
def test_calls_that_cannot_be_counted_leave_no_number(wrap):
    with nf.tally() as work:
        GRID(X)
        wrap(lambda x: GRID(x))(X)
    assert np.isnan(work.evaluations) and np.isnan(work.accepted)


def test_blocks_nest_and_can_be_read_before_they_end():
    with nf.tally() as outer:
        GRID(X)
        assert int(outer.evaluations) == 12
        with nf.tally() as inner:
            GRID(X)
        GRID(X)
    GRID(X)
    assert int(outer.evaluations) == 36 and int(inner.evaluations) == 12
