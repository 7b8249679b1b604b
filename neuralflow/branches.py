"""To and from plain residual branches: a ResNet's own modules as a layer, and a layer's blocks as modules."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, PiecewiseConstant, field_in_step, raw
from neuralflow.fields import takes_time
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.solve import FixedGrid


class _AtTime(nnx.Module):
    """f(., t) of a field f(x, t) at one depth time."""

    def __init__(self, field: nnx.Module, t: Float[Array, ""]):
        self.field = field
        self.t = t

    def __call__(self, x: Any) -> Any:
        field: Any = self.field
        return field(x, self.t.astype(jax.tree.leaves(x)[0].dtype))


def from_branches(branches: Sequence[nnx.Module]) -> NeuralODE:
    """The layer of a ResNet's own residual branches: x + f_0(x), then x + f_1(x), ..., to the last bit.

    Branches of one class and one set of shapes, called as f(x). The interval is [0, N] and Euler's h is one.
    """
    if (not isinstance(branches, Sequence) and not isinstance(branches, nnx.List)) or not len(
        branches
    ):
        raise InputError(
            f"from_branches takes a sequence of at least one residual branch, got {type(branches).__name__}"
        )
    for k, branch in enumerate(branches):
        checks.instance(
            f"branch {k}", branch, nnx.Module, "an nnx.Module; wrap functions with nf.from_function"
        )
        takes_time(branch)
        try:
            inspect.signature(branch).bind(None)
        except TypeError:
            raise InputTypeError(
                f"branch {k} cannot be called as f(x); a residual branch has no other input"
            ) from None
    count = len(branches)
    field = DepthVarying.from_modules(branches, PiecewiseConstant(count))
    return NeuralODE(field, FixedGrid(Euler(), steps=count), 0.0, float(count))


def to_branches(layer: NeuralODE) -> list[nnx.Module]:
    """The modules f_k such that x + h_k f_k(x) is the k-th residual block of an Euler layer.

    h_k is the step's length, (t1 - t0) / steps on a uniform grid. Raises TypeError for any other discretisation.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    solve = layer.discretisation
    if not solve.planned or not isinstance(solve.scheme, Euler) or layer.backward:
        raise InputTypeError(
            "only a forward fixed grid with Euler is a stack of residual blocks; use with_solve() first"
        )
    plan, timed = layer.plan, takes_time(layer.field)
    t0, t1 = jnp.asarray(raw(layer.t0), float), jnp.asarray(raw(layer.t1), float)
    modules = []
    for k in range(plan.steps):
        module = field_in_step(layer.field, plan.local(0.0, k))
        modules.append(
            _AtTime(module, t0 + plan.starts[k] * (t1 - t0) / plan.total) if timed else module
        )
    return modules
