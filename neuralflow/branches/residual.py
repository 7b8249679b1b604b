"""Conversion between layers and plain residual branches.

`from_branches` turns the modules of a ResNet into a layer. `to_branches` turns the blocks of a
layer into modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from diffrax import AbstractSolver
from flax import nnx
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, PiecewiseConstant, field_in_step, raw
from neuralflow.fields import Split, evaluate, takes_time
from neuralflow.fields.functions import needs_time
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler, LieTrotter
from neuralflow.solve import FixedGrid
from neuralflow.solve.system import time_dtype


class _AtTime(nnx.Module):
    """The module f(., t) of a field f(x, t) at one depth time."""

    def __init__(self, field: nnx.Module, t: Float[Array, ""]):
        self.field = field
        self.t = t

    def __call__(self, x: PyTree, context: PyTree = None) -> Any:
        return evaluate(self.field, x, self.t.astype(time_dtype(x)), context)


def from_branches(
    branches: Sequence[nnx.Module], scheme: AbstractSolver | None = None
) -> NeuralODE:
    """Return the layer that computes a ResNet from its own residual branches.

    The layer computes x + f_0(x), then x + f_1(x), and so on. It takes Euler steps of length one
    over the interval [0, N], where N is the number of branches. Its values are those of a compiled
    scan over the branches, to the last bit. A loop in Python over the branches can round
    differently.

    The blocks of a transformer have two branches each. They enter as `neuralflow.fields.Split` of
    the two, with the scheme `neuralflow.schemes.LieTrotter()`: y = x + a_0(x), then y + f_0(y), and
    so on.

    Args:
        branches: The residual branches f_0, f_1, ..., called as f(x), or as f(x, context=...) if
            they have a parameter `context`. They are not the blocks x + f(x), which would add x
            twice: a named function `def branch(block, x): return block(x) - x` makes branches of
            such blocks, `neuralflow.from_function(branch, block)` for each. All branches have the
            same class, options, shapes and dtypes.
        scheme: The scheme whose steps of length one are the blocks, by default Euler's. A splitting
            takes branches that are each a `neuralflow.fields.Split`.

    Returns:
        A layer with a `neuralflow.DepthVarying` field on `PiecewiseConstant(N)` and a fixed grid of
        N steps.

    Raises:
        InputError: There is no branch, or `branches` is not a sequence.
        InputError: The branches have different structures, shapes or dtypes, or hold state that no
            solve can carry.
        InputTypeError: A branch is not an `nnx.Module` that can be called as f(x), or a weight is
            not floating. Or `scheme` is no diffrax solver, or is a splitting and a branch has no
            parts.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> f, g = (nnx.Linear(2, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1))
        >>> x = jnp.ones((3, 2))
        >>> y = x + f(x)
        >>> bool(jnp.allclose(nf.from_branches([f, g])(x), y + g(y)))
        True

        A user's block of a transformer, whose two branches become functions of the block. The
        context of the layer is its mask:

        >>> class Block(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.attend = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        ...         self.first = nnx.LayerNorm(4, rngs=rngs)
        ...         self.second = nnx.LayerNorm(4, rngs=rngs)
        ...         self.dense = nnx.Linear(4, 4, rngs=rngs)
        ...
        ...     def __call__(self, x, mask=None):
        ...         x = x + self.attend(self.first(x), mask=mask)
        ...         return x + jnp.tanh(self.dense(self.second(x)))
        >>> def attend(block, x, context=None):
        ...     return block.attend(block.first(x), mask=context)
        >>> def feed_forward(block, x):
        ...     return jnp.tanh(block.dense(block.second(x)))
        >>> one, two = Block(nnx.Rngs(0)), Block(nnx.Rngs(1))
        >>> branches = [
        ...     nf.fields.Split(nf.from_function(attend, b), nf.from_function(feed_forward, b))
        ...     for b in (one, two)
        ... ]
        >>> layer = nf.from_branches(branches, scheme=nf.schemes.LieTrotter())
        >>> x = jnp.ones((1, 3, 4)) * jnp.arange(4)
        >>> mask = nnx.make_causal_mask(jnp.ones((1, 3)))
        >>> bool(jnp.allclose(layer(x, context=mask), two(one(x, mask), mask), atol=1e-6))
        True
        >>> back = nf.to_branches(layer)[1].parts[0].params  # the second block again
        >>> type(back).__name__, bool((back.dense.kernel[...] == two.dense.kernel[...]).all())
        ('Block', True)
    """
    if (not isinstance(branches, Sequence) and not isinstance(branches, nnx.List)) or not len(
        branches
    ):
        shown = (
            f"an empty {type(branches).__name__}"
            if isinstance(branches, Sequence)
            else type(branches).__name__
        )
        raise InputError(
            f"branches must be a sequence of at least one residual branch, got {shown}"
        )
    for k, branch in enumerate(branches):
        checks.instance(
            f"branch {k}", branch, nnx.Module, "an nnx.Module; wrap functions with nf.from_function"
        )
        _check_branch(f"branch {k}", branch)
    count = len(branches)
    field = DepthVarying.from_modules(branches, PiecewiseConstant(count))
    scheme = Euler() if scheme is None else scheme
    return NeuralODE(field, FixedGrid(scheme, steps=count), 0.0, float(count))


def _check_branch(name: str, branch: Any) -> None:
    """Refuse a branch that needs another input than the state and the context."""
    if needs_time(branch):
        raise InputTypeError(
            f"{name} cannot be called as f(x) or f(x, context=...); a residual branch has "
            "no other input, such as depth time"
        )
    for i, part in enumerate(branch.parts if isinstance(branch, Split) else []):
        _check_branch(f"part {i} of {name}", part)


def to_branches(layer: NeuralODE) -> list[nnx.Module]:
    """Return the residual branches of an Euler layer, or of a transformer, as plain modules.

    The k-th residual block of the layer is x + h_k f_k(x). Here f_k is the k-th branch, and h_k is
    the length of the k-th step. On a uniform grid, h_k is (t1 - t0) / steps. The branch of a field
    f(x, t) has the depth time where its step starts. `from_branches` takes steps of length one, and
    gives the same layer back only where every h_k is one.

    A layer with `neuralflow.schemes.LieTrotter()` is a transformer, and f_k a
    `neuralflow.fields.Split`. Its k-th block walks along the parts of f_k one by one. A part that
    is a function of your own block holds the block as `f_k.parts[0].params`.

    Args:
        layer: A layer with a fixed grid that walks forward, with Euler's scheme or with the
            Lie-Trotter splitting into Euler substeps.

    Returns:
        The branches f_k, one for each step, called as f_k(x), or as f_k(x, context=...) if the
        field has a parameter `context`.

    Raises:
        InputTypeError: `layer` is not a `neuralflow.NeuralODE`, has another discretisation, or
            walks backward.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    solve = layer.discretisation
    scheme = solve.scheme.inner if isinstance(solve.scheme, LieTrotter) else solve.scheme
    if not solve.planned or not isinstance(scheme, Euler) or layer.backward:
        raise InputTypeError(
            "only a forward fixed grid with Euler, or with LieTrotter(Euler()), is a stack of "
            f"residual blocks, got {solve!r}{', backward' if layer.backward else ''}; write "
            "layer.with_solve(nf.FixedGrid(nf.Euler(), steps=...)), or reverse() a layer that "
            "walks backward, first"
        )
    plan = layer.plan()
    t0, t1 = jnp.asarray(raw(layer.t0), float), jnp.asarray(raw(layer.t1), float)
    modules = []
    for k in range(plan.steps):
        module = field_in_step(layer.field, plan.local(0.0, k))
        modules.append(_at_time(module, t0 + plan.starts[k] * (t1 - t0) / plan.total))
    return modules


def _at_time(field: Any, t: Float[Array, ""]) -> nnx.Module:
    """Return a field at one depth time: the field itself where it takes no time."""
    if isinstance(field, Split):
        parts = [_at_time(part, t) for part in field.parts]
        same = all(a is b for a, b in zip(parts, field.parts, strict=True))
        return field if same else Split(*parts)
    return _AtTime(field, t) if takes_time(field) else field
