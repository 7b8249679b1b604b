"""Penalties: on weights as functions of depth, with the gradient that belongs to them, and on the motion of a flow.

Those of the motion are rates, which `transport.along` integrates beside the states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.depth import Basis, depth_bases
from neuralflow.depth.basis import sobolev_gram
from neuralflow.layers import NeuralODE
from neuralflow.transport import Motion, flat, log_determinant, samples


def depth_energy(model: nnx.Module, tau: float = 1.0) -> Float[Array, ""]:
    """The sum over all weights theta that vary with depth of int |theta'|^2 ds + tau |theta(0)|^2, s in [0, 1].

    With n layers of weights of their own it is n sum |theta_k - theta_(k-1)|^2 + tau |theta_0|^2, the penalty of Thorpe &
    van Gennip (arXiv 1810.11741, stated there): under it the optimal weights of deeper and deeper networks converge.
    Weights that are the same at every depth cost their size alone. ValueError where no weight varies with depth.
    """
    products = _products(model, tau)
    params = nnx.to_flat_state(nnx.split(model, nnx.Param, ...)[1])
    return sum(
        (products[path].square(leaf.get_value()) for path, leaf in params if path in products),
        jnp.zeros(()),
    )


def sobolev(model: nnx.Module, tau: float = 1.0) -> optax.GradientTransformation:
    """Gradients with respect to weights theta(s) in the inner product int theta' eta' ds + tau theta(0) eta(0).

    What steepest descent and momentum need for one learning rate to serve every depth: with n layers the plain gradient
    of each layer's weights is of order 1/n, that of a penalty on their increments of order n; this one is of order one,
    and smooth in depth, for every n. Chain it before `optax.sgd`; weights that do not vary with depth keep their
    gradient. Our formulation (descent in the whitened increments of the penalty). ValueError where no weight of the
    model varies with depth.
    """
    chosen = _chosen(model, tau)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return _mapped(chosen, lambda product, g: product.gradient(g), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def whitened(model: nnx.Module, gradient: Any, tau: float = 1.0) -> Any:
    """A gradient, a pytree like the model's parameters, in coordinates in which its Euclidean norm is the dual one.

    That is the norm of its Sobolev gradient: it does not depend on the number of layers, nor on whether weights stand in
    cells or at knots. ValueError where no weight of the model varies with depth.
    """
    return _mapped(_chosen(model, tau), lambda product, g: product.whitened(g), gradient)


def kinetic_energy(motion: Motion) -> Float[Array, "batch"]:
    """|v|^2 of every sample, a rate for `nf.transport.along`: its integral is twice the flow's kinetic energy.

    Least for straight paths of constant speed, so that a solver takes few steps (Finlay et al., arXiv 2002.02798, stated
    there).
    """
    return jnp.sum(motion.velocity**2, axis=1)


def jacobian_frobenius(motion: Motion) -> Float[Array, "batch"]:
    """|grad v|_F^2 of every sample, a rate for `nf.transport.along`, estimated by the probes of the divergence where it is.

    It keeps neighbours together (Finlay et al., arXiv 2002.02798, stated there).
    """
    return motion.frobenius


def inverse_consistency(layer: NeuralODE, x: Any) -> Float[Array, "batch"]:
    """|back(layer(x)) - x|^2 of every sample, `back` walking the same steps backward: how far they are from a flow's.

    On a fixed grid it is O(h^2p) for a scheme of order p and a smooth field, and says where the steps are too long; zero to the
    tolerances for an adaptive layer. Our formulation of the inverse consistency of Rousseau & Fablet (arXiv 1805.09585).
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    return jnp.sum(
        flat(jax.tree.map(jnp.subtract, layer.reverse()(layer(x)), samples(x)))[0] ** 2, axis=1
    )


def volume_change(layer: NeuralODE, x: Any) -> Float[Array, "batch"]:
    """(log |det D layer|)^2 of every sample: zero where volumes stay, large where the layer is about to fold. Our formulation."""
    return log_determinant(layer, x).log ** 2


def _chosen(model: nnx.Module, tau: float) -> list[_Product | None]:
    """The product of every parameter, in the order in which gradients come; None where it does not vary with depth."""
    products = _products(model, tau)
    flat = list(nnx.to_flat_state(nnx.split(model, nnx.Param, ...)[1]))
    numbered = nnx.from_flat_state([(path, leaf.replace(k)) for k, (path, leaf) in enumerate(flat)])
    return [products.get(flat[k][0]) for k in jax.tree.leaves(numbered)]


def _mapped(
    chosen: list[_Product | None], function: Callable[[_Product, Array], Array], gradient: Any
) -> Any:
    leaves, treedef = jax.tree.flatten(gradient)
    wrong = len(leaves) != len(chosen) or any(
        p and p.basis.size != len(g) for p, g in zip(chosen, leaves, strict=True)
    )
    if wrong:
        sizes = [p.basis.size for p in chosen if p]
        raise InputError(
            f"this was made for a model of {len(chosen)} parameters, with {sorted(set(sizes))} coefficients in depth, and is given "
            f"gradients of shapes {[jnp.shape(g) for g in leaves]}; make it anew for the new model"
        )
    turned = [
        g if product is None else function(product, g)
        for g, product in zip(leaves, chosen, strict=True)
    ]
    return jax.tree.unflatten(treedef, turned)


@dataclass(frozen=True)
class _Product:
    """int p' q' + tau p(0) q(0) on a basis; values of cells stand for the line through the cells' centres.

    Nodal values are taken as increments, weighted by `squares`: of smooth weights the entries of the Gram matrix would
    cancel. A polynomial or a spline has its Gram matrix.
    """

    basis: Basis
    tau: float

    @property
    def squares(self) -> np.ndarray:
        return np.append(self.tau, 1 / np.diff(self.basis.nodes))

    @property
    def gram(self) -> np.ndarray:
        return sobolev_gram(self.basis, self.tau)

    def square(self, coefficients: Array) -> Array:
        """The product of a function with itself."""
        rows = coefficients.reshape(len(coefficients), -1)
        if not self.basis.nodal:
            return jnp.sum(rows * (jnp.asarray(self.gram, rows.dtype) @ rows))
        rises = jnp.concatenate([rows[:1], jnp.diff(rows, axis=0)])
        return jnp.sum(jnp.asarray(self.squares, rows.dtype) @ rises**2)

    def gradient(self, slope: Array) -> Array:
        """What represents a derivative in this product: the inverse of the Gram matrix times it."""
        if not self.basis.nodal:
            return jnp.tensordot(jnp.asarray(np.linalg.inv(self.gram), slope.dtype), slope, axes=1)
        return jnp.cumsum(self._column(slope) * self.whitened(slope), axis=0)

    def whitened(self, slope: Array) -> Array:
        """A derivative in coordinates in which the product is the Euclidean one."""
        if not self.basis.nodal:
            root = np.linalg.inv(np.linalg.cholesky(self.gram))
            return jnp.tensordot(jnp.asarray(root, slope.dtype), slope, axes=1)
        return self._column(slope) * jnp.flip(jnp.cumsum(jnp.flip(slope, 0), axis=0), 0)

    def _column(self, like: Array) -> Array:
        return jnp.asarray(self.squares**-0.5, like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def _products(model: nnx.Module, tau: float) -> dict[tuple[Any, ...], _Product]:
    """The product of every weight that varies with depth."""
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    if not isinstance(tau, int | float) or not tau > 0:
        raise InputError(
            f"tau must be a positive Python number, or constant weights cost nothing; got {tau!r}"
        )
    bases = depth_bases(model)
    if not bases:
        raise InputError(
            f"no weight of {type(model).__name__} varies with depth; put a DepthVarying into its field"
        )
    return {path: _Product(basis, float(tau)) for path, basis in bases.items()}
