"""Penalties on weights as functions of depth, and penalties on the motion of a flow.

Penalties on weights come with the gradient that belongs to them. Penalties on the motion are rates,
which `neuralflow.transport.along` integrates beside the states. A new rate is a function of a
`neuralflow.transport.Motion`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffrax import AbstractERK
from flax import nnx
from jax import core
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis, depth_bases
from neuralflow.depth.basis import sobolev_gram
from neuralflow.fields import evaluate
from neuralflow.fields.functions import check_context
from neuralflow.layers import NeuralODE
from neuralflow.schemes.network import prepared
from neuralflow.schemes.watched import Watch, Watched, sees_stiffness
from neuralflow.solve import Adaptive
from neuralflow.solve.system import time_dtype
from neuralflow.transport import MOST_DERIVATIVES, Motion, Rate, flat, log_determinant, samples

__docformat__ = "google"


def depth_energy(model: nnx.Module, tau: float = 1.0) -> Float[Array, ""]:
    """Compute the energy of a model's weights as functions of depth.

    The energy of a weight theta(s) is int |theta'|^2 ds + tau |theta(0)|^2, where s in [0, 1] is
    normalised depth. The result is the sum over all weights that vary with depth. Weights that are
    the same at every depth cost tau |theta(0)|^2 alone.

    Suppose that n layers have weights theta_k of their own. Then the energy is
    n sum |theta_k - theta_(k-1)|^2 + tau |theta_0|^2. Under this penalty, the optimal weights of
    deeper and deeper networks converge.

    Args:
        model: The model, with a `neuralflow.DepthVarying` anywhere inside.
        tau: The weight of the term at depth 0, a positive number.

    Returns:
        The energy, a scalar.

    Raises:
        InputError: No weight of the model varies with depth, or `tau` is not positive and finite.
        InputTypeError: `model` is no `nnx.Module`, or `tau` is no known number.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> line = nf.PiecewiseLinear(4)
        >>> net = nf.DepthVarying(lambda rngs: nnx.Linear(1, 1, rngs=rngs), line, rngs=nnx.Rngs(0))
        >>> net.stack.kernel.set_value(1 + 2 * jnp.linspace(0, 1, 5).reshape(5, 1, 1))
        >>> print(nf.regularisers.depth_energy(net).round(2))
        5.0

    Source:
        Thorpe & van Gennip, arXiv 1810.11741, stated there.
    """
    products = _products(model, tau)
    params = nnx.to_flat_state(nnx.split(model, nnx.Param, ...)[1])
    return sum(
        (products[path].square(leaf.get_value()) for path, leaf in params if path in products),
        jnp.zeros(()),
    )


def sobolev(model: nnx.Module, tau: float = 1.0) -> optax.GradientTransformation:
    """Make an optax transformation that turns plain gradients into Sobolev gradients.

    The Sobolev gradient is the gradient in the inner product
    int theta' eta' ds + tau theta(0) eta(0) of weights theta(s) and eta(s), where s in [0, 1] is
    normalised depth. With this gradient, one learning rate of steepest descent or momentum serves
    every depth.

    With n layers, the plain gradient of each layer's weights is of order 1/n. The plain gradient of
    a penalty on the increments of the weights is of order n. The Sobolev gradient is of order one
    and smooth in depth, for every n.

    Chain the transformation before `optax.sgd`. Weights that do not vary with depth keep their
    gradient.

    Args:
        model: The model, with a `neuralflow.DepthVarying` anywhere inside.
        tau: The weight of the term at depth 0, a positive number.

    Returns:
        The transformation. It belongs to models with the parameters of `model`.

    Raises:
        InputError: No weight of the model varies with depth, or `tau` is not positive and finite.
            The update of the transformation raises this error for gradients of another model.
        InputTypeError: `model` is no `nnx.Module`, or `tau` is no known number.

    Source:
        Our formulation: descent in the whitened increments of the penalty.
    """
    chosen = _chosen(model, tau)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[Any, Any]:
        return _mapped(chosen, lambda product, g: product.gradient(g), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def whitened(model: nnx.Module, gradient: PyTree, tau: float = 1.0) -> Any:
    """Return a gradient in coordinates in which its Euclidean norm is the dual norm.

    The dual norm is the norm of the Sobolev gradient (see `sobolev`). This norm does not depend on
    the number of layers. It does not depend either on whether weights stand in cells or at knots.

    Args:
        model: The model, with a `neuralflow.DepthVarying` anywhere inside.
        gradient: The plain gradient, a pytree like the model's parameters.
        tau: The weight of the term at depth 0, a positive number.

    Returns:
        The gradient in the new coordinates, a pytree of the same form. The gradient of weights that
        do not vary with depth stays as it is.

    Raises:
        InputError: No weight of the model varies with depth, or `tau` is not positive and finite,
            or the gradient belongs to another model.
        InputTypeError: `model` is no `nnx.Module`, or `tau` is no known number.
    """
    return _mapped(_chosen(model, tau), lambda product, g: product.whitened(g), gradient)


def kinetic_energy(motion: Motion) -> Float[Array, "batch"]:
    """Return the squared speed |v|^2 of every sample.

    The squared speed is a rate for `neuralflow.transport.along`. Its integral is twice the kinetic
    energy of the flow. Straight paths of constant speed have the least energy, and a solver takes
    few steps along such paths.

    Args:
        motion: The motion of the samples.

    Returns:
        The squared speed, shape `(batch,)`.

    Raises:
        InputTypeError: `motion` is no `neuralflow.transport.Motion`.

    Source:
        Finlay et al., arXiv 2002.02798, stated there.
    """
    checks.instance("motion", motion, Motion, "a Motion, which nf.transport.along hands over")
    return jnp.sum(motion.velocity**2, axis=1)


def jacobian_frobenius(motion: Motion) -> Float[Array, "batch"]:
    """Return the squared Frobenius norm |grad v|_F^2 of the velocity's Jacobian at every sample.

    The squared norm is a rate for `neuralflow.transport.along`. As a penalty, the squared norm
    keeps neighbours together. A random divergence estimates the squared norm with its probes.

    Args:
        motion: The motion of the samples.

    Returns:
        The squared norm, shape `(batch,)`.

    Raises:
        InputTypeError: `motion` is no `neuralflow.transport.Motion`.

    Source:
        Finlay et al., arXiv 2002.02798, stated there.
    """
    checks.instance("motion", motion, Motion, "a Motion, which nf.transport.along hands over")
    return motion.frobenius


def total_derivative(order: int) -> Rate:
    """Return the rate |d^K x / dt^K|^2: the squared K-th total derivative along every path.

    The rate is for `neuralflow.transport.along`. As a penalty, the rate makes solutions that an
    adaptive solver follows in few steps. Order 1 gives `kinetic_energy`.

    The derivative includes the field's own use of depth time. Weights that vary with depth are held
    at their values at each depth. So the derivative is total for weights that are constant inside
    each cell, and for weights that are the same at every depth. For other weights, the terms with
    derivatives of the weights in depth are left out.

    The derivatives are nested Jacobian-vector products. Compiled on a CPU, they cost about K
    evaluations of the field, up to K = 5 (our count of operations). Every function that JAX
    differentiates in forward mode may stand in the field, so `jax.custom_vjp` may not.

    Args:
        order: The order K of the derivative, from 1 to 12.

    Returns:
        The rate, a function from a `neuralflow.transport.Motion` to `(batch,)`.

    Raises:
        InputError: `order` is less than 1 or greater than 12.
        InputTypeError: `order` is not a whole number.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(2.0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=32), 0.0, 0.5)
        >>> rate = nf.regularisers.total_derivative(2)
        >>> y, (penalty,) = nf.transport.along(layer, jnp.ones((1, 1)), rate)
        >>> print(penalty.round(2))  # x'' = 4 exp(2 t), so the integral is 4 (e^2 - 1)
        [25.56]

    Source:
        Kelly, Bettencourt, Johnson & Duvenaud, arXiv 2007.04504, stated there. Their experiments
        divide by the number of entries of x, as recalled; this rate does not. Nested products in
        place of Taylor arithmetic are our formulation.
    """
    checks.whole("order", order, most=MOST_DERIVATIVES)

    def rate(motion: Motion) -> Array:
        checks.instance("motion", motion, Motion, "a Motion, which nf.transport.along hands over")
        return jnp.sum(motion.derivative(order) ** 2, axis=1)

    return rate


class StepCosts(NamedTuple):
    """What the accepted steps of an adaptive solve show, for every sample.

    Attributes:
        error: The sum of |h| |e| over the accepted steps, shape `(batch,)`. Here h is the length of
            a step in depth time, and e the scheme's estimate of the error of the step.
        stiffness: The sum of |h| S over the accepted steps, shape `(batch,)`. The stiffness S of a
            step is |f(u) - f(w)| / |u - w| for the two states u and w that the scheme has at the
            end of the step. None stands for a scheme with one such state.
    """

    error: Float[Array, "batch"]
    stiffness: Float[Array, "batch"] | None


def step_costs(layer: NeuralODE, x: PyTree, *, context: PyTree = None) -> tuple[Any, StepCosts]:
    """Walk with an adaptive layer, and measure its accepted steps.

    As penalties, the results make solutions that an adaptive solver follows in few steps. One solve
    carries the samples and both sums, at no further evaluation of the field. The steps and the
    samples are those of the layer without the sums. The gradient is that of the accepted steps,
    whose lengths are held.

    Args:
        layer: The layer, with an explicit Runge-Kutta scheme in a `neuralflow.Adaptive`. Schemes
            such as `neuralflow.Tsit5()` and `neuralflow.Dopri8()` measure the stiffness too.
        x: The samples, `(batch, ...)` or a pytree of such arrays.
        context: The context of the field, as in a call of the layer.

    Returns:
        The samples at the end of the walk, and the costs of the steps.

    Raises:
        InputError: The discretisation of `layer` is a fixed grid, has an implicit scheme, or has
            `gradient="continuous"`, which knows no steps.
        InputTypeError: `layer` is no `neuralflow.NeuralODE`, or axis 0 of x does not count samples.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(-2.0))
        >>> layer = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-3, 1e-3), 0.0, 1.5)
        >>> y, costs = nf.regularisers.step_costs(layer, jnp.ones((1, 1)))
        >>> print(costs.stiffness.round(3))  # |a| times the length of the interval
        [3.]

    Source:
        Pal, Ma, Shah & Rackauckas, arXiv 2105.03918, as recalled. Norms of single samples in place
        of one norm of the batch are our formulation.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    solve = layer.discretisation
    if not isinstance(solve, Adaptive) or not isinstance(solve.scheme, AbstractERK):
        raise InputError(
            "step_costs measures the steps of an Adaptive with an explicit scheme such as "
            f"nf.Tsit5(), got {type(solve).__name__} with {type(solve.scheme).__name__}"
        )
    if solve.gradient == "continuous":
        raise InputError(
            'step_costs needs the gradient of the steps, and gradient="continuous" knows no steps; '
            'take gradient="steps"'
        )
    check_context(layer.field, context)
    dtype, count = time_dtype(samples(x)), len(flat(x)[0])
    watch = Watch(*(jnp.zeros(count, dtype) for _ in Watch._fields))
    scheme: Any = prepared(solve.scheme, dtype)
    watching = layer.with_field(_Timed(layer.field)).with_solve(
        replace(solve, scheme=Watched(scheme))
    )
    y, watch = watching((x, watch), context=context)
    return y, StepCosts(watch.error, watch.stiffness if sees_stiffness(solve.scheme) else None)


class _Timed(nnx.Module):
    """The field x' = f(x, t), beside a `Watch` whose time runs with depth time."""

    def __init__(self, field: nnx.Module):
        self.field = field

    def __call__(self, state: PyTree, t: Real, context: PyTree = None) -> Any:
        x, watch = state
        still = jax.tree.map(jnp.zeros_like, watch)
        return evaluate(self.field, x, t, context), still._replace(time=jnp.ones_like(watch.time))


def inverse_consistency(
    layer: NeuralODE, x: PyTree, *, context: PyTree = None
) -> Float[Array, "batch"]:
    """Compute |back(layer(x)) - x|^2 for every sample.

    `back` walks the same steps backward. The result says how far the steps are from those of a
    flow. On a fixed grid, the result is O(h^2p) for a scheme of order p, steps of length h and a
    smooth field. A large value shows that the steps are too long. For an adaptive layer, the result
    is zero up to the tolerances.

    Args:
        layer: The layer.
        x: The samples, `(batch, ...)` or a pytree of such arrays.
        context: The context of the field, as in a call of the layer.

    Returns:
        The squared distances, shape `(batch,)`.

    Raises:
        InputTypeError: `layer` is no `neuralflow.NeuralODE`, or axis 0 of x does not count samples.

    Source:
        Our formulation of the inverse consistency of Rousseau & Fablet, arXiv 1805.09585.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    x = samples(x)
    back = layer.reverse()(layer(x, context=context), context=context)
    return jnp.sum(flat(jax.tree.map(jnp.subtract, back, x))[0] ** 2, axis=1)


def volume_change(layer: NeuralODE, x: PyTree, *, context: PyTree = None) -> Float[Array, "batch"]:
    """Compute (log |det D|)^2 for every sample, where D is the layer's Jacobian.

    The result is zero where the layer keeps volumes. The result is large where the layer is about
    to fold space.

    Args:
        layer: The layer.
        x: The samples, `(batch, ...)` or a pytree of such arrays.
        context: The context of the field, as in a call of the layer.

    Returns:
        The squared log-determinants, shape `(batch,)`.

    Raises:
        InputTypeError: `layer` is no `neuralflow.NeuralODE`, axis 0 of x does not count samples, or
            the scheme of a fixed grid carries more than the state from step to step.

    Source:
        Our formulation.
    """
    return log_determinant(layer, x, context=context).log ** 2


def _chosen(model: nnx.Module, tau: float) -> "list[_Product | None]":
    """Return the inner product of every parameter, in the order in which gradients come.

    None stands for a parameter that does not vary with depth.
    """
    products = _products(model, tau)
    flat = list(nnx.to_flat_state(nnx.split(model, nnx.Param, ...)[1]))
    numbered = nnx.from_flat_state([(path, leaf.replace(k)) for k, (path, leaf) in enumerate(flat)])
    return [products.get(flat[k][0]) for k in jax.tree.leaves(numbered)]


def _mapped(
    chosen: "list[_Product | None]",
    function: "Callable[[_Product, Array], Array]",
    gradient: PyTree,
) -> Any:
    """Apply a function of product and gradient to the gradient of every weight with a product."""
    leaves, treedef = jax.tree.flatten(gradient)
    wrong = len(leaves) != len(chosen) or any(
        not checks.holds_numbers(g) or (p and jnp.shape(g)[:1] != (p.basis.size,))
        for p, g in zip(chosen, leaves, strict=True)
    )
    if wrong:
        sizes = [p.basis.size for p in chosen if p]
        raise InputError(
            f"this was made for a model of {len(chosen)} parameters, with {sorted(set(sizes))} "
            "coefficients in depth, and is given gradients of shapes "
            f"{[getattr(g, 'shape', type(g).__name__) for g in leaves]}; make it anew for the new "
            "model"
        )
    turned = [
        g if product is None else function(product, g)
        for g, product in zip(leaves, chosen, strict=True)
    ]
    return jax.tree.unflatten(treedef, turned)


@dataclass(frozen=True)
class _Product:
    """The inner product int p' q' ds + tau p(0) q(0) of two functions on a basis.

    Values of cells stand for the piecewise-linear function through the centres of the cells. Nodal
    values enter as increments, weighted by `squares`. With the Gram matrix, large terms would
    cancel for smooth weights. Polynomials and splines use the Gram matrix.
    """

    basis: Basis
    tau: float

    @property
    def squares(self) -> np.ndarray:
        """The weights of the squared increments: tau, and the inverse distances of the nodes."""
        return np.append(self.tau, 1 / np.diff(self.basis.nodes))

    @property
    def gram(self) -> np.ndarray:
        """The Gram matrix of the basis in this product."""
        return sobolev_gram(self.basis, self.tau)

    def square(self, coefficients: Array) -> Array:
        """Return the product of a function with itself, summed over the entries of the weight."""
        rows = coefficients.reshape(len(coefficients), -1)
        if not self.basis.nodal:
            return jnp.sum(rows * (jnp.asarray(self.gram, rows.dtype) @ rows))
        rises = jnp.concatenate([rows[:1], jnp.diff(rows, axis=0)])
        return jnp.sum(jnp.asarray(self.squares, rows.dtype) @ rises**2)

    def gradient(self, slope: Array) -> Array:
        """Return the gradient in this product: the inverse Gram matrix times the plain gradient."""
        if not self.basis.nodal:
            return jnp.tensordot(jnp.asarray(np.linalg.inv(self.gram), slope.dtype), slope, axes=1)
        return jnp.cumsum(self._column(slope) * self.whitened(slope), axis=0)

    def whitened(self, slope: Array) -> Array:
        """Return the plain gradient in coordinates in which the product is the Euclidean one."""
        if not self.basis.nodal:
            root = np.linalg.inv(np.linalg.cholesky(self.gram))
            return jnp.tensordot(jnp.asarray(root, slope.dtype), slope, axes=1)
        return self._column(slope) * jnp.flip(jnp.cumsum(jnp.flip(slope, 0), axis=0), 0)

    def _column(self, like: Array) -> Array:
        """Return the inverse roots of `squares` along the first axis, in the form of an array."""
        return jnp.asarray(self.squares**-0.5, like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def _products(model: nnx.Module, tau: float) -> dict[tuple[Any, ...], _Product]:
    """Return the inner product of every weight that varies with depth, by its path."""
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    if isinstance(tau, core.Tracer):
        raise InputTypeError(f"tau must be a known number, got {tau!r}; hold it as a constant")
    checks.number("tau", tau, above=0)  # With zero, constant weights would cost nothing.
    bases = depth_bases(model)
    if not bases:
        raise InputError(
            f"no weight of {type(model).__name__} varies with depth; put a DepthVarying into its "
            "field"
        )
    return {path: _Product(basis, float(tau)) for path, basis in bases.items()}
