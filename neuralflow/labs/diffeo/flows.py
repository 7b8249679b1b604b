"""Flows as maps: the exponential of a stationary field, its logarithm, inverses and compositions.

exp(V) is the flow of x' = V(x) over a depth time of one. A residual network whose blocks share their weights is its Euler
approximation (Rousseau & Fablet, arXiv 1805.09585, stated there).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import FlatField
from neuralflow.fields import MLP, from_function
from neuralflow.layers import NeuralODE
from neuralflow.solve import Discretisation

Map = Callable[[Any], Any]


def exponential(field: nnx.Module, solve: Discretisation, scale: Any = 1.0) -> NeuralODE:
    """exp(scale * V) of a stationary field V, an nnx.Module f(x): the layer that follows it for a depth time of `scale`.

    `solve`: FixedGrid(Euler(), steps=L) makes L residual blocks x + (scale / L) V(x) of shared weights, which come within
    O(1/L) of the exponential; Adaptive(...) is the exponential to its tolerances. A negative scale is the inverse's. ValueError
    for weights that vary with depth. That a field of your own does not use depth time is not checked.
    """
    layer = NeuralODE(field, solve, 0.0, scale)
    varying = [basis for basis in FlatField(field).bases if basis.size > 1]
    if varying:
        raise InputError(
            f"only a stationary field has an exponential, but this one's weights vary with depth ({varying[0]}); give field.at(s), "
            "or make it a NeuralODE"
        )
    if isinstance(field, MLP) and field.time:
        raise InputError(
            "only a stationary field has an exponential, but this one was built with time=True; make it a NeuralODE"
        )
    return layer


def squared(mapping: Map, times: int) -> Map:
    """The map composed with itself `times` times over: mapping^(2^times), by that many self-compositions.

    With mapping = Id + V / 2^n and times=n it is exp(V) by scaling and squaring (Arsigny et al. 2006). A function is evaluated 2^n times
    all the same, as a network of 2^n shared blocks does; a sampled field is not: `sampled.exponential`.
    """
    checks.function("map", mapping)
    checks.whole("times", times, least=0)
    for _ in range(times):
        mapping = _twice(mapping)
    return mapping


def _twice(mapping: Map) -> Map:
    # A loop, so that what is compiled grows with the number of squarings and not with that of evaluations.
    return lambda x: lax.scan(lambda y, _: (mapping(y), None), x, None, length=2)[0]


def logarithm(mapping: Any, back: Any = None, terms: int = 8) -> nnx.Module:
    """The stationary field V with exp(V) = mapping, for a map near the identity: a field of `terms` evaluations each way.

    V(x) is the derivative at s = 0 of the polynomial in s through the orbit of x at the whole depth times -terms, ..., terms. `back`: the
    inverse map; that of a layer or a Composition is `inverse(mapping)`. Where the path of x under V is made of exp(lambda s), the error
    falls like (2 sinh(|lambda| / 2) / 2)^(2 terms): it converges up to |lambda| = 1.76, the slower the further from the identity. Our
    formulation (central differences in the map's powers). A map on a grid has a fixed point instead: `sampled.logarithm`.
    """
    checks.function("map", mapping)
    checks.whole("terms", terms)
    if back is None and not isinstance(mapping, NeuralODE | Composition | Inverse):
        raise InputTypeError(
            "the inverse of a plain function is not known; give it: logarithm(mapping, back)"
        )
    back = inverse(mapping) if back is None else back
    checks.function("back", back)
    j = np.arange(1, terms + 1)
    weights = -((-1.0) ** j) / j * np.cumprod((terms - j + 1) / (terms + j))
    moves = [mapping, back]
    modules = [move for move in moves if isinstance(move, nnx.Module)]

    def velocity(modules: Any, x: Any) -> Any:
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
    """Flows one behind the other: Composition(f, g)(x) = g(f(x)). `invert(y)` takes it back."""

    def __init__(self, *flows: Any):
        for k, flow in enumerate(flows):
            checks.instance(
                f"flow {k}",
                flow,
                NeuralODE | Composition | Inverse,
                "a NeuralODE, a Composition or an inverse",
            )
        self.flows = nnx.List(flows)

    def __call__(self, x: Any) -> Any:
        """x after all flows."""
        for flow in self.flows:
            x = flow(x)
        return x

    def invert(self, y: Any) -> Any:
        """The x that comes to y; errors are those of `inverse`."""
        return inverse(self)(y)


class Inverse(nnx.Module):
    """The exact inverse of a layer on a fixed grid, block by block; see `inverse`."""

    def __init__(self, layer: NeuralODE):
        self.layer = layer

    def __call__(self, y: Any) -> Any:
        """The x with layer(x) = y."""
        return self.layer.invert(y)


def inverse(flow: Any) -> Any:
    """The inverse map of a NeuralODE or a Composition, as a module; the weights are shared.

    Of a layer on a fixed grid, exact to rounding: by the scheme's own inverse where it has one (RevNet), else by the fixed point
    x <- y - (block(x) - x) of every block, which contracts where the residual part has a Lipschitz constant below one (`bounds`
    says whether it is known to); SolveError where the iteration does not end, NaN in a trace. Of an adaptive layer, the
    backward solve, to its tolerances; that is `flow.reverse()`, which on a fixed grid is the inverse up to O(h) only.
    """
    if isinstance(flow, Inverse):
        return flow.layer
    if isinstance(flow, Composition):
        return Composition(*(inverse(part) for part in reversed(flow.flows)))
    checks.instance("flow", flow, NeuralODE, "a NeuralODE or a nf.labs.diffeo.Composition")
    if flow.discretisation.planned:
        return Inverse(flow)
    return flow.reverse()
