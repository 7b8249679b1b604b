"""What stands around a flow: classifiers for a first start, and entries appended before a flow.

A classifier is a stem, a NeuralODE and a linear head. The commands use the classifiers. The loss
that belongs to them is `classification`. `Augment` appends entries to a state.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying
from neuralflow.depth.basis import PiecewiseConstant
from neuralflow.fields import MLP, ConvBlock
from neuralflow.layers import NeuralODE
from neuralflow.solve import Discretisation

__docformat__ = "google"


class Augment(nnx.Module):
    """Append entries to the last axis of x, for a flow of more dimensions.

    The last axis holds the coordinates of a point, or the channels of an image. In more dimensions,
    points can move around one another. In the dimensions of x they cannot: the flow of a line keeps
    the order of its points, for example.

    With d entries in x, the first d entries of a state y of the flow are `y[..., :d]`.

    Args:
        entries: The number p of zeros to append, or a module from x `(..., d)` to the entries to
            append `(..., p)`, such as `nnx.Linear(d, p, rngs=rngs)`. The module is learned with the
            flow.

    Raises:
        InputError: `entries` is a number below 1, or above 2^30.
        InputTypeError: `entries` is neither a whole number nor an `nnx.Module` that can be called.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> turn = nf.from_function(lambda w, x: w * jnp.stack([-x[:, 1], x[:, 0]], 1), jnp.pi)
        >>> layer = nf.NeuralODE(turn, nf.FixedGrid(nf.RK4(), steps=16))
        >>> x = jnp.array([[1.0], [-1.0]])
        >>> y = nnx.Sequential(nf.models.Augment(1), layer)(x)
        >>> print(y[..., :1].round(2).tolist())  # the two points have changed places
        [[-1.0], [1.0]]

    Source:
        Zeros: Dupont et al., arXiv 1904.01681, stated there. A learned map: Massaroli et al., arXiv
        2002.08071, as recalled. The form that keeps x beside the map is our formulation.
    """

    def __init__(self, entries: int | nnx.Module):
        if not isinstance(entries, nnx.Module):
            checks.whole(
                "entries, a number of zeros to append or an nnx.Module,", entries, most=2**30
            )
            entries = int(entries)
        else:
            checks.function("entries", entries, 1)
        self.entries = entries

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch more"]:
        """Return x with the appended entries.

        Args:
            x: The samples, of shape `(*batch, d)`.

        Returns:
            The samples of shape `(*batch, d + p)`, in the dtype of x.

        Raises:
            InputError: x has no axis, or the module does not keep the leading axes of x.
            InputTypeError: x is not an array of floating-point numbers.

        @public
        """
        checks.array("x", x, "...", "entries", kind=jnp.inexact)
        module: Any = self.entries
        if isinstance(module, int):
            return jnp.concatenate([x, jnp.zeros((*x.shape[:-1], module), x.dtype)], axis=-1)
        new = module(x)
        if jnp.shape(new)[:-1] != x.shape[:-1]:
            raise InputError(
                f"the entries to append have the leading axes of x, {x.shape[:-1]}, got "
                f"{jnp.shape(new)[:-1]}; give a module that acts on the last axis, "
                "such as nnx.Linear"
            )
        return jnp.concatenate([x, new.astype(x.dtype)], axis=-1)


class PointClassifier(nnx.Module):
    """A classifier of points: a linear lift, the flow of an MLP, and a linear head.

    The MLP has weights of its own in every cell of depth. Images are flattened.

    Args:
        inputs: The number d of coordinates of a point, or of numbers in an image.
        classes: The number of classes.
        solve: The discretisation of the flow, a FixedGrid or an Adaptive.
        width: The dimension of the state of the flow. The MLP has twice as many hidden units.
        cells: The number of cells of depth, equally long.
        rngs: The random streams for the initial weights.

    Raises:
        InputError: A size is below 1, the weights would hold more than 2^30 numbers, or `rngs` has
            no stream for them.
        InputTypeError: A size is not a whole number, `solve` is not a discretisation, or `rngs` is
            not an `nnx.Rngs`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import neuralflow as nf
        >>> grid = nf.FixedGrid(nf.Euler(), steps=2)
        >>> model = nf.models.PointClassifier(2, 3, grid, width=8, cells=2, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((5, 2))).shape
        (5, 3)
    """

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
        _check_sizes(solve, rngs, inputs=inputs, classes=classes, width=width, cells=cells)
        weights = width * (int(inputs) + classes) + 4 * int(cells) * width * width
        checks.held(
            "a classifier of these inputs, classes, width and cells", weights, "take smaller ones"
        )
        self.stem = nnx.Linear(inputs, width, rngs=rngs)
        field = DepthVarying(
            lambda rngs: MLP(width, hidden=2 * width, rngs=rngs),
            PiecewiseConstant(cells),
            rngs=rngs,
        )
        self.flow = NeuralODE(field, solve)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Shaped[Array, "batch *rest"]) -> Float[Array, "batch classes"]:
        """Return the logits of points or images.

        Args:
            x: The points `(batch, d)`, or images with d numbers each. Whole numbers are taken as
                pixels from 0 to 255 and scaled to [0, 1].

        Returns:
            The logits `(batch, classes)`.

        Raises:
            InputError: x has another shape, or holds no sample.
            InputTypeError: x is not an array of real numbers.

        @public
        """
        x = _scaled(x)
        checks.array("x", x, "batch", *["coordinates"] * (x.ndim - 1))
        rows = x.reshape(len(x), -1)
        checks.array("x, flattened,", rows, "batch", self.stem.in_features)
        return self.head(self.flow(self.stem(rows)))


class ImageClassifier(nnx.Module):
    """A classifier of images: a convolutional stem, the flow of a convolutional field, and a head.

    The stem halves the image until the image is at most 8 pixels high. The field of the flow is a
    pre-activation convolutional block with weights of its own in every cell of depth. The head
    averages over the image.

    Args:
        shape: The shape of an image, (height, width, channels).
        classes: The number of classes.
        solve: The discretisation of the flow, a FixedGrid or an Adaptive.
        width: The number of channels of the state of the flow, a multiple of 4.
        cells: The number of cells of depth, equally long.
        dtype: The dtype in which convolutions compute, such as jnp.bfloat16. The default is the
            dtype of the weights. The state of the flow is float32 for any `dtype`.
        rngs: The random streams for the initial weights.

    Raises:
        InputError: A size is below 1, `shape` has not three sizes, `width` is not a multiple of 4,
            the weights would hold more than 2^30 numbers, or `rngs` has no stream for them.
        InputTypeError: A size is not a whole number, `solve` is not a discretisation, `dtype` is
            not a dtype of floating-point numbers, or `rngs` is not an `nnx.Rngs`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        solve: Discretisation,
        *,
        width: int = 32,
        cells: int = 4,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if not isinstance(shape, list | tuple | np.ndarray) or np.shape(shape) != (3,):
            raise InputTypeError(
                f"shape must be (height, width, channels), such as (28, 28, 1), got {shape!r}"
            )
        for size in shape:
            checks.whole("each of shape", size)
        _check_sizes(solve, rngs, classes=classes, width=width, cells=cells)
        if dtype is not None:
            checks.dtype("dtype", dtype)
        shape = int(shape[0]), int(shape[1]), int(shape[2])
        weights = width * (9 * shape[2] + classes) + 18 * int(cells) * width * width
        checks.held(
            "a classifier of this shape, classes, width and cells",
            max(weights, math.prod(shape)),
            "take smaller ones",
        )
        if width % 4:
            raise InputError(f"width must be a multiple of 4, got {width}")
        self.shape = shape
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
        """Return the logits of images.

        Args:
            x: The images `(batch, height, width, channels)`. Whole numbers are taken as pixels from
                0 to 255 and scaled to [0, 1].

        Returns:
            The logits `(batch, classes)`.

        Raises:
            InputError: x has another shape, or holds no image.
            InputTypeError: x is not an array of real numbers.

        @public
        """
        x = _scaled(x)
        checks.array("x", x, "batch", *self.shape)
        x = self.stem[0](x)
        for conv in self.stem[1:]:
            x = conv(jax.nn.relu(x))
        x = jax.nn.relu(self.norm(self.flow(x.astype(jnp.float32))))
        return self.head(jnp.mean(x, axis=(1, 2)))


def _check_sizes(solve: Any, rngs: Any, **sizes: Any) -> None:
    """Refuse a wrong discretisation, wrong streams, and what is no size."""
    for name, size in sizes.items():
        checks.whole(name, size)
    checks.instance("solve", solve, Discretisation, "a FixedGrid or an Adaptive")
    checks.rngs(rngs, "params")


def _scaled(x: Array) -> Array:
    """Return floating point numbers as they are, and whole numbers divided by 255."""
    checks.array("x", x, "...", "coordinates", kind=jnp.number)
    return x if not jnp.issubdtype(x.dtype, jnp.integer) else x.astype(jnp.float32) / 255


def classification(model: nnx.Module, batch: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Return the mean cross-entropy of a model on a batch, with the accuracy beside it.

    This function is a loss for `neuralflow.training.fit`. A label out of range that is known only
    inside a trace makes the cross-entropy and its gradient NaN.

    Args:
        model: A model from inputs to logits `(batch, classes)`.
        batch: The inputs `batch["x"]` and the labels `batch["y"]` `(batch,)`, whole numbers from 0
            to classes - 1.

    Returns:
        The mean cross-entropy, and a dict with the share of right answers under `accuracy`.

    Raises:
        InputError: The batch has no x or y, the labels have not one entry for every row of logits,
            or a label is out of range.
        InputTypeError: The labels are no whole numbers.
    """
    if not isinstance(batch, Mapping) or not {"x", "y"} <= set(batch):
        held = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
        raise InputError(f"batch must hold the inputs x and the labels y, it holds {held}")
    logits, labels = model(batch["x"]), checks.known(batch["y"])
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise InputTypeError(
            f"the labels y must be whole numbers, got {jnp.result_type(labels)}; "
            "write y.astype(np.int32)"
        )
    if logits.ndim != 2 or np.shape(labels) != logits.shape[:1]:
        raise InputError(
            "the labels y must have one entry for every row of the logits (batch, classes), "
            f"got y {np.shape(labels)} and logits {logits.shape}"
        )
    classes = logits.shape[-1]
    known = (labels >= 0) & (labels < classes)
    if isinstance(labels, np.ndarray) and not known.all():
        raise InputError(
            f"the labels y must lie between 0 and {classes - 1}, the {classes} classes of the "
            f"model, got {labels.min()} to {labels.max()}"
        )
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, labels, 0))
    right = jnp.argmax(logits, axis=-1) == labels
    return jnp.mean(entropy * jnp.where(known, 1, jnp.nan).astype(entropy.dtype)), {
        "accuracy": jnp.mean(right)
    }
