"""Fields with a structure that a flow keeps: gradients of energies, Hamiltonian systems, coupled halves of a state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.fields.functions import evaluate, takes_time
from neuralflow.fields.networks import Activation
from neuralflow.schemes.reversible import halves, joined


class Energy(nnx.Module):
    """A scalar function of the last axis: V(x) = w . activation(W x + b), for `Gradient` and `Hamiltonian`.

    `activation`: smooth, for its derivative is the field; softplus makes V convex where w >= 0, which is not enforced.
    """

    def __init__(
        self,
        dimension: int,
        *,
        hidden: int,
        activation: Activation = jax.nn.softplus,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("dimension", dimension)
        checks.whole("hidden", hidden)
        checks.function("activation", activation)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        self.inner = nnx.Linear(dimension, hidden, param_dtype=param_dtype, rngs=rngs)
        self.outer = nnx.Linear(hidden, 1, use_bias=False, param_dtype=param_dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """V at every sample."""
        return self.outer(self.activation(self.inner(x)))[..., 0]


class Gradient(nnx.Module):
    """x' = -grad V(x): the flow that descends an energy, whose Jacobian is symmetric.

    `energy`: a module from x (..., d) to one number a sample, (...), such as `Energy`, or any that sums over the rest.
    """

    def __init__(self, energy: nnx.Module):
        checks.instance("energy", energy, nnx.Module, "an nnx.Module such as nf.fields.Energy(...)")
        self.energy = energy

    def __call__(self, x: Any) -> Any:
        """Velocity at x, of the shape and dtype of x."""
        return jax.tree.map(jnp.negative, _slope(self.energy, x))


class Hamiltonian(nnx.Module):
    """q' = dH/dp, p' = -dH/dq on a pair (q, p), or on the two halves of an array's last axis; H is kept along the flow.

    `energy`: a module from the state to one number a sample. A separable H(q, p) = T(p) + V(q) is a field for RevNet,
    whose step is then symplectic: `Hamiltonian(nf.fields.Separable(T, V))`.
    """

    def __init__(self, energy: nnx.Module):
        checks.instance("energy", energy, nnx.Module, "an nnx.Module such as nf.fields.Energy(...)")
        self.energy = energy

    def __call__(self, x: Any) -> Any:
        """Velocity at x, in the form of x."""
        dq, dp = halves(_slope(self.energy, x))
        return joined(dp, jax.tree.map(jnp.negative, dq), x)


class Separable(nnx.Module):
    """H(q, p) = T(p) + V(q) on a pair (q, p), or on the two halves of an array's last axis."""

    def __init__(self, kinetic: nnx.Module, potential: nnx.Module):
        for name, part in (("kinetic", kinetic), ("potential", potential)):
            checks.instance(name, part, nnx.Module, "an nnx.Module such as nf.fields.Energy(...)")
        self.kinetic, self.potential = kinetic, potential

    def __call__(self, x: Any) -> Any:
        """H at every sample."""
        kinetic: Any = self.kinetic
        potential: Any = self.potential
        q, p = halves(x)
        return kinetic(p) + potential(q)


def _slope(energy: Any, x: Any) -> Any:
    """The gradient of every sample's energy."""
    value, pull = jax.vjp(energy, x)
    leading = jax.tree.leaves(x)[0].shape
    if (
        not isinstance(value, jax.Array)
        or value.shape != leading[: value.ndim]
        or value.ndim >= len(leading)
    ):
        raise InputError(
            f"an energy gives one number a sample, of the leading shape of x, {leading}; {type(energy).__name__} gave "
            f"{jnp.shape(value)}: sum over the last axis"
        )
    return pull(jnp.ones_like(value))[0]


class Coupled(nnx.Module):
    """X' = F(Y), Y' = G(X) on a pair of states, or on the two halves of an array's last axis: the field of a RevNet.

    `first`: the module F; `second`: the module G. Each is called as f(x), or as f(x, t) if it takes time.
    """

    def __init__(self, first: nnx.Module, second: nnx.Module):
        for name, part in (("first", first), ("second", second)):
            checks.instance(
                name, part, nnx.Module, "an nnx.Module; wrap functions with nf.from_function"
            )
            takes_time(part)  # refuses what is called in another way
        self.first, self.second = first, second

    def __call__(self, x: Any, t: Any = None) -> Any:
        """Velocity at x, in the form of x."""
        first, second = halves(x)
        return joined(evaluate(self.first, second, t), evaluate(self.second, first, t), x)
