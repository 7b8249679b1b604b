"""What stands around a flow: entries appended before it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from support.wrong import wrong

import neuralflow as nf
from neuralflow.models import Augment

GRID = nf.FixedGrid(nf.RK4(), steps=16)


def test_points_of_a_line_change_places_in_the_plane_only():
    """Half a turn takes 1 to -1 and -1 to 1. No flow of the line does, as it keeps their order."""
    x = jnp.asarray([[-1.0], [1.0]])
    turn = nf.from_function(lambda w, x: w * jnp.stack([-x[:, 1], x[:, 0]], axis=1), jnp.pi)
    y = nnx.Sequential(Augment(1), nf.NeuralODE(turn, GRID))(x)[..., :1]
    assert jnp.allclose(y, -x, atol=1e-4)
    line = nf.fields.MLP(1, hidden=16, time=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(line, optax.adam(0.1), wrt=nnx.Param)

    @nnx.jit
    def train(line, optimizer):
        gradient = nnx.grad(lambda line: jnp.mean((nf.NeuralODE(line, GRID)(x) + x) ** 2))(line)
        optimizer.update(line, gradient)

    for _ in range(60):
        train(line, optimizer)
    first, last = nf.NeuralODE(line, GRID)(x)[:, 0]
    assert first < last
    # Of ordered ends, the nearest to (1, -1) are equal ones: their mean square error is 1.
    assert jnp.mean((jnp.stack([first, last]) + x[:, 0]) ** 2) > 1


def test_a_learned_map_appends_what_it_gives_and_is_trained():
    model = Augment(nnx.Linear(2, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (4, 5, 2))
    y = model(x)
    assert jnp.array_equal(y[..., :2], x)
    entries: Any = model.entries
    assert jnp.array_equal(y[..., 2:], entries(x))
    gradient = nnx.grad(lambda model: jnp.sum(model(x)))(model)
    assert jnp.allclose(gradient["entries"]["kernel"][...], jnp.sum(x, (0, 1))[:, None])


def test_images_get_channels_of_zeros_in_their_own_dtype():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3), jnp.float32)
    y = Augment(5)(x)
    assert y.shape == (2, 4, 4, 8) and y.dtype == jnp.float32
    assert jnp.array_equal(y[..., :3], x) and not y[..., 3:].any()


def test_appended_velocities_start_a_second_order_flow():
    """A learned velocity v = 2 x of free motion ends at x + v."""
    start = nnx.Linear(1, 1, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    start.kernel.set_value(jnp.full((1, 1), 2.0))
    free = nf.fields.SecondOrder(nf.from_function(lambda p, state: 0 * state[..., :1]))
    x = jnp.asarray([[1.0], [-1.0]])
    assert jnp.allclose(nf.NeuralODE(free, GRID)(Augment(start)(x))[..., :1], 3 * x)


def test_what_cannot_be_appended_is_refused():
    with pytest.raises(ValueError, match="entries, a number of zeros .* must be at least 1, got 0"):
        Augment(0)
    with pytest.raises(TypeError, match="entries, a number of zeros .* must be a whole numb"):
        Augment(wrong(1.5))
    model = Augment(nf.from_function(lambda p, x: x[0]))
    with pytest.raises(ValueError, match="leading axes of x, .3,., got ..; .* such as nnx.Linear"):
        model(jnp.ones((3, 2)))
