"""The networks of `experiments.lm_resnet`: published structure, batch statistics, checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from experiments.lm_resnet.model import Network, parameters
from experiments.lm_resnet.recipe import train
from neuralflow import training

# The published table counts one k for every block. It also counts modules that the released code
# never uses: a BN(16), and in basic nets a BN(16) with a 1 x 1 convolution from 16 to 64 channels.
PUBLISHED = {20: 273_475, 32: 467_913, 44: 662_351, 56: 856_789, 110: 1_731_760, 164: 1_703_760}


@pytest.mark.parametrize("depth", [20, 110, 164])
def test_parameters_are_the_published_ones(depth):
    def count(model):
        return parameters(nnx.eval_shape(lambda: Network(depth, model, rngs=nnx.Rngs(0))))

    unused = 3 + 32 + (0 if depth == 164 else 32 + 16 * 64)
    assert count("lm") == PUBLISHED[depth] - unused
    blocks = {20: 3, 110: 18, 164: 18}[depth]
    assert count("lm") - count("resnet") == 3 * (blocks - 1)


def equal(a, b):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_every_block_learns_its_statistics_and_a_checkpoint_restores_them(tmp_path):
    images = np.random.default_rng(0).standard_normal((24, 8, 8, 1)).astype(np.float32)
    data = {"x": images, "y": np.arange(24) % 10}

    def build(seed):
        return Network(20, "lm", channels=1, width=2, blocks=3, rngs=nnx.Rngs(seed))

    network = build(0)
    before = nnx.to_flat_state(nnx.state(network, nnx.BatchStat))
    before = {path: np.asarray(leaf[...]) for path, leaf in before}
    train(network, data, data, epochs=1, cuts=(), batch=12, folder=tmp_path / "run", progress=False)
    after = {
        path: np.asarray(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(network, nnx.BatchStat))
    }
    for path, value in after.items():
        changed = (
            (value != before[path]).reshape(len(value) if value.ndim > 1 else 1, -1).any(axis=1)
        )
        # The statistics of every cell of depth have changed.
        assert changed.all(), path
    network.eval()
    infer = nnx.jit(lambda network, x: network(x))
    logits = infer(network, images)
    assert {
        p: np.asarray(v[...]).tobytes()
        for p, v in nnx.to_flat_state(nnx.state(network, nnx.BatchStat))
    } == {p: v.tobytes() for p, v in after.items()}
    # Evaluation does not look at the rest of the batch.
    other = np.concatenate([images[:12], 5 * images[12:]])
    assert jnp.abs(infer(network, other)[:12] - logits[:12]).max() < 1e-5
    other = build(1)
    training.restore(tmp_path / "run", other)
    same = jax.tree.map(equal, nnx.state(other), nnx.state(network))
    assert all(jax.tree.leaves(same))
    assert [len(k) for k in other.learned_k()] == [2, 2, 2]


def test_an_lm_stage_after_an_entry_goes_on_from_the_shortcut():
    network = Network(20, "lm", channels=1, width=2, blocks=3, rngs=nnx.Rngs(0))
    network.eval()
    stage = network.stages[1]
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 2), jnp.float32)
    before = stage.shortcut(x)
    now = before + stage.first(x)
    for i, k in enumerate(network.learned_k()[1]):
        block = stage.flow.field.at((i + 0.5) / 2)
        now, before = (1 - k) * now + k * before + block(now), now
    assert jnp.abs(nnx.jit(lambda stage, x: stage(x))(stage, x) - now).max() < 1e-5
    plain = Network(20, "resnet", channels=1, width=2, blocks=3, rngs=nnx.Rngs(0))
    assert isinstance(plain.stages[1].flow.discretisation.scheme, nf.Euler)
