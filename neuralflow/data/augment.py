"""Augment batches on the device, inside the compiled training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
            such images, and for images that are not larger than `shift`.
        InputTypeError: `shift` is no whole number, `flip` is neither True nor False, or `name` is
            no text. The returned function raises InputTypeError for what is no batch or no key.
    """
    checks.whole("shift", shift, least=0, most=2**30)
    checks.flag("flip", flip)
    checks.instance("name", name, str, "the name of the images in a batch, such as 'x'")

    def augment(batch: dict[str, Any], key: Array) -> dict[str, Any]:
        """Return the batch with moved and mirrored images."""
        checks.instance("batch", batch, dict, f"a dict with images under {name!r}")
        x: Any = batch.get(name)
        if not checks.holds_numbers(x) or x.ndim != 4:
            raise InputError(
                f"images are {name!r} (batch, height, width, channels) in a batch, "
                f"got {', '.join(f'{k} {np.shape(v)}' for k, v in batch.items())}"
            )
        if shift >= min(x.shape[1:3]):
            raise InputError(
                f"images in a batch must be larger than shift, got {x.shape[1:3]} pixels and a "
                f"shift of {shift}"
            )
        checks.key(key)
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
