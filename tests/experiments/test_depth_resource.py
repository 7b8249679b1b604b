"""The networks of `experiments.depth_resource`, the choices that can run them, kept results."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from experiments.depth_resource.importing import HERE, KINDS, Network, scrambled, summary
from experiments.depth_resource.tradeoff import choices


@pytest.mark.parametrize("channels", [1, 3], ids=["dense", "convolutional"])
@pytest.mark.parametrize("kind", KINDS)
def test_scrambled_branches_compute_the_same(kind, channels):
    network = Network(KINDS[kind], (8, 8, channels), 6, 2, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (9, 8, 8, channels), jnp.float32)
    network(images)
    network.eval()
    x = network.embed(images)
    branches: Any = [nf.frozen(branch) for branch in network.branches()]
    y = x
    for branch in branches:
        y = y + branch(y)
    assert np.allclose(network.logits(y), network(images), atol=1e-5)
    for one, two in zip(branches, scrambled(branches, np.random.default_rng(0)), strict=True):
        assert np.allclose(one(x), two(x), atol=1e-5)
        assert not np.allclose(one.layers.layers[-1].kernel, two.layers.layers[-1].kernel)


@pytest.mark.parametrize("norm", [False, True])
def test_aligned_convolutional_branches_do_not_depend_on_the_order_of_units(norm):
    kind = KINDS["smooth layers, h = 1/n" + ", batch norm" * norm]
    network = Network(kind, (8, 8, 3), 4, 4, rngs=nnx.Rngs(0))
    branches: Any = [nf.frozen(branch) for branch in network.branches()]
    copies = scrambled(branches, np.random.default_rng(0))
    (one, first), (two, second) = (
        nf.fit_branches(each, nf.PiecewiseLinear(2)) for each in (branches, copies)
    )
    assert second.aligned < 0.5 * second.raw
    assert second.aligned == pytest.approx(first.aligned, rel=1e-3)
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 4), jnp.float32)
    assert np.allclose(one(x), two(x), atol=1e-4)


def test_every_choice_can_run_the_network():
    network = Network(KINDS["equal layers, h = 1/n"], (2, 2, 1), 3, 8, rngs=nnx.Rngs(0))
    sizes = {c.applied_to(network).flow.field.basis.size for c in choices(8)}
    assert sizes == {1, 2, 3, 4, 5, 9}


DATA = ("mnist", "fashion_mnist", "cifar10")


def kept(data):
    """Return the kept result of a set, and its runs of every kind as arrays by name."""
    result = json.loads((HERE / f"importing-{data}.json").read_text())["result"]
    assert result["runs"].keys() == KINDS.keys()
    assert {len(runs) for runs in result["runs"].values()} == {3}
    return result, {
        name: {column: np.array([run[column] for run in runs]) for column in runs[0]}
        for name, runs in result["runs"].items()
    }


@pytest.mark.parametrize("data", DATA)
def test_kept_networks_with_small_steps_lose_at_most_half_a_point_without_a_fit(data):
    result, runs = kept(data)
    assert (result["blocks"], result["cells"]) == (32, 8)
    for name, kind in KINDS.items():
        if kind.small:
            for column in ("constant cells", "projected"):
                assert (runs[name]["trained"] - runs[name][column]).max() <= 0.5


@pytest.mark.parametrize("data", DATA)
def test_kept_scrambled_networks_end_where_the_others_do(data):
    for columns in kept(data)[1].values():
        assert np.abs(columns["fitted"] - columns["scrambled, fitted"]).max() <= 0.2
        assert columns["bitwise"].all()


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", ["h = 1", "h = 1, batch norm"])
def test_kept_ordinary_networks_gain_by_alignment_and_by_the_fit(name, data):
    columns = kept(data)[1][name]
    assert (columns["aligned"] - columns["projected"]).mean() >= 3
    if data != "cifar10":  # The fit of convolutions takes longer, and was ended before.
        assert (columns["trained"] - columns["fitted"]).max() <= 1
        assert columns["seconds"].max() <= 20


@pytest.mark.parametrize("data", DATA)
def test_kept_tables_are_those_of_the_kept_runs(data):
    result, _ = kept(data)
    for name, runs in result["runs"].items():
        table, again = result["over seeds"][name], summary(runs)
        for column, lost in again["points lost"].items():
            assert table[column]["mean"] == pytest.approx(again[column]["mean"])
            assert table["points lost"][column]["mean"] == pytest.approx(lost["mean"], abs=1e-9)
            assert table["points lost"][column]["worst"] == pytest.approx(lost["worst"], abs=1e-9)
