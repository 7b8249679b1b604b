"""What a field is: a module called as f(x) or f(x, t), plain functions as fields, and the one way to evaluate a field."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from neuralflow.checks import InputTypeError
from neuralflow.depth import DepthVarying


def takes_time(field: Any) -> bool:
    """Whether a field is f(x, t): its second positional parameter is required, or is named `t`.

    Raises TypeError for what is not callable as f(x) or f(x, t).
    """
    if isinstance(field, DepthVarying):
        return takes_time(field.stack)
    if not callable(field):
        raise InputTypeError(
            f"a field must be callable as f(x) or f(x, t), got {type(field).__name__}; define __call__(self, x)"
        )
    name = getattr(field, "__name__", type(field).__name__)
    kinds = inspect.Parameter
    parameters = list(inspect.signature(field).parameters.values())
    if any(p.kind is kinds.VAR_POSITIONAL for p in parameters):
        raise InputTypeError(
            f"{name} takes *args, so whether it uses time cannot be told; wrap it: nf.from_function(lambda net, x: net(x), net)"
        )
    positional = [
        p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    required = [p.name for p in positional[2:] if p.default is kinds.empty]
    required += [
        p.name for p in parameters if p.kind is kinds.KEYWORD_ONLY and p.default is kinds.empty
    ]
    if not positional or required:
        raise InputTypeError(
            f"a field is called as f(x) or f(x, t), but {name} takes {inspect.signature(field)}; wrap it with nf.from_function"
        )
    return len(positional) > 1 and (
        positional[1].default is kinds.empty or positional[1].name == "t"
    )


def evaluate(field: Any, x: Any, t: Any) -> Any:
    """The velocity of a field at x and depth time t: field(x, t), or field(x) where it takes no time."""
    return field(x, t) if takes_time(field) else field(x)


class _Function(nnx.Module):
    """f(params, x) as a field."""

    def __init__(self, function: Callable[..., Any], params: Any):
        self.function = function
        self.params = nnx.data(jax.tree.map(_param, params, is_leaf=_is_node))

    def __call__(self, x: Any) -> Any:
        return self.function(self._raw(), x)

    def _raw(self) -> Any:
        return jax.tree.map(
            lambda p: p.get_value() if isinstance(p, nnx.Variable) else p,
            self.params,
            is_leaf=_is_node,
        )


class _TimeFunction(_Function):
    """f(params, x, t) as a field."""

    def __call__(self, x: Any, t: Any) -> Any:
        return self.function(self._raw(), x, t)


def _params_and_time(function: Callable[..., Any]) -> bool:
    """Whether a function is f(params, x, t), by the rule of `takes_time`; TypeError where it is not f(params, x) either."""
    name = getattr(function, "__name__", type(function).__name__)
    wanted = f"from_function takes f(params, x) or f(params, x, t), got {name}{inspect.signature(function)}"
    if next(iter(inspect.signature(function).parameters), None) == "x":
        raise InputTypeError(
            f"{wanted}; its first parameter holds the parameters: write lambda params, x: ..."
        )
    try:
        return takes_time(functools.partial(function, None))
    except (TypeError, ValueError):
        raise InputTypeError(wanted) from None


def _is_node(value: Any) -> bool:
    return isinstance(value, (nnx.Module, nnx.Variable))


def _param(value: Any) -> Any:
    if _is_node(value):
        return value
    if not isinstance(value, jax.Array) and np.asarray(value).dtype.kind in "SUO":
        raise InputTypeError(
            f"params of from_function are arrays, numbers or NNX modules, got {value!r}"
        )
    return nnx.Param(jnp.asarray(value))


def from_function(function: Callable[..., Any], params: Any = ()) -> nnx.Module:
    """A field from a plain function f(params, x) or f(params, x, t).

    `params`: a pytree of arrays, which become trainable parameters, or of NNX modules. Parameters travel beside the
    function, never in its closure, so gradients reach them.
    """
    if not callable(function):
        raise InputTypeError(
            f"from_function takes a function f(params, x) or f(params, x, t), got {type(function).__name__}"
        )
    return (
        _TimeFunction(function, params)
        if _params_and_time(function)
        else _Function(function, params)
    )
