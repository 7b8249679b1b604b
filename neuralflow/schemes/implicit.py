"""Derivatives of implicit steps by the implicit function theorem.

diffrax solves the stages of a step, and its derivative of them ends in an error on the host where a
Jacobian is not finite. Such an error cannot be exported either. The derivatives here are NaN there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from diffrax import AbstractSolver
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from neuralflow.annotations import Real


def has_stages(scheme: AbstractSolver) -> bool:
    """Tell whether `attached` knows the stages of a scheme.

    Args:
        scheme: A diffrax solver.

    Returns:
        True for the implicit Euler scheme and diagonally implicit Runge-Kutta schemes.
    """
    return isinstance(scheme, diffrax.ImplicitEuler | diffrax.AbstractDIRK)


def attached(
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
    were found, of every order.

    Args:
        scheme: A scheme for which `has_stages` is true.
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

        def rest(k: PyTree, c: float = c, own: float = own, base: PyTree = base) -> Any:
            v = velocity(c, _plus(base, [own], [k]))
            return jax.tree.map(lambda a, b: a - h * b, k, v)

        ks.append(_rooted(rest, k, _dense if own else _plain))
    y = _rooted(lambda y: jax.tree.map(jnp.subtract, y, _plus(x, weights, ks)), y, _plain)
    more = {} if found is None else {"k": jax.tree.map(lambda *a: jnp.stack(a), *ks)}
    return y, {"y0": x, "y1": y} | more


def _rooted(rest: Callable[[PyTree], PyTree], root: PyTree, solve: Callable[..., Any]) -> Any:
    """Return a known root of a function, with the derivatives of a root."""
    return lax.custom_root(rest, root, lambda _, known: known, solve)


def _plain(linear: Callable[[PyTree], PyTree], right: PyTree) -> Any:
    """Solve an equation whose linear function is the identity."""
    return right


def _dense(linear: Callable[[PyTree], PyTree], right: PyTree) -> Any:
    """Solve an equation by the matrix of its linear function."""
    flat, tree = ravel_pytree(right)
    columns = jax.vmap(lambda unit: ravel_pytree(linear(tree(unit)))[0], out_axes=1)
    return tree(jnp.linalg.solve(columns(jnp.eye(flat.size, dtype=flat.dtype)), flat))


def _plus(x: PyTree, weights: Sequence[Any], ks: Sequence[Any]) -> Any:
    """Return x plus a weighted sum of stages."""
    for weight, k in zip(weights, ks, strict=True):
        if weight:
            x = jax.tree.map(lambda a, b, w=float(weight): a + w * b, x, k)
    return x
