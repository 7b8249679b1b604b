"""Lipschitz constants of fields in x, bounded from their weights, and what they say about a layer's blocks.

A block x + g(x) with Lip(g) < 1 is a diffeomorphism: 1 - Lip(g) and 1 + Lip(g) bound how it shrinks and stretches distances.
The bound is sufficient, not necessary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractERK, Euler
from flax import nnx
from jax import core, lax
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, FlatField, field_in_step, raw
from neuralflow.depth.basis import locate
from neuralflow.depth.flattened import Local
from neuralflow.fields import MLP, Antisymmetric, evaluate, takes_time
from neuralflow.layers import NeuralODE
from neuralflow.schemes.runge_kutta import used_stages

_EXAMPLE = "for example 0.9 * steps"

# The largest slopes of activations; those of gelu and silu are rounded up.
_SLOPES: tuple[tuple[Callable[..., Any], float], ...] = (
    (jnp.tanh, 1.0),
    (jax.nn.relu, 1.0),
    (jax.nn.elu, 1.0),
    (jax.nn.leaky_relu, 1.0),
    (jax.nn.softplus, 1.0),
    (jax.nn.sigmoid, 0.25),
    (jax.nn.gelu, 1.13),
    (jax.nn.silu, 1.1),
    (jnp.sin, 1.0),
    (jnp.cos, 1.0),
)


@functools.partial(jax.jit, static_argnames="squarings")
def spectral_norm(weight: Float[Array, "m n"], squarings: int = 8) -> Float[Array, ""]:
    """An upper bound of the largest singular value, at most min(m, n)^(1 / 2^(squarings + 1)) times it: 1.01 for 64 rows.

    By Gram iteration (Delattre et al., arXiv 2305.16173, as recalled): ||(W W^T)^(2^k)||_F^(1 / 2^(k + 1)). Power iteration ends
    below the norm, which certifies nothing.
    """
    largest = lax.stop_gradient(jnp.max(jnp.abs(weight)))
    unit = weight / jnp.where(largest > 0, largest, 1)
    gram = unit @ unit.T if unit.shape[0] <= unit.shape[1] else unit.T @ unit
    gram = jnp.where(largest > 0, gram, 1)
    log = jnp.zeros((), gram.dtype)
    for k in range(squarings):
        size = jnp.linalg.norm(gram)
        log = log + jnp.log(size) / 2**k
        gram = gram / size
        gram = gram @ gram
    log = log + jnp.log(jnp.linalg.norm(gram)) / 2**squarings
    # What rounding may have taken from it is given back.
    return largest * jnp.exp(log / 2) * (1 + 32 * jnp.finfo(gram.dtype).eps)


def lipschitz(module: Any) -> Float[Array, ""]:
    """An upper bound of the Lipschitz constant in x of a module f(x) or f(x, t), in the Euclidean norm, from its weights.

    Known for nnx.Linear, nnx.Conv and nnx.Sequential of these, `fields.MLP`, `fields.Antisymmetric`, `diffeo.KernelField`,
    `diffeo.Bounded`, `diffeo.SpectralNorm`, and functions such as jnp.tanh. A class of your own is taught by
    `@nf.labs.diffeo.lipschitz_rule.register`; what is known of a class says nothing of those that inherit from it. Differentiable.
    TypeError for others: norm layers have none, and that of an arbitrary function cannot be read off. A field whose weights
    vary with depth has a bound at every depth: `lipschitz(field.at(s))`, and `bounds(layer)` for all.
    """
    rules = lipschitz_rule.registry
    return rules.get(type(module), rules[object])(module)


@functools.singledispatch
def lipschitz_rule(module: Any) -> Float[Array, ""]:
    """How `lipschitz` bounds a class: `@lipschitz_rule.register` on a function whose argument is annotated with the class."""
    for function, slope in _SLOPES:
        if module is function:
            return jnp.asarray(slope)
    name = getattr(module, "__name__", type(module).__name__)
    raise InputTypeError(
        f"no Lipschitz bound of {name} is known; give fields.MLP or another field of those lipschitz() lists, or teach it: "
        f"@nf.labs.diffeo.lipschitz_rule.register on a function of the module"
    )


@lipschitz_rule.register
def _(module: nnx.Linear) -> Array:
    return spectral_norm(module.kernel[...])


@lipschitz_rule.register
def _(module: nnx.Conv) -> Array:
    """The lesser of two bounds: the taps' norms added up, and all taps as one matrix times the root of their number.

    The second: every input pixel is read by at most as many outputs as there are taps.
    """
    padding = module.padding if isinstance(module.padding, str) else "SAME"
    if (
        module.feature_group_count != 1
        or padding not in ("SAME", "VALID", "CIRCULAR", "CAUSAL")
        or module.mask is not None
    ):
        raise InputTypeError(
            "the bound of a convolution is known with one group, without a mask, and with padding by zeros or in circles, got "
            f"{module.feature_group_count} groups, padding {padding}, mask {'none' if module.mask is None else 'given'}"
        )
    kernel = module.kernel[...]
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    added = jnp.sum(jax.vmap(spectral_norm)(taps))
    whole = spectral_norm(taps.reshape(-1, kernel.shape[-1])) * len(taps) ** 0.5
    return jnp.minimum(added, whole)


@lipschitz_rule.register
def _(module: nnx.Sequential) -> Array:
    return _product(*module.layers)


@lipschitz_rule.register
def _(module: MLP) -> Array:
    first, *rest = module.dense
    kernel = (
        first.kernel[...][:-1] if module.time else first.kernel[...]
    )  # depth time is the last input
    slope = lipschitz(module.activation) ** len(rest)
    return spectral_norm(kernel) * slope * _product(*rest)


@lipschitz_rule.register
def _(module: Antisymmetric) -> Array:
    weight = module.weight[...]
    turning = weight - weight.T - module.damping * jnp.eye(len(weight), dtype=weight.dtype)
    return spectral_norm(turning) * lipschitz(module.activation)


def _product(*modules: Any) -> Array:
    return functools.reduce(jnp.multiply, map(lipschitz, modules), jnp.ones(()))


class Bounded(nnx.Module):
    """A field whose Lipschitz constant in x is at most `bound`, whatever its weights: f(x) min(1, bound / lipschitz(f)).

    `field`: one whose bound is known to `lipschitz`, or a DepthVarying of such. With bound < steps / (t1 - t0) every residual block
    of a layer on a uniform grid is a diffeomorphism, before, in and after training.
    """

    def __init__(self, field: nnx.Module, bound: float):
        checks.instance("field", field, nnx.Module, "an nnx.Module such as nf.fields.MLP(...)")
        checks.positive("bound", bound, _EXAMPLE)
        lipschitz(field.at(0.0) if isinstance(field, DepthVarying) else field)
        takes_time(field)  # refuses what is called in another way
        self.field, self.bound = field, float(bound)

    def __call__(self, x: Any, t: Any = None) -> Any:
        """Velocity at x."""
        velocity = evaluate(self.field, x, t)
        scale = self.bound / jnp.maximum(lipschitz(self.field), self.bound)
        return jax.tree.map(lambda v: scale.astype(v.dtype) * v, velocity)


@lipschitz_rule.register
def _(module: Bounded) -> Array:
    return jnp.minimum(module.bound, lipschitz(module.field))


class SpectralNorm(nnx.Module):
    """A dense layer with the weights W min(1, bound / sigma), sigma by power iteration (Miyato et al., arXiv 1802.05957, stated there).

    One iteration a call in training, from the vector that the last one left: cheap, and below the norm until it has converged,
    so it certifies nothing by itself; `lipschitz` looks at the weights that come out. The vector is a batch statistic: in a
    DepthVarying each cell has its own, and training takes one step a cell. Weights shared by many steps: `Bounded`.
    """

    def __init__(self, dense: nnx.Linear, bound: float = 1.0, *, rngs: nnx.Rngs):
        checks.instance("dense", dense, nnx.Linear, "an nnx.Linear")
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        checks.positive("bound", bound, _EXAMPLE)
        self.dense, self.bound, self.use_running_average = dense, float(bound), False
        self.vector = nnx.BatchStat(
            _unit(jax.random.normal(rngs.params(), (dense.kernel.shape[1],), dense.kernel.dtype))
        )

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch k"]:
        """The normalised layer's output."""
        vector = self.vector[...]
        if not self.use_running_average:
            kernel = lax.stop_gradient(self.dense.kernel[...])
            vector = _unit(_unit(kernel @ vector) @ kernel)
            self.vector.set_value(vector)
        y = x @ self.weight(vector).astype(x.dtype)
        return y if self.dense.bias is None else y + self.dense.bias[...].astype(x.dtype)

    def weight(self, vector: Array) -> Array:
        """The normalised weights, with the estimate of the norm that belongs to a vector."""
        kernel = self.dense.kernel[...]
        left = lax.stop_gradient(_unit(kernel @ vector))
        return kernel * (self.bound / jnp.maximum(left @ kernel @ vector, self.bound))


@lipschitz_rule.register
def _(module: SpectralNorm) -> Array:
    return spectral_norm(module.weight(module.vector[...]))


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), jnp.finfo(vector.dtype).tiny)


class Bounds(NamedTuple):
    """How a layer may change distances, |x - y| * `contraction` <= |layer(x) - layer(y)| <= |x - y| * `expansion`.

    `residual` (steps,): for every block an upper bound of Lip(block - Id); none for an adaptive layer. Where one is not below one,
    `contraction` is zero: nothing is known.
    """

    residual: Array
    expansion: Array
    contraction: Array

    @property
    def certified(self) -> Array:
        """Whether every block is known to be a diffeomorphism; always so for the flow that an adaptive layer approximates."""
        return jnp.all(self.residual < 1)


def bounds(layer: NeuralODE) -> Bounds:
    """Bounds from the weights of a layer, by `lipschitz` of its field at every stage of every step.

    For residual blocks x + h V they are 1 +- h Lip(V); an explicit Runge-Kutta step has the bound of its stages put into each
    other. An adaptive layer has those of the exact flow, exp(+- int Lip(V) dt). TypeError for other schemes, for fields that
    `lipschitz` does not know, and for an adaptive layer whose weights change inside the cells of depth.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    length = abs(raw(layer.t1) - raw(layer.t0))
    solve = layer.discretisation
    if not solve.planned:
        return _flow_bounds(layer.field, solve.ends, length)
    plan = layer.plan
    shares, lower, weights = _tableau(solve.scheme)
    h = plan.lengths / plan.total * length
    slopes: list[Any] = []
    for share, row in zip(shares, lower, strict=True):
        inner = sum((abs(a) * k for a, k in zip(row, slopes, strict=False)), jnp.zeros(()))
        here = over_depth(lipschitz, layer.field, plan.local(float(share)), plan.steps)
        slopes.append(here * (1 + jnp.abs(h) * inner))
    residual = jnp.abs(h) * sum(
        (abs(b) * k for b, k in zip(weights, slopes, strict=True)), jnp.zeros(())
    )
    below = jnp.maximum(1 - residual, 0)
    return Bounds(residual, jnp.exp(jnp.sum(jnp.log1p(residual))), jnp.exp(jnp.sum(jnp.log(below))))


def check(layer: NeuralODE) -> None:
    """ValueError unless every block of a layer is known to be a diffeomorphism: h Lip(V) < 1, by `bounds`."""
    bound = bounds(layer).residual
    if isinstance(bound, core.Tracer):
        raise InputTypeError(
            "check() looks at numbers; call it outside of transformations, or read bounds(layer) inside"
        )
    residual = np.asarray(bound)
    if not np.isfinite(residual).all():
        raise InputError(
            "the weights of the layer are not finite, or so large that their bound is not; mend them first"
        )
    if not (residual < 1).all():
        worst = int(residual.argmax())
        more = int(np.ceil(residual.max() * len(residual))) + 1
        raise InputError(
            f"block {worst} of {len(residual)} is not known to be a diffeomorphism: its residual part has the Lipschitz bound "
            f"{residual.max():.3g}, and 1 is the limit; take {more} steps or so, or nf.labs.diffeo.Bounded(field, 0.9 * steps)"
        )


def over_depth(
    function: Callable[[Any], Array], field: nnx.Module, local: Local, count: int
) -> Array:
    """A number of the plain module at many depths, (count,): `local` are cells and local coordinates in each of its bases."""
    graphdef, state = nnx.split(field)
    return _over_depth(
        (function, graphdef, count),
        (state, [(jnp.asarray(cell), jnp.asarray(s)) for cell, s in local]),
    )


@functools.partial(jax.jit, static_argnums=0)
def _over_depth(static: Any, data: Any) -> Array:
    function, graphdef, count = static
    state, local = data
    field = nnx.merge(graphdef, state)

    def one(local):
        return function(field_in_step(field, local))

    return jax.vmap(one)(local) if local else jnp.broadcast_to(one(local), (count,))


def _tableau(scheme: Any) -> tuple[list[float], list[Any], list[float]]:
    """Shares of the step, weights of earlier stages, and weights of the stages, of an explicit scheme."""
    if isinstance(scheme, Euler):
        return [0.0], [()], [1.0]
    if not isinstance(scheme, AbstractERK):
        raise InputTypeError(
            f"bounds are known for nf.Euler() and explicit Runge-Kutta schemes, not for {type(scheme).__name__}; take with_solve() first"
        )
    tableau: Any = scheme.tableau
    count = used_stages(tableau)
    return (
        [0.0, *tableau.c[: count - 1]],
        [(), *tableau.a_lower[: count - 1]],
        list(tableau.b_sol[:count]),
    )


def _flow_bounds(field: nnx.Module, ends: Any, length: Any) -> Bounds:
    bases = FlatField(field).bases
    if any(basis.degree > 0 for basis in bases):
        raise InputTypeError(
            "the bounds of an adaptive layer are known for weights that are constant in cells of depth; put them on "
            "nf.PiecewiseConstant, or ask for those of its fixed grid: layer.with_solve(nf.FixedGrid(...))"
        )
    inside = [s for basis in bases for s in basis.knots if ends[0] < s < ends[1]]
    edges = np.unique([*map(float, ends), *inside])
    middle = (edges[1:] + edges[:-1]) / 2
    where = [locate(basis, middle) for basis in bases]
    total = jnp.sum(over_depth(lipschitz, field, where, len(middle)) * np.diff(edges)) * length
    return Bounds(jnp.zeros(0), jnp.exp(total), jnp.exp(-total))
