"""The networks of `experiments.depth_resource`, the choices that can run them, kept results."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from experiments.depth_resource.importing import HERE, KINDS, Network, scrambled
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
