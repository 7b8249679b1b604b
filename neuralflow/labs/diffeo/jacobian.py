"""Jacobians of maps, and their determinants along flows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from neuralflow import checks, transport
from neuralflow.checks import InputError, InputTypeError
from neuralflow.labs.diffeo.flows import Composition, Map
from neuralflow.layers import NeuralODE
from neuralflow.transport import SlogDet, flat, samples

__all__ = ["jacobian", "log_determinant"]
__docformat__ = "google"


def jacobian(mapping: Map, x: PyTree) -> Float[Array, "batch k d"]:
    """Compute the Jacobian matrix of a map at every sample.

    All axes of x behind axis 0 form one point of d coordinates. All axes of the value behind axis 0
    form one point of k coordinates. The function differentiates in reverse mode. `mapping` may be
    any layer, composition or function that treats every sample independently of the others.

    Args:
        mapping: The map from samples `(batch, ...)` to values with the same leading axis.
        x: The samples `(batch, ...)`, an array or a pytree of arrays of real floating numbers.

    Returns:
        The Jacobian matrices, `(batch, k, d)`.

    Raises:
        InputTypeError: `mapping` is not a function of one argument, or does not give arrays of real
            floating numbers.
        InputTypeError: `x` has no axis of samples, or does not consist of real floating numbers.
        InputError: `mapping` does not give a value for each sample.
    """
    checks.function("map", mapping, 1)
    points, back = flat(samples(x))
    if not jnp.issubdtype(points.dtype, jnp.floating):
        raise InputTypeError(
            f"a Jacobian is taken at floating points, got {points.dtype}; give x.astype(float)"
        )
    values, pull = jax.vjp(lambda p: _rows(mapping(back(p)), len(points)), points)
    units = jnp.eye(values.shape[1], dtype=values.dtype)[:, None, :]
    rows = jax.vmap(lambda unit: pull(jnp.broadcast_to(unit, values.shape))[0])(units)
    return jnp.moveaxis(rows, 0, 1)


def _rows(values: PyTree, count: int) -> Array:
    """Return the values of a map as one row for each sample."""
    leaves = jax.tree.leaves(values)
    if not leaves or not all(
        isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves
    ):
        raise InputTypeError(
            "the map must give arrays of real floating-point numbers, got "
            f"{[getattr(leaf, 'dtype', leaf) for leaf in leaves]}"
        )
    if any(leaf.shape[:1] != (count,) for leaf in leaves):
        raise InputError(
            f"the map must give a value for each of {count} samples, got shapes "
            f"{jax.tree.map(jnp.shape, values)}"
        )
    return flat(jax.tree.map(lambda leaf: leaf.reshape(count, -1), values))[0]


def log_determinant(flow: NeuralODE | Composition, x: PyTree) -> SlogDet:
    """Compute the determinant of the Jacobian of a flow at every sample.

    For a layer, the result is that of `neuralflow.transport.log_determinant`. For a
    `neuralflow.labs.diffeo.Composition`, the logarithms of its flows are added, and their signs are
    multiplied.

    Args:
        flow: A NeuralODE, or a `neuralflow.labs.diffeo.Composition` of NeuralODEs.
        x: The samples `(batch, ...)` at the start of the flow.

    Returns:
        The signs and the logarithms of the absolute values, `(batch,)` each.

    Raises:
        InputTypeError: `flow` is of another kind. `jacobian` handles any other map.
    """
    if not isinstance(flow, Composition):
        checks.instance(
            "flow",
            flow,
            NeuralODE,
            "a NeuralODE, or a nf.labs.diffeo.Composition of them; others have jacobian()",
        )
        return transport.log_determinant(flow, x)
    sign, log = jnp.ones(()), jnp.zeros(())
    for part in flow.flows:
        determinant = log_determinant(part, x)
        x, sign, log = part(x), sign * determinant.sign, log + determinant.log
    return SlogDet(sign, log)
