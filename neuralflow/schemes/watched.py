"""A Runge-Kutta scheme that measures its own steps: their errors and the stiffness they met."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optimistix as optx
from diffrax import AbstractERK, ODETerm
from jax import lax
from jaxtyping import Array, PyTree

from neuralflow.schemes.wrapped import Wrapped


class Watch(NamedTuple):
    """What a `Watched` scheme carries beside the samples, each of shape `(batch,)`.

    Attributes:
        error: The sum of |h| |e| over the steps so far, with the length h of a step and its error
            estimate e.
        stiffness: The sum of |h| times the stiffness over the steps so far.
        time: The depth time so far. The rate of this entry is one, and the rates of the others are
            zero, so that a step knows its length in depth time.
    """

    error: Array
    stiffness: Array
    time: Array


class Watched(Wrapped):
    """An explicit Runge-Kutta scheme that adds up what its steps show.

    The state is a pair of samples and a `Watch`. The samples take the steps of the wrapped scheme,
    and the error estimate is that of the samples.

    Args:
        scheme: The scheme that takes the steps.
    """

    scheme: AbstractERK
    term_structure: ClassVar = ODETerm

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take a step of the wrapped scheme, and add to the `Watch`."""
        (x1, moved), error, info, memory, result = self.scheme.step(
            terms, t0, t1, y0, args, solver_state, made_jump
        )
        length = jnp.abs(moved.time - y0[1].time)
        watch = Watch(moved.error + length * _norms(error[0]), moved.stiffness, moved.time)
        if sees_stiffness(self.scheme):
            stages = jax.tree.map(lambda k: k[-2:], info["k"][0])
            tableau: Any = self.scheme.tableau
            inner = tableau.a_lower[-2]
            at = jax.tree.map(
                lambda x, k: (
                    x
                    + jnp.tensordot(
                        jnp.asarray(inner, k.dtype), k[:-2], axes=1, precision=lax.Precision.HIGHEST
                    )
                ),
                y0[0],
                info["k"][0],
            )
            # The stages are h f, so the quotient is |h| times the stiffness.
            rise = _norms(jax.tree.map(lambda k: k[1] - k[0], stages))
            run = _norms(jax.tree.map(jnp.subtract, x1, at))
            quotient = jnp.where(run == 0, 0, rise / jnp.where(run == 0, 1, run))
            watch = watch._replace(stiffness=moved.stiffness + quotient)
        return (x1, watch), (error[0], jax.tree.map(jnp.zeros_like, watch)), info, memory, result


def sees_stiffness(scheme: AbstractERK) -> bool:
    """Tell whether a step of a scheme has two states at its end, which show the stiffness.

    Args:
        scheme: An explicit Runge-Kutta scheme.

    Returns:
        True for schemes such as Tsit5, Dopri5 and Dopri8. Their last stage is the next step's
        first, and their last stage but one stands at the end of the step, too.
    """
    tableau: Any = scheme.tableau
    return bool(tableau.fsal and len(tableau.c) > 1 and tableau.c[-2] == 1)


def sample_norm(errors: PyTree) -> Array:
    """Return the norm by which diffrax controls steps, of the samples in a pair alone.

    With this norm, the steps are those of the samples without a `Watch`.

    Args:
        errors: A pair of what belongs to the samples and of what belongs to the `Watch`.
    """
    return root_mean_square(errors[0])


def root_mean_square(errors: PyTree) -> Array:
    """Return the norm by which diffrax controls steps, also of a symbolic number of samples.

    Args:
        errors: A pytree of arrays.
    """
    size: Any = sum(leaf.size for leaf in jax.tree.leaves(errors))
    if isinstance(size, int):
        return optx.rms_norm(errors)
    norm = optx.two_norm(errors)
    return norm / jnp.sqrt(jnp.asarray(size, norm.dtype))


def _norms(tree: PyTree) -> Array:
    """Return the Euclidean norm of every sample, with the derivative zero where the norm is."""
    square = sum(
        jnp.sum(jnp.square(a), axis=tuple(range(1, a.ndim))) for a in jax.tree.leaves(tree)
    )
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
