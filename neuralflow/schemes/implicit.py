"""Derivatives of implicit steps, and of inverted steps, by the implicit function theorem.

diffrax and optimistix solve the equations. Their derivatives end in an error on the host where a
linear equation has no finite solution. Such an error cannot be exported either. The derivatives
here are NaN there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
from diffrax import AbstractSolver, AbstractTerm
from jax import lax
from jax.extend.core import Primitive
from jax.flatten_util import ravel_pytree
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from neuralflow.annotations import Real
from neuralflow.schemes.wrapped import Wrapped


def with_derivatives(scheme: AbstractSolver) -> AbstractSolver:
    """Return a scheme whose steps have the derivatives of their equations.

    Args:
        scheme: A diffrax solver.

    Returns:
        The same scheme, in an `Attached` where the stages of the scheme solve equations.
    """
    if not isinstance(scheme, diffrax.ImplicitEuler | diffrax.AbstractDIRK):
        return scheme
    return Attached(scheme)


class Attached(Wrapped):
    """An implicit scheme whose steps are solved without derivatives, and then given theirs.

    Args:
        scheme: The implicit Euler scheme or a diagonally implicit Runge-Kutta scheme. Its root
            finder has tolerances of its own.
    """

    scheme: Any
    term_structure: ClassVar = AbstractTerm

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take a step of the scheme; its error estimate is a constant to autodiff."""
        y, error, info, memory, result = self.scheme.step(
            terms, *lax.stop_gradient((t0, t1, y0, args, solver_state)), made_jump
        )

        def velocity(c: float, y: PyTree) -> Any:
            return terms.vf(t1 if c == 1 else t0 + c * (t1 - t0), y, args)

        y, info = _attached(self.scheme, velocity, y0, terms.contr(t0, t1), y, info)
        return y, error, info, memory, result


def _attached(
    scheme: AbstractSolver,
    velocity: Callable[[float, PyTree], PyTree],
    x: PyTree,
    h: Real,
    y: PyTree,
    info: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Give a step that was solved without derivatives the derivatives of its equations.

    Stage i solves k_i = h f(c_i, x + sum over j <= i of a_ij k_j), and the step ends at the state
    y = x + sum over i of b_i k_i. The derivatives are those of these equations at the values that
    were found, up to order four at least.

    Args:
        scheme: The implicit Euler scheme or a diagonally implicit Runge-Kutta scheme.
        velocity: The field as a function velocity(c, y) of the share c of the step, from 0 to 1,
            and of the state y.
        x: The state where the step starts.
        h: The length of the step in depth time.
        y: The state after the step, a constant to autodiff.
        info: What the scheme's interpolant needs, constants to autodiff.

    Returns:
        The same state after the step and the same `info`, with derivatives.
    """
    found = info.get("k")
    if isinstance(scheme, diffrax.ImplicitEuler):
        rows, weights = [(1.0, (), 1.0)], (1.0,)
        solved = [jax.tree.map(jnp.subtract, y, lax.stop_gradient(x))]
    else:
        tableau: Any = scheme.tableau  # pyright: ignore[reportAttributeAccessIssue]
        first = (0.0 if tableau.c1 is None else float(tableau.c1), (), float(tableau.a_diagonal[0]))
        later = zip(tableau.c, tableau.a_lower, tableau.a_diagonal[1:], strict=True)
        rows = [first, *((float(c), row, float(own)) for c, row, own in later)]
        weights = tableau.b_sol
        solved = [jax.tree.map(lambda a, i=i: a[i], found) for i in range(len(rows))]

    ks: list[Any] = []
    for (c, row, own), k in zip(rows, solved, strict=True):
        base = _plus(x, row, ks)

        def stage(k: PyTree, c: float = c, own: float = own, base: PyTree = base) -> Any:
            return jax.tree.map(lambda a: h * a, velocity(c, _plus(base, [own], [k])))

        ks.append(fixed_point(stage, k, _dense) if own else _led(k, stage(k)))
    y = _led(y, _plus(x, weights, ks))
    more = {} if found is None else {"k": jax.tree.map(lambda *a: jnp.stack(a), *ks)}
    return y, {"y0": x, "y1": y} | more


LinearSolve = Callable[[Callable[[PyTree], PyTree], PyTree], Any]
"""The type of a way to solve linear(x) = right: a function of `linear` and `right`."""


def fixed_point(
    function: Callable[[PyTree], PyTree], found: PyTree, linear_solve: LinearSolve
) -> Any:
    """Return a known fixed point of a function, with the derivatives of a fixed point.

    Args:
        function: The function, from states to states.
        found: The fixed point, a constant to autodiff.
        linear_solve: The way to solve the linear equations of the derivatives.

    Returns:
        The fixed point.
    """

    def rest(k: PyTree) -> Any:
        return jax.tree.map(jnp.subtract, k, function(k))

    def newton(rest: Callable[[PyTree], PyTree], k: PyTree) -> Any:
        # JAX drops the rule of a custom derivative inside of `lax.scan` for a gradient of a
        # gradient. These steps have the right derivatives then, up to order three. Compiled
        # programs that do not take these derivatives leave the steps out.
        led = k
        for _ in range(2):
            off, slope = jax.linearize(rest, led)
            led = jax.tree.map(jnp.subtract, led, linear_solve(slope, off))
        return _led(k, led)

    return lax.custom_root(rest, found, newton, linear_solve)


def _dense(linear: Callable[[PyTree], PyTree], right: PyTree) -> Any:
    """Solve an equation by the matrix of its linear function."""
    flat, tree = ravel_pytree(right)
    columns = jax.vmap(lambda unit: ravel_pytree(linear(tree(unit)))[0], out_axes=1)
    return tree(jnp.linalg.solve(columns(jnp.eye(flat.size, dtype=flat.dtype)), flat))


def iterated(tolerance: float) -> LinearSolve:
    """Return the way to solve a linear equation by a fixed-point iteration, without a matrix.

    The iteration converges where the linear function is closer to the identity than the identity is
    to zero. So do the equations of a fixed point that was found by iteration.

    Args:
        tolerance: The largest error that the solution leaves in the equation, relative to the
            larger one of the solution and the right side.

    Returns:
        A function of a linear function and the right side. The solution is NaN where the iteration
        does not converge.
    """

    def solve(linear: Callable[[PyTree], PyTree], right: PyTree) -> Any:
        def improve(carry: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
            k, x, _ = carry
            off = jax.tree.map(jnp.subtract, right, linear(x))
            small = tolerance * jnp.maximum(_largest(x), _largest(right))
            return k + 1, jax.tree.map(jnp.add, x, off), _largest(off) <= small

        def more(carry: tuple[Array, Any, Array]) -> Array:
            return (carry[0] < _MOST_ITERATIONS) & ~carry[2]

        _, x, solved = lax.while_loop(more, improve, (jnp.asarray(0), right, jnp.asarray(False)))
        return jax.tree.map(lambda a: jnp.where(solved, a, jnp.nan), x)

    def linear_solve(linear: Callable[[PyTree], PyTree], right: PyTree) -> Any:
        return lax.custom_linear_solve(linear, right, solve, solve)

    return linear_solve


_MOST_ITERATIONS = 1024


def _largest(tree: PyTree) -> Array:
    """Return the largest absolute value of all entries."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


# The value of the first array with the derivatives of the second one.
_led_p = Primitive("led")
_led_p.def_impl(lambda value, leader: value)
_led_p.def_abstract_eval(lambda value, leader: value)
ad.primitive_jvps[_led_p] = lambda primals, tangents: (_led_p.bind(*primals), tangents[1])
batching.defbroadcasting(_led_p)
mlir.register_lowering(_led_p, mlir.lower_fun(lambda value, leader: value, multiple_results=False))


def _led(values: PyTree, leaders: PyTree) -> Any:
    """Return values with the derivatives of other arrays, which are equal up to rounding."""
    return jax.tree.map(_led_p.bind, values, leaders)


def _plus(x: PyTree, weights: Sequence[Any], ks: Sequence[Any]) -> Any:
    """Return x plus a weighted sum of stages."""
    for weight, k in zip(weights, ks, strict=True):
        if weight:
            x = jax.tree.map(lambda a, b, w=float(weight): a + w * b, x, k)
    return x
