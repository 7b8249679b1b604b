"""The two parts of a transformer's block as velocity fields: attention and feed-forward.

Both are residual branches with their norm in front. `nf.fields.Split` puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Inexact, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.fields.activations import gelu
from neuralflow.fields.networks import KERNEL, MLP, Activation, check_types


class Attention(nnx.Module):
    """Multi-head attention of the tokens of a sequence, with a norm in front.

    The velocity of a token is W_o times the heads' sums of values W_v y, weighed by the softmax of
    the products of its query W_q y with the keys W_k y of all tokens. Here y is the normed state.
    Products are divided by the root of the size of a head.

    A mask says which tokens a token attends to. The mask comes as the entry `mask` of the context,
    as in `layer(x, context={"mask": mask})`. The mask has as many axes as x, of which the last two
    are the token that attends and the token that is attended to. It is True, or not zero, where a
    token attends. A mask that is added to the products, with zeros there and negative numbers
    elsewhere, is given as `mask >= 0`. Other entries of the context are left alone.

    Args:
        dimension: The size d of the last axis of the state, a multiple of `heads`.
        heads: The number of heads.
        causal: Whether a token attends to itself and to those before it alone, beside what a mask
            says.
        norm: Whether a LayerNorm stands in front.
        dtype: The type in which the dense layers compute, such as bfloat16. By default it follows
            from x and the weights. The softmax is in float32 at least. The velocity has the dtype
            of x in any case.
        param_dtype: The type of the weights.
        out_kernel_init: The initialiser of W_o, which sets the size of the velocity at the start.
        rngs: The random streams that draw the weights.

    Raises:
        InputError: A size is below 1, `dimension` is not a multiple of `heads`, the weights would
            hold more than 2^30 numbers, or `rngs` has no stream for them.
        InputTypeError: A size is not a whole number, `causal` or `norm` is not True or False,
            `out_kernel_init` is not a function, a dtype is not one of floating-point numbers, or
            `rngs` is not an `nnx.Rngs`.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> field = nf.fields.Attention(8, heads=2, rngs=nnx.Rngs(0))
        >>> x = jnp.arange(48.0).reshape(2, 3, 8) % 5
        >>> padded = jnp.array([[[True, True, False]], [[True, True, True]]])  # no third token
        >>> v = field(x, context={"mask": padded})
        >>> other = field(x.at[0, 2].set(7.0), context={"mask": padded})
        >>> bool((v[0, :2] == other[0, :2]).all())
        True

    Source:
        Vaswani et al., arXiv 1706.03762, as recalled; the norm in front as in Xiong et al.,
        arXiv 2002.04745, as recalled.
    """

    def __init__(
        self,
        dimension: int,
        heads: int,
        *,
        causal: bool = False,
        norm: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        out_kernel_init: nnx.Initializer = KERNEL,
        rngs: nnx.Rngs,
    ):
        checks.whole("dimension", dimension)
        checks.whole("heads", heads)
        if dimension % heads:
            raise InputError(
                f"heads must divide the dimension, {dimension}, got {heads} heads; take a "
                "dimension that is a multiple of them"
            )
        checks.flag("causal", causal)
        checks.function("out_kernel_init", out_kernel_init, 3)
        checks.held("attention of this dimension", 4 * int(dimension) ** 2, "take a smaller one")
        self.norm = _norm(dimension, norm, dtype, param_dtype, rngs)
        types: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        size = (int(heads), int(dimension) // int(heads))
        self.query, self.key, self.value = (
            nnx.LinearGeneral(dimension, size, **types) for _ in range(3)
        )
        self.out = nnx.LinearGeneral(
            size, dimension, axis=(-2, -1), kernel_init=out_kernel_init, **types
        )
        self.dimension, self.causal = int(dimension), causal

    def __call__(
        self, x: Inexact[Array, "*batch tokens d"], *, context: PyTree = None
    ) -> Inexact[Array, "*batch tokens d"]:
        """Return the velocity of every token.

        Args:
            x: The state, of shape `(*batch, tokens, dimension)`.
            context: None, or a mapping. Its entry `mask`, if there is one and it is not None, has
                as many axes as x and broadcasts to `(*batch, tokens, tokens)`: the token of the
                last axis but one attends to that of the last axis where the entry is True, or a
                number other than zero. `(*batch, 1, tokens)` serves for padding. A token that
                attends to none has the velocity of zero values. Negative numbers, as in a mask that
                is added to the products, give NaN.

        Returns:
            The velocity, of the shape and dtype of x.

        Raises:
            InputError: x or the mask has another shape.
            InputTypeError: x is not an array of floating-point numbers, the context is not a
                mapping, or the mask is not an array of real numbers or booleans.

        @public
        """
        checks.array("x", x, "...", "tokens", self.dimension, kind=jnp.inexact)
        y = x if self.norm is None else self.norm(x)
        q, k, v = self.query(y), self.key(y), self.value(y)
        products = jnp.einsum("...qhd,...khd->...hqk", q * q.shape[-1] ** -0.5, k)
        weights = self._weights(products, _mask(context, x.shape)).astype(v.dtype)
        mixed = jnp.einsum("...hqk,...khd->...qhd", weights, v)
        return self.out(mixed).astype(x.dtype)

    def _weights(self, products: Array, mask: Array | None) -> Array:
        """Return the softmax over the tokens that a token attends to, and zero elsewhere."""
        products = products.astype(jnp.promote_types(products.dtype, jnp.float32))
        allowed = None if mask is None else jnp.broadcast_to(mask != 0, products.shape)
        if self.causal:
            before = jnp.tri(products.shape[-1], dtype=bool)
            allowed = before if allowed is None else allowed & before
        if allowed is None:
            return jax.nn.softmax(products, axis=-1)
        # A finite number keeps rows in which nothing is allowed, and their gradients, finite.
        lowest = jnp.finfo(products.dtype).min
        weights = jax.nn.softmax(jnp.where(allowed, products, lowest), axis=-1)
        weights = jnp.where(allowed, weights, 0)
        if mask is None or jnp.issubdtype(mask.dtype, jnp.bool_):
            return weights
        return jnp.where(mask < 0, jnp.nan, weights)


def _mask(context: PyTree, shape: tuple[int, ...]) -> Array | None:
    """Return the mask of a context with an axis for the heads, or None where there is no mask."""
    if context is None:
        return None
    if not isinstance(context, Mapping):
        given = getattr(context, "shape", None)
        raise InputTypeError(
            'the context of Attention is a mapping such as {"mask": mask}, got '
            + (f"a {type(context).__name__}" if given is None else f"an array of shape {given}")
        )
    mask: Any = context.get("mask")
    if mask is None:
        return None
    dtype = jnp.result_type(mask) if checks.holds_numbers(mask) else None
    boolean = hasattr(mask, "dtype") and mask.dtype == bool
    if not boolean and (dtype is None or jnp.issubdtype(dtype, jnp.complexfloating)):
        raise InputTypeError(
            f"the mask of Attention is an array of booleans or numbers, got a "
            f"{type(mask).__name__}; write jnp.asarray(mask)"
        )
    wanted = (*shape[:-1], shape[-2])
    axes = zip(mask.shape, wanted, strict=False)
    if len(mask.shape) != len(wanted) or any(a not in (1, b) for a, b in axes):
        remedies = {
            -1: "; one mask of all samples is mask[None], one of padding mask[..., None, :]",
            1: "; a mask of flax, with an axis for the heads, is mask[..., 0, :, :] here",
        }
        raise InputError(
            f"the mask of Attention on x of shape {shape} must broadcast to {wanted} and have as "
            f"many axes, got {mask.shape}{remedies.get(len(mask.shape) - len(wanted), '')}"
        )
    return jnp.asarray(mask)[..., None, :, :]


class FeedForward(nnx.Module):
    """A perceptron on every token, with a norm in front: W_2 activation(W_1 y + b_1) + b_2.

    Args:
        dimension: The size d of the last axis of the state.
        hidden: The number of hidden units.
        activation: The function of the hidden units.
        norm: Whether a LayerNorm stands in front.
        dtype: The type in which the layers compute, such as bfloat16. By default it follows from x
            and the weights. The velocity has the dtype of x in any case.
        param_dtype: The type of the weights.
        out_kernel_init: The initialiser of W_2, which sets the size of the velocity at the start.
        rngs: The random streams that draw the weights.

    Raises:
        InputError: A size is below 1, the weights would hold more than 2^30 numbers, or `rngs` has
            no stream for them.
        InputTypeError: A size is not a whole number, `activation` or `out_kernel_init` is not a
            function, `norm` is not True or False, a dtype is not one of floating-point numbers, or
            `rngs` is not an `nnx.Rngs`.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> nf.fields.FeedForward(8, hidden=32, rngs=nnx.Rngs(0))(jnp.ones((2, 3, 8))).shape
        (2, 3, 8)
    """

    def __init__(
        self,
        dimension: int,
        *,
        hidden: int,
        activation: Activation = gelu,
        norm: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        out_kernel_init: nnx.Initializer = KERNEL,
        rngs: nnx.Rngs,
    ):
        self.norm = _norm(dimension, norm, dtype, param_dtype, rngs)
        self.perceptron = MLP(
            dimension,
            hidden=hidden,
            activation=activation,
            dtype=dtype,
            param_dtype=param_dtype,
            out_kernel_init=out_kernel_init,
            rngs=rngs,
        )
        self.dimension = int(dimension)

    def __call__(self, x: Inexact[Array, "*batch d"]) -> Inexact[Array, "*batch d"]:
        """Return the velocity of every token.

        Args:
            x: The state, of shape `(*batch, dimension)`.

        Returns:
            The velocity, of the shape and dtype of x.

        Raises:
            InputError: x has another shape.
            InputTypeError: x is not an array of floating-point numbers.

        @public
        """
        checks.array("x", x, "...", self.dimension, kind=jnp.inexact)
        y = x if self.norm is None else self.norm(x)
        return self.perceptron(y).astype(x.dtype)


def _norm(
    dimension: int, norm: bool, dtype: Any, param_dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.LayerNorm | None:
    """Return the norm in front of a branch, after a check of what both branches have in common."""
    checks.whole("dimension", dimension)
    checks.held("a norm of this dimension", int(dimension), "take a smaller one")
    checks.flag("norm", norm)
    check_types(dtype, param_dtype)
    checks.rngs(rngs, "params")
    if not norm:
        return None
    return nnx.LayerNorm(dimension, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
