"""What a scheme does, told from the scheme: orders, modified equation, stability and its limits.

`derived_order`, `order_conditions` and `observed_order` tell the order. `stability_function`,
`amplification`, `growth` and `region` describe a step on u' = g u. `modified_equation` tells which
equation a scheme really follows. `StableSteps` finds the longest stable step for any wave.
`stability_limit` does so for decays, and `neuralflow.labs.operators.stable_step` for equations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractSolver
from flax import nnx
from jax import lax
from jaxtyping import Array, Complex, Float, PyTree, Shaped
from numpy.polynomial.polynomial import polyval

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.schemes.multistep import LinearMultistep, TwoStep
from neuralflow.schemes.network import (
    NetworkScheme,
    PerStep,
    check_scheme,
    is_explicit,
    one_step,
    prepared,
    step_coefficients,
    traits,
)
from neuralflow.schemes.reversible import RevNet, halves
from neuralflow.schemes.splitting import Splitting
from neuralflow.schemes.watched import Watched

__docformat__ = "google"

Scheme = diffrax.AbstractSolver
"""A scheme is any diffrax solver."""

Tree = tuple["Tree", ...]
"""A rooted tree is the tuple of its branches. A single node is the empty tuple."""


def walk(
    scheme: Scheme, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, end: float, steps: int
) -> Any:
    """Solve x' = velocity(x, t) from t = 0 to t = end by equal steps.

    The solution is a plain loop over the steps of the scheme.

    Args:
        scheme: A diffrax solver with constant coefficients.
        velocity: The field as a function velocity(x, t) of the state and the depth time.
        x: The state at t = 0, an array or a pytree of arrays.
        end: The final depth time.
        steps: The number of steps.

    Returns:
        The state at t = end, in the form of x.

    Raises:
        InputTypeError: `scheme` is not a diffrax solver, or another argument is of the wrong kind.
        InputError: The coefficients of the scheme change from step to step, `end` is not finite, or
            `steps` is below 1 or above 2^24.
    """
    _check(scheme)
    checks.function("velocity", velocity, 2)
    checks.states("x", x)
    checks.number("end", end)
    checks.whole("steps", steps, most=checks.MOST_STEPS)
    dtype = jnp.finfo(jax.tree.leaves(x)[0].dtype).dtype
    step, start = _stepping(scheme, velocity, x, jnp.asarray(end / steps, dtype))
    return lax.scan(step, start, jnp.arange(steps))[0][0]


def _stepping(
    scheme: Scheme, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, h: Array
) -> tuple[Callable[[PyTree, Any], Any], tuple[Any, Any]]:
    """Return a step of length h as the body of a scan over the numbers of steps, and its start.

    The scan carries the state and the memory of the scheme.
    """

    def is_prepared(part: Any) -> bool:
        return isinstance(part, diffrax.AbstractRungeKutta | diffrax.AbstractImplicitSolver)

    # A scheme may take its steps by a scheme that it holds.
    scheme = jax.tree.map(
        lambda part: prepared(part, h.dtype) if is_prepared(part) else part,
        scheme,
        is_leaf=is_prepared,
    )
    terms = diffrax.ODETerm(lambda t, x, start: velocity(x, start + t))

    def step(carry: PyTree, k: Any) -> Any:
        x, memory = carry
        if isinstance(scheme, diffrax.AbstractERK):
            return (one_step(scheme, terms, 0 * h, h, x, k * h), memory), None
        x, _, _, memory, _ = scheme.step(terms, 0 * h, h, x, k * h, memory, False)
        return (x, memory), None

    memory = (
        None if isinstance(scheme, diffrax.AbstractERK) else scheme.init(terms, 0 * h, h, x, 0 * h)
    )
    return step, (x, memory)


# What is missing to a condition below this number is a rounding error of coefficients in float32.
_ROUNDING = 1e-6
# A scheme with a memory has forgotten its start after so many steps.
_SETTLED = 2048


def derived_order(scheme: Scheme) -> int:
    """Derive the order, up to 2, at which a scheme converges to x' = f(x, t).

    Runge-Kutta schemes and linear multi-step schemes have order conditions. Any starter of a
    multi-step scheme is good enough for order 2. A splitting has the order of its substeps, and at
    most that of exact substeps along parts that do not commute. The order of any other scheme
    follows from the derivatives of its own steps in their length, on a field with f(0) != 0. The
    field depends on depth, so that the depths count at which a scheme takes its weights.

    Values below 1e-6 count as rounding errors of the coefficients. `observed_order` measures the
    order of convergence to whatever limit a scheme has.

    Args:
        scheme: A diffrax solver with constant coefficients.

    Returns:
        0, 1 or 2. 2 stands for two or more. 0 says that the limit is another equation than x' = f,
        or that there is no limit.

    Raises:
        InputError: The coefficients of the scheme change from step to step, or the scheme goes on
            from a state before.
        InputTypeError: `scheme` is not a diffrax solver, or its steps on arrays cannot be taken or
            differentiated.

    Example:
        >>> import neuralflow as nf
        >>> order = nf.schemes.analysis.derived_order
        >>> order(nf.ImplicitEuler()), order(nf.schemes.leapfrog()), order(nf.RK4())
        (1, 2, 2)
        >>> order(nf.schemes.FixedPointEuler(2)), order(nf.schemes.PolyNet(2))
        (1, 0)

    Source:
        Butcher 1963, for Runge-Kutta schemes, and Dahlquist 1956, for multi-step schemes. Hairer,
        Lubich & Wanner, chapter IX, for other schemes without a memory. The same for schemes with a
        memory is our formulation.
    """
    check_scheme(scheme)
    if isinstance(scheme, Watched | diffrax.AbstractWrappedSolver):
        return derived_order(scheme.scheme if isinstance(scheme, Watched) else scheme.solver)
    if isinstance(scheme, Splitting):
        return scheme.order(None)
    _check(scheme)
    _check_alone(scheme)
    if isinstance(scheme, TwoStep):
        # An array holds one coefficient, and so one scheme, for each channel.
        raw = scheme.k.get_value() if isinstance(scheme.k, nnx.Variable) else scheme.k
        ks = np.ravel(np.asarray(checks.known(raw), float)).tolist()
        return min(_fulfilled(type(scheme)(k)) if _is_zero_stable(k) else 0 for k in ks)
    if isinstance(scheme, LinearMultistep) or _stages(scheme) is not None:
        return _fulfilled(scheme)
    return _order_of_steps(scheme)


def _fulfilled(scheme: Scheme) -> int:
    """Return the order, up to 2, of which a scheme fulfils all order conditions."""
    missing = (order_conditions(scheme, order).values() for order in (1, 2))
    return sum(max(map(abs, values)) <= _ROUNDING for values in missing)


def _order_of_steps(scheme: Scheme) -> int:
    """Return the order, up to 2, that the derivatives of steps in their length tell.

    Let E_b(N) be what is missing to the coefficient of h^b of the exact solution after N steps of
    length h. The error after 1/h steps is of order p where E_b(N) grows like N^(b - p) at most.
    """
    try:
        with jax.enable_x64(True):
            still, first, second, counts = map(np.asarray, _missing(scheme))
    except Exception as error:
        raise InputTypeError(
            f"the order of the scheme {type(scheme).__name__} cannot be told, because its steps on "
            "an array cannot be taken or differentiated; measure the order by "
            "nf.statistics.fitted_order(depths, errors)"
        ) from error

    def is_zero(values: np.ndarray) -> bool:
        return bool((np.abs(values) <= _ROUNDING).all())

    def is_bounded(values: np.ndarray) -> bool:
        with np.errstate(invalid="ignore"):  # An unstable scheme overflows.
            return is_zero(np.diff(values, axis=0) / np.diff(counts))

    if not (is_zero(still) and is_bounded(first)):
        return 0
    return 2 if is_zero(first) and is_bounded(second) else 1


@eqx.filter_jit
def _missing(scheme: Scheme) -> tuple[Array, Array, Array, Array]:
    """Return E_0, E_1 and E_2 of `_order_of_steps` after two numbers of steps, and the numbers.

    The numbers are 0 and 1 for a scheme without a memory. After one step, E_1 is then g0 - f of the
    modified equation. E_2 is g1 where E_1 is zero.
    """
    channels = [np.shape(leaf)[-1] for leaf in jax.tree.leaves(scheme) if np.ndim(leaf)]
    x: Any = jnp.linspace(0.3, 0.9, 2 * max(channels, default=2)).reshape(2, -1)
    x = tuple(x) if isinstance(scheme, RevNet) else x
    zero, one = jnp.zeros(()), jnp.ones(())

    def velocity(x: PyTree, t: Real) -> Any:
        moved = (1 + t / 2) * jnp.cos(x[1]), (1 - t / 3) * (1.5 - jnp.sin(x[0]))
        return moved if isinstance(x, tuple) else jnp.stack(moved)

    memory = _stepping(scheme, velocity, x, zero)[1][1]
    counts = (_SETTLED, 2 * _SETTLED) if jax.tree.leaves(memory) else (0, 1)

    def ends(h: Array) -> Array:
        step, start = _stepping(scheme, velocity, x, h)
        if counts == (0, 1):
            return jnp.stack([jnp.stack(x), jnp.stack(step(start, 0)[0][0])])

        def half(carry: PyTree, ks: Array) -> Any:
            carry = lax.scan(step, carry, ks)[0]
            return carry, jnp.stack(carry[0])

        return lax.scan(half, start, jnp.arange(counts[1]).reshape(2, -1))[1]

    (end, slope), (_, bend) = jax.jvp(lambda h: jax.jvp(ends, (h,), (one,)), (zero,), (one,))
    v, rate = map(jnp.stack, jax.jvp(velocity, (x, zero), (velocity(x, zero), one)))
    count = jnp.asarray(counts, float)[:, None, None]
    return end - jnp.stack(x), slope - count * v, (bend - count**2 * rate) / 2, count.ravel()


def observed_order(scheme: Scheme, steps: int = 64) -> float:
    """Measure the order at which a scheme converges on a fixed problem.

    The problem is X' = Y (1 + t/2), Y' = -sin X from X = Y = 1 at t = 0 to t = 2. Three solutions
    with `steps`, 2 `steps` and 4 `steps` steps give the order by Richardson's rule. No reference
    solution is needed. The order is therefore the order of convergence to whatever limit the scheme
    has. `modified_equation` tells the limit.

    The measurement needs float64.

    Args:
        scheme: A diffrax solver with constant coefficients.
        steps: The number of steps of the coarsest solution.

    Returns:
        The observed order.

    Raises:
        InputError: `steps` is below 1 or above 2^22, float64 is off, the coefficients of the scheme
            change from step to step, or the solutions are not finite or differ by rounding alone.
        InputTypeError: `steps` is not a whole number, or `scheme` is not a diffrax solver.
    """
    checks.whole("steps", steps, most=checks.MOST_STEPS // 4)
    _check(scheme)
    if jnp.ones(()).dtype != jnp.float64:
        raise InputError(
            "an order is seen in float64 only; set jax.config.update('jax_enable_x64', True) first"
        )

    def velocity(x: PyTree, t: Real) -> Any:
        return ((1 + t / 2) * x[1], -jnp.sin(x[0]))

    start = (jnp.ones(1), jnp.ones(1))
    ends = [walk(scheme, velocity, start, 2.0, steps * 2**i) for i in range(3)]
    first, second = (
        math.hypot(*(float(abs(a - b).max()) for a, b in zip(fine, coarse, strict=True)))
        for coarse, fine in itertools.pairwise(ends)
    )
    if not second > 1e-13 or not math.isfinite(first):
        raise InputError(
            f"the solutions with {steps}, {2 * steps} and {4 * steps} steps differ by {first:.0e} "
            f"and {second:.0e}, from which no order can be told; take fewer steps where that is "
            "rounding, more where it is instability"
        )
    return math.log2(first / second)


# There are 719 rooted trees with ten nodes, and about three times as many with each further node.
_MOST_ORDER = 10


def order_conditions(scheme: Scheme, order: int) -> dict[str, float]:
    """Return what is missing to the order conditions up to an order.

    All values are zero, up to rounding, if and only if the scheme has that order.

    A Runge-Kutta scheme has one value b . Phi(tree) - 1/gamma(tree) for each rooted tree with up to
    `order` nodes. Here b are the weights of the stages, Phi(tree) the elementary weights of the
    stages and gamma(tree) the density of the tree. The key is the tree, written as nested brackets.

    A linear multi-step scheme has one value sum_j alpha_j (-j)^q + q sum_j beta_j (-j)^(q-1) - 1
    for each power q of time. The key is "consistency" for q = 0, and "t^q" with the number q for
    the others. alpha and beta are the coefficients of `neuralflow.schemes.LinearMultistep`.

    Args:
        scheme: A Runge-Kutta scheme, or a linear multi-step scheme with constant coefficients.
        order: The order up to which to check.

    Returns:
        The missing value of each condition.

    Raises:
        InputError: `order` is below 1 or above 10, or the coefficients of the scheme change from
            step to step.
        InputTypeError: `order` is not a whole number, or `scheme` is of another kind.
            `modified_equation` tells the errors of other schemes.

    Source:
        Butcher 1963, for the Runge-Kutta schemes.
    """
    checks.whole("order", order, most=_MOST_ORDER)
    _check(scheme)
    stages = _stages(scheme)
    if stages is not None:
        a, b = stages
        trees = [tree for nodes in range(1, order + 1) for tree in _trees(nodes)]
        return {_written(tree): float(b @ _weight(tree, a) - 1 / _density(tree)) for tree in trees}
    alpha, beta = _coefficients(scheme)
    j, i = -np.arange(len(alpha), dtype=float), -np.arange(len(beta), dtype=float)
    missing = {"consistency": float(alpha.sum() - 1)}
    return missing | {
        f"t^{q}": float(alpha @ j**q + q * (beta @ i ** (q - 1)) - 1) for q in range(1, order + 1)
    }


def _stages(scheme: AbstractSolver) -> tuple[np.ndarray, np.ndarray] | None:
    """Return A and b of a Runge-Kutta scheme, and None for other schemes."""
    if isinstance(scheme, diffrax.Euler | diffrax.ImplicitEuler):
        return np.full((1, 1), float(isinstance(scheme, diffrax.ImplicitEuler))), np.ones(1)
    if not isinstance(scheme, diffrax.AbstractRungeKutta) or not isinstance(
        scheme.tableau, diffrax.ButcherTableau
    ):
        return None
    return butcher_matrices(scheme.tableau)


def butcher_matrices(
    tableau: diffrax.ButcherTableau,
) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, " s"]]:
    """Return the matrix A and the weights b of a Butcher tableau.

    Args:
        tableau: The tableau of a Runge-Kutta scheme with s stages.

    Returns:
        A of shape `(s, s)` and b of shape `(s,)`.
    """
    stages = len(tableau.b_sol)
    a = np.zeros((stages, stages))
    for i, row in enumerate(tableau.a_lower, 1):
        a[i, : len(row)] = row
    if tableau.a_diagonal is not None:
        a += np.diag(tableau.a_diagonal)
    return a, np.asarray(tableau.b_sol, float)


def _trees(nodes: int) -> list[Tree]:
    """Return all rooted trees with a number of nodes, each as the sorted tuple of its branches."""
    if nodes == 1:
        return [()]
    return sorted(
        {tuple(sorted((*tree, ()))) for tree in _trees(nodes - 1)}
        | {t for s in _trees(nodes - 1) for t in _grown(s)}
    )


def _grown(tree: Tree) -> list[Tree]:
    """Return the trees with one more leaf on a node other than the root."""
    grown = []
    for i, branch in enumerate(tree):
        rest = tree[:i] + tree[i + 1 :]
        grown += [
            tuple(sorted((*rest, more))) for more in [tuple(sorted((*branch, ()))), *_grown(branch)]
        ]
    return grown


def _weight(tree: Tree, a: np.ndarray) -> np.ndarray:
    """Return the elementary weights of the stages, Phi(tree)."""
    return np.prod([a @ _weight(branch, a) for branch in tree], axis=0) if tree else np.ones(len(a))


def _nodes(tree: Tree) -> int:
    """Count the nodes of a tree."""
    return 1 + sum(map(_nodes, tree))


def _density(tree: Tree) -> int:
    """Return the density of a tree, gamma(tree)."""
    return _nodes(tree) * math.prod(map(_density, tree))


def _written(tree: Tree) -> str:
    """Write a tree as nested brackets."""
    return f"[{''.join(map(_written, tree))}]"


def _coefficients(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Return alpha and beta of a linear multi-step scheme with constant coefficients.

    The function raises InputTypeError for any other scheme.
    """
    if isinstance(scheme, LinearMultistep):
        return np.asarray(scheme.alpha), np.asarray(scheme.beta)
    if isinstance(scheme, TwoStep) and not isinstance(scheme.k, PerStep) and np.ndim(scheme.k) == 0:
        k = float(scheme.k.get_value() if isinstance(scheme.k, nnx.Variable) else scheme.k)
        return np.asarray([1 - k, k]), np.asarray([float(scheme.weight(k))])
    raise InputTypeError(
        f"{type(scheme).__name__} is neither a Runge-Kutta nor a linear multi-step scheme with "
        "constant coefficients; look at modified_equation(scheme, velocity, x), or at "
        "observed_order(scheme)"
    )


def modified_equation(
    scheme: Scheme, velocity: Callable[[Array], Array], x: Float[Array, " d"]
) -> tuple[Float[Array, " d"], Float[Array, " d"], Float[Array, " d"]]:
    """Compute the first three terms of the equation that a scheme really follows.

    The solution of the scheme follows u' = g0(u) + h g1(u) + h^2 g2(u) up to O(h^3), where h is the
    length of a step. g0 = velocity means that the scheme is consistent. g1 = 0 too means order two,
    and g2 = 0 too means order three.

    The terms come from backward error analysis, with derivatives by jax. For a linear multi-step
    scheme they describe the flow that its principal root follows. The velocity must be smooth.
    float64 is needed for accurate terms.

    Args:
        scheme: An explicit scheme. For `neuralflow.schemes.RevNet`, the two halves of x are the two
            halves of its state.
        velocity: The field as an autonomous function velocity(x) of vectors of shape `(d,)`.
        x: The state at which to compute the terms, of shape `(d,)`.

    Returns:
        g0, g1 and g2 at x, each of shape `(d,)`.

    Raises:
        InputTypeError: `scheme` is implicit, its steps are no map of the state alone, or it is not
            a diffrax solver.
        InputError: The scheme follows no equation at all, its coefficients change from step to
            step, or `velocity` does not return the shape and dtype of x.

    Source:
        Hairer, Lubich & Wanner, chapter IX.
    """
    _check(scheme)
    checks.function("velocity", velocity, 1)
    checks.states("x", x)
    like = jax.eval_shape(velocity, x)
    if (
        jax.tree.structure(like) != jax.tree.structure(x)
        or like.shape != x.shape
        or like.dtype != x.dtype
    ):
        raise InputError(
            f"velocity(x) must be of the shape and dtype of x, {x.dtype}{list(x.shape)}, got {like}"
        )
    if isinstance(scheme, LinearMultistep | TwoStep):
        alpha, beta = _coefficients(scheme)
        if isinstance(scheme, TwoStep) and not _is_zero_stable(alpha[1]):
            raise InputError(
                f"with k = {alpha[1]:g} the two-step scheme is not zero-stable and follows no "
                "equation; |k| < 1, or k = 1"
            )
        terms = _modified_multistep(alpha, beta, velocity)
    else:
        advance = _map_of(scheme, velocity)
        still = advance(jnp.zeros((), x.dtype), x)
        if not np.allclose(still, x, rtol=1e-9, atol=1e-12):
            raise InputError(
                f"a step of length zero of this {type(scheme).__name__} does not leave the state "
                "as it is, so its states follow no equation"
            )
        terms = _modified_one_step(advance)
    return jax.jit(lambda x: tuple(g(x) for g in terms))(x)


def _is_zero_stable(k: float) -> bool:
    """Return whether the two-step scheme with a coefficient k follows an equation."""
    return -1 < k <= 1


def _along(f: Callable[[Any], Any], v: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the derivative of f along the field v."""
    return lambda x: jax.jvp(f, (x,), (v(x),))[1]


def _map_of(scheme: Scheme, velocity: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a step as a function of its length and of the state.

    The function raises InputTypeError for a scheme whose step is no such function.
    """
    name = type(scheme).__name__
    if not is_explicit(scheme):
        raise InputTypeError(
            f"{name} is implicit, and derivatives of its steps are not taken here; "
            "see order_conditions"
        )
    if traits(scheme).carries:
        raise InputTypeError(
            f"{name} carries more than the state, so its steps are no map of it; "
            "look at the scheme it wraps"
        )
    if isinstance(scheme, RevNet):
        pairs = diffrax.ODETerm(lambda t, y, args: halves(velocity(jnp.concatenate(y))))
        return lambda h, x: jnp.concatenate(
            scheme.step(pairs, jnp.zeros_like(h), h, halves(x), None, None, False)[0]
        )
    terms = diffrax.ODETerm(lambda t, y, args: velocity(y))
    return lambda h, x: one_step(scheme, terms, jnp.zeros_like(h), h, x, None)


def _modified_one_step(advance: Callable[[Any, Any], Any]) -> tuple[Any, Any, Any]:
    """Return g0, g1, g2 of a scheme whose step is a map of the state alone."""

    def taylor(order: int) -> Callable[[Any], Any]:
        """Return the coefficient of h^order in a step from x, as a function of x."""

        def at(x: PyTree) -> Any:
            def step(h):
                return advance(h, x)

            for _ in range(order):
                step = (lambda f: lambda h: jax.jvp(f, (h,), (jnp.ones_like(h),))[1])(step)
            return step(jnp.zeros((), x.dtype)) / math.factorial(order)

        return at

    d1, d2, d3 = (taylor(q) for q in (1, 2, 3))
    g0 = d1

    def g1(x):
        return d2(x) - _along(g0, g0)(x) / 2

    twice = _along(_along(g0, g0), g0)

    def g2(x):
        return d3(x) - (_along(g0, g1)(x) + _along(g1, g0)(x)) / 2 - twice(x) / 6

    return g0, g1, g2


def _modified_multistep(alpha: np.ndarray, beta: np.ndarray, velocity: Any) -> tuple[Any, Any, Any]:
    """Return g0, g1, g2 of a linear multi-step scheme."""
    # A solution u of u' = g(u) has u(t + jh) = u + jh g + (jh)^2/2 g'g + .... Both sides of the
    # step are compared power by power of h.
    j, i = -np.arange(len(alpha), dtype=float), -np.arange(len(beta), dtype=float)
    slope, second, third = (float(1 - alpha @ j**q) / math.factorial(q) for q in (1, 2, 3))
    b0, b1, b2 = (float(beta @ i**q) / math.factorial(q) for q in (0, 1, 2))

    def g0(x):
        return b0 / slope * velocity(x)

    def g1(x):
        return (b1 * _along(velocity, g0)(x) - second * _along(g0, g0)(x)) / slope

    def g2(x: PyTree) -> Any:
        forced = b1 * _along(velocity, g1)(x) + b2 * _along(_along(velocity, g0), g0)(x)
        moved = second * (_along(g0, g1)(x) + _along(g1, g0)(x)) + third * _along(
            _along(g0, g0), g0
        )(x)
        return (forced - moved) / slope

    return g0, g1, g2


def stability_function(scheme: Scheme, z: Shaped[np.ndarray, "*z"]) -> Complex[np.ndarray, "*z"]:
    """Compute R(z) of a one-step scheme, where a step on u' = g u gives u1 = R(h g) u.

    Here u is the state before a step, u1 the state after the step, h the length of the step and g a
    complex number.

    Args:
        scheme: A scheme whose step on one number is a multiplication by one number.
        z: The values z = h g, of any shape `(*z)`.

    Returns:
        R(z), complex, of the shape of `z` and infinite at the poles.

    Raises:
        InputTypeError: `scheme` carries more than one number from step to step. `amplification`
            serves for such a scheme. An implicit scheme that is no Runge-Kutta scheme is refused
            too.
        InputError: The coefficients of the scheme change from step to step.
    """
    _check(scheme)
    z = _complex(z)
    if _stages(scheme) is not None:
        return _rooter(scheme)(z)[..., 0]
    matrix = amplification(scheme, z)
    if matrix.shape[-1] != 1:
        raise InputTypeError(
            f"a step of {type(scheme).__name__} is a matrix, not a number; "
            "look at amplification(scheme, z)"
        )
    return matrix[..., 0, 0]


def amplification(scheme: Scheme, z: Shaped[np.ndarray, "*z"]) -> Complex[np.ndarray, "*z m m"]:
    """Compute the matrix of one step on u' = g u, with z = h g.

    The matrix maps the state, and all else that the scheme carries, from before the step to after
    it. The step is one of the later steps, once the first steps of the scheme are over. Here h is
    the length of the step and g a complex number.

    For `neuralflow.schemes.RevNet` the test equation is X' = g Y, Y' = g X. The eigenvalues of this
    equation are g and -g.

    Args:
        scheme: An explicit scheme with constant coefficients.
        z: The values z = h g, of any shape `(*z)`.

    Returns:
        The matrices, complex, of shape `(*z, m, m)`. m is the number of complex numbers that go
        from step to step.

    Raises:
        InputTypeError: `scheme` is implicit, or not a diffrax solver.
        InputError: The coefficients of the scheme change from step to step, or the scheme goes on
            from a state before. Build the scheme with one value of its coefficients, as a number.
    """
    _check(scheme)
    return _amplifier(scheme)(_complex(z))


@jax.enable_x64(True)
def _amplifier(scheme: Scheme) -> Callable[[np.ndarray], np.ndarray]:
    """Compile `amplification` of one scheme once, in float64, as a function of z."""
    _check(scheme)
    if not is_explicit(scheme):
        raise InputTypeError(
            f"a step of {type(scheme).__name__} is implicit; look at stability_function(scheme, z)"
        )
    _check_alone(scheme)
    x = (jnp.zeros((), complex),) * 2 if isinstance(scheme, RevNet) else jnp.zeros((), complex)
    flip = (lambda x: x[::-1]) if isinstance(scheme, RevNet) else (lambda x: x)

    def step(z: PyTree, x: PyTree, memory: PyTree) -> Any:
        terms = diffrax.ODETerm(lambda t, x, args: jax.tree.map(lambda a: z * a, flip(x)))
        if isinstance(scheme, diffrax.AbstractERK):
            return one_step(scheme, terms, 0.0, 1.0, x, None), memory
        y, _, _, memory, _ = scheme.step(terms, 0.0, 1.0, x, None, memory, False)
        return y, memory

    terms = diffrax.ODETerm(lambda t, x, args: flip(x))
    memory = (
        None if isinstance(scheme, diffrax.AbstractERK) else scheme.init(terms, 0.0, 1.0, x, None)
    )
    if isinstance(scheme, NetworkScheme):
        memory = scheme.settled(memory)
    leaves, form = jax.tree.flatten((x, memory))
    linear = [jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in leaves]
    count = sum(linear)

    @jax.jit
    @jax.vmap
    def matrix(z: PyTree) -> Any:
        def column(vector: PyTree) -> Any:
            entries, rest = (
                iter(vector),
                iter([leaf for leaf, used in zip(leaves, linear, strict=True) if not used]),
            )
            x, memory = jax.tree.unflatten(
                form, [next(entries) if used else next(rest) for used in linear]
            )
            moved = jax.tree.leaves(step(z, x, memory))
            return jnp.stack([leaf for leaf, used in zip(moved, linear, strict=True) if used])

        return jax.vmap(column)(jnp.eye(count, dtype=complex)).T

    def matrices_at(z: np.ndarray) -> np.ndarray:
        # Few sizes mean few compilations.
        size = 2 ** max(8, math.ceil(math.log2(max(z.size, 1))))
        with jax.enable_x64(True):
            matrices = np.asarray(matrix(jnp.asarray(np.resize(z, size), complex)))
        return matrices[: z.size].reshape(*z.shape, count, count)

    return matrices_at


def growth(scheme: Scheme, z: Shaped[np.ndarray, "*z"]) -> Float[np.ndarray, "*z"]:
    """Compute the factor by which a step on u' = g u multiplies what the scheme carries.

    The factor is the spectral radius of `amplification`. A step is stable where the factor is at
    most one.

    Args:
        scheme: A Runge-Kutta scheme, or an explicit scheme with constant coefficients.
        z: The values z = h g, of any shape `(*z)`. h is the length of the step.

    Returns:
        The factors, of the shape of `z`.

    Raises:
        InputTypeError: `scheme` is implicit and no Runge-Kutta scheme, or not a diffrax solver.
        InputError: The coefficients of the scheme change from step to step, or the scheme goes on
            from a state before.
    """
    _check(scheme)
    return np.abs(_rooter(scheme)(_complex(z))).max(axis=-1)


def _rooter(scheme: Scheme) -> Callable[[np.ndarray], np.ndarray]:
    """Return the eigenvalues of `amplification`, `(*z, m)`, as a function of z."""
    stages = _stages(scheme)
    if stages is not None:
        above, below = _polynomials(*stages)

        def quotient(z: np.ndarray) -> np.ndarray:
            # R is a quotient of polynomials. Its poles are infinite, which is no error.
            with np.errstate(divide="ignore", invalid="ignore"):
                bottom = polyval(z, below)
                return np.where(bottom == 0, np.inf, polyval(z, above) / bottom)[..., None]

        return quotient
    if isinstance(scheme, LinearMultistep) and not traits(scheme).continued:
        alpha, beta = _coefficients(scheme)
        count = max(len(alpha), len(beta))
        alpha, beta = (np.pad(row, (0, count - len(row))) for row in (alpha, beta))

        def companion(z: np.ndarray) -> np.ndarray:
            # The roots of zeta^m = sum_j (alpha_j + z beta_j) zeta^(m - 1 - j).
            matrices = np.zeros((*z.shape, count, count), complex) + np.eye(count, k=-1)
            matrices[..., 0, :] = alpha + z[..., None] * beta
            return np.linalg.eigvals(matrices)

        return companion
    matrices_at = _amplifier(scheme)
    return lambda z: np.linalg.eigvals(matrices_at(z))


def _polynomials(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return numerator and denominator of R(z) for a Runge-Kutta scheme, in rising powers."""
    below = np.poly(a).real
    moments, weights = [1.0], b
    for _ in b:
        moments.append(float(weights.sum()))
        weights = weights @ a
    return np.convolve(below, moments)[: len(moments)], below


def region(
    scheme: Scheme,
    real: tuple[float, float] = (-4.0, 1.0),
    imaginary: tuple[float, float] = (-3.5, 3.5),
    points: int = 201,
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"], Float[np.ndarray, "p p"]]:
    """Compute `growth` on a rectangle of the plane of z = h g.

    The region of stability is where `growth` is at most one.

    Args:
        scheme: A Runge-Kutta scheme, or an explicit scheme with constant coefficients.
        real: The interval of the real parts of z.
        imaginary: The interval of the imaginary parts of z.
        points: The number p of points along each side, at least 2.

    Returns:
        The real parts of shape `(p,)`, the imaginary parts of shape `(p,)`, and `growth` of shape
        `(p, p)`. The first axis of `growth` belongs to the imaginary parts.

    Raises:
        InputError: `points` is below 2 or above 4096, an interval is not two increasing finite
            numbers, or `growth` refuses the scheme.
        InputTypeError: `points` is not a whole number, or `growth` refuses the scheme.
    """
    _check(scheme)
    checks.whole("points", points, least=2, most=4096)
    for name, ends in (("real", real), ("imaginary", imaginary)):
        row = checks.row(name, ends)
        if len(row) != 2 or not np.isfinite(row).all() or not row[0] < row[1]:
            raise InputError(f"{name} is an interval of two increasing numbers, got {ends!r}")
    x, y = np.linspace(*real, points), np.linspace(*imaginary, points)
    return x, y, growth(scheme, x[None, :] + 1j * y[:, None])


def stability_limit(scheme: Scheme, largest: float = 64.0) -> float:
    """Find the largest z such that every step with 0 < h g <= z is stable on u' = -g u.

    Here h is the length of a step and g > 0 the rate of the decay. `StableSteps` makes the search,
    so that the limit of a scheme without stable steps is exactly zero. The limit of
    `neuralflow.schemes.LMResNet` is 2 (1 - k) for |k| < 1 (our derivation).

    Args:
        scheme: A Runge-Kutta scheme, or an explicit scheme with constant coefficients.
        largest: The end of the scan, a positive number.

    Returns:
        The limit z, a number without unit. Infinite where all steps up to `largest` are stable.

    Raises:
        InputError: `largest` is not a positive number, or `growth` refuses the scheme.
        InputTypeError: `growth` refuses the scheme.

    Example:
        >>> import neuralflow as nf
        >>> limit = nf.schemes.analysis.stability_limit
        >>> round(limit(nf.Euler()), 2), round(limit(nf.RK4()), 2), limit(nf.ImplicitEuler())
        (2.0, 2.79, inf)
        >>> round(limit(nf.schemes.LMResNet(-0.5)), 2)
        3.0
    """
    _check(scheme)
    if not checks.is_number(largest) or not largest > 0:
        raise InputError(f"largest must be a positive number, got {largest!r}")
    return float(StableSteps(scheme).longest(np.asarray(-1.0), float(largest)))


# Beyond the circle of the expansion, rounding may add this to the logarithm of a growth.
_SLACK = 1e-12
# The points on the circle, and the powers of z that are kept. A quarter of the radius bounds the
# use of the expansion, and 4^-32 is below rounding.
_CIRCLE, _POWERS = 128, 32
# The shares of an interval in which a limit is looked for.
_CUTS = np.arange(1, 17) / 16


class StableSteps:
    """The steps of a scheme that are stable on u' = g u, down to steps of length zero.

    A step of length h is stable if `growth` at z = h g is at most the allowed growth. The allowed
    growth is one for a rate g with Re g <= 0. For Re g > 0 the allowed growth is the growth
    1 / (1 - h Re g) of implicit Euler, and from h Re g = 1 on anything is allowed.

    Near z = 0, growth and allowed growth differ by less than rounding. There the logarithm of the
    growth comes from its power series at z = 0. A coefficient of the series that the order of the
    scheme makes zero is exactly zero here. The sign of log |R(iy)| = y^4 / 8 + ... of Heun is
    therefore known for all small y.

    Args:
        scheme: A scheme of `growth`.

    Raises:
        InputTypeError: `growth` refuses the scheme.
        InputError: `growth` refuses the scheme.

    Source:
        Our formulation.
    """

    def __init__(self, scheme: Scheme):
        _check(scheme)
        self._roots = _rooter(scheme)
        self.radius, self._series = _expansion(self._roots)

    def excess(self, z: Shaped[np.ndarray, "*z"]) -> Float[np.ndarray, "*z"]:
        """Compute the logarithm of the growth of a step over the allowed growth.

        Args:
            z: The values z = h g, of any shape `(*z)`.

        Returns:
            The logarithms, of the shape of `z`. A step is stable where its value is at most zero.
            The value is -inf where anything is allowed.
        """
        z = _complex(z)
        x, values = np.real(z), np.empty(z.shape)
        near = np.abs(z) <= self.radius
        values[near] = np.minimum(x[near], 0) + self._near(z[near])
        # A growth that equals the allowed one, as of implicit Euler, is told apart by rounding.
        values[near] -= _SLACK * np.clip(x[near], 0, None) ** 2
        rise = np.clip(x[~near], 0, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            grown = np.log(np.abs(self._roots(z[~near])).max(axis=-1)) + np.log1p(-rise)
        values[~near] = np.where(rise < 1, grown - _SLACK, -np.inf)
        return values

    def _near(self, z: Any) -> np.ndarray:
        """Return the excess less min(Re z, 0) by the power series."""
        rise = np.clip(z.real, 0, None)
        allowed = rise**2 * polyval(rise, 1 / np.arange(2, _POWERS))
        return polyval(z, self._series.T).real.max(axis=0) - allowed

    def longest(
        self,
        rates: Shaped[np.ndarray, "*g"],
        largest: Any = 64.0,
        scan: int = 512,
        exact: bool = True,
    ) -> Float[np.ndarray, "*g"]:
        """Find for every rate g the largest h such that all steps up to h are stable.

        Args:
            rates: The rates g, of any shape `(*g)`.
            largest: The end of the search, as a value of h |g|, for all rates or for each.
            scan: The number of lengths among which the search looks for the first unstable one.
            exact: Whether the search goes on until rounding ends it. Otherwise the result is the
                last stable length of the scan.

        Returns:
            The lengths h, of the shape of `rates`. Zero where arbitrarily short steps are unstable.
            Infinite where no unstable step was found, and for g = 0.

        Raises:
            InputTypeError: `rates` are not numbers, or another argument is of the wrong kind.
            InputError: `largest` is not positive or not finite, or `scan` is below 16 or above
                65536.
        """
        rates = _complex(rates)
        ends = np.asarray(checks.numbers("largest", largest), float)
        if not (ends >= 0).all() or (not ends.any() and ends.ndim == 0):
            raise InputError(f"largest must be positive, got {largest!r}")
        checks.whole("scan", scan, least=16, most=2**16)
        checks.flag("exact", exact)
        sizes = np.abs(rates).ravel()
        moved = np.flatnonzero(sizes)
        ways, sizes = rates.ravel()[moved] / sizes[moved], sizes[moved]
        ends = np.broadcast_to(ends, rates.shape).ravel()[moved]
        shares = [np.geomspace(1e-24, 1e-3, scan // 8), np.geomspace(1e-3, 1, scan - scan // 8)]
        low, high = self._narrowed(ways, 0 * ends, ends, np.concatenate(shares))
        inside = np.flatnonzero((low > 0) & (low < high))
        for _ in range(13 if exact and len(inside) else 0):
            low[inside], high[inside] = self._narrowed(
                ways[inside], low[inside], high[inside], _CUTS
            )
        limits = np.full(rates.size, np.inf)
        limits[moved] = np.where(low < ends, low, np.inf) / sizes
        return limits.reshape(rates.shape)

    def _narrowed(
        self, ways: np.ndarray, low: np.ndarray, high: np.ndarray, shares: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the part of every interval in which stability ends, among parts by their shares.

        Both ends are the upper end where no length is unstable.
        """
        lengths = np.column_stack([low, low[:, None] + (high - low)[:, None] * shares])
        unstable = self.excess(ways[:, None] * lengths[:, 1:]) > 0
        row, first = np.arange(len(ways)), unstable.argmax(axis=1)
        some = unstable[row, first]
        return (
            np.where(some, lengths[row, first], high),
            np.where(some, lengths[row, first + 1], high),
        )


def _expansion(roots: Callable[[np.ndarray], np.ndarray]) -> tuple[float, np.ndarray]:
    """Expand the logarithms of the roots of a step in powers of z.

    The coefficients are Cauchy's integrals over a circle in which the roots are analytic. Roots
    that stay below one inside are left out.

    Returns:
        The radius up to which to use the expansion, and its coefficients less those of log e^z,
        `(roots, powers)`. A single infinite coefficient stands for a scheme that is unstable for
        z -> 0 in all directions, as one with a double root on the unit circle.
    """
    turns = np.exp(2j * np.pi * np.arange(_CIRCLE) / _CIRCLE)
    for radius in 2.0 ** np.arange(0, -14, -1):
        with np.errstate(all="ignore"):
            paths = _followed(roots(radius * turns))
            paths = paths[:, np.abs(paths).max(axis=0) > 1]
            middle = paths.mean(axis=0)
            logarithms = np.log(paths / middle) + np.log(middle)
            terms = np.fft.fft(logarithms, axis=0) / _CIRCLE
        size = np.abs(logarithms).max(initial=0)
        if not 0 < size < np.inf or np.abs(terms[_CIRCLE // 2 :]).max() > 1e-12 * size:
            continue
        terms = terms[:_POWERS].T
        terms[:, 1] -= radius
        exact = np.where(np.abs(terms.real) > 1e-12 * size, terms.real, 0) + 1j * np.where(
            np.abs(terms.imag) > 1e-12 * size, terms.imag, 0
        )
        return radius / 4, exact / radius ** np.arange(_POWERS)
    return 2.0**-15, np.asarray([[np.inf]])


def _followed(roots: np.ndarray) -> np.ndarray:
    """Order the roots at the points of a circle, `(points, roots)`, as continuous paths."""
    paths = [roots[0]]
    for row in roots[1:]:
        paths.append(row[np.abs(row - paths[-1][:, None]).argmin(axis=1)])
    return np.stack(paths)


def _complex(z: Any) -> Any:
    """Return values of z as complex numbers, and refuse anything else."""
    try:
        given = np.asarray(checks.known(z))
    except (TypeError, ValueError):  # rows of different lengths, or a traced array
        given = np.asarray(None)
    if given.dtype.kind not in "iufc":
        raise InputTypeError(f"z must be known numbers, h times g, got {type(z).__name__}: {z!r}")
    return given.astype(complex)


def _check(scheme: AbstractSolver) -> None:
    """Check that a scheme is a diffrax solver with constant coefficients.

    Constant means the same from step to step.
    """
    check_scheme(scheme)
    if traits(scheme).parted:
        raise InputTypeError(
            f"a step of {type(scheme).__name__} depends on how a field is cut into parts, which "
            "the analysis of one field does not know; look at its inner scheme"
        )
    if step_coefficients(scheme):
        raise InputError(
            f"the coefficients of this {type(scheme).__name__} change from step to step; "
            "build one with the numbers of one step"
        )


def _check_alone(scheme: AbstractSolver) -> None:
    """Refuse a scheme that goes on from a state before."""
    if traits(scheme).continued:
        raise InputError(
            f"give the {type(scheme).__name__} without its state before: "
            "the analysis is of its steps alone"
        )
