"""Jacobians of maps, and their determinants along flows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuralflow import checks, transport
from neuralflow.checks import InputError, InputTypeError
from neuralflow.labs.diffeo.flows import Composition, Map
from neuralflow.layers import NeuralODE
from neuralflow.transport import SlogDet, flat, samples


def jacobian(mapping: Map, x: Any) -> Float[Array, "batch k d"]:
    """D mapping at every sample of x, (batch, ...) with all that is behind axis 0 as one point of d coordinates.

    By reverse mode, for any layer, composition or function of samples that do not know of each other.
    """
    checks.function("map", mapping)
    points, back = flat(samples(x))
    if not jnp.issubdtype(points.dtype, jnp.floating):
        raise InputTypeError(
            f"a Jacobian is taken at floating points, got {points.dtype}; give x.astype(float)"
        )
    values, pull = jax.vjp(lambda p: _rows(mapping(back(p)), len(points)), points)
    units = jnp.eye(values.shape[1], dtype=values.dtype)[:, None, :]
    rows = jax.vmap(lambda unit: pull(jnp.broadcast_to(unit, values.shape))[0])(units)
    return jnp.moveaxis(rows, 0, 1)


def _rows(values: Any, count: int) -> Array:
    """What a map gives, a row a sample."""
    if any(jnp.shape(leaf)[:1] != (count,) for leaf in jax.tree.leaves(values)):
        raise InputError(
            f"the map must give a value for each of {count} samples, got shapes {jax.tree.map(jnp.shape, values)}"
        )
    return flat(jax.tree.map(lambda leaf: leaf.reshape(count, -1), values))[0]


def log_determinant(flow: NeuralODE | Composition, x: Any) -> SlogDet:
    """det D flow at every sample, (batch,) each: `nf.transport.log_determinant` of a layer, the sum of those of a Composition's flows."""
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
