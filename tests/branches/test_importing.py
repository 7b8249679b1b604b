"""Trained branches on a basis of depth: scrambled units are put in order, and states are fitted."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refusals import refuses

import neuralflow as nf
from neuralflow.branches import importing

BLOCKS, WIDTH, HIDDEN = 8, 3, 6
X = jax.random.normal(jax.random.key(0), (5, WIDTH))


def smooth(make, basis):
    """Branches whose weights are functions on a basis."""
    field = nf.DepthVarying(make, basis, rngs=nnx.Rngs(0))
    return [field.at(k / BLOCKS) for k in range(BLOCKS)]


def perceptron(activation, layers=1, dtype=jnp.float64):
    def make(rngs):
        return nf.fields.MLP(
            WIDTH, hidden=HIDDEN, layers=layers, activation=activation, param_dtype=dtype, rngs=rngs
        )

    return make


def scrambled(branches, change):
    """Copies of perceptrons whose hidden units are renumbered and multiplied by `change(rng)`."""
    rng, copies = np.random.default_rng(0), [nnx.clone(branch) for branch in branches]
    for copy in copies:
        for one, two in zip(copy.dense[:-1], copy.dense[1:], strict=True):
            order, factor = rng.permutation(HIDDEN), change(rng)
            one.kernel[...] = one.kernel[...][:, order] * factor
            one.bias[...] = one.bias[...][order] * factor
            two.kernel[...] = two.kernel[...][order] / factor[:, None]
    return copies


def ones(rng):
    return np.ones(HIDDEN)


def signs(rng):
    return rng.choice([-1.0, 1.0], HIDDEN)


def scales(rng):
    return rng.uniform(0.3, 3.0, HIDDEN)


@pytest.mark.parametrize(
    ("activation", "change", "layers"),
    [(jnp.tanh, signs, 1), (jax.nn.relu, scales, 1), (jax.nn.gelu, ones, 2)],
    ids=["signs", "scales", "two hidden layers"],
)
def test_scrambled_units_are_put_in_order(activation, change, layers):
    basis = nf.PiecewiseLinear(2)
    branches = smooth(perceptron(activation, layers), basis)
    before, at_first = nf.fit_branches(branches, basis)
    after, report = nf.fit_branches(scrambled(branches, change), basis)
    assert np.isclose(report.aligned, at_first.aligned, rtol=1e-9, atol=1e-12)
    assert report.raw > 0.3 > 3 * report.aligned
    assert report.moved > report.units / 2
    assert (report.flipped > report.units / 4) == (change is signs)
    assert np.allclose(after(X), before(X), rtol=1e-9)
    if change is not scales:  # The weights with balanced scales are not linear in depth.
        assert np.allclose(before(X), nf.from_branches(branches)(X), rtol=1e-9)


def test_channels_of_group_norms_and_heads_of_attention_are_put_in_order():
    rng, basis = np.random.default_rng(1), nf.PiecewiseLinear(2)

    def block(rngs):
        return nf.fields.ConvBlock(6, groups=3, param_dtype=jnp.float64, rngs=rngs)

    branches: Any = smooth(block, basis)
    for branch in branches:
        # Groups move as wholes, and channels within their group.
        order = np.concatenate([2 * group + rng.permutation(2) for group in rng.permutation(3)])
        first, norm, second = branch.convs[0], branch.norms[1], branch.convs[1]
        for array in (first.kernel, first.bias, norm.scale, norm.bias):
            array[...] = array[...][..., order]
        second.kernel[...] = second.kernel[...][:, :, order]
    assert_undone(*nf.fit_branches(branches, basis))

    branches = smooth(Attention, basis)
    for branch in branches:
        order, heads = rng.permutation(4), branch.attention
        for layer in (heads.query, heads.key, heads.value):
            for array in (layer.kernel, layer.bias):
                array[...] = array[...][..., order, :]
        heads.out.kernel[...] = heads.out.kernel[...][order]
    assert_undone(*nf.fit_branches(branches, basis))


def assert_undone(layer, report):
    assert report.raw > 0.1
    # The scales of ReLU are balanced, and then the weights are not exactly linear in depth.
    assert report.aligned < 0.1 * report.raw
    assert report.moved > report.units / 4


class Attention(nnx.Module):
    """Self-attention as a residual branch."""

    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(
            4, 8, decode=False, param_dtype=jnp.float64, rngs=rngs,
            bias_init=nnx.initializers.normal(0.3),
        )  # fmt: skip

    def __call__(self, x):
        return self.attention(x)


def test_constant_cells_reproduce_the_branches():
    branches = [perceptron(jnp.tanh)(nnx.Rngs(seed)) for seed in range(4)]
    basis = nf.PiecewiseConstant(4)

    layer, report = nf.fit_branches(branches, basis, units=(), x=X, steps=2)
    assert report.raw == report.aligned == report.moved == 0
    assert report.states == report.output == (0, 0)
    for one, two in zip(branches, nf.to_branches(layer), strict=True):
        assert (one(X) == two(X)).all()

    layer, report = nf.fit_branches(branches, basis)
    assert report.aligned == 0 < report.moved
    for k, one in enumerate(branches):
        two = layer.field.at(k / 4)
        for before, after in zip(one.dense, two.dense, strict=True):
            was, now = (np.sort(np.abs(np.ravel(d.kernel[...]))) for d in (before, after))
            assert np.array_equal(was, now)
        assert np.allclose(one(X), two(X), atol=1e-14)


def test_weights_are_fitted_where_the_steps_read_them():
    branches = [perceptron(jnp.tanh)(nnx.Rngs(seed)) for seed in range(6)]
    basis = nf.Legendre(3)
    layer, report = nf.fit_branches(branches, basis, units=())
    depths = np.arange(6) / 6
    values = np.stack([np.ravel(branch.dense[0].kernel[...]) for branch in branches])
    line = np.polynomial.Polynomial.fit(depths, values[:, 0], 2)
    fitted = [float(layer.field.at(s).dense[0].kernel[...].ravel()[0]) for s in depths]
    assert np.allclose(fitted, line(depths), atol=1e-12)
    assert 0 < report.raw == report.aligned < 1


def test_the_fit_to_states_lowers_their_error_in_float32():
    branches = [perceptron(jnp.tanh, dtype=jnp.float32)(nnx.Rngs(seed)) for seed in range(8)]
    x = jax.random.normal(jax.random.key(0), (300, WIDTH), jnp.float32)
    layer, report = nf.fit_branches(branches, nf.PiecewiseLinear(2), x=x, steps=200)
    states, output = report.states, report.output
    assert states is not None and output is not None
    assert states[1] < 0.6 * states[0] and output[1] < 0.6 * output[0]
    assert layer.field.stack.dense[0].kernel.dtype == layer(x).dtype == jnp.float32
    off = layer.trajectory(x)[1:] - nf.from_branches(branches).trajectory(x)[1:]
    whole = nf.from_branches(branches).trajectory(x)[1:]
    assert np.isclose(states[1], jnp.linalg.norm(off) / jnp.linalg.norm(whole), rtol=1e-4)
    assert np.isclose(output[1], jnp.linalg.norm(off[-1]) / jnp.linalg.norm(whole[-1]), rtol=1e-4)
    assert "8 branches on PiecewiseLinear(cells=2), 3 coefficients" in str(report)
    assert f"{output[1]:.2e} fitted" in str(report)


def test_a_fit_that_is_not_nearer_is_dropped(monkeypatch):
    def lost(layer, *_):
        stack = jax.tree.map(lambda array: jnp.nan * array, layer.field.stack)
        return layer.with_field(nf.DepthVarying.from_stack(stack, layer.field.basis))

    branches = [perceptron(jnp.tanh)(nnx.Rngs(seed)) for seed in range(2)]
    basis = nf.PiecewiseConstant(1)
    projected, _ = nf.fit_branches(branches, basis)
    monkeypatch.setattr(importing, "fitted", lost)
    layer, report = nf.fit_branches(branches, basis, x=X, steps=1)
    assert report.states is not None and report.states[0] == report.states[1] > 0
    assert (layer(X) == projected(X)).all()


def test_branches_of_a_layer_in_time_come_back_on_its_basis():
    def make(rngs):
        return nf.fields.MLP(WIDTH, hidden=HIDDEN, time=True, param_dtype=jnp.float64, rngs=rngs)

    field = nf.DepthVarying(make, nf.PiecewiseLinear(2), rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=8), 0.0, 8.0)
    again, report = nf.fit_branches(nf.to_branches(layer), nf.PiecewiseLinear(2))
    assert report.raw < 1e-12 and report.moved == 0
    assert np.allclose(again(X), layer(X), rtol=1e-11)


class Gated(nnx.Module):
    """A branch of a user, with a gate from outside."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.kernel1 = nnx.Param(jnp.asarray(rng.standard_normal((WIDTH, HIDDEN))))
        self.bias1 = nnx.Param(jnp.asarray(rng.standard_normal(HIDDEN)))
        self.kernel2 = nnx.Param(jnp.asarray(rng.standard_normal((HIDDEN, WIDTH))))

    def __call__(self, x, context):
        return context * (jnp.tanh(x @ self.kernel1[...] + self.bias1[...]) @ self.kernel2[...])


AXES = {"kernel1": 1, "bias1": 0, "kernel2": 0}
UNITS = nf.HiddenUnits(AXES, incoming=("kernel1", "bias1"), outgoing=("kernel2",), odd=True)
GATES = jnp.linspace(0.5, 1.0, 5)[:, None]


def test_units_named_by_hand_are_aligned_in_a_context():
    branches = [Gated(0) for _ in range(4)]
    for branch in branches[1:]:  # The same branch, written with other units.
        branch.kernel1[...] = -branch.kernel1[...][:, ::-1]
        branch.bias1[...] = -branch.bias1[...][::-1]
        branch.kernel2[...] = -branch.kernel2[...][::-1]
    layer, report = nf.fit_branches(
        branches, nf.PiecewiseConstant(1), units=[UNITS], x=X, context=GATES, steps=1
    )
    assert report.raw > 0.5 and report.aligned < 1e-15
    assert (report.moved, report.flipped, report.units) == (18, 18, 24)
    wanted = nf.from_branches(branches)(X, context=GATES)
    assert np.allclose(layer(X, context=GATES), wanted, atol=1e-12)


class Normed(nnx.Module):
    """A branch with a batch norm."""

    def __init__(self, rngs):
        self.net = nnx.Sequential(
            nnx.Linear(WIDTH, HIDDEN, rngs=rngs),
            nnx.BatchNorm(HIDDEN, rngs=rngs),
            jax.nn.relu,
            nnx.Linear(HIDDEN, WIDTH, rngs=rngs),
        )

    def __call__(self, x):
        return self.net(x)


def test_statistics_are_frozen_before_they_reach_across_cells():
    branches = [Normed(nnx.Rngs(seed)) for seed in range(4)]
    for branch in branches:
        branch(jax.random.normal(jax.random.key(0), (64, WIDTH), jnp.float32))
    with pytest.raises(ValueError, match=r"batch statistics.*nf.frozen\(branch\)"):
        nf.fit_branches(branches, nf.PiecewiseLinear(2))
    layer, _ = nf.fit_branches([nf.frozen(b) for b in branches], nf.PiecewiseLinear(2))
    assert not nnx.state(layer, nnx.BatchStat)
    # The branches are in training, and the states of evaluation are wanted all the same.
    _, report = nf.fit_branches(branches, nf.PiecewiseConstant(4), x=X.astype(jnp.float32), steps=0)
    assert report.moved and report.output is not None and report.output[1] < 1e-6


class Phases(nnx.Module):
    """A branch with complex weights."""

    def __init__(self, seed):
        parts = np.random.default_rng(seed).standard_normal((2, 2, 2))
        self.kernel = nnx.Param(jnp.asarray(parts[0] + 1j * parts[1]) / 4)

    def __call__(self, x):
        return x @ self.kernel[...]


def test_complex_weights_are_fitted_to_states():
    branches, x = [Phases(seed) for seed in range(4)], X[:, :2] + 1j * X[:, 1:]
    basis = nf.PiecewiseConstant(1)
    _, report = nf.fit_branches(branches, basis, units=(), x=x, steps=60)
    assert report.states is not None and report.states[1] < 0.9 * report.states[0]


def test_errors_of_weights_in_bfloat16_are_summed_in_double_precision():
    branches = [perceptron(jnp.tanh, dtype=jnp.bfloat16)(nnx.Rngs(seed)) for seed in range(4)]
    copies = [jax.tree.map(lambda a: a.astype(float), branch) for branch in branches]
    one, two = (nf.fit_branches(each, nf.PiecewiseLinear(1))[1] for each in (branches, copies))
    assert np.allclose((one.raw, one.aligned), (two.raw, two.aligned), rtol=1e-12)


def spoilt():
    branch = Gated(0)
    branch.bias1[...] = branch.bias1[...].at[0].set(jnp.nan)
    return branch


test_bad_input_is_refused = refuses(
    {
        "inputs in a trace": (
            lambda: jax.jit(lambda x: fit(x=x)[0](x))(X),
            "branches and x must be known, got traced ones",
        ),
        "a weight that is not finite": (
            lambda: nf.fit_branches([spoilt()], nf.PiecewiseConstant(1), units=()),
            "branches must hold finite weights, got others in 'bias1'",
        ),
        "blocks of unlike shapes": (
            lambda: nf.fit_branches(
                [nf.fields.MLP(2, hidden=h, rngs=nnx.Rngs(0)) for h in (3, 4)],
                nf.PiecewiseConstant(1),
            ),
            "module 1 has parameters",
        ),
        "a basis finer than the blocks": (
            lambda: nf.fit_branches([Gated(0), Gated(1)], nf.PiecewiseLinear(2), units=()),
            "has 3 coefficients, and 2 branches determine only 2 of them; take a coarser",
        ),
        "a knot within a step": (
            lambda: nf.fit_branches([Gated(k) for k in range(3)], nf.PiecewiseConstant(2)),
            "has a knot inside one of 3 steps; let the number of cells divide",
        ),
        "no known units": (
            lambda: nf.fit_branches([Gated(0)], nf.PiecewiseConstant(1)),
            r"no hidden units are known of a Gated; put its layers into an nnx.Sequential",
        ),
        "no permutation axis": (
            lambda: fit(units=[nf.HiddenUnits({"kernel1": 1, "bias1": 0})]),
            r"units \(kernel1 axis 1, bias1 axis 0\) cannot be renumbered: the first branch",
        ),
        "no odd activation": (
            lambda: fit(units=[nf.HiddenUnits(AXES, ("kernel1",), ("kernel2",), odd=True)]),
            "cannot be flipped: the first branch changes by",
        ),
        "no homogeneous activation": (
            lambda: fit(
                units=[nf.HiddenUnits(AXES, ("kernel1", "bias1"), ("kernel2",), homogeneous=True)]
            ),
            "cannot be scaled: the first branch changes by",
        ),
        "an unknown parameter": (
            lambda: fit(units=[nf.HiddenUnits({"kernel": 1})]),
            "units have 'kernel' axis 1, which the branch has not",
        ),
        "an unknown axis": (
            lambda: fit(units=[nf.HiddenUnits({"bias1": 1})]),
            "units have 'bias1' axis 1, which the branch has not",
        ),
        "axes of two lengths": (
            lambda: fit(units=[nf.HiddenUnits({"kernel1": 1, "kernel2": 1})]),
            r"must have axes of one length.*got shapes",
        ),
        "units without inputs": (
            lambda: fit(x=None),
            "units are checked on inputs; give x",
        ),
        "x of a wrong shape": (
            lambda: nf.fit_branches(
                [perceptron(jnp.tanh)(nnx.Rngs(0))], nf.PiecewiseConstant(1), x=X[:, :2]
            ),
            r"x must have shape \(\.\.\., 3\)|x must be an array",
        ),
        "inputs that are not in a row": (
            lambda: fit(x={"a": X, "b": X[:2]}),
            r"x must be inputs \(samples, ...\)",
        ),
    }
)


def fit(**changes):
    options = {"units": [UNITS], "x": X, "context": GATES, "steps": 0}
    return nf.fit_branches([Gated(0)], nf.PiecewiseConstant(1), **{**options, **changes})
