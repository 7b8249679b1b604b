"""Augment batches on the device, inside the compiled training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError


def images(
    shift: int = 4, flip: bool = True, name: str = "x"
) -> Callable[[dict[str, Any], Array], dict[str, Any]]:
    """Return an augmentation that moves and mirrors images at random, for `fit(augment=...)`.

    Every image of a batch is moved by up to `shift` pixels along both axes. Zeros fill the edges.

    Args:
        shift: The largest number of pixels to move an image by. 0 moves no image.
        flip: Whether to mirror every image left to right with probability 1/2.
        name: The name of the images in a batch, an array `(batch, height, width, channels)`.

    Returns:
        A function `augment(batch, key)` that returns the batch with new images.

    Raises:
        InputError: `shift` is negative. The returned function raises InputError for a batch without
            such images.
        InputTypeError: `shift` is no whole number.
    """
    checks.whole("shift", shift, least=0)

    def augment(batch: dict[str, Any], key: Array) -> dict[str, Any]:
        """Return the batch with moved and mirrored images."""
        x: Any = batch.get(name)
        if jnp.ndim(x) != 4:
            raise InputError(
                f"images are {name!r} (batch, height, width, channels) in a batch, "
                f"got {', '.join(f'{k} {jnp.shape(v)}' for k, v in batch.items())}"
            )
        where, mirrored = jax.random.split(key)
        padded = jnp.pad(x, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
        corners = jax.random.randint(where, (len(x), 2), 0, 2 * shift + 1)
        cut = jax.vmap(lambda image, corner: lax.dynamic_slice(image, (*corner, 0), x.shape[1:]))
        moved = cut(padded, corners)
        if flip:
            chosen = jax.random.bernoulli(mirrored, shape=(len(x), 1, 1, 1))
            moved = jnp.where(chosen, moved[:, :, ::-1], moved)
        return {**batch, name: moved}

    return augment
