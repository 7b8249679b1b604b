"""The networks of `experiments.depth_resource`, and the choices that can run them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from experiments.depth_resource.importing import KINDS, Network, scrambled
from experiments.depth_resource.tradeoff import choices


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
