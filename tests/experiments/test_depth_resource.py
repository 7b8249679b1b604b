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
from experiments.depth_resource.importing import KINDS, Network, scrambled
from experiments.depth_resource.tradeoff import choices
from neuralflow import files
from neuralflow.statistics import interval


@pytest.mark.parametrize("kind", KINDS)
def test_scrambled_branches_compute_the_same(kind):
    network = Network(kind, 16, 6, 2, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (9, 4, 4, 1), jnp.float32)
    network(images)
    network.eval()
    x = network.embed(images)
    branches: Any = [nf.frozen(branch) for branch in network.branches()]
    y = x
    for branch in branches:
        y = y + branch(y)
    assert np.allclose(y, network.flow(x), atol=1e-5)
    for one, two in zip(branches, scrambled(branches, np.random.default_rng(0)), strict=True):
        assert np.allclose(one(x), two(x), atol=1e-5)
        assert not np.allclose(one.layers.layers[-1].kernel, two.layers.layers[-1].kernel)


def test_every_choice_can_run_the_network():
    network = Network("equal layers, h = 1/n", 4, 3, 8, rngs=nnx.Rngs(0))
    sizes = {c.applied_to(network).flow.field.basis.size for c in choices(8)}
    assert sizes == {1, 2, 3, 4, 5, 9}


def kept(name: str) -> Any:
    return json.loads((Path(levels.__file__).parent / name).read_text())["result"]


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
