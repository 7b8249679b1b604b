"""Hidden units: what is found, and that renumbering, flipping and scaling change no function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow.branches.alignment import balanced, multiply, reorder, size_of
from neuralflow.branches.importing import _weights, _with
from neuralflow.branches.units import hidden_units

IMAGES = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
ROWS = jax.random.normal(jax.random.key(0), (7, 6))


def mlp(activation, layers=1):
    return nf.fields.MLP(
        6, hidden=5, layers=layers, activation=activation, param_dtype=jnp.float64,
        rngs=nnx.Rngs(0),
    )  # fmt: skip


def dense(inputs=6, outputs=5):
    return nnx.Linear(
        inputs, outputs, param_dtype=jnp.float64, bias_init=nnx.initializers.normal(),
        rngs=nnx.Rngs(0),
    )  # fmt: skip


def convolutional(between, groups=1):
    conv = nnx.Conv(
        6, 6, (3, 3), feature_group_count=groups, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    branch = nnx.Sequential(
        conv, *between, nnx.Conv(6, 6, (3, 3), param_dtype=jnp.float64, rngs=nnx.Rngs(1))
    )
    branch(IMAGES)  # Batch norms learn their statistics.
    branch.eval()
    return branch


def norm(kind, *sizes, **options):
    made = kind(*sizes, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options)
    made.scale[...] = jnp.linspace(0.5, 2, 6)
    return made


def attention():
    return nnx.MultiHeadAttention(
        3, 6, decode=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0),
        bias_init=nnx.initializers.normal(),
    )  # fmt: skip


# A branch, an input, the numbers of units and of groups, and whether units flip and scale.
FOUND = {
    "tanh": (lambda: mlp(jnp.tanh), ROWS, [(5, 1, True, False)]),
    "relu twice": (lambda: mlp(jax.nn.relu, 2), ROWS, [(5, 1, False, True)] * 2),
    "gelu": (lambda: mlp(jax.nn.gelu), ROWS, [(5, 1, False, False)]),
    "identity": (lambda: mlp(lambda y: y), ROWS, [(5, 1, True, True)]),
    "group norm": (
        lambda: nf.fields.ConvBlock(6, groups=3, param_dtype=jnp.float64, rngs=nnx.Rngs(0)),
        IMAGES,
        [(6, 3, False, True)],
    ),
    "batch norm": (
        lambda: convolutional([norm(nnx.BatchNorm, 6), jax.nn.relu]),
        IMAGES,
        [(6, 1, False, True)],
    ),
    "batch norm behind": (
        lambda: convolutional([jax.nn.relu, norm(nnx.BatchNorm, 6)]),
        IMAGES,
        [(6, 1, True, True)],
    ),
    "frozen batch norm": (
        lambda: nf.frozen(convolutional([norm(nnx.BatchNorm, 6), jnp.tanh])),
        IMAGES,
        [(6, 1, True, False)],
    ),
    "layer norm and dropout": (
        lambda: convolutional([norm(nnx.LayerNorm, 6), nnx.Dropout(0.5, deterministic=True)]),
        IMAGES,
        [(6, 1, True, True)],
    ),
    "norm without a scale": (
        lambda: convolutional([nnx.LayerNorm(6, use_scale=False, rngs=nnx.Rngs(0))]),
        IMAGES,
        [(6, 1, False, False)],
    ),
    "softmax of all units": (
        lambda: convolutional([jax.nn.softmax]),
        IMAGES,
        [(6, 1, False, False)],
    ),
    "heads": (attention, ROWS[None], [(3, 1, False, False)]),
    "a transformer's block": (
        lambda: nf.fields.Split(
            nf.fields.Attention(6, heads=3, param_dtype=jnp.float64, rngs=nnx.Rngs(0)),
            nf.fields.FeedForward(6, hidden=5, param_dtype=jnp.float64, rngs=nnx.Rngs(1)),
        ),
        ROWS[None],
        [(3, 1, False, False), (5, 1, False, False)],
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_units_are_found_and_leave_the_function_as_it_is(case):
    make, x, wanted = FOUND[case]
    branch, rng = make(), np.random.default_rng(0)
    units = hidden_units(branch)
    weights = {name: array[None] for name, array in _weights(branch).items()}
    found = [(size_of(weights, g), g.groups, g.odd, g.homogeneous) for g in units]
    assert found == wanted

    for group, (size, groups, odd, homogeneous) in zip(units, wanted, strict=True):
        part = size // groups
        parts = [part * g + rng.permutation(part) for g in rng.permutation(groups)]
        reorder(weights := copied(weights), group, np.concatenate(parts))
        if odd:
            multiply(weights, group, rng.choice([-1.0, 1.0], size))
        if homogeneous:
            multiply(weights, group, rng.uniform(0.2, 5.0, size))
    changed = _with(branch, {name: array[0] for name, array in weights.items()})
    assert any(
        not np.array_equal(one, two)
        for one, two in zip(_weights(branch).values(), _weights(changed).values(), strict=True)
    )
    assert np.allclose(changed(x), branch(x), rtol=1e-11, atol=1e-12)

    even = balanced(weights, units)
    changed = _with(branch, {name: array[0] for name, array in even.items()})
    assert np.allclose(changed(x), branch(x), rtol=1e-11, atol=1e-12)


def test_balanced_units_have_incoming_and_outgoing_weights_of_equal_norms():
    weights = {name: array[None] for name, array in _weights(mlp(jax.nn.relu)).items()}
    even = {
        name: array[0] for name, array in balanced(weights, hidden_units(mlp(jax.nn.relu))).items()
    }
    incoming = (even["dense.0.kernel"] ** 2).sum(0) + even["dense.0.bias"] ** 2
    assert np.allclose(incoming, (even["dense.1.kernel"] ** 2).sum(1), rtol=1e-12)


def copied(weights):
    return {name: array.copy() for name, array in weights.items()}


SHARED, TWICE = dense(6, 6), dense(6, 6)
MASK = jnp.ones((3, 3, 6, 6)).at[:, :, 0, 1].set(0)


def masked():
    return nnx.Conv(6, 6, (3, 3), mask=MASK, param_dtype=jnp.float64, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "branch",
    [
        dense(),
        nnx.Sequential(dense(), jnp.cumsum, dense(5, 6)),
        nnx.Sequential(dense(), lambda y: y.reshape(-1), dense(5, 6)),
        nnx.Sequential(dense(), dense(5, 5).kernel.get_value().__matmul__, dense(5, 6)),
        convolutional([], groups=3),
        nnx.Sequential(SHARED, jnp.tanh, SHARED),
        nnx.Sequential(SHARED, jnp.tanh, dense(6, 6), jnp.tanh, SHARED),
        nnx.Dict(net=nnx.Sequential(TWICE, jnp.tanh, dense(6, 6)), skip=TWICE),
        nnx.Sequential(masked(), jnp.tanh, masked()),
        nnx.Sequential(dense(6, 3), lambda y: y.reshape(len(y), -1), dense(12, 6)),
        nnx.Sequential(dense(6, 4), nnx.BatchNorm(4, axis=0, rngs=nnx.Rngs(0)), dense(4, 6)),
        nnx.Sequential(
            dense(6, 4), *(nnx.GroupNorm(4, n, rngs=nnx.Rngs(0)) for n in (2, 4)), dense(4, 6)
        ),
    ],
    ids=[
        "one layer",
        "a sum over units",
        "a function of another shape",
        "a matrix",
        "grouped",
        "one layer twice",
        "one layer twice among three",
        "a layer that is used elsewhere",
        "masks",
        "flattened",
        "a norm over samples",
        "groups in two ways",
    ],
)
def test_units_that_a_function_mixes_are_not_found(branch):
    assert hidden_units(branch) == []


def test_a_unit_without_weights_keeps_its_scale():
    branch = mlp(jax.nn.relu)
    branch.dense[0].kernel[...] = branch.dense[0].kernel[...].at[:, 2].set(0)
    weights = {name: array[None] for name, array in _weights(branch).items()}
    even = balanced(weights, hidden_units(branch))
    assert all(np.isfinite(array).all() for array in even.values())
    assert np.array_equal(even["dense.1.kernel"][0, 2], weights["dense.1.kernel"][0, 2])
