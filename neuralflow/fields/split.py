"""Fields around other fields: a sum whose parts stay apart, and a projection to a sphere."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError
from neuralflow.depth import DepthVarying
from neuralflow.fields.functions import (
    check_parts_context,
    check_shapes,
    evaluate,
    takes_context,
)
from neuralflow.fields.structured import check_part


class Split(nnx.Module):
    """A field that is the sum of its parts: f(x, t) = f_0(x, t) + f_1(x, t) + ...

    The splitting schemes `neuralflow.schemes.LieTrotter` and `neuralflow.schemes.Strang` walk along
    the parts one by one. Every other scheme takes the sum. So one field and one argument give the
    residual blocks of three transformers, for attention and feed-forward as the parts:

    - `neuralflow.schemes.LieTrotter` on two parts is the pre-norm block, x + f_0(x) and then
      y + f_1(y);
    - `neuralflow.Euler` is the parallel block, x + f_0(x) + f_1(x);
    - `Strang(Euler())` is the Macaron block, with feed-forward as f_0 and attention as f_1.

    Args:
        *parts: Two or more modules, each called as a field is. Functions enter by
            `neuralflow.from_function`. One module may stand in several parts, and has its weights
            once.

    Raises:
        InputError: There are fewer than two parts.
        InputTypeError: A part is not an `nnx.Module`, or cannot be called as a field.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> def make(rngs):
        ...     attention = nf.fields.Attention(8, heads=2, causal=True, rngs=rngs)
        ...     return nf.fields.Split(attention, nf.fields.FeedForward(8, hidden=32, rngs=rngs))
        >>> field = nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0))
        >>> grid = nf.FixedGrid(nf.schemes.LieTrotter(), steps=4)
        >>> transformer = nf.NeuralODE(field, grid, 0.0, 4.0)  # four blocks, steps of length one
        >>> transformer(jnp.ones((2, 5, 8))).shape
        (2, 5, 8)

        The attention of flax, with its mask from the context:

        >>> attend = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
        >>> def masked(attend, x, context=None):
        ...     return attend(x, mask=None if context is None else context["mask"])
        >>> parts = nf.from_function(masked, attend), nf.fields.FeedForward(
        ...     8, hidden=32, rngs=nnx.Rngs(1)
        ... )
        >>> causal = nnx.make_causal_mask(jnp.ones((2, 5)))
        >>> nf.fields.Split(*parts)(jnp.ones((2, 5, 8)), context={"mask": causal}).shape
        (2, 5, 8)
    """

    def __init__(self, *parts: nnx.Module):
        if len(parts) < 2:
            raise InputError(
                f"a Split has two parts or more, got {len(parts)}; a field that is one whole needs "
                "no Split"
            )
        for number, part in enumerate(parts):
            check_part(
                f"part {number}", part, "an nnx.Module; wrap functions with nf.from_function"
            )
        self.parts = nnx.List(parts)

    def __call__(self, x: PyTree, t: Real | None = None, *, context: PyTree = None) -> Any:
        """Return the sum of the velocities of all parts.

        Args:
            x: The state, an array or a pytree of arrays.
            t: The depth time, for the parts that take time.
            context: The context, for the parts that take one.

        Returns:
            The velocity, in the form of x.

        Raises:
            InputError: The velocity of a part has another structure or other shapes than x.
            InputTypeError: A context is given and no part takes one, or a part needs one.

        @public
        """
        velocities = [self.along(i, x, t, context=context) for i in range(len(self.parts))]
        return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), velocities)

    def along(self, part: int, x: PyTree, t: Real | None = None, *, context: PyTree = None) -> Any:
        """Return the velocity of one part.

        Args:
            part: The number of the part, from 0.
            x: The state, an array or a pytree of arrays.
            t: The depth time, for a part that takes time.
            context: The context. A part that takes none does not see it.

        Returns:
            The velocity of the part, in the form of x.

        Raises:
            InputError: There is no such part, or its velocity has another structure or other shapes
                than x.
            InputTypeError: `part` is not a whole number. Or a context is given and no part takes
                one, or a part needs one.
        """
        checks.whole("part", part, least=0, most=len(self.parts) - 1)
        check_parts_context(self.parts, context)
        field: Any = self.parts[part]
        v = evaluate(field, x, t, context if takes_context(field) else None)
        check_shapes(f"part {part} of a Split, {type(field).__name__},", x, v)
        return v


def split_of(field: nnx.Module) -> Split | None:
    """Return the `Split` that a field is, along depth or not, and None for any other field.

    Args:
        field: The field. Of a `DepthVarying`, the stacked module counts.
    """
    inner = field.stack if isinstance(field, DepthVarying) else field
    return inner if isinstance(inner, Split) else None


def parts_of(field: nnx.Module) -> list[nnx.Module]:
    """Return the parts of a field, each with its own weights along depth.

    Args:
        field: The field.

    Returns:
        The parts of a `Split`. The only part of any other field is the field itself.
    """
    split = split_of(field)
    if split is None:
        return [field]
    if not isinstance(field, DepthVarying):
        return list(split.parts)
    return [DepthVarying.from_stack(part, field.basis) for part in split.parts]


class OnSphere(nnx.Module):
    """A field projected to the tangents of the unit sphere: v - <x, v> x for the velocity v.

    The flow keeps the length of states of length one. Steps of a scheme keep it up to their error.

    Args:
        field: The field, called as f(x) or f(x, t), with a context or without.

    Raises:
        InputTypeError: `field` is not an `nnx.Module`, or cannot be called as a field.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> drift = nf.from_function(lambda a, x: a + 0 * x, jnp.array([1.0, 0.0]))
        >>> field = nf.fields.OnSphere(drift)
        >>> field(jnp.array([[0.0, 1.0], [1.0, 0.0]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]

    Source:
        Geshkovski et al., arXiv 2312.10794, as recalled.
    """

    def __init__(self, field: nnx.Module):
        check_part("field", field, "an nnx.Module; wrap functions with nf.from_function")
        self.field = field

    def __call__(self, x: Array, t: Real | None = None, *, context: PyTree = None) -> Array:
        """Return the tangential part of the velocity.

        Args:
            x: The states, of length one along the last axis, of shape `(*batch, d)`.
            t: The depth time, for a field that takes time.
            context: The context, for a field that takes one.

        Returns:
            The velocity, of the shape of x, orthogonal to x along the last axis.

        Raises:
            InputError: x has no axis, or the velocity of the field has another shape than x.
            InputTypeError: x is not one array of floating-point numbers. Or a context is given and
                the field takes none, or the field needs one.

        @public
        """
        checks.array("x", x, "...", "d", kind=jnp.inexact)
        v = evaluate(self.field, x, t, context)
        check_shapes(type(self.field).__name__, x, v)
        return v - jnp.sum(x.conj() * v, axis=-1, keepdims=True).real * x
