"""The networks of `experiments.depth_resource`: what is scrambled computes the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from experiments.depth_resource.importing import KINDS, Network, scrambled


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
