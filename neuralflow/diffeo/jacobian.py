"""Jacobians of maps, and their determinants along flows."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.diffeo.flows import Composition, Map
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
    if not jnp.issubdtype(points.dtype, jnp.floating):
        raise TypeError(f"a Jacobian is taken at floating points, got {points.dtype}; give x.astype(float)")
    values, pull = jax.vjp(lambda p: _rows(map(back(p)), len(points)), points)
    units = jnp.eye(values.shape[1], dtype=values.dtype)[:, None, :]
    rows = jax.vmap(lambda unit: pull(jnp.broadcast_to(unit, values.shape))[0])(units)
    return jnp.moveaxis(rows, 0, 1)


def _rows(values: Any, count: int) -> Array:
    """What a map gives, a row a sample."""
    if any(jnp.shape(leaf)[:1] != (count,) for leaf in jax.tree.leaves(values)):
        raise ValueError(f"the map must give a value for each of {count} samples, got shapes {jax.tree.map(jnp.shape, values)}")
    return flat(jax.tree.map(lambda leaf: leaf.reshape(count, -1), values))[0]


def block_determinants(layer: NeuralODE, x: Any) -> SlogDet:
    """det D block of every step at every sample, (steps, batch) each: a block of sign -1 or 0 folds there. Fixed grids only."""
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    return layer.per_step(samples(x), _determinant)


def _determinant(block: Map, x: Any) -> SlogDet:
    points, back = flat(x)
    push = lambda unit: jax.jvp(lambda p: flat(block(back(p)))[0], (points,), (jnp.broadcast_to(unit, points.shape),))[1]
    columns = jax.vmap(push)(jnp.eye(points.shape[1], dtype=points.dtype))
    return SlogDet(*jnp.linalg.slogdet(jnp.moveaxis(columns, 0, -1)))


def log_determinant(layer: NeuralODE | Composition, x: Any) -> SlogDet:
    """det D layer at every sample, (batch,) each; of a Composition, that of its flows together.

    On a fixed grid it is that of the map as it is computed: the sum of log |det (I + h DV)| over its blocks, with the product of
    their signs. Of an adaptive layer it is the integral of the divergence, to which the sum comes with O(h). On any layer that
    integral is `nf.transport.along(layer, x, nf.transport.divergence)`.
    """
    if isinstance(layer, Composition):
        sign, log = jnp.ones(()), jnp.zeros(())
        for flow in layer.flows:
            part = log_determinant(flow, x)
            x, sign, log = flow(x), sign * part.sign, log + part.log
        return SlogDet(sign, log)
    checks.instance("layer", layer, NeuralODE, "a NeuralODE, or a nf.diffeo.Composition of them; others have jacobian()")
    if isinstance(layer.discretisation, Adaptive):
        total = along(layer, x, divergence)[1][0]
        return SlogDet(jnp.ones_like(total), total)
    sign, log = block_determinants(layer, x)
    return SlogDet(jnp.prod(sign, axis=0), jnp.sum(log, axis=0))
