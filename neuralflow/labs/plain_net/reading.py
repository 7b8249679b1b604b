"""Reading of plain networks: their dense layers, checked."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.fields import Activation

_DECADES = np.geomspace(1e-8, 1e8, 16 * 256 + 1)
PROBES = np.union1d(np.linspace(-30, 30, 6001), [*-_DECADES, -1.0, 0.0, 1.0, *_DECADES])
"""The points at which activations are tested, in rising order.

There are 256 points in every decade from 1e-8 to 1e8 on both sides of zero, and points in steps of
0.01 from -30 to 30.
"""


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
    weight = checks.known_numbers(f"W of layer {k}", weight, "out", "in")
    bias = checks.known_numbers(f"b of layer {k}", bias, "out")
    if len(bias) != len(weight):
        raise InputError(f"b of layer {k} holds {len(bias)} numbers, but W gives {len(weight)}")
    return Dense(weight, bias)


def _activation(k: int, activation: Any) -> Activation:
    """Return the activation, if it is a function of single numbers that never falls."""
    name = f"the activation of layer {k}"
    checks.function(name, activation, 1)
    name = f"{name}, {getattr(activation, '__name__', type(activation).__name__)}"
    count, eps = len(PROBES), float(jnp.finfo(jnp.result_type(float)).eps)
    # Rows of two in any order show what depends on neighbours, on rows or on columns.
    order = (np.random.default_rng(0).permutation(count + 1) % count).reshape(-1, 2)
    values = np.empty(count)
    values[order] = activation_values(name, activation, PROBES[order])
    some = order[::500, 0]
    alone = [activation_values(name, activation, PROBES[[[place]]]).item() for place in some]
    if not np.allclose(alone, values[some], rtol=1e-5, atol=1e-6, equal_nan=True):
        raise InputError(
            f"{name}, is no function of single numbers; take relu, tanh, softplus, ..."
        )
    near, finite = np.abs(PROBES) <= 30, np.isfinite(values)
    if not finite[near].all():
        raise InputError(
            f"{name}, is not finite at {PROBES[near & ~finite][0]:.3g}; "
            "take one that is (relu, leaky_relu, tanh, sigmoid, softplus)"
        )
    # Far out, formulas such as log(x + sqrt(x^2 + 1)) overflow or lose their digits.
    slack = np.where(near, 1e-5, 0.1) * np.abs(values).clip(1e-3) + 8 * eps * np.abs(PROBES)
    falls = finite & (values < np.maximum.accumulate(np.where(finite, values, -np.inf)) - slack)
    if falls.any():
        raise InputError(
            f"{name}, falls near {PROBES[falls.argmax()]:.3g}, so it is "
            "no flow of the line: two points would "
            "meet; take a monotone one (relu, leaky_relu, tanh, sigmoid, softplus)"
        )
    return activation


def activation_values(name: str, activation: Activation, points: np.ndarray) -> np.ndarray:
    """Return the values of an activation at points.

    Args:
        name: What the message of a refusal calls the activation.
        activation: The activation.
        points: The points, of any shape.

    Returns:
        The values, of the shape of `points`.

    Raises:
        InputTypeError: The values are not real floating-point numbers.
        InputError: The activation does not give one value for each point.
    """
    values: Any = activation(jnp.asarray(points))
    if not isinstance(values, jax.Array | np.ndarray) or values.dtype.kind != "f":
        shown = getattr(values, "dtype", type(values).__name__)
        raise InputTypeError(f"{name}, must return an array of real numbers, got {shown}")
    if values.shape != points.shape:
        raise InputError(
            f"{name}, is no function of single numbers: {points.shape} becomes {values.shape}; "
            "take relu, tanh, softplus, ..."
        )
    return np.asarray(values)
