"""Flows as maps: the exponential of a stationary field, its logarithm, inverses and compositions.

The exponential exp(V) of a velocity field V is the flow of x' = V(x) over a depth time of one. A
residual network whose blocks share their weights is the Euler approximation of exp(V).

The module `sampled` holds the same operations for maps that are stored on a regular grid.

Source:
    Rousseau & Fablet, arXiv 1805.09585, stated there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import FlatField
from neuralflow.fields import MLP, from_function
from neuralflow.layers import NeuralODE
from neuralflow.solve import Discretisation

Map = Callable[[Any], Any]


def exponential(field: nnx.Module, solve: Discretisation, scale: Real = 1.0) -> NeuralODE:
    """Build the layer exp(scale * V) of a stationary velocity field V.

    The layer follows x' = V(x) from depth time 0 to depth time `scale`. Under
    `FixedGrid(Euler(), steps=L)`, the layer consists of L residual blocks x + (scale / L) V(x) with
    shared weights. The distance between these blocks and the exponential is O(1/L). Under
    `Adaptive(...)`, the layer is the exponential up to the tolerances of the solver.

    A field is stationary if its velocity does not depend on depth. The function refuses weights
    that vary with depth, and a `neuralflow.fields.MLP` that was built with `time=True`. The
    function does not check whether a field of your own uses depth time.

    Args:
        field: The stationary velocity field V, an nnx.Module f(x).
        solve: The discretisation of the layer, a `neuralflow.FixedGrid` or a
            `neuralflow.Adaptive`.
        scale: The depth time for which the layer follows V. A negative scale gives the inverse map.
            For example, -1 gives exp(-V), the inverse of exp(V).

    Returns:
        The layer from depth time 0 to depth time `scale`.

    Raises:
        InputError: The weights of `field` vary with depth.
        InputError: `field` is a `neuralflow.fields.MLP` with `time=True`.
        InputError: `scale` is zero or not finite.
        InputTypeError: `field` is not an nnx.Module, or `solve` is not a discretisation.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from neuralflow.labs import diffeo
        >>> decay = nf.from_function(lambda rate, x: -rate * x, jnp.array(1.0))
        >>> layer = diffeo.exponential(decay, nf.FixedGrid(nf.Euler(), steps=128))
        >>> print(f"{float(layer(jnp.ones((1, 1)))[0, 0]):.2f}")
        0.37
    """
    layer = NeuralODE(field, solve, 0.0, scale)
    varying = [basis for basis in FlatField(field).bases if basis.size > 1]
    if varying:
        raise InputError(
            "only a stationary field has an exponential, but this one's weights vary with depth "
            f"({varying[0]}); give field.at(s), or make it a NeuralODE"
        )
    if isinstance(field, MLP) and field.time:
        raise InputError(
            "only a stationary field has an exponential, but this one was built with time=True; "
            "make it a NeuralODE"
        )
    return layer


def squared(mapping: Map, times: int) -> Map:
    """Raise a map to the power 2^times under composition, by repeated squaring.

    Let n stand for `times`. The result is mapping^(2^n), built by n self-compositions. With mapping
    = Id + V / 2^n, the result approximates exp(V) by scaling and squaring. The result still
    evaluates `mapping` 2^n times, as a network of 2^n shared blocks does.
    `neuralflow.labs.diffeo.sampled.exponential` evaluates a field on a grid n times only.

    Args:
        mapping: A map from states to states of the same shape and dtype.
        times: The number of squarings. 0 returns the map itself.

    Returns:
        The composed map.

    Raises:
        InputTypeError: `mapping` is not a function of one argument, or `times` is not a whole
            number.
        InputError: `times` is negative or above 64.

    Source:
        Arsigny et al. 2006.
    """
    checks.function("map", mapping, 1)
    checks.whole("times", times, least=0, most=64)
    for _ in range(times):
        mapping = _twice(mapping)
    return mapping


def _twice(mapping: Map) -> Map:
    # The loop lets the compiled program grow with the number of squarings, not of evaluations.
    return lambda x: lax.scan(lambda y, _: (mapping(y), None), x, None, length=2)[0]


def logarithm(mapping: Any, back: Any = None, terms: int = 8) -> nnx.Module:
    """Build the stationary field V with exp(V) = mapping, for a map near the identity.

    The map, applied k times to x, gives the orbit of x at the whole depth time k. A negative k
    applies the inverse map. V(x) is the derivative at s = 0 of the polynomial in s through the
    orbit at the depth times -terms, ..., terms. One evaluation of V evaluates the map and its
    inverse `terms` times each.

    Suppose that the path of x under V consists of exponentials exp(lambda s). The error then falls
    like (2 sinh(|lambda| / 2) / 2)^(2 terms). The approximation therefore converges up to
    |lambda| = 1.76. Convergence slows down as the map moves away from the identity.

    `neuralflow.labs.diffeo.sampled.logarithm` solves a fixed-point problem instead, for a map on a
    grid.

    Args:
        mapping: The map from states to states.
        back: The inverse map. None stands for `inverse(mapping)`, which exists for a layer, a
            `Composition` and an `Inverse`.
        terms: The number of applications of each map.

    Returns:
        The field V, a module f(x).

    Raises:
        InputTypeError: `mapping` or `back` is not a function of one argument, or `terms` is not a
            whole number.
        InputTypeError: `back` is missing, and `mapping` is a plain function.
        InputError: `terms` is below one or above 256.

    Source:
        Our formulation (central differences in the powers of the map).
    """
    checks.function("map", mapping, 1)
    checks.whole("terms", terms, most=256)
    if back is None and not isinstance(mapping, NeuralODE | Composition | Inverse):
        raise InputTypeError(
            "the inverse of a plain function is not known; give it: logarithm(mapping, back)"
        )
    back = inverse(mapping) if back is None else back
    checks.function("back", back, 1)
    j = np.arange(1, terms + 1)
    weights = -((-1.0) ** j) / j * np.cumprod((terms - j + 1) / (terms + j))
    moves = [mapping, back]
    modules = [move for move in moves if isinstance(move, nnx.Module)]

    def velocity(modules: Any, x: PyTree) -> Any:
        held = iter(modules)
        ahead, behind = (next(held) if isinstance(move, nnx.Module) else move for move in moves)

        def advance(ends: Any, weight: Any) -> Any:
            y, z = ahead(ends[0]), behind(ends[1])
            return (y, z), jax.tree.map(lambda a, b: weight.astype(a.dtype) * (a - b), y, z)

        return jax.tree.map(
            lambda a: jnp.sum(a, axis=0), lax.scan(advance, (x, x), jnp.asarray(weights))[1]
        )

    return from_function(velocity, modules)


class Composition(nnx.Module):
    """Compose flows one after the other: Composition(f, g)(x) = g(f(x)).

    `invert(y)` undoes the composition.

    Args:
        *flows: The flows in the order of their application. Each flow is a NeuralODE, a
            `Composition` or an `Inverse`.

    Raises:
        InputTypeError: A flow is of another kind.
    """

    def __init__(self, *flows: Any):
        for k, flow in enumerate(flows):
            checks.instance(
                f"flow {k}",
                flow,
                NeuralODE | Composition | Inverse,
                "a NeuralODE, a Composition or an inverse",
            )
        self.flows = nnx.List(flows)

    def __call__(self, x: PyTree) -> Any:
        """Return x after all flows.

        Args:
            x: The state, an array or a pytree of arrays.

        @public
        """
        for flow in self.flows:
            x = flow(x)
        return x

    def invert(self, y: PyTree) -> Any:
        """Return the x that the composition maps to y.

        The errors are those of `inverse`.

        Args:
            y: The state, an array or a pytree of arrays.
        """
        return inverse(self)(y)


class Inverse(nnx.Module):
    """Invert a layer on a fixed grid exactly, block by block.

    `inverse` builds this module and describes the method.

    Args:
        layer: The layer to invert, on a fixed grid.

    Raises:
        InputTypeError: `layer` is not a layer on a fixed grid.
    """

    def __init__(self, layer: NeuralODE):
        checks.instance("layer", layer, NeuralODE, "a NeuralODE on a fixed grid")
        if not layer.discretisation.planned:
            raise InputTypeError(
                "layer must be a NeuralODE on a fixed grid, got an adaptive one; "
                "nf.labs.diffeo.inverse(layer) inverts it"
            )
        self.layer = layer

    def __call__(self, y: PyTree) -> Any:
        """Return the x with layer(x) = y.

        Args:
            y: The state, an array or a pytree of arrays.

        Raises:
            SolveError: The fixed-point iteration does not converge. Inside a trace the result is
                NaN instead.

        @public
        """
        return self.layer.invert(y)


def inverse(flow: Any) -> Any:
    """Build the inverse map of a layer or a composition, as a module that shares the weights.

    The inverse of a layer on a fixed grid is exact to rounding. A scheme with an inverse of its own
    (RevNet) uses that inverse. Every other scheme inverts each block by the fixed-point iteration
    x <- y - (block(x) - x). The iteration contracts if the residual part block(x) - x has a
    Lipschitz constant below one. `bounds` tells whether the weights guarantee this condition.

    The inverse of an adaptive layer is the backward solve `flow.reverse()`, up to the tolerances of
    the solver. On a fixed grid, `flow.reverse()` is the inverse up to O(h) only, where h is the
    step length. This function therefore does not use `flow.reverse()` on a fixed grid.

    The inverse of a composition composes the inverses of its flows in reverse order. The inverse of
    an `Inverse` is the original layer.

    Args:
        flow: A NeuralODE, a `Composition` or an `Inverse`.

    Returns:
        The inverse map. On a fixed grid a call of this map raises SolveError if the iteration does
        not converge. Inside a trace the result is NaN instead.

    Raises:
        InputTypeError: `flow` is of another kind.
    """
    if isinstance(flow, Inverse):
        return flow.layer
    if isinstance(flow, Composition):
        return Composition(*(inverse(part) for part in reversed(flow.flows)))
    checks.instance("flow", flow, NeuralODE, "a NeuralODE or a nf.labs.diffeo.Composition")
    if flow.discretisation.planned:
        return Inverse(flow)
    return flow.reverse()
