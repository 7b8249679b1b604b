"""What a scheme does, told from the scheme: order conditions, observed order, modified equation, stability and its limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Complex, Float, Shaped

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.schemes.multistep import LinearMultistep, _TwoStep
from neuralflow.schemes.network import (
    NetworkScheme,
    PerStep,
    is_explicit,
    one_step,
    prepared,
    traits,
)
from neuralflow.schemes.reversible import RevNet, halves

Scheme = diffrax.AbstractSolver
Tree = tuple["Tree", ...]


def walk(
    scheme: Scheme, velocity: Callable[[Any, Any], Any], x: Any, end: float, steps: int
) -> Any:
    """x(end) of x' = velocity(x, t) by so many equal steps from t = 0: a plain loop over `scheme.step`."""
    _check(scheme)
    dtype = jnp.finfo(jax.tree.leaves(x)[0].dtype).dtype
    scheme, h = prepared(scheme, dtype), jnp.asarray(end / steps, dtype)
    terms = diffrax.ODETerm(lambda t, x, start: velocity(x, start + t))

    def step(carry: Any, k: Any) -> Any:
        x, memory = carry
        if isinstance(scheme, diffrax.AbstractERK):
            return (one_step(scheme, terms, 0 * h, h, x, k * h), memory), None
        x, _, _, memory, _ = scheme.step(terms, 0 * h, h, x, k * h, memory, False)
        return (x, memory), None

    memory = (
        None if isinstance(scheme, diffrax.AbstractERK) else scheme.init(terms, 0 * h, h, x, 0 * h)
    )
    return lax.scan(step, (x, memory), jnp.arange(steps))[0][0]


def observed_order(scheme: Scheme, steps: int = 64) -> float:
    """The order seen between `steps` and twice as many on X' = Y (1 + t/2), Y' = -sin X, from one on, up to t = 2.

    By Richardson's rule from three solutions, so that no reference is needed: it is the order at which the scheme converges,
    to whatever it converges (`modified_equation` tells to what). Needs float64. Raises ValueError where the solutions
    are not finite or differ by rounding alone.
    """
    checks.whole("steps", steps)
    if jnp.ones(()).dtype != jnp.float64:
        raise InputError(
            "an order is seen in float64 only; set jax.config.update('jax_enable_x64', True) first"
        )

    def velocity(x: Any, t: Any) -> Any:
        return ((1 + t / 2) * x[1], -jnp.sin(x[0]))

    start = (jnp.ones(1), jnp.ones(1))
    ends = [walk(scheme, velocity, start, 2.0, steps * 2**i) for i in range(3)]
    first, second = (
        math.hypot(*(float(abs(a - b).max()) for a, b in zip(fine, coarse, strict=True)))
        for coarse, fine in itertools.pairwise(ends)
    )
    if not second > 1e-13 or not math.isfinite(first):
        raise InputError(
            f"the solutions with {steps}, {2 * steps} and {4 * steps} steps differ by {first:.0e} and {second:.0e}, from which no "
            "order can be told; take fewer steps where that is rounding, more where it is instability"
        )
    return math.log2(first / second)


def order_conditions(scheme: Scheme, order: int) -> dict[str, float]:
    """What is missing to the order conditions up to `order`: all zero if and only if the scheme has that order.

    For a Runge-Kutta scheme one number per rooted tree with up to `order` nodes (written as nested brackets),
    b . Phi(tree) - 1/gamma(tree) (Butcher 1963). For linear multi-step schemes one per power q of time,
    sum_j alpha_j (-j)^q + q sum_j beta_j (-j)^(q-1) - 1, "consistency" for q = 0. Raises TypeError for other schemes:
    `modified_equation` tells their errors.
    """
    checks.whole("order", order)
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


def _stages(scheme: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """A and b of a Runge-Kutta scheme; None for others."""
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
    """A and b of a Butcher tableau."""
    stages = len(tableau.b_sol)
    a = np.zeros((stages, stages))
    for i, row in enumerate(tableau.a_lower, 1):
        a[i, : len(row)] = row
    if tableau.a_diagonal is not None:
        a += np.diag(tableau.a_diagonal)
    return a, np.asarray(tableau.b_sol, float)


def _trees(nodes: int) -> list[Tree]:
    """All rooted trees with so many nodes, each the tuple of its branches in order."""
    if nodes == 1:
        return [()]
    return sorted(
        {tuple(sorted((*tree, ()))) for tree in _trees(nodes - 1)}
        | {t for s in _trees(nodes - 1) for t in _grown(s)}
    )


def _grown(tree: Tree) -> list[Tree]:
    """The trees with one more leaf somewhere above the root's own branches."""
    grown = []
    for i, branch in enumerate(tree):
        rest = tree[:i] + tree[i + 1 :]
        grown += [
            tuple(sorted((*rest, more))) for more in [tuple(sorted((*branch, ()))), *_grown(branch)]
        ]
    return grown


def _weight(tree: Tree, a: np.ndarray) -> np.ndarray:
    """The elementary weights of the stages."""
    return np.prod([a @ _weight(branch, a) for branch in tree], axis=0) if tree else np.ones(len(a))


def _nodes(tree: Tree) -> int:
    return 1 + sum(map(_nodes, tree))


def _density(tree: Tree) -> int:
    return _nodes(tree) * math.prod(map(_density, tree))


def _written(tree: Tree) -> str:
    return f"[{''.join(map(_written, tree))}]"


def _coefficients(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """alpha and beta of a linear multi-step scheme with constant coefficients."""
    if isinstance(scheme, LinearMultistep):
        return np.asarray(scheme.alpha), np.asarray(scheme.beta)
    if (
        isinstance(scheme, _TwoStep)
        and not isinstance(scheme.k, PerStep)
        and np.ndim(scheme.k) == 0
    ):
        k = float(scheme.k.get_value() if isinstance(scheme.k, nnx.Variable) else scheme.k)
        return np.asarray([1 - k, k]), np.asarray([float(scheme.weight(k))])
    raise InputTypeError(
        f"{type(scheme).__name__} is neither a Runge-Kutta nor a linear multi-step scheme with constant coefficients; "
        "look at modified_equation(scheme, velocity, x), or at observed_order(scheme)"
    )


def modified_equation(
    scheme: Scheme, velocity: Callable[[Array], Array], x: Float[Array, " d"]
) -> tuple[Float[Array, " d"], Float[Array, " d"], Float[Array, " d"]]:
    """g0, g1, g2 at x such that the scheme's solution follows u' = g0(u) + h g1(u) + h^2 g2(u) up to O(h^3).

    `velocity`: an autonomous field on vectors. Consistent means g0 = velocity, order two that g1 = 0, order three that
    g2 = 0 too. By backward error analysis (Hairer, Lubich & Wanner, chapter IX) with derivatives by jax; for a linear
    multi-step scheme of the flow that its principal root follows. Smooth velocities; float64. Raises TypeError for implicit
    schemes and for those whose steps are no map of the state alone, ValueError for those that follow no equation at all.
    """
    _check(scheme)
    like = jax.eval_shape(velocity, x)
    if (
        jax.tree.structure(like) != jax.tree.structure(x)
        or like.shape != x.shape
        or like.dtype != x.dtype
    ):
        raise InputError(
            f"velocity(x) must be of the shape and dtype of x, {x.dtype}{list(x.shape)}, got {like}"
        )
    if isinstance(scheme, LinearMultistep | _TwoStep):
        alpha, beta = _coefficients(scheme)
        if isinstance(scheme, _TwoStep) and not (-1 < alpha[1] <= 1):
            raise InputError(
                f"with k = {alpha[1]:g} the two-step scheme is not zero-stable and follows no equation; |k| < 1, or k = 1"
            )
        terms = _modified_multistep(alpha, beta, velocity)
    else:
        advance = _map_of(scheme, velocity)
        still = advance(jnp.zeros((), x.dtype), x)
        if not np.allclose(still, x, rtol=1e-9, atol=1e-12):
            raise InputError(
                f"a step of length zero of this {type(scheme).__name__} does not leave the state as it is, so its states follow no equation"
            )
        terms = _modified_one_step(advance)
    return jax.jit(lambda x: tuple(g(x) for g in terms))(x)


def _along(f: Callable[[Any], Any], v: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The derivative of f along the field v."""
    return lambda x: jax.jvp(f, (x,), (v(x),))[1]


def _map_of(scheme: Scheme, velocity: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """A step as a function of its length and of the state; TypeError for what is no such function."""
    name = type(scheme).__name__
    if not is_explicit(scheme):
        raise InputTypeError(
            f"{name} is implicit, and derivatives of its steps are not taken here; see order_conditions"
        )
    if traits(scheme).carries:
        raise InputTypeError(
            f"{name} carries more than the state, so its steps are no map of it; look at the scheme it wraps"
        )
    if isinstance(scheme, RevNet):
        pairs = diffrax.ODETerm(lambda t, y, args: halves(velocity(jnp.concatenate(y))))
        return lambda h, x: jnp.concatenate(
            scheme.step(pairs, jnp.zeros_like(h), h, halves(x), None, None, False)[0]
        )
    terms = diffrax.ODETerm(lambda t, y, args: velocity(y))
    return lambda h, x: one_step(scheme, terms, jnp.zeros_like(h), h, x, None)


def _modified_one_step(advance: Callable[[Any, Any], Any]) -> tuple[Any, Any, Any]:
    def taylor(order: int) -> Callable[[Any], Any]:
        """The coefficient of h^order in a step from x."""

        def at(x: Any) -> Any:
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
    # With u a solution of u' = g(u): u(t + jh) = u + jh g + (jh)^2/2 g'g + ..., on both sides, power by power of h.
    j, i = -np.arange(len(alpha), dtype=float), -np.arange(len(beta), dtype=float)
    slope, second, third = (float(1 - alpha @ j**q) / math.factorial(q) for q in (1, 2, 3))
    b0, b1, b2 = (float(beta @ i**q) / math.factorial(q) for q in (0, 1, 2))

    def g0(x):
        return b0 / slope * velocity(x)

    def g1(x):
        return (b1 * _along(velocity, g0)(x) - second * _along(g0, g0)(x)) / slope

    def g2(x: Any) -> Any:
        forced = b1 * _along(velocity, g1)(x) + b2 * _along(_along(velocity, g0), g0)(x)
        moved = second * (_along(g0, g1)(x) + _along(g1, g0)(x)) + third * _along(
            _along(g0, g0), g0
        )(x)
        return (forced - moved) / slope

    return g0, g1, g2


def stability_function(scheme: Scheme, z: Shaped[np.ndarray, "*z"]) -> Complex[np.ndarray, "*z"]:
    """R(z) of a one-step scheme: u1 = R(h g) u for u' = g u. TypeError for a scheme that carries more than the state."""
    stages = _stages(scheme)
    if stages is not None:
        # A quotient of determinants, whose poles are infinite and not an error.
        a, b = stages
        flat = np.ravel(np.asarray(z, complex))[:, None, None]
        below = np.linalg.det(np.eye(len(b)) - flat * a)
        above = np.linalg.det(np.eye(len(b)) - flat * a + flat * np.outer(np.ones(len(b)), b))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(below == 0, np.inf, above / below).reshape(np.shape(z))
    matrix = amplification(scheme, z)
    if matrix.shape[-1] != 1:
        raise InputTypeError(
            f"a step of {type(scheme).__name__} is a matrix, not a number; look at amplification(scheme, z)"
        )
    return matrix[..., 0, 0]


def amplification(scheme: Scheme, z: Shaped[np.ndarray, "*z"]) -> Complex[np.ndarray, "*z m m"]:
    """The matrix of one step on u' = g u, z = h g: from the state and all that the scheme carries to the next ones.

    Past any start. For RevNet the test equation is X' = g Y, Y' = g X, whose eigenvalues are g and -g. Raises
    ValueError for coefficients that change from step to step: give one of their values as a number.
    """
    return _amplifier(scheme)(z)


def _amplifier(scheme: Scheme) -> Callable[[Any], np.ndarray]:
    """`amplification` of one scheme, compiled once."""
    _check(scheme)
    if not is_explicit(scheme):
        raise InputTypeError(
            f"a step of {type(scheme).__name__} is implicit; look at stability_function(scheme, z)"
        )
    if traits(scheme).continued:
        raise InputError(
            f"give the {type(scheme).__name__} without its state before: the analysis is of its steps alone"
        )
    x = (jnp.zeros((), complex),) * 2 if isinstance(scheme, RevNet) else jnp.zeros((), complex)
    flip = (lambda x: x[::-1]) if isinstance(scheme, RevNet) else (lambda x: x)

    def step(z: Any, x: Any, memory: Any) -> Any:
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
    def matrix(z: Any) -> Any:
        def column(vector: Any) -> Any:
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

    def matrices_at(z: Any) -> np.ndarray:
        flat = jnp.ravel(jnp.asarray(z, complex))
        return np.asarray(matrix(flat)).reshape(*np.shape(z), count, count)

    return matrices_at


def growth(scheme: Scheme, z: Shaped[np.ndarray, "*z"]) -> Float[np.ndarray, "*z"]:
    """By how much a step on u' = g u multiplies what it carries, z = h g: the spectral radius; stable up to one."""
    return _grower(scheme)(z)


def _grower(scheme: Scheme) -> Callable[[Any], np.ndarray]:
    """`growth` of one scheme, compiled once."""
    if _stages(scheme) is not None:
        return lambda z: np.abs(stability_function(scheme, z))
    matrices_at = _amplifier(scheme)
    return lambda z: np.abs(np.linalg.eigvals(matrices_at(z))).max(axis=-1)


def region(
    scheme: Scheme,
    real: tuple[float, float] = (-4.0, 1.0),
    imaginary: tuple[float, float] = (-3.5, 3.5),
    points: int = 201,
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"], Float[np.ndarray, "p p"]]:
    """Real parts, imaginary parts and `growth` on a rectangle of the plane of z = h g; the region is where it is <= 1."""
    checks.whole("points", points, least=2)
    for name, ends in (("real", real), ("imaginary", imaginary)):
        if np.shape(ends) != (2,) or not np.isfinite(ends).all() or not ends[0] < ends[1]:
            raise InputError(f"{name} is an interval of two increasing numbers, got {ends!r}")
    x, y = np.linspace(*real, points), np.linspace(*imaginary, points)
    return x, y, growth(scheme, x[None, :] + 1j * y[:, None])


def stability_limit(scheme: Scheme, largest: float = 64.0) -> float:
    """The largest z such that every step with 0 < h g <= z is stable on u' = -g u; infinite past `largest`.

    By a scan and bisection to 1e-9. LMResNet: 2 (1 - k), for |k| < 1 (our derivation).
    """
    if not isinstance(largest, int | float) or not 0 < largest < math.inf:
        raise InputError(f"largest must be a positive number, got {largest!r}")
    grows = _grower(scheme)

    def stable(z):
        return grows(-np.asarray(z, complex)) <= 1 + 1e-9

    return longest(stable, largest, scan=4096, cuts=64, enough=lambda low, high: high - low <= 1e-9)


def longest(
    stable: Callable[[np.ndarray], np.ndarray],
    largest: float,
    *,
    scan: int,
    cuts: int,
    enough: Callable[[float, float], bool],
) -> float:
    """The largest z such that all lengths in (0, z] are stable; infinite past `largest`.

    `stable`: from lengths (m,) to booleans (m,). `scan` equal parts of (0, largest] are looked at first; the part in which stability ends
    is cut into `cuts` again and again, until `enough(low, high)`.
    """
    lengths = np.linspace(0, largest, scan + 1)[1:]
    unstable = np.flatnonzero(~stable(lengths))
    if not len(unstable):
        return math.inf
    low, high = (float(end) for end in ((0.0, *lengths)[unstable[0]], lengths[unstable[0]]))
    while not enough(low, high):
        between = np.linspace(low, high, cuts + 1)
        unstable = np.flatnonzero(~stable(between))
        first = int(unstable[0]) if len(unstable) else cuts
        low, high = (float(between[first - 1]), float(between[first])) if first else (low, low)
    return low


def _check(scheme: Any) -> None:
    if not isinstance(scheme, diffrax.AbstractSolver):
        raise InputTypeError(f"a scheme is a diffrax solver such as nf.Euler(), got {scheme!r}")
    leaves = jax.tree.leaves(scheme, is_leaf=lambda leaf: isinstance(leaf, PerStep))
    if any(isinstance(leaf, PerStep) for leaf in leaves):
        raise InputError(
            f"the coefficients of this {type(scheme).__name__} change from step to step; build one with the numbers of one step"
        )
