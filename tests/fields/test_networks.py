import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow.fields import takes_time


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


def test_antisymmetric_fields_turn_without_growing():
    field = nf.fields.Antisymmetric(
        6, activation=lambda z: z, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(0), (3, 6))
    y = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-10, 1e-10), 0.0, 5.0)(x)
    assert np.allclose(jnp.linalg.norm(y, axis=1), jnp.linalg.norm(x, axis=1), rtol=1e-8)


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


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (lambda *args: args[0], r"\*args.*from_function"),
        (lambda x, t, u: x, "wrap it with nf.from_function"),
        (lambda x, *, scale: x, "wrap it with nf.from_function"),
        (3.0, "must be callable"),
    ],
)
def test_what_is_not_a_field_is_refused(field, said):
    with pytest.raises(TypeError, match=said):
        takes_time(field)


def test_bad_construction():
    with pytest.raises(ValueError, match="multiple of groups"):
        nf.fields.ConvBlock(6, groups=4, rngs=nnx.Rngs(0))
    for call, said in (
        (lambda: nf.from_function(3), "from_function takes"),
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
            lambda: nf.fields.MLP(2, hidden=2.5, rngs=nnx.Rngs(0)),
            "hidden must be a whole number, got 2.5",
        ),
        (
            lambda: nf.fields.MLP(2, hidden=4, activation="tanh", rngs=nnx.Rngs(0)),
            "activation must be a function",
        ),
        (lambda: nf.fields.MLP(2, hidden=4, rngs=0), "rngs must be nnx.Rngs"),
        (
            lambda: nf.fields.Antisymmetric(2, damping=-1.0, rngs=nnx.Rngs(0)),
            "damping must be >= 0, got -1.0",
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            call()


def test_an_error_inside_a_field_names_it_and_the_shape_it_saw():
    with pytest.raises(TypeError) as caught:
        nf.NeuralODE(
            nf.fields.MLP(2, hidden=3, rngs=nnx.Rngs(0)), nf.FixedGrid(nf.Euler(), steps=2)
        )(jnp.ones((5, 3)))
    assert any(
        "the field MLP was evaluated on x of shape (5, 3)" in note
        for note in caught.value.__notes__
    )


def test_energies_are_kept_and_descended(worst):
    rngs = nnx.Rngs(0)

    def energy(d):
        return nf.fields.Energy(d, hidden=6, param_dtype=jnp.float64, rngs=rngs)

    x = jax.random.normal(jax.random.key(1), (5, 4))
    solve = nf.Adaptive(nf.Tsit5(), 1e-10, 1e-10)
    for h in (energy(4), nf.fields.Separable(energy(2), energy(2))):
        field = nf.fields.Hamiltonian(h)
        flow = nf.NeuralODE(field, solve, 0.0, 3.0)
        assert jnp.abs(h(flow(x)) - h(x)).max() < 1e-8
        assert jnp.abs(flow(x) - x).max() > 1e-2
        if isinstance(h, nf.fields.Separable):
            pair = field((x[:, :2], x[:, 2:]))
            assert worst(jnp.concatenate(pair, axis=1), field(x)) < 1e-14
            # A separable energy is a field for RevNet, the symplectic Euler scheme: no drift over many steps.
            rev = nf.NeuralODE(field, nf.FixedGrid(nf.schemes.RevNet(), steps=2000), 0.0, 100.0)
            assert jnp.abs(h(rev(x)) - h(x)).max() < 0.05
    potential = energy(4)
    descent = nf.fields.Gradient(potential)
    path = nf.NeuralODE(descent, solve, 0.0, 3.0).trajectory(x, jnp.linspace(0, 3, 7))
    assert (jnp.diff(jax.vmap(potential)(path), axis=0) < 0).all()
    jacobian = jax.jacobian(descent)(x[:1])[0, :, 0]
    assert worst(jacobian, jacobian.T) < 1e-14


def test_an_energy_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="one number a sample"):
        nf.fields.Gradient(nf.fields.MLP(4, hidden=3, rngs=nnx.Rngs(0)))(
            jnp.ones((5, 4), jnp.float32)
        )
