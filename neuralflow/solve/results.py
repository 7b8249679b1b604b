"""The result of a solve, and the ways in which a solve fails.

Inside a trace, a failed solve has states of NaN and a status. Outside a trace, a failed solve
raises one error with its remedy.
"""

import enum
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class Status(enum.IntEnum):
    """How a solve ended.

    Attributes:
        SUCCESSFUL: The solve reached its end, and the final state is finite.
        MAX_STEPS: An adaptive solve used up `max_steps` before its end.
        NOT_FINITE: The state is not finite, or the velocity is not finite where the solve begins.
        IMPLICIT_FAILED: The root finder of an implicit scheme did not converge in a step.
        NOT_INVERTED: The fixed-point iteration of `invert` did not converge in a step.
        FAILED: An adaptive solve could not go on, since it rejected even a step as short as
            rounding allows, or for another reason.
        BAD_DEPTHS: Depths that were asked for in a trace lie outside the interval, or the ends of
            the walk do. Or depths of an adaptive solve are out of order.
    """

    SUCCESSFUL = 0
    MAX_STEPS = 1
    NOT_FINITE = 2
    IMPLICIT_FAILED = 3
    NOT_INVERTED = 4
    FAILED = 5
    BAD_DEPTHS = 6


class Solution(NamedTuple):
    """The states of a solve, and a record of what the solve did.

    The states of a failed solve are NaN, with two exceptions. Under the status NOT_FINITE the
    states stay as they were computed, unless no step was accepted. Depths that an otherwise
    successful solve could not reach have states of NaN, and the states at the other depths stay.
    Every gradient through a solve that failed is NaN.

    Under per-sample control, `status`, `evaluations`, `accepted` and `rejected` have shape
    `(batch,)`. Otherwise they are scalars.

    Attributes:
        states: The final state, or the states at the depths that were asked for. States at depths
            have a leading axis of length m, the number of depths.
        depths: The depth times of the states: a scalar, or shape `(m,)`.
        status: How the solve ended, as an integer of `Status`.
        evaluations: The number of evaluations of the field in the forward solve. A stage that a
            scheme hands on to its next step counts once. An implicit stage counts once, however
            many iterations its root finder takes.
        accepted: The number of accepted steps. On a fixed grid, every step is accepted.
        rejected: The number of rejected steps. On a fixed grid, the number is zero.
    """

    states: PyTree[Array]
    depths: Array
    status: Array
    evaluations: Array
    accepted: Array
    rejected: Array


class SolveError(RuntimeError):
    """The error of a solve that failed outside a trace.

    The message says what failed and what to do.

    Args:
        message: The text of the error.
        status: How the solve ended.

    Attributes:
        status: How the solve ended.
    """

    def __init__(self, message: str, status: Status):
        super().__init__(message)
        self.status = status


def all_finite(tree: PyTree) -> Array:
    """Return whether every entry of every array of a pytree is finite.

    Args:
        tree: A pytree of arrays, at least one.

    Returns:
        A boolean scalar.
    """
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def column(mask: Array, like: Array) -> Array:
    """Reshape a mask over the first axis so that the mask broadcasts against an array.

    Args:
        mask: The mask, shape `(m,)`.
        like: The array, shape `(m, ...)`.

    Returns:
        The mask of shape `(m, 1, ..., 1)`, with as many axes as `like`.
    """
    return mask.reshape(mask.shape + (1,) * (like.ndim - 1))


def failing(failed: Array | bool, states: PyTree, inputs: PyTree) -> Any:
    """Make the states of a failed solve NaN, and every gradient through such states.

    Somebody would believe a finite half-way state, or train on a gradient of zero. The gradient is
    also NaN where a state is not finite. Such states themselves stay as they are: in a batch, the
    states of the other samples are good.

    Args:
        failed: Whether the solve failed, one boolean.
        states: A pytree of states.
        inputs: What the states were computed from.

    Returns:
        The states. Where the solve failed, the states are NaN, and so is the gradient in every
        floating array of `inputs`.
    """
    lost = jnp.asarray(failed)
    states = jax.tree.map(lambda y: jnp.where(lost, jnp.nan, y), states)
    return _guarded(~all_finite(states), states, eqx.filter(inputs, eqx.is_inexact_array))


@jax.custom_jvp
def _guarded(bad, states, inputs):
    return states


def _guarded_jvp(primals, tangents):
    bad, states, _ = primals
    # A tangent times zero or NaN is linear in the tangent, so that reverse mode carries it too.
    # The NaN goes to the inputs alone: on its way through the steps of an implicit scheme it would
    # end in an error of the linear solver.
    amounts = [
        jnp.sum(tangent)
        for tangent in jax.tree.leaves(tangents[2])
        if not isinstance(tangent, jax.custom_derivatives.SymbolicZero)
    ]

    def moved(state, tangent):
        dtype = jnp.real(state).dtype
        out = jnp.where(bad, 0, instantiated(tangent, state))
        for amount in amounts:
            out += jnp.where(bad, jnp.nan, 0).astype(dtype) * jnp.real(amount).astype(dtype)
        return out

    return states, jax.tree.map(moved, states, tangents[1])


_guarded.defjvp(_guarded_jvp, symbolic_zeros=True)


def instantiated(tangent: Any, like: Array) -> Array:
    """Return a tangent as an array.

    Args:
        tangent: A tangent, or JAX's symbolic zero.
        like: The array to which the tangent belongs.

    Returns:
        The tangent, with zeros for a symbolic zero.
    """
    zero = isinstance(tangent, jax.custom_derivatives.SymbolicZero)
    return jnp.zeros_like(like) if zero else tangent
