"""The equation to which a scheme converges as its steps become finer, and the flow of the equation.

Most schemes converge to u' = f(u) for the field f. Some networks converge to another equation, such
as the LM-ResNet with k different from zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from diffrax import AbstractSolver, ODETerm
from jax import lax
from jaxtyping import PyTree

from neuralflow.annotations import Real
from neuralflow.schemes.multistep import LinearMultistep, TwoStep
from neuralflow.schemes.network import (
    OneStepScheme,
    Traits,
    cost,
    is_explicit,
    one_step,
    tableau_of,
    traits,
    value,
)
from neuralflow.schemes.reversible import Reversible
from neuralflow.schemes.runge_kutta import RK4, explicit_step, times
from neuralflow.schemes.splitting import Splitting

_SUBSTEPS = 8  # The flow of a step is then exact to about 1e-6 where h |f'| is 1.


def limit_velocity(scheme: AbstractSolver, velocity: Callable[[PyTree], PyTree], x: PyTree) -> Any:
    """Return the velocity g0(x) of the equation u' = g0(u) to which a scheme converges.

    g0 is the field itself for Runge-Kutta schemes, implicit ones too, for splittings of them, and
    for `LinearMultistep`.
    The two-step schemes have g0 = f weight(k) / (1 + k). For any other scheme, g0 is the derivative
    of a step in the length of the step, at length zero.

    Args:
        scheme: A diffrax solver. A coefficient has the value of one step.
        velocity: The field as a function of the state alone, with the weights of one depth.
        x: The state.

    Returns:
        The velocity, in the form of x.

    Source:
        Our derivation, from the modified equations of `analysis.modified_equation`.
    """
    if _has_its_field_as_limit(scheme):
        return velocity(x)
    return step_velocity(scheme, lambda share, y: velocity(y), x)


def _has_its_field_as_limit(scheme: AbstractSolver) -> bool:
    """Tell whether a scheme is known to converge to u' = f(u) whatever its coefficients are."""
    kinds = diffrax.AbstractRungeKutta | diffrax.Euler | diffrax.ImplicitEuler | Splitting
    return isinstance(scheme, kinds)


def step_velocity(
    scheme: AbstractSolver, velocity: Callable[[Real, PyTree], PyTree], x: PyTree
) -> Any:
    """Return the velocity of one step of a scheme, to first order in the velocity.

    The weights of the step may change inside the step. The velocity of a Runge-Kutta step is
    sum_i b_i f(x, c_i) with the weights b_i and the nodes c_i of its tableau. A splitting has the
    velocity of a step of its inner scheme for the whole field: exactly for Lie-Trotter, and up to
    the second differences of the weights inside a step for Strang. `limit_velocity` is the same for
    weights that stand still.

    Args:
        scheme: A diffrax solver. A coefficient has the value of the step.
        velocity: The field as a function velocity(c, y) of the share c of the step, from 0 to 1,
            and of the state y.
        x: The state.

    Returns:
        The velocity, in the form of x.
    """
    if isinstance(scheme, Reversible):
        return step_velocity(scheme.scheme, velocity, x)
    if isinstance(scheme, Splitting):
        return step_velocity(scheme.inner, velocity, x)
    if isinstance(scheme, LinearMultistep):
        return velocity(0.0, x)
    if isinstance(scheme, TwoStep):
        k = value(scheme.k, x)
        share = scheme.weight(k) / jnp.asarray(1 + k)  # infinite at k = -1, as the limit is
        return jax.tree.map(lambda v: times(share, v), velocity(0.0, x))
    if isinstance(scheme, diffrax.ImplicitEuler):
        return velocity(1.0, x)
    if isinstance(scheme, diffrax.AbstractRungeKutta) and tableau_of(scheme) is None:
        tableau: Any = scheme.tableau
        nodes = [float(tableau.c1), *map(float, tableau.c)]
        parts = [
            jax.tree.map(lambda v, b=b: float(b) * v, velocity(c, x))
            for b, c in zip(tableau.b_sol, nodes, strict=True)
            if b
        ]
        return jax.tree.map(lambda *v: sum(v[1:], v[0]), *parts)

    def step(scale: Any) -> Any:
        terms = ODETerm(lambda t, y, args: jax.tree.map(lambda v: times(scale, v), velocity(t, y)))
        return one_step(scheme, terms, 0.0, 1.0, x, None)

    zero = jnp.zeros((), jnp.finfo(jax.tree.leaves(x)[0].dtype).dtype)
    return jax.jvp(step, (zero,), (jnp.ones_like(zero),))[1]


class LimitFlow(OneStepScheme):
    """The flow of the equation to which a scheme converges: eight steps of RK4 in one step.

    The flow is the standard against which a walk of the scheme is measured. The flow has the steps
    and the coefficients of the scheme.

    Args:
        scheme: The scheme whose limit counts.
    """

    scheme: AbstractSolver

    @property
    def traits(self) -> Traits:
        """The coefficients have the rows that the scheme itself asks for."""
        return Traits(plain=traits(self.scheme).plain)

    def evaluations(self, steps: int) -> int:
        """Return the number of evaluations of the field in a number of steps."""
        known = _has_its_field_as_limit(self.scheme) or not is_explicit(self.scheme)
        once = 1 if known else cost(self.scheme, 1)
        return 4 * _SUBSTEPS * once * steps

    def order(self, terms):
        """Return 4, the order of RK4."""
        return 4

    def advance(self, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, h: Real) -> Any:
        """Return the state after a step, as `OneStepScheme.advance` says."""
        rk4: Any = RK4().tableau

        def substep(y: PyTree, k: Any) -> Any:
            def limit(c: Real, z: PyTree) -> Any:
                share = (k + c) / _SUBSTEPS
                return limit_velocity(self.scheme, lambda w: velocity(share, w), z)

            return explicit_step(rk4, limit, y, h / _SUBSTEPS), None

        dtype = jnp.finfo(jax.tree.leaves(x)[0].dtype).dtype
        return lax.scan(substep, x, jnp.arange(_SUBSTEPS, dtype=dtype))[0]
