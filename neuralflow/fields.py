"""Velocity fields: plain NNX modules f(x) or f(x, t). Any module of that form serves; these are the common ones."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.convolution import convolution as convolution
from neuralflow.depth import DepthVarying
from neuralflow.schemes.reversible import halves, joined

Activation = Callable[[Array], Array]


def takes_time(field: Any) -> bool:
    """Whether a field is f(x, t): its second positional parameter is required, or is named `t`.

    Raises TypeError for what is not callable as f(x) or f(x, t).
    """
    if isinstance(field, DepthVarying):
        return takes_time(field.stack)
    if not callable(field):
        raise TypeError(f"a field must be callable as f(x) or f(x, t), got {type(field).__name__}; define __call__(self, x)")
    name = getattr(field, "__name__", type(field).__name__)
    kinds = inspect.Parameter
    parameters = list(inspect.signature(field).parameters.values())
    if any(p.kind is kinds.VAR_POSITIONAL for p in parameters):
        raise TypeError(
            f"{name} takes *args, so whether it uses time cannot be told; wrap it: nf.from_function(lambda net, x: net(x), net)"
        )
    positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional[2:] if p.default is kinds.empty]
    required += [p.name for p in parameters if p.kind is kinds.KEYWORD_ONLY and p.default is kinds.empty]
    if not positional or required:
        raise TypeError(
            f"a field is called as f(x) or f(x, t), but {name} takes {inspect.signature(field)}; wrap it with nf.from_function"
        )
    return len(positional) > 1 and (positional[1].default is kinds.empty or positional[1].name == "t")


def _with_time(x: Array, t: Array | float | None) -> Array:
    """x with depth time as one more feature."""
    if t is None:
        raise ValueError("this field was built with time=True, so it needs f(x, t)")
    return jnp.concatenate([x, jnp.broadcast_to(jnp.asarray(t, x.dtype), (*x.shape[:-1], 1))], axis=-1)


class MLP(nnx.Module):
    """A multilayer perceptron on the last axis: dimension -> hidden -> ... -> dimension.

    `layers`: number of hidden layers. `time`: depth time enters as one more input feature. `dtype`: the arithmetic
    of the dense layers (bfloat16, say); the velocity has the dtype of x.
    """

    def __init__(
        self,
        dimension: int,
        *,
        hidden: int,
        layers: int = 1,
        activation: Activation = jax.nn.tanh,
        time: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        for name, size in (("dimension", dimension), ("hidden", hidden), ("layers", layers)):
            checks.whole(name, size)
        checks.function("activation", activation)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        widths = [dimension + time, *([hidden] * layers), dimension]
        self.dense = nnx.List(
            nnx.Linear(a, b, dtype=dtype, param_dtype=param_dtype, rngs=rngs) for a, b in itertools.pairwise(widths)
        )
        self.activation = activation
        self.time = time

    def __call__(self, x: Float[Array, "*batch d"], t: Any = None) -> Float[Array, "*batch d"]:
        """Velocity at x, of the shape and dtype of x."""
        y = _with_time(x, t) if self.time else x
        for dense in self.dense[:-1]:
            y = self.activation(dense(y))
        return self.dense[-1](y).astype(x.dtype)


class ConvBlock(nnx.Module):
    """A pre-activation residual branch (He et al., arXiv 1603.05027) on channels-last images: twice norm, activation, conv.

    GroupNorm, which has no state, takes the place of batch normalisation. `kernel`: the size of the convolutions, or what to
    build in their place, called as kernel(inputs, outputs, dtype=..., param_dtype=..., rngs=...). `time`: depth time enters the
    convolutions as one more channel. `channels` must be a multiple of `groups`.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int | Callable[..., Any] = 3,
        groups: int = 4,
        activation: Activation = jax.nn.relu,
        time: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("channels", channels)
        checks.whole("groups", groups)
        checks.function("activation", activation)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if channels % groups:
            raise ValueError(f"channels must be a multiple of groups, got {channels} channels in {groups} groups")
        types = {"dtype": dtype, "param_dtype": param_dtype}
        self.norms = nnx.List(nnx.GroupNorm(channels, groups, rngs=rngs, **types) for _ in range(2))
        if not callable(kernel):
            checks.whole("kernel", kernel)
            kernel = functools.partial(nnx.Conv, kernel_size=(kernel, kernel), conv_general_dilated=convolution)
        self.convs = nnx.List(kernel(channels + time, channels, rngs=rngs, **types) for _ in range(2))
        self.activation = activation
        self.time = time

    def __call__(self, x: Float[Array, "*batch h w c"], t: Any = None) -> Float[Array, "*batch h w c"]:
        """Velocity at x, of the shape and dtype of x."""
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = self.activation(norm(y))
            y = conv(_with_time(y, t) if self.time else y)
        return y.astype(x.dtype)


class Antisymmetric(nnx.Module):
    """x' = activation((W - W^T - damping I) x + b): eigenvalues near the imaginary axis (Haber & Ruthotto 2017).

    `damping` >= 0 moves them to the left, which a forward Euler step needs. `time`: adds t * c inside the activation.
    """

    def __init__(
        self,
        dimension: int,
        *,
        damping: float = 0.0,
        activation: Activation = jax.nn.tanh,
        time: bool = False,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("dimension", dimension)
        checks.function("activation", activation)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if not damping >= 0:
            raise ValueError(f"damping must be >= 0, got {damping}: a negative one lets states grow")
        scale = dimension**-0.5
        self.weight = nnx.Param(scale * jax.random.normal(rngs.params(), (dimension, dimension), param_dtype))
        self.bias = nnx.Param(jnp.zeros(dimension, param_dtype))
        self.drift = nnx.Param(scale * jax.random.normal(rngs.params(), (dimension,), param_dtype)) if time else None
        self.damping = damping
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"], t: Any = None) -> Float[Array, "*batch d"]:
        """Velocity at x, of the shape and dtype of x."""
        weight = self.weight[...]
        y = x @ (weight - weight.T).T - self.damping * x + self.bias[...]
        if self.drift is not None:
            if t is None:
                raise ValueError("this field was built with time=True, so it needs f(x, t)")
            y = y + jnp.asarray(t, x.dtype) * self.drift[...]
        return self.activation(y).astype(x.dtype)


class Energy(nnx.Module):
    """A scalar function of the last axis: V(x) = w . activation(W x + b), for `Gradient` and `Hamiltonian`.

    `activation`: smooth, for its derivative is the field; softplus makes V convex where w >= 0, which is not enforced.
    """

    def __init__(
        self,
        dimension: int,
        *,
        hidden: int,
        activation: Activation = jax.nn.softplus,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("dimension", dimension)
        checks.whole("hidden", hidden)
        checks.function("activation", activation)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        self.inner = nnx.Linear(dimension, hidden, param_dtype=param_dtype, rngs=rngs)
        self.outer = nnx.Linear(hidden, 1, use_bias=False, param_dtype=param_dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """V at every sample."""
        return self.outer(self.activation(self.inner(x)))[..., 0]


class Gradient(nnx.Module):
    """x' = -grad V(x): the flow that descends an energy, whose Jacobian is symmetric.

    `energy`: a module from x (..., d) to one number a sample, (...), such as `Energy`, or any that sums over the rest.
    """

    def __init__(self, energy: nnx.Module):
        checks.instance("energy", energy, nnx.Module, "an nnx.Module such as nf.fields.Energy(...)")
        self.energy = energy

    def __call__(self, x: Any) -> Any:
        """Velocity at x, of the shape and dtype of x."""
        return jax.tree.map(jnp.negative, _slope(self.energy, x))


class Hamiltonian(nnx.Module):
    """q' = dH/dp, p' = -dH/dq on a pair (q, p), or on the two halves of an array's last axis; H is kept along the flow.

    `energy`: a module from the state to one number a sample. A separable H(q, p) = T(p) + V(q) is a field for RevNet,
    whose step is then symplectic: `Hamiltonian(nf.fields.Separable(T, V))`.
    """

    def __init__(self, energy: nnx.Module):
        checks.instance("energy", energy, nnx.Module, "an nnx.Module such as nf.fields.Energy(...)")
        self.energy = energy

    def __call__(self, x: Any) -> Any:
        """Velocity at x, in the form of x."""
        dq, dp = halves(_slope(self.energy, x))
        return joined(dp, jax.tree.map(jnp.negative, dq), x)


class Separable(nnx.Module):
    """H(q, p) = T(p) + V(q) on a pair (q, p), or on the two halves of an array's last axis."""

    def __init__(self, kinetic: nnx.Module, potential: nnx.Module):
        for name, part in (("kinetic", kinetic), ("potential", potential)):
            checks.instance(name, part, nnx.Module, "an nnx.Module such as nf.fields.Energy(...)")
        self.kinetic, self.potential = kinetic, potential

    def __call__(self, x: Any) -> Any:
        """H at every sample."""
        kinetic: Any = self.kinetic
        potential: Any = self.potential
        q, p = halves(x)
        return kinetic(p) + potential(q)


def _slope(energy: Any, x: Any) -> Any:
    """The gradient of every sample's energy."""
    value, pull = jax.vjp(energy, x)
    leading = jax.tree.leaves(x)[0].shape
    if not isinstance(value, jax.Array) or value.shape != leading[: value.ndim] or value.ndim >= len(leading):
        raise ValueError(
            f"an energy gives one number a sample, of the leading shape of x, {leading}; {type(energy).__name__} gave "
            f"{jnp.shape(value)}: sum over the last axis"
        )
    return pull(jnp.ones_like(value))[0]


class Coupled(nnx.Module):
    """X' = F(Y), Y' = G(X) on a pair of states, or on the two halves of an array's last axis: the field of a RevNet.

    `first`: the module F; `second`: the module G. Each is called as f(x), or as f(x, t) if it takes time.
    """

    def __init__(self, first: nnx.Module, second: nnx.Module):
        for name, part in (("first", first), ("second", second)):
            checks.instance(name, part, nnx.Module, "an nnx.Module; wrap functions with nf.from_function")
        self.timed = takes_time(first), takes_time(second)
        self.first, self.second = first, second

    def __call__(self, x: Any, t: Any = None) -> Any:
        """Velocity at x, in the form of x."""
        calls: Any = (self.first, self.second)
        first, second = (
            (lambda y, call=call: call(y, t)) if timed else call for call, timed in zip(calls, self.timed, strict=True)
        )
        a, b = halves(x)
        return joined(first(b), second(a), x)


class _Function(nnx.Module):
    """f(params, x) as a field."""

    def __init__(self, function: Callable[..., Any], params: Any):
        self.function = function
        self.params = nnx.data(jax.tree.map(_param, params, is_leaf=_is_node))

    def __call__(self, x: Any) -> Any:
        return self.function(self._raw(), x)

    def _raw(self) -> Any:
        return jax.tree.map(lambda p: p.get_value() if isinstance(p, nnx.Variable) else p, self.params, is_leaf=_is_node)


class _TimeFunction(_Function):
    """f(params, x, t) as a field."""

    def __call__(self, x: Any, t: Any) -> Any:
        return self.function(self._raw(), x, t)


def _params_and_time(function: Callable[..., Any]) -> bool:
    """Whether a function is f(params, x, t), by the rule of `takes_time`; TypeError where it is not f(params, x) either."""
    given = f"{getattr(function, '__name__', type(function).__name__)}{inspect.signature(function)}"
    wanted = f"from_function takes f(params, x) or f(params, x, t), got {given}"
    if next(iter(inspect.signature(function).parameters), None) == "x":
        raise TypeError(f"{wanted}; its first parameter holds the parameters: write lambda params, x: ...")
    try:
        return takes_time(functools.partial(function, None))
    except (TypeError, ValueError):
        raise TypeError(wanted) from None


def _is_node(value: Any) -> bool:
    return isinstance(value, (nnx.Module, nnx.Variable))


def _param(value: Any) -> Any:
    if _is_node(value):
        return value
    if not isinstance(value, jax.Array) and np.asarray(value).dtype.kind in "SUO":
        raise TypeError(f"params of from_function are arrays, numbers or NNX modules, got {value!r}")
    return nnx.Param(jnp.asarray(value))


def from_function(function: Callable[..., Any], params: Any = ()) -> nnx.Module:
    """A field from a plain function f(params, x) or f(params, x, t).

    `params`: a pytree of arrays, which become trainable parameters, or of NNX modules. Parameters travel beside the
    function, never in its closure, so gradients reach them.
    """
    if not callable(function):
        raise TypeError(f"from_function takes a function f(params, x) or f(params, x, t), got {type(function).__name__}")
    return _TimeFunction(function, params) if _params_and_time(function) else _Function(function, params)
