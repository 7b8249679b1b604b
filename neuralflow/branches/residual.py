"""Conversion between layers and plain residual branches.

`from_branches` turns the modules of a ResNet into a layer. `to_branches` turns the blocks of a
layer into modules.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, PiecewiseConstant, field_in_step, raw
from neuralflow.fields import evaluate, takes_time
from neuralflow.fields.functions import takes_context
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.solve import FixedGrid
from neuralflow.solve.system import time_dtype


class _AtTime(nnx.Module):
    """The module f(., t) of a field f(x, t) at one depth time."""

    def __init__(self, field: nnx.Module, t: Float[Array, ""]):
        self.field = field
        self.t = t

    def __call__(self, x: PyTree, context: PyTree = None) -> Any:
        return evaluate(self.field, x, self.t.astype(time_dtype(x)), context)


def from_branches(branches: Sequence[nnx.Module]) -> NeuralODE:
    """Return the layer that computes a ResNet from its own residual branches.

    The layer computes x + f_0(x), then x + f_1(x), and so on. It takes Euler steps of length one
    over the interval [0, N], where N is the number of branches. Its values are those of a compiled
    scan over the branches, to the last bit. A loop in Python over the branches can round
    differently.

    Args:
        branches: The residual branches f_0, f_1, ..., called as f(x), or as f(x, context=...) if
            they have a parameter `context`. All branches have the same class, options, shapes and
            dtypes.

    Returns:
        A layer with a `DepthVarying` field on `PiecewiseConstant(N)` and a fixed grid of N Euler
        steps.

    Raises:
        InputError: There is no branch, or `branches` is not a sequence.
        InputError: The branches have different structures, shapes or dtypes, or hold state that no
            solve can carry.
        InputTypeError: A branch is not an `nnx.Module` that can be called as f(x), or a weight is
            not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> f, g = (nnx.Linear(2, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1))
        >>> x = jnp.ones((3, 2))
        >>> y = x + f(x)
        >>> bool(jnp.allclose(nf.from_branches([f, g])(x), y + g(y)))
        True
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
        takes_time(branch)
        given = {"context": None} if takes_context(branch) else {}
        try:
            inspect.signature(branch).bind(None, **given)
        except TypeError:
            raise InputTypeError(
                f"branch {k} cannot be called as f(x) or f(x, context=...); a residual branch has "
                "no other input, such as depth time"
            ) from None
    count = len(branches)
    field = DepthVarying.from_modules(branches, PiecewiseConstant(count))
    return NeuralODE(field, FixedGrid(Euler(), steps=count), 0.0, float(count))


def to_branches(layer: NeuralODE) -> list[nnx.Module]:
    """Return the residual branches of an Euler layer as plain modules.

    The k-th residual block of the layer is x + h_k f_k(x). Here f_k is the k-th branch, and h_k is
    the length of the k-th step. On a uniform grid, h_k is (t1 - t0) / steps. The branch of a field
    f(x, t) has the depth time where its step starts. `from_branches` takes steps of length one, and
    gives the same layer back only where every h_k is one.

    Args:
        layer: A layer with a fixed grid and Euler's scheme that walks forward.

    Returns:
        The branches f_k, one for each step, called as f_k(x), or as f_k(x, context=...) if the
        field has a parameter `context`.

    Raises:
        InputTypeError: `layer` is not a `NeuralODE`, has another discretisation, or walks backward.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    solve = layer.discretisation
    if not solve.planned or not isinstance(solve.scheme, Euler) or layer.backward:
        raise InputTypeError(
            "only a forward fixed grid with Euler is a stack of residual blocks; use with_solve(), "
            "or reverse() of a layer that walks backward, first"
        )
    plan, timed = layer.plan(), takes_time(layer.field)
    t0, t1 = jnp.asarray(raw(layer.t0), float), jnp.asarray(raw(layer.t1), float)
    modules = []
    for k in range(plan.steps):
        module = field_in_step(layer.field, plan.local(0.0, k))
        modules.append(
            _AtTime(module, t0 + plan.starts[k] * (t1 - t0) / plan.total) if timed else module
        )
    return modules
