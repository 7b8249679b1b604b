"""The layer among other modules: training, saving, retracing, its copies and its plan."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.solve import programs
from support.wrong import wrong

import neuralflow as nf
from neuralflow.checks import InputError, InputTypeError
from neuralflow.solve import Discretisation

EULER = nf.FixedGrid(nf.Euler(), steps=4)


def build(solve: Discretisation = EULER):
    field = nf.DepthVarying(
        lambda rngs: nf.fields.MLP(2, hidden=8, param_dtype=jnp.float64, rngs=rngs),
        nf.PiecewiseConstant(4),
        rngs=nnx.Rngs(0),
    )
    return nf.NeuralODE(field, solve)


class Classifier(nnx.Module):
    def __init__(self, solve):
        self.flow = build(solve)
        self.head = nnx.Linear(2, 1, param_dtype=jnp.float64, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.head(self.flow(x))[:, 0]


def problem():
    x = jax.random.normal(jax.random.key(0), (64, 2))
    return x, jnp.where(x[:, 0] * x[:, 1] > 0, 1.0, -1.0)


def loss(model, x, y):
    return jnp.mean((model(x).reshape(-1) - y) ** 2)


@pytest.mark.parametrize(
    "solve", [EULER, nf.Adaptive(nf.Tsit5(), 1e-5, 1e-5)], ids=["fixed", "adaptive"]
)
def test_trains_under_nnx_jit_inside_a_users_module(solve):
    model = Classifier(solve)
    optimizer = nnx.Optimizer(model, optax.adam(2e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        value, grads = nnx.value_and_grad(loss)(model, x, y)
        optimizer.update(model, grads)
        return value

    x, y = problem()
    losses = [float(step(model, optimizer, x, y)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_trains_in_a_sequential_under_plain_jit():
    model = nnx.Sequential(build(), nnx.Linear(2, 1, param_dtype=jnp.float64, rngs=nnx.Rngs(1)))
    # Nothing in a layer is state except its parameters.
    graphdef, params = nnx.split(model, nnx.Param)
    optimizer = optax.adam(2e-2)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, x, y):
        value, grads = jax.value_and_grad(lambda p: loss(nnx.merge(graphdef, p), x, y))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    x, y = problem()
    losses = []
    for _ in range(60):
        params, opt_state, value = step(params, opt_state, x, y)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    assert programs(step) == 1


def test_nothing_is_traced_again_for_new_numbers():
    traces = []

    def velocity(p, x):
        traces.append(1)
        return -p * x

    def layer(rate, rtol, t1, solve=None):
        field = nf.from_function(velocity, jnp.asarray(rate))
        return nf.NeuralODE(field, solve or nf.Adaptive(nf.Tsit5(), rtol, rtol), 0.0, t1)

    x = jnp.ones((3, 1))
    for make in (lambda r, tol, t1: layer(r, tol, t1), lambda r, tol, t1: layer(r, tol, t1, EULER)):
        make(1.0, 1e-4, 1.0)(x)
        first = len(traces)
        for rate, rtol, t1 in (
            (2.0, 1e-4, 1.0),
            (1.0, 1e-6, 1.0),
            (1.0, 1e-4, 2.0),
            (3.0, 1e-5, 0.5),
        ):
            model = make(rate, rtol, t1)
            assert np.allclose(model(2 * x), 2 * np.exp(-rate * t1), atol=0.5)
        assert len(traces) == first
    # Inside the user's own compiled function arrays are data, as everywhere in NNX.
    step = nnx.jit(lambda m, x: m(x))
    arrays = [layer(*(jnp.asarray(v) for v in row)) for row in ((1.0, 1e-4, 1.0), (2.0, 1e-6, 2.0))]
    step(arrays[0], x)
    first = len(traces)
    assert np.allclose(step(arrays[1], x), np.exp(-4.0), atol=1e-4)
    assert len(traces) == first


def test_an_eager_gradient_is_compiled_once():
    traces = []

    def velocity(p, x):
        traces.append(1)
        return -p * x

    field = nf.from_function(velocity, jnp.asarray(1.0))
    layer = nf.NeuralODE(field, EULER)
    x = jnp.ones((2, 1))
    gradient = jax.grad(lambda x: jnp.sum(layer(x)))
    gradient(x)
    first = len(traces)
    gradient(2 * x)
    assert len(traces) == first


def test_saves_copies_and_restores_like_any_module(tmp_path):
    layer, x = build(), problem()[0]
    y = layer(x)
    assert (copy.deepcopy(layer)(x) == y).all()
    assert (nnx.clone(layer)(x) == y).all()
    state = nnx.to_pure_dict(nnx.state(layer))
    flat, _ = jax.tree.flatten(state)
    np.savez(tmp_path / "weights.npz", *flat)
    other = build()
    nnx.update(other, jax.tree.map(jnp.zeros_like, nnx.state(other)))
    assert (other(x) == x).all()
    with np.load(tmp_path / "weights.npz") as held:
        leaves = [jnp.asarray(held[name]) for name in held.files]
    restored = nnx.state(other)
    nnx.replace_by_pure_dict(restored, jax.tree.unflatten(jax.tree.structure(state), leaves))
    nnx.update(other, restored)
    assert (other(x) == y).all()


def test_layers_are_vmapped_as_ensembles():
    x = problem()[0]

    @nnx.vmap
    def make(key):
        field = nf.fields.MLP(2, hidden=4, param_dtype=jnp.float64, rngs=nnx.Rngs(key))
        return nf.NeuralODE(field, EULER)

    keys = jax.random.split(jax.random.key(0), 3)
    members = make(keys)
    together = nnx.vmap(lambda m, x: m(x), in_axes=(0, None))(members, x)
    for k in range(3):
        alone = nf.NeuralODE(
            nf.fields.MLP(2, hidden=4, param_dtype=jnp.float64, rngs=nnx.Rngs(keys[k])), EULER
        )
        assert np.allclose(together[k], alone(x), atol=1e-13)


@pytest.mark.parametrize("basis", [nf.PiecewiseConstant(4), nf.CubicSpline(4), nf.Legendre(3)])
@pytest.mark.parametrize("solve", [nf.FixedGrid(nf.Euler(), steps=4), nf.Adaptive(nf.Tsit5())])
def test_weights_may_be_arrays_of_numpy(basis, solve):
    field = nf.DepthVarying(lambda rngs: nnx.Linear(2, 2, rngs=rngs), basis, rngs=nnx.Rngs(0))
    layer, x = nf.NeuralODE(field, solve), jnp.ones((3, 2))
    expected = layer(x)
    nnx.update(layer, jax.tree.map(np.asarray, nnx.state(layer)))
    assert jnp.allclose(jax.jit(lambda x: layer(x))(x), expected, rtol=1e-6)


def test_a_method_of_a_layer_cannot_be_set():
    field = nf.fields.MLP(2, hidden=4, rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2))
    with pytest.raises(InputTypeError, match="solve is a method .* layer.with_solve"):
        layer.solve = wrong(nf.Adaptive(nf.Tsit5()))


def test_with_solve_shares_the_weights():
    layer = build()
    other = layer.with_solve(nf.FixedGrid(nf.RK4(), steps=8))
    assert other.field is layer.field
    grid = other.discretisation
    assert layer.discretisation == EULER and isinstance(grid, nf.FixedGrid) and grid.steps == 8


def test_with_field_keeps_discretisation_interval_and_direction():
    layer = nf.NeuralODE(nf.from_function(lambda p, x: x), EULER, 0.5, 2.0).reverse()
    other = layer.with_field(nf.from_function(lambda p, x: -x))
    x = jnp.ones((1, 1))
    assert other.backward and other.discretisation == EULER and other.ends == layer.ends
    assert np.allclose(other(x), (1 + 1.5 / 4) ** 4, atol=1e-14)


@pytest.mark.parametrize(
    "start", [EULER, nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9)], ids=["fixed", "adaptive"]
)
def test_a_part_stays_a_part_under_another_discretisation(start):
    part = build(start).between(0.25, 0.75)
    for solve in (nf.FixedGrid(nf.Dopri8(), steps=32), nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9)):
        whole = build(solve)
        assert np.allclose(
            part.with_solve(solve)(problem()[0]),
            whole.between(0.25, 0.75)(problem()[0]),
            atol=1e-12,
        )


def test_the_plan_is_that_of_the_walk():
    layer = build(nf.FixedGrid(nf.Euler(), steps=8))
    (cells, shares) = layer.plan().local(0.25)[0]
    assert cells.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and shares.tolist() == [0.125, 0.625] * 4
    (cell, share) = layer.reverse().plan().local(0.25, 0)[0]
    assert (cell, share) == (3, 0.875)
    with pytest.raises(TypeError, match="no steps of its own"):
        layer.with_solve(nf.Adaptive(nf.Tsit5())).plan()


def test_a_learned_interval():
    field = nf.from_function(lambda p, x: -x)
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=20), 0.0, nnx.Param(jnp.asarray(1.0)))
    gradient = nnx.grad(lambda m: jnp.sum(m(jnp.ones((1, 1)))))(layer)
    assert np.allclose(jax.tree.leaves(gradient)[0], -np.exp(-1.0), atol=1e-6)


SOLVES = {"fixed": nf.FixedGrid(nf.RK4(), steps=4), "adaptive": nf.Adaptive(nf.Tsit5())}


@pytest.mark.parametrize(
    "field",
    [
        nf.fields.MLP(2, hidden=4, rngs=nnx.Rngs(0)),
        nf.fields.Antisymmetric(2, rngs=nnx.Rngs(0)),
        nf.fields.Gradient(nf.fields.Energy(2, hidden=4, rngs=nnx.Rngs(0))),
    ],
)
def test_a_pickled_layer_is_the_layer(field):
    layer = nf.NeuralODE(field, EULER)
    other = pickle.loads(pickle.dumps(layer))
    x = jnp.ones((3, 2), jnp.float32)
    assert (other(x) == layer(x)).all() and repr(other) == repr(layer)


@pytest.mark.parametrize("solve", SOLVES.values(), ids=SOLVES)
@pytest.mark.parametrize("stage", [jax.jit, jax.checkpoint, jax.vmap])
def test_depths_known_outside_are_known_inside(solve, stage):
    layer, x, times = build(solve), jnp.ones((3, 1, 2)), jnp.linspace(0.0, 1.0, 5)
    states = stage(lambda x: layer.trajectory(x, times))(x)
    plain = layer.trajectory(x, times)
    assert np.allclose(np.moveaxis(states, 0, 1) if stage is jax.vmap else states, plain)
    beyond = times + 0.5
    with pytest.raises(InputError, match="between 0 and 1"):
        stage(lambda x: layer.trajectory(x, beyond))(x)


def test_parts_and_velocities_of_known_depths_are_checked_inside_a_trace():
    layer, x, time = build(SOLVES["fixed"]), jnp.ones((3, 2)), jnp.asarray(0.5)
    start, before = jnp.asarray(0.0), jnp.asarray(-1.0)
    part = jax.jit(lambda x: layer.between(start, time)(x))(x)
    assert np.allclose(part, layer.between(0.0, 0.5)(x), atol=1e-14)
    inside = jax.jit(lambda x: layer.velocity(x, time))(x)
    assert np.allclose(inside, layer.velocity(x, 0.5), atol=1e-14)
    with pytest.raises(InputError, match="between 0 and 1"):
        jax.jit(lambda x: layer.velocity(x, before))(x)


@pytest.mark.parametrize("solve", SOLVES.values(), ids=SOLVES)
@pytest.mark.parametrize("times", [jnp.float32, jnp.float64, list])
def test_float32_states_stay_float32_where_float64_is_allowed(solve, times):
    field = nf.fields.MLP(2, hidden=4, rngs=nnx.Rngs(0))
    layer, x = nf.NeuralODE(field, solve), jnp.ones((3, 2), jnp.float32)
    depths = [0.0, 0.3, 1.0] if times is list else jnp.asarray([0.0, 0.3, 1.0], times)
    assert layer.trajectory(x, depths).dtype == jnp.float32
    assert jax.grad(lambda x: layer.trajectory(x, depths).sum())(x).dtype == jnp.float32


REFUSING = {
    "steps": nf.Adaptive(nf.Bosh3(), gradient="steps"),
    "continuous": nf.Adaptive(nf.Bosh3(), gradient="continuous"),
    "reversible": nf.FixedGrid(nf.schemes.Reversible(nf.Euler()), steps=4, memory="reversible"),
}


@pytest.mark.parametrize("solve", REFUSING.values(), ids=REFUSING)
def test_an_error_of_forward_mode_names_the_option(solve):
    layer, x = build(solve), jnp.ones((1, 2))
    for forward in (
        lambda: jax.jvp(layer, (x,), (x,)),
        lambda: jax.jvp(jax.jit(layer), (x,), (x,)),
        lambda: jax.jit(lambda x: jax.jvp(layer, (x,), (x,)))(x),
        lambda: jax.linearize(layer, x)[1](x),
        lambda: jax.jacfwd(layer)(x),
    ):
        with pytest.raises(InputTypeError, match='take (gradient="direct"|memory="remat")'):
            forward()


def test_second_derivatives_pass_forward_over_reverse_or_name_the_option():
    """x' = x^2 has x(1) = x0 / (1 - x0), the second derivative of which is 2 / (1 - x0)^3."""
    field = nf.from_function(lambda p, x: x**2)
    layer, x = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5())), jnp.asarray([[0.25]])

    def slope(layer):
        return jax.grad(lambda x: layer(x).sum())

    assert np.allclose(jax.jvp(slope(layer), (x,), (x,))[1] / x, 2 / 0.75**3, rtol=1e-4)
    assert np.allclose(jax.jacfwd(slope(layer))(x), 2 / 0.75**3, rtol=1e-4)
    for again in (jax.grad(lambda x: slope(layer)(x).sum()), jax.jit(jax.jacrev(slope(layer)))):
        with pytest.raises(InputTypeError, match='take gradient="direct", or forward mode over'):
            again(x)
    # A batch keeps its reverse mode inside and outside of vmap.
    batch = jnp.asarray([[[0.25]], [[0.5]]])
    outside = jax.vmap(slope(layer))(batch)
    inside = jax.grad(lambda x: jax.vmap(layer)(x).sum())(batch)
    assert np.allclose(outside, 1 / (1 - batch) ** 2, rtol=1e-4)
    assert np.allclose(inside, outside, rtol=1e-6)


def test_an_option_that_cannot_be_hashed_is_named():
    class Field(nnx.Module):
        def __init__(self):
            self.axes = {"weights": 0}

        def __call__(self, x):
            return -x

    layer = nf.NeuralODE(Field(), nf.FixedGrid(nf.Euler(), steps=2))
    with pytest.raises(InputTypeError, match="Field holds a dict in 'axes'.*make it a tuple"):
        layer(jnp.ones((1, 2)))


def test_a_pickled_implicit_layer_finds_its_tolerances():
    field = nf.fields.MLP(2, hidden=3, param_dtype=float, rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.Adaptive(nf.Kvaerno3(), 1e-3, 1e-3))
    other = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(other(jnp.ones((1, 2))), layer(jnp.ones((1, 2))))
