"""Reading of plain networks: their dense layers, checked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.fields import Activation


def identity(x: PyTree) -> Any:
    """Return x: the activation of a layer without an activation.

    Args:
        x: Any value.
    """
    return x


class Dense(NamedTuple):
    """One plain layer x -> activation(weight @ x + bias).

    Attributes:
        weight: The weight (out, in), float64 on the host.
        bias: The bias (out,), float64 on the host.
        activation: The activation, a function of single numbers.
    """

    weight: np.ndarray
    bias: np.ndarray
    activation: Activation = identity


def read(model: nnx.Module | Sequence[Any]) -> list[Dense]:
    """Read the dense layers of a plain network, and check them.

    Args:
        model: An nnx.Sequential, or a sequence of nnx.Linear modules and activations in their
            order, or a sequence of tuples (W, b, activation) with W (out, in) and b (out,).
            Activations are functions of single numbers that never fall.

    Returns:
        The dense layers in their order.

    Raises:
        InputError: A weight or a bias has a wrong shape or holds a number that is not finite, or
            the widths of neighbouring layers differ.
        InputError: An activation falls, is not finite, or is no function of single numbers.
        InputTypeError: `model` is no such sequence, an item is nothing of the above, or a weight or
            a bias does not hold real numbers.
    """
    items = model.layers if isinstance(model, nnx.Sequential) else model
    if not isinstance(items, Sequence | nnx.List) or isinstance(items, str) or not len(items):
        raise InputTypeError(
            "a plain net is an nnx.Sequential or a sequence of nnx.Linear and activations, got "
            f"{type(model).__name__}; "
            "give its layers in their order: [model.inner, jax.nn.relu, model.outer]"
        )
    layers: list[Dense] = []
    for k, item in enumerate(items):
        if isinstance(item, nnx.Linear):
            bias = np.zeros(item.out_features) if item.bias is None else item.bias.get_value()
            layers.append(_dense(k, item.kernel.get_value().T, bias))
        elif isinstance(item, tuple) and len(item) == 3:
            layers.append(_dense(k, item[0], item[1])._replace(activation=_activation(k, item[2])))
        elif (
            callable(item)
            and not isinstance(item, nnx.Module)
            and layers
            and layers[-1].activation is identity
        ):
            layers[-1] = layers[-1]._replace(activation=_activation(k, item))
        else:
            raise InputTypeError(
                f"layer {k} of a plain net is an nnx.Linear, an activation behind one, or (W, b, "
                f"activation), got {type(item).__name__}"
            )
    for k, (a, b) in enumerate(itertools.pairwise(layers)):
        if len(a.weight) != b.weight.shape[1]:
            raise InputError(
                f"dense layer {k} gives {len(a.weight)} numbers, but the next one takes "
                f"{b.weight.shape[1]}"
            )
    return layers


def _dense(k: int, weight: Any, bias: Any) -> Dense:
    named = ("W", np.asarray(weight), "(out, in)"), ("b", np.asarray(bias), "(out,)")
    for axes, (name, array, form) in zip((2, 1), named, strict=True):
        if not (
            jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
        ):
            raise InputTypeError(
                f"{name} of layer {k} must be real numbers, got {array.dtype}; a flow moves real "
                "points"
            )
        if array.ndim != axes or not array.size:
            raise InputError(f"{name} of layer {k} must have shape {form}, got {array.shape}")
        array = array.astype(float)
        if not np.isfinite(array).all():
            raise InputError(
                f"{name} of layer {k} holds {int((~np.isfinite(array)).sum())} values that are not "
                "finite"
            )
    if len(np.asarray(bias)) != len(np.asarray(weight)):
        raise InputError(
            f"b of layer {k} holds {len(np.asarray(bias))} numbers, but W gives "
            f"{len(np.asarray(weight))}"
        )
    return Dense(np.asarray(weight, float), np.asarray(bias, float))


def _activation(k: int, activation: Any) -> Activation:
    """Return the activation, if it is a function of single numbers that never falls."""
    checks.function(f"the activation of layer {k}", activation)
    grid = np.linspace(-30, 30, 6001)
    values = np.asarray(activation(jnp.asarray(grid)))
    alone = np.asarray([activation(jnp.asarray([x]))[0] for x in grid[2900:3100:40]])
    name = getattr(activation, "__name__", type(activation).__name__)
    if values.shape != grid.shape or not np.allclose(
        alone, values[2900:3100:40], rtol=1e-5, atol=1e-6
    ):
        raise InputError(
            f"the activation of layer {k}, {name}, is no function of single numbers; take relu, "
            "tanh, softplus, ..."
        )
    falls = np.diff(values) < -1e-5 * np.abs(values[1:]).clip(1e-3)
    if falls.any() or not np.isfinite(values).all():
        raise InputError(
            f"the activation of layer {k}, {name}, falls near {grid[falls.argmax()]:.3g}, so it is "
            "no flow of the line: two points would "
            "meet; take a monotone one (relu, leaky_relu, tanh, sigmoid, softplus)"
        )
    return activation
