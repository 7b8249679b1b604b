"""Complex states as pairs of real numbers, for solves whose steps solve equations.

The derivative of a field that is not holomorphic is linear over the reals alone. Newton's method
and its implicit gradient are right for real unknowns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import PyTree

from neuralflow.annotations import Real
from neuralflow.solve.system import velocity_of


class _OnPairs(nnx.Module):
    """A field on real pairs."""

    def __init__(self, field: nnx.Module, join: Callable[[PyTree], PyTree]):
        self.field, self.join = field, join

    def __call__(self, pairs: PyTree, t: Real, context: PyTree = None) -> PyTree:
        x = self.join(pairs)
        name = type(self.field).__name__
        return split_complex(velocity_of(name, self.field, x, t, context))


def split_complex(x: PyTree) -> PyTree:
    """Return a state with a last axis of real and imaginary part in place of complex numbers.

    Args:
        x: A pytree of arrays.

    Returns:
        The pytree with complex arrays `(...)` as real arrays `(..., 2)`, and other arrays as they
        are.
    """
    return jax.tree.map(
        lambda a: jnp.stack([a.real, a.imag], axis=-1) if jnp.iscomplexobj(a) else a, x
    )


def on_pairs(field: nnx.Module, x: PyTree) -> tuple[nnx.Module, PyTree, Callable[[PyTree], Any]]:
    """Return a field and a state on real pairs.

    Args:
        field: The velocity field.
        x: The state, a pytree of arrays.

    Returns:
        The field on pairs, the state as pairs, and the function that joins pairs to states. The
        function also takes states with further leading axes. A state without complex arrays comes
        back as it is, with its field.
    """
    complexes = jax.tree.map(jnp.iscomplexobj, x)
    if not any(jax.tree.leaves(complexes)):
        return field, x, lambda states: states

    def join(states):
        return jax.tree.map(
            lambda is_complex, a: lax.complex(a[..., 0], a[..., 1]) if is_complex else a,
            complexes,
            states,
        )

    return _OnPairs(field, join), split_complex(x), join
