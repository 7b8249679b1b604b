"""What a field is: how it is called, how it is evaluated, and how a plain function becomes one.

A field is a module that is called as f(x) or f(x, t). `takes_time` tells the two forms apart.
`evaluate` is the one way to evaluate a field. `from_function` makes a field of a plain function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from neuralflow.annotations import Real
from neuralflow.checks import InputTypeError
from neuralflow.depth import DepthVarying


def takes_time(field: Any) -> bool:
    """Tell whether a field is called as f(x, t), and not as f(x).

    A field takes time if its second positional parameter is required, or is named `t`. A
    `DepthVarying` takes time if the module inside does.

    Args:
        field: A module or a function, called as f(x) or f(x, t).

    Returns:
        True for f(x, t), False for f(x).

    Raises:
        InputTypeError: `field` is not callable as f(x) or f(x, t), or it takes `*args`, which hide
            whether it uses time.
    """
    if isinstance(field, DepthVarying):
        return takes_time(field.stack)
    if not callable(field):
        raise InputTypeError(
            f"a field must be callable as f(x) or f(x, t), got {type(field).__name__}; "
            "define __call__(self, x)"
        )
    name = getattr(field, "__name__", type(field).__name__)
    kinds = inspect.Parameter
    parameters = list(inspect.signature(field).parameters.values())
    if any(p.kind is kinds.VAR_POSITIONAL for p in parameters):
        raise InputTypeError(
            f"{name} takes *args, so whether it uses time cannot be told; "
            "wrap it: nf.from_function(lambda net, x: net(x), net)"
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
            f"a field is called as f(x) or f(x, t), but {name} takes {inspect.signature(field)}; "
            "wrap it with nf.from_function"
        )
    return len(positional) > 1 and (
        positional[1].default is kinds.empty or positional[1].name == "t"
    )


def evaluate(field: Callable[..., Any], x: PyTree, t: Real | None) -> Any:
    """Evaluate the velocity of a field at the state x and the depth time t.

    Args:
        field: A module or a function, called as f(x) or f(x, t).
        x: The state.
        t: The depth time. A field that takes no time does not see it. None serves such a field.

    Returns:
        field(x, t) if the field takes time, and field(x) otherwise.

    Raises:
        InputTypeError: `field` is not callable as f(x) or f(x, t).
    """
    return field(x, t) if takes_time(field) else field(x)


class _WithParams(nnx.Module):
    """A function and its parameters."""

    def __init__(self, function: Callable[..., Any], params: PyTree):
        self.function = function
        self.params = nnx.data(jax.tree.map(_param, params, is_leaf=_is_node))

    def _raw(self) -> Any:
        """Return the parameters with arrays in place of variables."""
        return jax.tree.map(
            lambda p: p.get_value() if isinstance(p, nnx.Variable) else p,
            self.params,
            is_leaf=_is_node,
        )


class _Function(_WithParams):
    """A function f(params, x) as a field."""

    def __call__(self, x: PyTree) -> Any:
        return self.function(self._raw(), x)


class _TimeFunction(_WithParams):
    """A function f(params, x, t) as a field."""

    def __call__(self, x: PyTree, t: Real) -> Any:
        return self.function(self._raw(), x, t)


def _params_and_time(function: Callable[..., Any]) -> bool:
    """Tell whether a function is f(params, x, t), by the rule of `takes_time`.

    The function raises InputTypeError for what is neither f(params, x, t) nor f(params, x).
    """
    name = getattr(function, "__name__", type(function).__name__)
    wanted = (
        "from_function takes f(params, x) or f(params, x, t), "
        f"got {name}{inspect.signature(function)}"
    )
    if next(iter(inspect.signature(function).parameters), None) == "x":
        raise InputTypeError(
            f"{wanted}; its first parameter holds the parameters: write lambda params, x: ..."
        )
    try:
        return takes_time(functools.partial(function, None))
    except (TypeError, ValueError):
        raise InputTypeError(wanted) from None


def _is_node(value: Any) -> bool:
    """Tell whether a value is an NNX module or an NNX variable."""
    return isinstance(value, (nnx.Module, nnx.Variable))


def _param(value: Any) -> Any:
    """Wrap an array or a number in an `nnx.Param`; a module or a variable stays as it is."""
    if _is_node(value):
        return value
    if not isinstance(value, jax.Array) and np.asarray(value).dtype.kind in "SUO":
        raise InputTypeError(
            f"params of from_function are arrays, numbers or NNX modules, got {value!r}"
        )
    return nnx.Param(jnp.asarray(value))


def from_function(function: Callable[..., Any], params: PyTree = ()) -> nnx.Module:
    """Make a field of a plain function f(params, x) or f(params, x, t).

    The parameters travel beside the function and never in its closure. Gradients therefore reach
    them.

    Args:
        function: The velocity. The function takes time, by the rule of `takes_time`, if its third
            parameter is required or is named `t`.
        params: The first argument of the function: a pytree of arrays, numbers, NNX variables or
            NNX modules. Arrays and numbers become trainable parameters (`nnx.Param`). The default
            is no parameters.

    Returns:
        A module that is called as f(x) or f(x, t). Its attribute `params` holds the parameters.

    Raises:
        InputTypeError: `function` is not callable as f(params, x) or f(params, x, t), its first
            parameter is named `x`, or `params` holds something else, such as a string.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> decay = nf.from_function(lambda params, x: -params["rate"] * x, {"rate": 2.0})
        >>> decay(jnp.ones(3)).tolist()
        [-2.0, -2.0, -2.0]
        >>> layer = nf.NeuralODE(decay, nf.FixedGrid(nf.RK4(), steps=16))
        >>> round(float(layer(jnp.ones(()))), 2)  # exp(-2)
        0.14
    """
    if not callable(function):
        raise InputTypeError(
            "from_function takes a function f(params, x) or f(params, x, t), "
            f"got {type(function).__name__}"
        )
    return (
        _TimeFunction(function, params)
        if _params_and_time(function)
        else _Function(function, params)
    )
