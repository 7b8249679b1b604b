"""Classifiers for the commands and for a start: a stem, a NeuralODE, a linear head."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Shaped

from neuralflow.depth import DepthVarying
from neuralflow.depth.basis import PiecewiseConstant
from neuralflow.fields import MLP, ConvBlock
from neuralflow.layers import NeuralODE
from neuralflow.solve import Discretisation


class PointClassifier(nnx.Module):
    """Points (batch, d), or flattened images, to logits (batch, classes): a linear lift, a flow of an MLP, a linear head."""

    def __init__(
        self,
        inputs: int,
        classes: int,
        solve: Discretisation,
        *,
        width: int = 32,
        cells: int = 4,
        rngs: nnx.Rngs,
    ):
        self.stem = nnx.Linear(inputs, width, rngs=rngs)
        field = DepthVarying(
            lambda rngs: MLP(width, hidden=2 * width, rngs=rngs),
            PiecewiseConstant(cells),
            rngs=rngs,
        )
        self.flow = NeuralODE(field, solve)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Shaped[Array, "batch *rest"]) -> Float[Array, "batch classes"]:
        """Logits; whole numbers are taken as pixels of 0 to 255."""
        return self.head(self.flow(self.stem(_scaled(x).reshape(len(x), -1))))


class ImageClassifier(nnx.Module):
    """Images (batch, height, width, channels) to logits (batch, classes).

    The stem halves the image until it is at most 8 pixels high; the flow is a pre-activation convolutional field with
    weights of its own in every cell of depth; the head averages over the image.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        solve: Discretisation,
        *,
        width: int = 32,
        cells: int = 4,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        halvings = max(0, math.ceil(math.log2(shape[0] / 8)))
        widths = [shape[2]] + [width] * max(1, halvings)
        step = 2 if halvings else 1
        self.stem = nnx.List(
            nnx.Conv(a, b, (3, 3), strides=step, dtype=dtype, rngs=rngs)
            for a, b in itertools.pairwise(widths)
        )
        field = DepthVarying(
            lambda rngs: ConvBlock(width, dtype=dtype, rngs=rngs),
            PiecewiseConstant(cells),
            rngs=rngs,
        )
        self.flow = NeuralODE(field, solve)
        self.norm = nnx.GroupNorm(width, 4, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(
        self, x: Shaped[Array, "batch height width channels"]
    ) -> Float[Array, "batch classes"]:
        """Logits; whole numbers are taken as pixels of 0 to 255."""
        x = self.stem[0](_scaled(x))
        for conv in self.stem[1:]:
            x = conv(jax.nn.relu(x))
        x = jax.nn.relu(self.norm(self.flow(x.astype(jnp.float32))))
        return self.head(jnp.mean(x, axis=(1, 2)))


def _scaled(x: Array) -> Array:
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32) / 255


def classification(model: Any, batch: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy of model(batch["x"]) against the labels batch["y"], and the accuracy beside it."""
    logits = model(batch["x"])
    right = jnp.argmax(logits, axis=-1) == batch["y"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {
        "accuracy": jnp.mean(right)
    }
