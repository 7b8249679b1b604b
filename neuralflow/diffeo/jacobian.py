"""Jacobians of maps, and their determinants along flows."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.diffeo.flows import Map
from neuralflow.layers import NeuralODE
from neuralflow.solve import Adaptive
from neuralflow.transport import along, divergence, flat, samples


class SlogDet(NamedTuple):
    """Signs (1, 0 or -1) and logarithms of absolute values of determinants."""

    sign: Array
    log: Array


def jacobian(map: Map, x: Any) -> Float[Array, "batch k d"]:
    """D map at every sample of x, (batch, ...) with all that is behind axis 0 as one point of d coordinates.

    By reverse mode, for any layer, composition or function of samples that do not know of each other.
    """
    checks.function("map", map)
    points, back = flat(samples(x))
    values, pull = jax.vjp(lambda p: flat(map(back(p)))[0], points)
    units = jnp.eye(values.shape[1], dtype=values.dtype)[:, None, :]
    rows = jax.vmap(lambda unit: pull(jnp.broadcast_to(unit, values.shape))[0])(units)
    return jnp.moveaxis(rows, 0, 1)


def block_determinants(layer: NeuralODE, x: Any) -> SlogDet:
    """det D block of every step at every sample, (steps, batch) each: a block of sign -1 or 0 folds there. Fixed grids only."""
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    return layer.per_step(samples(x), _determinant)


def _determinant(block: Map, x: Any) -> SlogDet:
    points, back = flat(x)
    push = lambda unit: jax.jvp(lambda p: flat(block(back(p)))[0], (points,), (jnp.broadcast_to(unit, points.shape),))[1]
    columns = jax.vmap(push)(jnp.eye(points.shape[1], dtype=points.dtype))
    return SlogDet(*jnp.linalg.slogdet(jnp.moveaxis(columns, 0, -1)))


def log_determinant(layer: NeuralODE, x: Any) -> SlogDet:
    """det D layer at every sample, (batch,) each.

    On a fixed grid it is that of the map as it is computed: the sum of log |det (I + h DV)| over its blocks, with the product of
    their signs. Of an adaptive layer it is the integral of the divergence, to which the sum comes with O(h). On any layer that
    integral is `nf.transport.along(layer, x, nf.transport.divergence)`.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    if isinstance(layer.discretisation, Adaptive):
        total = along(layer, x, divergence)[1][0]
        return SlogDet(jnp.ones_like(total), total)
    sign, log = block_determinants(layer, x)
    return SlogDet(jnp.prod(sign, axis=0), jnp.sum(log, axis=0))
