"""Lipschitz constants in x of fields, bounded from their weights, and bounds of a layer's blocks.

A block x + g(x) with Lip(g) < 1 is a diffeomorphism. Such a block changes every distance by a
factor between 1 - Lip(g) and 1 + Lip(g). The condition Lip(g) < 1 is sufficient, not necessary.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractERK, AbstractSolver, Euler
from flax import nnx
from jax import core, lax
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, FlatField, field_in_step, raw
from neuralflow.depth.basis import locate
from neuralflow.depth.flattened import Local
from neuralflow.fields import MLP, Antisymmetric, activations, evaluate, takes_time
from neuralflow.layers import NeuralODE
from neuralflow.schemes.runge_kutta import used_stages

__all__ = [
    "Bounded",
    "Bounds",
    "SpectralNorm",
    "bounds",
    "check",
    "lipschitz",
    "lipschitz_rule",
    "spectral_norm",
]
__docformat__ = "google"

_EXAMPLE = "for example 0.9 * steps / (t1 - t0)"

# The largest slopes of activations. The slopes of gelu and silu are rounded up.
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
    (activations.tanh, 1.0),
    (activations.relu, 1.0),
    (activations.softplus, 1.0),
)


def spectral_norm(weight: Float[Array, "m n"], squarings: int = 8) -> Float[Array, ""]:
    """Return an upper bound of the largest singular value of a matrix.

    The method is Gram iteration with k = `squarings`: ||(W W^T)^(2^k)||_F^(1 / 2^(k + 1)). The
    bound is at most min(m, n)^(1 / 2^(k + 2)) times the largest singular value, apart from an
    allowance for rounding. The factor is 1.004 for 64 rows and k = 8.

    Power iteration ends below the norm. The result of power iteration is therefore no upper bound.

    Args:
        weight: The matrix W, `(m, n)`.
        squarings: The number k of squarings of the Gram matrix.

    Returns:
        The bound, a scalar.

    Raises:
        InputTypeError: `weight` is not an array of real floating-point numbers, or `squarings` is
            not a whole number.
        InputError: `weight` is not a matrix, or `squarings` is negative or above 64.

    Source:
        Delattre et al., arXiv 2305.16173, as recalled.
    """
    checks.array("weight", weight, "m", "n")
    checks.whole("squarings", squarings, least=0, most=64)
    return _spectral_norm(weight, int(squarings))


@functools.partial(jax.jit, static_argnums=1)
def _spectral_norm(weight: Array, squarings: int) -> Array:
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
    # Rounding may have lowered the value. The last factor makes up for the loss.
    return largest * jnp.exp(log / 2) * (1 + 32 * jnp.finfo(gram.dtype).eps)


def lipschitz(module: nnx.Module | Callable[..., Any]) -> Float[Array, ""]:
    """Return an upper bound of the Lipschitz constant in x of a module, computed from its weights.

    The norm is Euclidean. The module is a function f(x) or f(x, t). The bound is differentiable
    with respect to the weights.

    Bounds are known for these classes: nnx.Linear, nnx.Conv, nnx.Sequential of known modules,
    `neuralflow.fields.MLP`, `neuralflow.fields.Antisymmetric`,
    `neuralflow.labs.diffeo.KernelField`, `neuralflow.labs.diffeo.Bounded` and
    `neuralflow.labs.diffeo.SpectralNorm`. Bounds are also known for functions such as jnp.tanh. The
    decorator `@lipschitz_rule.register` adds a class of your own. The rule of a class does not hold
    for its subclasses.

    The weights of a field may vary with depth. Such a field has a bound at every depth.
    `lipschitz(field.at(s))` gives the bound at the normalised depth s, and `bounds(layer)` gives
    the bounds at all depths.

    Args:
        module: A module with a known rule, or a known function.

    Returns:
        The bound, a scalar.

    Raises:
        InputTypeError: No rule is known. Norm layers have no Lipschitz constant. The constant of an
            arbitrary function cannot be read off.
    """
    rules = lipschitz_rule.registry
    return rules.get(type(module), rules[object])(module)


@functools.singledispatch
def lipschitz_rule(module: nnx.Module | Callable[..., Any]) -> Float[Array, ""]:
    """Return the bound of a module by the rule of its class, for `lipschitz`.

    `@lipschitz_rule.register` adds a rule. The decorated function takes a module and returns its
    bound. The annotation of its argument names the class.

    Args:
        module: A module or a function.

    Returns:
        The bound, a scalar.

    Raises:
        InputTypeError: No rule is known.
    """
    for function, slope in _SLOPES:
        if module is function:
            return jnp.asarray(slope)
    name = getattr(module, "__name__", type(module).__name__)
    raise InputTypeError(
        f"no Lipschitz bound of {name} is known; give fields.MLP or another field of those "
        f"lipschitz() lists, or teach it: "
        f"@nf.labs.diffeo.lipschitz_rule.register on a function of the module"
    )


@lipschitz_rule.register
def _(module: nnx.Linear) -> Array:
    return spectral_norm(module.kernel[...])


@lipschitz_rule.register
def _(module: nnx.Conv) -> Array:
    """Return the lesser of two bounds of a convolution.

    The first bound is the sum of the spectral norms of all taps. The second bound is the norm of
    all taps as one matrix, times the root of their number. The second bound holds because at most
    as many outputs as there are taps read one input pixel.
    """
    padding = module.padding if isinstance(module.padding, str) else "SAME"
    if (
        module.feature_group_count != 1
        or padding not in ("SAME", "VALID", "CIRCULAR", "CAUSAL")
        or module.mask is not None
    ):
        raise InputTypeError(
            "the bound of a convolution is known with one group, without a mask, and with padding "
            f"by zeros or in circles, got {module.feature_group_count} groups, padding {padding}, "
            f"mask {'none' if module.mask is None else 'given'}"
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
    """A field whose Lipschitz constant in x is at most `bound`, whatever its weights.

    The velocity is f(x) min(1, bound / lipschitz(f)), where f is the given field. Suppose that
    bound < steps / (t1 - t0) on a uniform grid. Every Euler step of the layer, a residual block, is
    then a diffeomorphism before, during and after training.

    Args:
        field: The field f. `lipschitz` must know its class, or the field is a
            `neuralflow.DepthVarying` of such a module.
        bound: The largest Lipschitz constant, per unit of depth time.

    Raises:
        InputTypeError: `field` is not an nnx.Module, or `lipschitz` does not know its class.
        InputError: `bound` is not a positive number.
    """

    def __init__(self, field: nnx.Module, bound: float):
        checks.instance("field", field, nnx.Module, "an nnx.Module such as nf.fields.MLP(...)")
        checks.positive("bound", bound, _EXAMPLE)
        lipschitz(field.at(0.0) if isinstance(field, DepthVarying) else field)
        takes_time(field)  # refuses a field that is called in another way
        self.field, self.bound = field, float(bound)

    def __call__(self, x: PyTree, t: Real | None = None, *, context: PyTree = None) -> Any:
        """Return the velocity at x.

        Args:
            x: The state.
            t: The depth time, for a field that takes one.
            context: The context, for a field that takes one.

        Returns:
            The velocity, with the shape and dtype of the field's own velocity.

        @public
        """
        velocity = evaluate(self.field, x, t, context)
        scale = self.bound / jnp.maximum(lipschitz(self.field), self.bound)
        return jax.tree.map(lambda v: scale.astype(v.dtype) * v, velocity)


@lipschitz_rule.register
def _(module: Bounded) -> Array:
    return jnp.minimum(module.bound, lipschitz(module.field))


class SpectralNorm(nnx.Module):
    """A dense layer with the normalised weights W min(1, bound / sigma).

    sigma estimates the largest singular value of W by power iteration. Training runs one iteration
    a call and starts from the vector of the previous call. The estimate is cheap, and it lies below
    the norm until the iteration has converged. The layer alone therefore certifies nothing.
    `lipschitz` looks at the normalised weights that come out.

    The vector is a batch statistic. In a `neuralflow.DepthVarying`, each cell has a vector of its
    own, and training takes one step a cell. For weights that many steps share, use `Bounded`.

    Args:
        dense: The dense layer with the weights W and an optional bias.
        bound: The largest singular value that the normalisation aims at.
        rngs: The random streams for the first vector.

    Raises:
        InputTypeError: `dense` is not an nnx.Linear, or `rngs` is not an nnx.Rngs.
        InputError: `bound` is not a positive number, or `rngs` has no stream for parameters.

    Source:
        Miyato et al., arXiv 1802.05957, stated there.
    """

    def __init__(self, dense: nnx.Linear, bound: float = 1.0, *, rngs: nnx.Rngs):
        checks.instance("dense", dense, nnx.Linear, "an nnx.Linear")
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if not {"params", "default"} & set(rngs):
            raise InputError(
                "rngs has no stream to draw the first vector from; take nnx.Rngs(seed) or "
                "nnx.Rngs(params=seed)"
            )
        checks.positive("bound", bound, _EXAMPLE)
        self.dense, self.bound, self.use_running_average = dense, float(bound), False
        self.vector = nnx.BatchStat(
            _unit(jax.random.normal(rngs.params(), (dense.kernel.shape[1],), dense.kernel.dtype))
        )

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch k"]:
        """Return the output of the normalised layer.

        Args:
            x: The input, `(..., d)`.

        Returns:
            The output, `(..., k)`.

        Raises:
            InputTypeError: `x` is not an array of real floating-point numbers.
            InputError: `x` has another width than the layer.

        @public
        """
        checks.array("x", x, "...", self.dense.kernel.shape[0])
        vector = self.vector[...]
        if not self.use_running_average:
            kernel = lax.stop_gradient(self.dense.kernel[...])
            vector = _unit(_unit(kernel @ vector) @ kernel)
            self.vector.set_value(vector)
        y = x @ self.weight(vector).astype(x.dtype)
        return y if self.dense.bias is None else y + self.dense.bias[...].astype(x.dtype)

    def weight(self, vector: Array) -> Array:
        """Return the normalised weights for the norm estimate of a vector.

        Args:
            vector: The vector of the power iteration, `(k,)`.

        Returns:
            The weights, `(d, k)`.

        Raises:
            InputTypeError: `vector` is not an array of real floating-point numbers.
            InputError: `vector` does not have the shape `(k,)`.
        """
        kernel = self.dense.kernel[...]
        checks.array("vector", vector, kernel.shape[1])
        left = lax.stop_gradient(_unit(kernel @ vector))
        return kernel * (self.bound / jnp.maximum(left @ kernel @ vector, self.bound))


@lipschitz_rule.register
def _(module: SpectralNorm) -> Array:
    return spectral_norm(module.weight(module.vector[...]))


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), jnp.finfo(vector.dtype).tiny)


class Bounds(NamedTuple):
    """How a layer may change distances.

    The bounds mean |x - y| * `contraction` <= |layer(x) - layer(y)| <= |x - y| * `expansion`.

    Attributes:
        residual: For every block an upper bound of Lip(block - Id), `(steps,)`. The array is empty
            for an adaptive layer.
        expansion: An upper bound of the factor by which the layer changes a distance.
        contraction: A lower bound of this factor. The value is zero if a residual bound is not
            below one, because nothing is known then.
    """

    residual: Array
    expansion: Array
    contraction: Array

    @property
    def certified(self) -> Array:
        """Whether every block is known to be a diffeomorphism.

        The value is always True for an adaptive layer, because the flow that such a layer
        approximates is a diffeomorphism.
        """
        return jnp.all(self.residual < 1)


def bounds(layer: NeuralODE) -> Bounds:
    """Compute bounds on how a layer changes distances, from its weights.

    The function applies `lipschitz` to the field at every stage of every step. A residual block
    x + h V(x) with the step length h has the bounds 1 - h Lip(V) and 1 + h Lip(V). An explicit
    Runge-Kutta step combines the bounds of its stages, each inserted into the next.

    An adaptive layer gets the bounds of the exact flow, exp(-int Lip(V) dt) and exp(int Lip(V) dt).

    Args:
        layer: The layer, on a fixed grid or adaptive.

    Returns:
        The bounds of each block and of the whole layer.

    Raises:
        InputTypeError: The scheme is neither Euler nor an explicit Runge-Kutta scheme.
        InputTypeError: `lipschitz` does not know the field.
        InputTypeError: The layer is adaptive, and its weights change inside the cells of depth.

    Example:
        >>> import neuralflow as nf
        >>> from neuralflow.labs import diffeo
        >>> field = diffeo.KernelField([[0.0, 0.0]], width=1.0, momenta=[[0.5, 0.0]])
        >>> known = diffeo.bounds(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2)))
        >>> [round(float(r), 2) for r in known.residual], bool(known.certified)
        ([0.25, 0.25], True)
        >>> round(float(known.contraction), 2), round(float(known.expansion), 2)
        (0.56, 1.56)
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    length = abs(raw(layer.t1) - raw(layer.t0))
    solve = layer.discretisation
    if not solve.planned:
        return _flow_bounds(layer.field, solve.ends, length)
    plan = layer.plan()
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
    """Raise an error unless every block of a layer is known to be a diffeomorphism.

    The condition is h Lip(V) < 1 for each step of length h, by `bounds`.

    Args:
        layer: The layer to check.

    Raises:
        InputError: A block is not known to be a diffeomorphism, or the weights are not finite.
        InputTypeError: `bounds` does not know the layer, or the weights are traced.
    """
    bound = bounds(layer).residual
    if isinstance(bound, core.Tracer):
        raise InputTypeError(
            "check() looks at numbers; call it outside of transformations, "
            "or read bounds(layer) inside"
        )
    residual = np.asarray(bound)
    if not np.isfinite(residual).all():
        raise InputError(
            "the weights of the layer are not finite, or so large that their bound is not; "
            "mend them first"
        )
    if not (residual < 1).all():
        worst = int(residual.argmax())
        cells = math.lcm(*(basis.count for basis in FlatField(layer.field).bases))
        more = cells * (int(np.ceil(residual.max() * len(residual) / cells)) + 1)
        raise InputError(
            f"block {worst} of {len(residual)} is not known to be a diffeomorphism: its residual "
            f"part has the Lipschitz bound {residual.max():.3g}, and 1 is the limit; take {more} "
            "steps or so, or nf.labs.diffeo.Bounded(field, 0.9 * steps / (t1 - t0))"
        )


def over_depth(
    function: Callable[[Any], Array], field: nnx.Module, local: Local, count: int
) -> Array:
    """Evaluate a function of the plain module at many depths.

    The plain module is the field with the weights that belong to one depth.

    Args:
        function: The function from the plain module to a number.
        field: The field, whose weights may vary with depth.
        local: For each basis of the field the cells and the local coordinates of all depths.
        count: The number of depths.

    Returns:
        The values, `(count,)`.
    """
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


def _tableau(scheme: AbstractSolver) -> tuple[list[float], list[Any], list[float]]:
    """Return the coefficients of an explicit scheme.

    The first list holds the shares of the step at which the stages lie. The second list holds the
    weights of earlier stages, and the third list holds the weights of the stages.
    """
    if isinstance(scheme, Euler):
        return [0.0], [()], [1.0]
    if not isinstance(scheme, AbstractERK):
        raise InputTypeError(
            "bounds are known for nf.Euler() and explicit Runge-Kutta schemes, "
            f"not for {type(scheme).__name__}; take with_solve() first"
        )
    tableau: Any = scheme.tableau
    count = used_stages(tableau)
    return (
        [0.0, *tableau.c[: count - 1]],
        [(), *tableau.a_lower[: count - 1]],
        list(tableau.b_sol[:count]),
    )


def _flow_bounds(field: nnx.Module, ends: Any, length: Any) -> Bounds:
    """Return the bounds of the exact flow, for weights that are constant in cells of depth."""
    bases = FlatField(field).bases
    if any(basis.degree > 0 for basis in bases):
        raise InputTypeError(
            "the bounds of an adaptive layer are known for weights that are constant in cells of "
            "depth; put them on nf.PiecewiseConstant, or ask for those of its fixed grid: "
            "layer.with_solve(nf.FixedGrid(...))"
        )
    inside = [s for basis in bases for s in basis.knots if ends[0] < s < ends[1]]
    edges = np.unique([*map(float, ends), *inside])
    middle = (edges[1:] + edges[:-1]) / 2
    where = [locate(basis, middle) for basis in bases]
    total = jnp.sum(over_depth(lipschitz, field, where, len(middle)) * np.diff(edges)) * length
    return Bounds(jnp.zeros(0), jnp.exp(total), jnp.exp(-total))
