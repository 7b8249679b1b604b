"""Penalties on the weights of a network as functions of depth, and the gradient that belongs to them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import basis as depth_basis, checks
from neuralflow.basis import Basis, PiecewiseConstant
from neuralflow.depth import depth_bases


def depth_energy(model: nnx.Module, tau: float = 1.0) -> Float[Array, ""]:
    """The sum over all weights theta that vary with depth of int |theta'|^2 ds + tau |theta(0)|^2, s in [0, 1].

    With n layers of weights of their own it is n sum |theta_k - theta_(k-1)|^2 + tau |theta_0|^2, the penalty of Thorpe &
    van Gennip (arXiv 1810.11741, stated there): under it the optimal weights of deeper and deeper networks converge.
    Weights that are the same at every depth cost their size alone. ValueError where no weight varies with depth.
    """
    bases, (_, params) = _bases(model), nnx.split(model)
    total: Any = 0.0
    for path, leaf in nnx.to_flat_state(params):
        if path in bases:
            value = leaf.get_value()
            rows = value.reshape(len(value), -1)
            total += jnp.sum(rows * jnp.tensordot(jnp.asarray(_gram(bases[path], tau), value.dtype), rows, axes=1))
    return total


def sobolev(model: nnx.Module, tau: float = 1.0) -> optax.GradientTransformation:
    """Gradients with respect to weights theta(s) in the inner product int theta' eta' ds + tau theta(0) eta(0).

    What steepest descent and momentum need for one learning rate to serve every depth: with n layers the plain gradient of each layer's
    weights is of order 1/n, that of a penalty on their increments of order n; this one is of order one, and smooth in
    depth, for every n. Chain it before `optax.sgd`; weights that do not vary with depth keep their gradient. Our formulation (descent
    in the whitened increments of the penalty). ValueError where no weight of the model varies with depth.
    """
    bases = _bases(model)
    paths = [path for path, _ in nnx.to_flat_state(nnx.split(model, nnx.Param, ...)[1])]
    inverses = [np.linalg.inv(_gram(bases[path], tau)) if path in bases else None for path in paths]

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        leaves, treedef = jax.tree.flatten(updates)
        if len(leaves) != len(inverses):
            raise ValueError(f"sobolev was made for a model of {len(inverses)} parameters and is given {len(leaves)} gradients")
        turned = [
            g if inverse is None else jnp.tensordot(jnp.asarray(inverse, g.dtype), g, axes=1)
            for g, inverse in zip(leaves, inverses, strict=True)
        ]
        return jax.tree.unflatten(treedef, turned), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _bases(model: nnx.Module) -> dict[tuple[Any, ...], Basis]:
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    found = depth_bases(model)
    if not found:
        raise ValueError(f"no weight of {type(model).__name__} varies with depth; put a DepthVarying into its field")
    return found


def _gram(basis: Basis, tau: float) -> np.ndarray:
    """int p' q' + tau p(0) q(0) of a basis' functions; cell values stand for the line through the cells' centres."""
    if not isinstance(tau, int | float) or not tau > 0:
        raise ValueError(f"tau must be a positive number, or constant weights cost nothing; got {tau!r}")
    if isinstance(basis, PiecewiseConstant):
        start = np.eye(basis.size)[0]
        stiffness = depth_basis.increments(basis.nodes)
    else:
        start = depth_basis.evaluation(basis, np.zeros(1))[0]
        stiffness = depth_basis.stiffness(basis)
    return stiffness + tau * np.outer(start, start)
