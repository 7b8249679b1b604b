"""What a field is: how it is called, how it is evaluated, and how a plain function becomes one.

A field is a module that is called as f(x) or f(x, t), with a context or without. `takes_time` and
`takes_context` tell these forms apart. `evaluate` is the one way to evaluate a field.
`from_function` makes a field of a plain function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying


def takes_time(field: Any) -> bool:
    """Tell whether a field is called with depth time, and not as f(x) alone.

    A parameter named `t` or `time` takes depth time, whether the parameter has a default or not.
    Without such a name, a required second parameter takes depth time. A parameter named `context`
    takes the context. Any other parameter with a default keeps its default. A
    `neuralflow.DepthVarying` takes time if the module inside does, and an `nnx.Sequential` if its
    first layer does.

    Args:
        field: A module or a function, called as f(x) or f(x, t), with `context` or without.

    Returns:
        True for f(x, t), False for f(x).

    Raises:
        InputTypeError: `field` cannot be called so: a further parameter is required, or the first
            parameter is named as depth time or the context is. Or `field` takes `*args`, which hide
            whether it uses time.
    """
    return _parameters(field).time is not None


def needs_time(field: Any) -> bool:
    """Tell whether a field cannot be called without depth time.

    Args:
        field: A module or a function, as for `takes_time`.

    Returns:
        True for f(x, t), False for f(x) and for a depth time with a default.

    Raises:
        InputTypeError: `field` cannot be called as `takes_time` says.
    """
    time = _parameters(field).time
    return time is not None and time.default is time.empty


def takes_context(field: Any) -> bool:
    """Tell whether a field is called with a context: whether it has a parameter named `context`.

    Args:
        field: A module or a function, as for `takes_time`.

    Returns:
        True for f(x, context=...) and f(x, t, context=...).

    Raises:
        InputTypeError: `field` cannot be called as `takes_time` says.
    """
    return _parameters(field).context is not None


def evaluate(
    field: Callable[..., Any], x: PyTree, t: Real | None = None, context: PyTree = None
) -> Any:
    """Evaluate the velocity of a field at the state x and the depth time t.

    Args:
        field: A module or a function, called as f(x) or f(x, t), with `context` or without.
        x: The state.
        t: The depth time. A field that takes no time does not see it. None serves such a field, and
            a field whose depth time has a default.
        context: The context, a pytree of arrays. None stands for no context: a parameter `context`
            with a default then keeps its default.

    Returns:
        The velocity of the field, called with what the field takes.

    Raises:
        InputError: `t` is needed and not finite.
        InputTypeError: `field` is not callable as `takes_time` says, or takes no context and is
            given one, or needs a context or depth time and gets none. Or `x` is not made of arrays
            of numbers, or `t` is needed and not one number.
    """
    time = _parameters(field).time
    check_context(field, context)
    _check_state(x)
    given = {} if context is None else {"context": context}
    if time is None or (t is None and time.default is not time.empty):
        return field(x, **given)
    if t is None:
        raise InputTypeError(f"{_name(field)} needs depth time; call it as f(x, t)")
    checks.number("t", t)
    return field(x, t, **given) if time.kind in _POSITIONAL else field(x, **{time.name: t}, **given)


def evaluate_parts(
    parts: Sequence[Callable[..., Any]], states: Sequence[PyTree], t: Real | None, context: PyTree
) -> list[Any]:
    """Evaluate the parts of a field, and hand the context to those parts that take one.

    Args:
        parts: The parts, each called as a field is.
        states: One state for each part.
        t: The depth time, as for `evaluate`.
        context: The context, or None.

    Returns:
        The velocity of each part.

    Raises:
        InputTypeError: A context is given, and no part takes one. Or a part is refused, as
            `evaluate` says.
    """
    check_parts_context(parts, context)
    return [
        evaluate(part, x, t, context if takes_context(part) else None)
        for part, x in zip(parts, states, strict=True)
    ]


def check_parts_context(parts: Sequence[Callable[..., Any]], context: PyTree) -> None:
    """Refuse a context that no part of a field takes, and a missing one that a part needs.

    Args:
        parts: The parts.
        context: The context, or None.

    Raises:
        InputTypeError: No part takes the context, or a part needs one and gets none.
    """
    takers = [part for part in parts if takes_context(part)]
    for part in takers or parts[:1]:
        check_context(part, context)


def check_context(field: Any, context: PyTree) -> None:
    """Refuse a context that a field does not take, and a missing one that the field needs.

    Args:
        field: A module or a function, as for `takes_time`.
        context: The context, or None for no context.

    Raises:
        InputTypeError: The field takes no context and is given one, or needs one and gets none.
    """
    parameter, name = _parameters(field).context, _name(field)
    if parameter is None and context is not None:
        raise InputTypeError(
            f"a context is given, but {name} has no parameter named `context`; add one to its "
            "__call__, or leave the context out"
        )
    if parameter is not None and context is None and parameter.default is parameter.empty:
        raise InputTypeError(
            f"{name} needs a context, and none is given; call the layer as layer(x, context=...)"
        )


def check_shapes(name: str, x: PyTree, v: PyTree) -> None:
    """Refuse a velocity of another structure or of other shapes than the state.

    Args:
        name: The name of the field, for the message.
        x: The state.
        v: The velocity at x.

    Raises:
        InputError: The velocity differs from x in one of the two.
    """
    wanted, given = (jax.tree.map(jnp.shape, a) for a in (x, v))
    if wanted != given:
        raise InputError(f"the velocity of {name} must have the shape of x, {wanted}, got {given}")


def _check_state(x: PyTree) -> None:
    """Refuse what is not made of numbers and arrays of numbers."""
    leaves = [x] if isinstance(x, Iterator) else jax.tree.leaves(x)
    known = [leaf for leaf in leaves if isinstance(leaf, int | float | complex)]
    if not leaves or len(known) + sum(map(checks.holds_numbers, leaves)) < len(leaves):
        raise InputTypeError(
            "x must be an array of numbers or a pytree of such arrays, got a "
            f"{type(x).__name__}; write jnp.asarray(x)"
        )


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_TIME = ("t", "time")


class _Parameters(NamedTuple):
    """The parameters of a field beside the state, by the rule of `takes_time`.

    Attributes:
        time: The parameter that takes depth time, or None. A parameter that is reached by its name
            alone is keyword-only here.
        context: The parameter that takes the context, which is reached by its name, or None.
    """

    time: inspect.Parameter | None
    context: inspect.Parameter | None


def _callee(field: Any) -> Any:
    """Return what decides how a field is called: the module or the function inside."""
    if isinstance(field, DepthVarying):
        return _callee(field.stack)
    # A Sequential hands on what it is called with to its first layer.
    if type(field) is nnx.Sequential and field.layers:
        return _callee(field.layers[0])
    return functools.partial(field.function, None) if isinstance(field, _Function) else field


def _name(field: Any) -> str:
    """Return the name of a field for a message."""
    inner = _callee(field)
    inner = inner.func if isinstance(inner, functools.partial) else inner
    return getattr(inner, "__name__", type(inner).__name__)


def _parameters(field: Any) -> _Parameters:
    """Return the parameters that take depth time and the context, and refuse other fields."""
    field, name = _callee(field), _name(field)
    if not callable(field):
        raise InputTypeError(
            f"a field must be callable as f(x) or f(x, t), got {name}; define __call__(self, x)"
        )
    try:
        parameters = list(inspect.signature(field).parameters.values())
    except ValueError:
        raise InputTypeError(
            f"a field must tell what it takes, but {name} has no signature; wrap it: lambda x: ..."
        ) from None
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        raise InputTypeError(
            f"the field {name} takes *args, so whether it uses time cannot be told; "
            "wrap it: nf.from_function(lambda net, x: net(x), net)"
        )
    wanted = f"a field is called as f(x) or f(x, t), but {name} takes {inspect.signature(field)}"
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise InputTypeError(f"{wanted}; wrap it with nf.from_function")
    state, *further = parameters
    if state.name in (*_TIME, "context") and any(p.kind in _POSITIONAL for p in further):
        first = "depth time" if state.name in _TIME else "the context"
        raise InputTypeError(f"{wanted}, with {first} first; write the state first: f(x, t)")
    second = further[0] if further and further[0].kind in _POSITIONAL else None
    context = next((p for p in further if p.name == "context"), None)
    further = [p for p in further if p is not context]
    required = [p for p in further if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    named = [p for p in further if p.name in _TIME]
    time = next(iter(named), second if second in required else None)
    if any(p is not time for p in required) or len(named) > 1:
        raise InputTypeError(f"{wanted}; wrap it with nf.from_function")
    if context is not None and context.kind is context.POSITIONAL_ONLY:
        raise InputTypeError(f"{wanted}; a context must be reached by its name")
    if time is None or time is second:
        return _Parameters(time, context)
    if time.kind is time.POSITIONAL_ONLY:
        raise InputTypeError(f"{wanted}; depth time must be the second parameter or have a name")
    return _Parameters(time.replace(kind=inspect.Parameter.KEYWORD_ONLY), context)


class _Function(nnx.Module):
    """A function and its parameters as a field."""

    def __init__(self, function: Callable[..., Any], params: PyTree):
        self.function = function
        self.params: Any = nnx.data(jax.tree.map(_param, params, is_leaf=_is_node))

    def __call__(self, x: PyTree, t: Real | None = None, *, context: PyTree = None) -> Any:
        raw = jax.tree.map(
            lambda p: p.get_value() if isinstance(p, nnx.Variable) else p,
            self.params,
            is_leaf=_is_node,
        )
        return evaluate(functools.partial(self.function, raw), x, t, context)


def _check_function(function: Callable[..., Any]) -> None:
    """Refuse what is not f(params, x) or f(params, x, t), by the rule of `takes_time`."""
    name = getattr(function, "__name__", type(function).__name__)
    wanted = f"function must be called as f(params, x) or f(params, x, t), got {name}"
    try:
        signature = inspect.signature(function)
    except ValueError:
        raise InputTypeError(f"{wanted}, which has no signature; wrap it in a lambda") from None
    wanted = f"{wanted}{signature}"
    if next(iter(signature.parameters), None) in ("x", "context", *_TIME):
        raise InputTypeError(
            f"{wanted}; its first parameter holds the parameters: write lambda params, x: ..."
        )
    try:
        takes_time(functools.partial(function, None))
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


def from_function(function: Callable[..., Any], params: PyTree = ()) -> _Function:
    """Make a field of a plain function f(params, x) or f(params, x, t).

    The parameters travel beside the function and never in its closure. Gradients therefore reach
    them.

    A module that takes `*args` becomes a field by `from_function(lambda net, x: net(x), net)`. Such
    modules are `nnx.WeightNorm` and `nnx.bridge.ToNNX`, which holds a linen module. Several of them
    share one function that has a name. `ToNNX` advances its random streams in every call, which an
    adaptive solve refuses. A linen module that draws nothing needs no streams after `lazy_init`:
    `net.to_nnx__rngs = None`.

    Args:
        function: The velocity. The function takes time, by the rule of
            `neuralflow.fields.takes_time`, if one of its parameters is named `t` or `time`, or if
            its third parameter is required. A parameter named `context` takes the context.
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
            "function must be called as f(params, x) or f(params, x, t), "
            f"got {type(function).__name__}"
        )
    _check_function(function)
    return _Function(function, params)
