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
    """Tell whether a field is called with depth time, and not as f(x) alone.

    A parameter named `t` or `time` takes depth time, whether the parameter has a default or not.
    Without such a name, a required second parameter takes depth time. Any other parameter with a
    default keeps its default. A `DepthVarying` takes time if the module inside does.

    Args:
        field: A module or a function, called as f(x) or f(x, t).

    Returns:
        True for f(x, t), False for f(x).

    Raises:
        InputTypeError: `field` cannot be called so: a further parameter is required, or the first
            parameter is named as depth time is. Or `field` takes `*args`, which hide whether it
            uses time.
    """
    return _time_parameter(field) is not None


def evaluate(field: Callable[..., Any], x: PyTree, t: Real | None) -> Any:
    """Evaluate the velocity of a field at the state x and the depth time t.

    Args:
        field: A module or a function, called as f(x) or f(x, t).
        x: The state.
        t: The depth time. A field that takes no time does not see it. None serves such a field.

    Returns:
        field(x, t) if the field takes time, and field(x) otherwise.

    Raises:
        InputTypeError: `field` is not callable as f(x) or f(x, t), as `takes_time` says.
    """
    parameter = _time_parameter(field)
    if parameter is None:
        return field(x)
    return field(x, t) if parameter.kind in _POSITIONAL else field(x, **{parameter.name: t})


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_TIME = ("t", "time")


def _time_parameter(field: Any) -> inspect.Parameter | None:
    """Return the parameter that takes depth time, by the rule of `takes_time`, or None.

    A parameter that is reached by its name alone is returned as keyword-only.
    """
    if isinstance(field, DepthVarying):
        return _time_parameter(field.stack)
    if not callable(field):
        raise InputTypeError(
            f"a field must be callable as f(x) or f(x, t), got {type(field).__name__}; "
            "define __call__(self, x)"
        )
    name = getattr(field, "__name__", type(field).__name__)
    parameters = list(inspect.signature(field).parameters.values())
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        raise InputTypeError(
            f"{name} takes *args, so whether it uses time cannot be told; "
            "wrap it: nf.from_function(lambda net, x: net(x), net)"
        )
    wanted = f"a field is called as f(x) or f(x, t), but {name} takes {inspect.signature(field)}"
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise InputTypeError(f"{wanted}; wrap it with nf.from_function")
    state, *further = parameters
    if state.name in _TIME and any(p.kind in _POSITIONAL for p in further):
        raise InputTypeError(f"{wanted}, with depth time first; write the state first: f(x, t)")
    required = [
        p
        for p in further
        if p.default is inspect.Parameter.empty and p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    second = further[0] if further and further[0].kind in _POSITIONAL else None
    named = [p for p in further if p.name in _TIME]
    time = next(iter(named), second if second in required else None)
    if any(p is not time for p in required) or len(named) > 1:
        raise InputTypeError(f"{wanted}; wrap it with nf.from_function")
    if time is None or time is second:
        return time
    if time.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise InputTypeError(f"{wanted}; depth time must be the second parameter or have a name")
    return time.replace(kind=inspect.Parameter.KEYWORD_ONLY)


class _WithParams(nnx.Module):
    """A function and its parameters."""

    def __init__(self, function: Callable[..., Any], params: PyTree):
        self.function = function
        self.params: Any = nnx.data(jax.tree.map(_param, params, is_leaf=_is_node))

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
        return evaluate(functools.partial(self.function, self._raw()), x, t)


def _params_and_time(function: Callable[..., Any]) -> bool:
    """Tell whether a function is f(params, x, t), by the rule of `takes_time`.

    The function raises InputTypeError for what is neither f(params, x, t) nor f(params, x).
    """
    name = getattr(function, "__name__", type(function).__name__)
    wanted = (
        "from_function takes f(params, x) or f(params, x, t), "
        f"got {name}{inspect.signature(function)}"
    )
    if next(iter(inspect.signature(function).parameters), None) in ("x", *_TIME):
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
            f"params of from_function are arrays, numbers or NNX modules, got {value!r}; "
            "keep everything else in the function, as eqx.partition(net, eqx.is_array) does"
        )
    return nnx.Param(jnp.asarray(value))


def from_function(function: Callable[..., Any], params: PyTree = ()) -> _WithParams:
    """Make a field of a plain function f(params, x) or f(params, x, t).

    The parameters travel beside the function and never in its closure. Gradients therefore reach
    them.

    A module that takes `*args` becomes a field by `from_function(lambda net, x: net(x), net)`. Such
    modules are `nnx.Sequential`, `nnx.WeightNorm`, and `nnx.bridge.ToNNX`, which holds a linen
    module. `ToNNX` advances its random streams in every call, which an adaptive solve refuses. A
    linen module that draws nothing needs no streams after `lazy_init`: `net.to_nnx__rngs = None`.

    Args:
        function: The velocity. The function takes time, by the rule of `takes_time`, if one of its
            parameters is named `t` or `time`, or if its third parameter is required.
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

        An equinox module holds functions beside its arrays. The functions stay in the closure:

        >>> import equinox as eqx
        >>> import jax
        >>> net = eqx.nn.MLP(2, 2, width_size=8, depth=1, key=jax.random.key(0))
        >>> arrays, rest = eqx.partition(net, eqx.is_array)
        >>> def velocity(arrays, x):
        ...     return jax.vmap(eqx.combine(arrays, rest))(x)
        >>> nf.from_function(velocity, arrays)(jnp.ones((5, 2))).shape
        (5, 2)
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
