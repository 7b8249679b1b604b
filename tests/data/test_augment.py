"""Augmentation of images."""

import jax
import jax.numpy as jnp

from neuralflow import data


def test_augmentation_moves_and_mirrors_by_its_key():
    batch = {
        "x": jnp.arange(2 * 5 * 5, dtype=jnp.float32).reshape(2, 5, 5, 1) + 1,
        "y": jnp.arange(2),
    }
    augment = jax.jit(data.augment_images(shift=2))
    one, again, other = (augment(batch, jax.random.key(k)) for k in (0, 0, 1))
    assert (
        (one["x"] == again["x"]).all()
        and (one["x"] != other["x"]).any()
        and (one["y"] == batch["y"]).all()
    )
    still = data.augment_images(shift=0, flip=False)(batch, jax.random.key(0))
    assert (still["x"] == batch["x"]).all()
    mirrored = data.augment_images(shift=0)(batch, jax.random.key(3))["x"]
    for image, before in zip(mirrored, batch["x"], strict=True):
        assert (image == before).all() or (image == before[:, ::-1]).all()
