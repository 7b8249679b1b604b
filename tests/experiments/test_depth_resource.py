"""The networks and sets of `experiments.depth_resource`, its choices, and its kept results."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from experiments.depth_resource import levels
from experiments.depth_resource.importing import KINDS, Network, scrambled, summary
from experiments.depth_resource.tradeoff import choices
from neuralflow import files
from neuralflow.statistics import interval


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
    assert sizes == {1, 2, 3, 4, 5, 8, 9}


KEPT = Path(levels.__file__).parent


def kept(name: str) -> Any:
    return json.loads((KEPT / name).read_text())["result"]


DATA = ("mnist", "fashion_mnist", "cifar10")


def imported(data):
    """Return the kept result of a set, and its runs of every kind as arrays by name."""
    result = kept(f"importing-{data}.json")
    assert result["runs"].keys() == KINDS.keys()
    assert {len(runs) for runs in result["runs"].values()} == {3}
    return result, {
        name: {column: np.array([run[column] for run in runs]) for column in runs[0]}
        for name, runs in result["runs"].items()
    }


@pytest.mark.parametrize("data", DATA)
def test_kept_networks_with_small_steps_lose_at_most_half_a_point_without_a_fit(data):
    result, runs = imported(data)
    assert (result["blocks"], result["cells"]) == (32, 8)
    # Constant cells are coarser: convolutions lose more on them.
    columns = ("projected",) if data == "cifar10" else ("constant cells", "projected")
    for name, kind in KINDS.items():
        for column in columns if kind.small else ():
            assert (runs[name]["trained"] - runs[name][column]).max() <= 0.5


@pytest.mark.parametrize("data", DATA)
def test_kept_scrambled_networks_end_where_the_others_do(data):
    for name, columns in imported(data)[1].items():
        # States of ReLU networks grow from block to block, and so do roundings of the fit. The fit
        # of convolutions is ended early.
        apart = 1 if data == "cifar10" or KINDS[name].activation is jax.nn.relu else 0.2
        assert np.abs(columns["fitted"] - columns["scrambled, fitted"]).max() <= apart
        assert columns["bitwise"].all()


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("name", ["h = 1", "h = 1, batch norm"])
def test_kept_ordinary_networks_gain_by_alignment_and_by_the_fit(name, data):
    columns = imported(data)[1][name]
    assert (columns["aligned"] - columns["projected"]).mean() >= 3
    assert (columns["trained"] - columns["fitted"]).max() <= 1
    assert columns["seconds"].max() <= 20


@pytest.mark.parametrize("data", DATA)
def test_kept_tables_are_those_of_the_kept_runs(data):
    result, _ = imported(data)
    for name, runs in result["runs"].items():
        table, again = result["over seeds"][name], summary(runs)
        for column, lost in again["points lost"].items():
            assert table[column]["mean"] == pytest.approx(again[column]["mean"])
            assert table["points lost"][column]["mean"] == pytest.approx(lost["mean"], abs=1e-9)
            assert table["points lost"][column]["worst"] == pytest.approx(lost["worst"], abs=1e-9)


def test_swirl_is_where_its_flow_leads():
    points = levels.swirl(500, 0)
    turning = nf.from_function(
        lambda _, x: 2 * jnp.pi * jnp.hypot(x[:, :1], x[:, 1:]) * jnp.stack([-x[:, 1], x[:, 0]], 1)
    )
    flow = nf.NeuralODE(turning, nf.FixedGrid(nf.RK4(), steps=100))
    end = np.asarray(flow(jnp.asarray(points["x"], float)))
    turns = np.arctan2(end[:, 1], end[:, 0]) / (2 * np.pi) % 1 * 4
    inside = np.abs(turns - np.round(turns)) > 1e-3
    assert inside.sum() > 450
    assert (turns.astype(int) == points["y"])[inside].all()


SIZES = Namespace(width=4, hidden=8)


def test_networks_of_a_ladder_begin_alike():
    points = levels.swirl(16, 0)
    shallow, deep = (levels.network(depth, 3, points, SIZES) for depth in (2, 6))
    same = jax.tree.map(jnp.array_equal, nnx.state(nf.refined(shallow, 3)), nnx.state(deep))
    assert all(jax.tree.leaves(same))


def test_the_wide_network_has_the_weights_of_the_deep_one():
    def weights(depth: int, wider: int = 1) -> int:
        points = levels.swirl(16, 0)
        network = nnx.eval_shape(lambda: levels.network(depth, 3, points, SIZES, wider))
        leaves = jax.tree.leaves(nnx.state(network.flow, nnx.Param))
        return sum(leaf.size for leaf in leaves if leaf.ndim == 3)

    assert weights(4, 8) == weights(32) == 8 * weights(4) == 8 * 4 * 2 * 4 * 8


def test_break_even_is_where_two_lines_meet():
    def run(fixed: float, levels: list[float]) -> dict[str, Any]:
        steps = np.repeat(levels, 4)
        return {"cold": fixed + steps.sum(), "seconds by epoch": [*steps]}

    runs = {"direct": [run(3.0, [2.0, 2.0])], "carried": [run(10.0, [0.5, 1.5])]}
    meeting = levels.break_even(runs, "cold", Namespace(levels=[1, 2], epochs=8))
    assert meeting == pytest.approx({"median": 7.0, "low": 7.0, "high": 7.0})


LADDERS = pytest.mark.parametrize("name", ["levels.json", "levels_swirl.json"])


@LADDERS
def test_kept_rows_follow_from_the_kept_runs(name):
    result = kept(name)
    for kind, row in result["rows"].items():
        again = levels.compared(result["runs"], kind)
        assert json.loads(files.as_json(again)) == row


@LADDERS
def test_kept_ladders_lose_less_than_half_a_point_in_the_mean_and_save_steps(name):
    result = kept(name)
    assert result["rows"]["carried"]["points lost"]["mean"] < 0.5
    assert result["times"]["ladder over direct"]["high"] < 0.75


@LADDERS
def test_kept_ladders_break_even_earlier_with_a_warm_cache(name):
    times = kept(name)["times"]
    cold, warm = (times[f"epochs to break even, {cache} cache"] for cache in ("cold", "warm"))
    assert warm["median"] < cold["median"]


def test_depth_pays_on_the_kept_swirl_as_much_as_width_and_not_on_images():
    """Intervals of points that a row loses to direct training of the deepest network."""
    swirl, images = (
        {kind: row["points lost"]["interval"] for kind, row in kept(name)["rows"].items()}
        for name in ("levels_swirl.json", "levels.json")
    )
    assert swirl["shallow"][0] > 1
    assert swirl["wide"][0] < 0 < swirl["wide"][1] < 0.5
    assert images["shallow"][0] < 0 < images["shallow"][1] < 0.5


def test_the_kept_ladder_on_the_swirl_keeps_most_of_what_depth_pays_and_its_moments_help():
    runs = kept("levels_swirl.json")["runs"]
    carried, shallow, copied = (
        np.asarray([run["accuracy"] for run in runs[kind]])
        for kind in ("carried", "shallow", "copied")
    )
    assert interval(carried - shallow)[0] > 1
    assert interval(carried - copied)[0] > 0
