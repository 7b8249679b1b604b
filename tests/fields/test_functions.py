"""Functions as fields, and how a field is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow.checks import InputError
from neuralflow.fields import evaluate, takes_time
from neuralflow.fields.functions import takes_context


@pytest.mark.parametrize(
    ("field", "given"),
    [
        (lambda x: x, 1),
        (lambda x, t: x + t, 91),
        (lambda x, s: x + s, 91),
        (lambda x, time=0: x + time, 91),
        (lambda x, t=0: x + t, 91),
        (lambda x, scale=2: x + scale, 3),
        (lambda x, scale=2, time=0: x + scale + time, 93),
        (lambda x, scale=2, *, t: x + scale + t, 93),
        (lambda x, *, time=0: x + time, 91),
        (lambda t: t, 1),
    ],
)
def test_time_goes_to_the_parameter_that_has_its_name(field, given):
    assert evaluate(field, 1, 90) == given
    assert takes_time(field) == (given > 90)
    with_params = nf.from_function(lambda p, x, gain=2.0, time=0.0: p * gain * time * x, 3.0)
    assert with_params(1.0, 5.0) == 30.0


def test_a_forced_field_receives_time_that_has_a_default():
    class Forced(nnx.Module):
        def __call__(self, x, time=0.0):
            return jnp.cos(time) * jnp.ones_like(x)

    layer = nf.NeuralODE(Forced(), nf.FixedGrid(nf.RK4(), steps=64))
    assert np.allclose(layer(jnp.ones((1, 1))), 1 + np.sin(1.0), atol=1e-9)


def test_time_is_told_by_the_second_parameter():
    rngs = nnx.Rngs(0)
    assert not takes_time(nnx.Linear(2, 2, rngs=rngs))
    assert not takes_time(nnx.LayerNorm(2, rngs=rngs))
    assert not takes_time(nnx.gelu)
    assert takes_time(lambda x, t: x)
    assert takes_time(lambda x, s: x)
    assert takes_time(lambda x, t=0.0: x)
    assert not takes_time(lambda x, scale=1.0: x)
    assert not takes_time(nf.from_function(lambda p, x: x))
    assert takes_time(nf.from_function(lambda p, x, t: x))


def test_functions_with_parameters_train():
    layer = nf.NeuralODE(
        nf.from_function(lambda p, x: -p["rate"] * x, {"rate": jnp.asarray(2.0)}),
        nf.FixedGrid(nf.RK4(), steps=50),
    )
    x = jnp.ones((1, 1))
    assert np.allclose(layer(x), np.exp(-2.0), atol=1e-8)
    gradient = nnx.grad(lambda m: jnp.sum(m(x)))(layer)
    assert np.allclose(jax.tree.leaves(gradient)[0], -np.exp(-2.0), atol=1e-8)


def test_functions_may_wrap_modules():
    net = nnx.Sequential(
        nnx.Linear(2, 4, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(4, 2, rngs=nnx.Rngs(1))
    )
    field = nf.from_function(lambda net, x: net(x), net)
    x = jnp.ones((3, 2), jnp.float32)
    assert np.allclose(
        nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=1))(x), x + net(x), atol=1e-6
    )


class Timed(nnx.Module):
    def __call__(self, x, t, context=None):
        return x * t if context is None else x * t + context


def test_a_sequential_takes_what_its_first_layer_takes():
    linear = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    assert not takes_time(nnx.Sequential(linear, jnp.tanh))
    assert not takes_time(nnx.Sequential(jnp.tanh, Timed()))
    timed = nnx.Sequential(nnx.Sequential(Timed(), jnp.sin), linear)
    assert takes_time(timed) and takes_context(timed)
    x = jnp.ones((3, 2))
    layer = nf.NeuralODE(timed, nf.FixedGrid(nf.Euler(), steps=1), 2.0, 3.0)
    assert np.allclose(layer(x, context=x), x + linear(jnp.sin(3 * x)), atol=1e-6)
    branches = [
        nnx.Sequential(
            nnx.Linear(2, 4, rngs=nnx.Rngs(k)), jnp.tanh, nnx.Linear(4, 2, rngs=nnx.Rngs(k))
        )
        for k in range(3)
    ]
    y = x.astype(jnp.float32)
    for branch in branches:
        y = y + branch(y)
    assert np.allclose(nf.from_branches(branches)(x.astype(jnp.float32)), y, atol=1e-6)
    with pytest.raises(TypeError, match=r"takes \*args"):
        takes_time(nnx.Sequential())


def test_branches_of_several_functions_are_told_to_share_one():
    linears = [nnx.Linear(2, 2, rngs=nnx.Rngs(k)) for k in range(2)]
    branches = [nf.from_function(lambda net, x: net(x), linear) for linear in linears]
    with pytest.raises(ValueError, match="function is another function; .* define one function"):
        nf.from_branches(branches)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (lambda *args: args[0], r"\*args.*from_function"),
        (lambda x, t, u: x, "wrap it with nf.from_function"),
        (lambda x, *, scale: x, "wrap it with nf.from_function"),
        (lambda x, c, *, time=0.0: x, "wrap it with nf.from_function"),
        (lambda x, t, time: x, "wrap it with nf.from_function"),
        (lambda t, x: x, "write the state first"),
        (3.0, "must be callable"),
    ],
)
def test_what_is_not_a_field_is_refused(field, said):
    with pytest.raises(TypeError, match=said):
        takes_time(field)


def test_an_error_inside_a_field_names_it_and_the_shape_it_saw():
    solve = nf.FixedGrid(nf.Euler(), steps=2)
    layer = nf.NeuralODE(nf.fields.MLP(2, hidden=3, rngs=nnx.Rngs(0)), solve)
    with pytest.raises(InputError, match=r"x must have shape \(..., 2\), got \(5, 3\)"):
        layer(jnp.ones((5, 3)))
    plain = nf.NeuralODE(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), solve)
    with pytest.raises(InputError, match=r"Linear cannot be evaluated on x of shape") as told:
        plain(jnp.ones((5, 3)))
    assert isinstance(told.value.__cause__, TypeError)
