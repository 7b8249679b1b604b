"""Fields with a structure that a flow keeps.

`Gradient` descends an energy. `Hamiltonian` keeps an energy. `Coupled` moves each half of a state
by the other half. `SecondOrder` moves positions by velocities, and velocities by an acceleration.
`Energy` and `Separable` are energies for the first two.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.fields.activations import softplus
from neuralflow.fields.functions import evaluate, evaluate_parts, takes_time
from neuralflow.fields.networks import Activation
from neuralflow.schemes.reversible import halves, joined


class Energy(nnx.Module):
    """A scalar function of the last axis, V(x) = w . activation(W x + b).

    V is an energy for `Gradient` and `Hamiltonian`.

    Args:
        dimension: The size d of the last axis of x.
        hidden: The number of rows of W and of entries of w.
        activation: A smooth function, because its derivative appears in the field. The default,
            softplus, makes V convex where w >= 0. The class does not enforce w >= 0.
        param_dtype: The type of the weights.
        rngs: The random streams that draw the weights.

    Raises:
        InputError: A size is below 1, the weights would hold more than 2^30 numbers, or `rngs` has
            no stream for them.
        InputTypeError: A size is not a whole number, `activation` is not a function, `param_dtype`
            is not a dtype of floating-point numbers, or `rngs` is not an `nnx.Rngs`.
    """

    def __init__(
        self,
        dimension: int,
        *,
        hidden: int,
        activation: Activation = softplus,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        checks.whole("dimension", dimension)
        checks.whole("hidden", hidden)
        checks.function("activation", activation, 1)
        checks.dtype("param_dtype", param_dtype)
        checks.rngs(rngs, "params")
        checks.held(
            "weights of this dimension and hidden",
            int(dimension) * int(hidden),
            "take smaller ones",
        )
        self.inner = nnx.Linear(dimension, hidden, param_dtype=param_dtype, rngs=rngs)
        self.outer = nnx.Linear(hidden, 1, use_bias=False, param_dtype=param_dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Return V at every sample.

        Args:
            x: The states, of shape `(*batch, d)`.

        Returns:
            One number a sample, of shape `(*batch,)`.

        Raises:
            InputError: x has another shape.
            InputTypeError: x is not an array of floating-point numbers.

        @public
        """
        checks.array("x", x, "...", self.inner.in_features, kind=jnp.inexact)
        return self.outer(self.activation(self.inner(x)))[..., 0]


class Gradient(nnx.Module):
    """The flow x' = -grad V(x), which descends an energy V.

    The Jacobian of the field is symmetric.

    Args:
        energy: A module from x of shape `(..., d)` to one number a sample, of shape `(...)`, such
            as `Energy`. A module that sums over several trailing axes of x serves too.

    Raises:
        InputTypeError: `energy` is not an `nnx.Module`, or cannot be called as a field.
    """

    def __init__(self, energy: nnx.Module):
        check_part("energy", energy, "an nnx.Module such as nf.fields.Energy(...)")
        self.energy = energy

    def __call__(self, x: PyTree, *, context: PyTree = None) -> Any:
        """Return the velocity at x.

        Args:
            x: The state, an array or a pytree of arrays.
            context: The context, for an energy that takes one.

        Returns:
            The velocity, of the shape and dtype of x.

        Raises:
            InputError: The energy does not give one number a sample.

        @public
        """
        return jax.tree.map(jnp.negative, _slope(self.energy, x, context))


class Hamiltonian(nnx.Module):
    """The Hamiltonian system q' = dH/dp, p' = -dH/dq, which keeps H along the flow.

    The state is a pair (q, p), or an array whose last axis holds q in its first half and p in its
    second.

    A separable H(q, p) = T(p) + V(q) gives a field for RevNet:
    `Hamiltonian(Separable(T, V))`. A step of RevNet is then symplectic.

    Args:
        energy: A module H from the state to one number a sample.

    Raises:
        InputTypeError: `energy` is not an `nnx.Module`, or cannot be called as a field.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> energy = nf.fields.Energy(4, hidden=8, rngs=nnx.Rngs(0))
        >>> flow = nf.NeuralODE(nf.fields.Hamiltonian(energy), nf.FixedGrid(nf.RK4(), steps=16))
        >>> x = jnp.ones((5, 4))  # q and p have two entries each
        >>> bool(jnp.allclose(energy(flow(x)), energy(x), atol=1e-3))
        True
    """

    def __init__(self, energy: nnx.Module):
        check_part("energy", energy, "an nnx.Module such as nf.fields.Energy(...)")
        self.energy = energy

    def __call__(self, x: PyTree, *, context: PyTree = None) -> Any:
        """Return the velocity at x.

        Args:
            x: The state, a pair (q, p) or an array whose last axis is even.
            context: The context, for an energy that takes one.

        Returns:
            The velocity, in the form of x: a pair (q', p') or one array.

        Raises:
            InputError: The state has no two halves, or the energy does not give one number a
                sample.

        @public
        """
        dq, dp = halves(_slope(self.energy, x, context))
        return joined(dp, jax.tree.map(jnp.negative, dq), x)


class Separable(nnx.Module):
    """The separable energy H(q, p) = T(p) + V(q).

    The state is a pair (q, p), or an array whose last axis holds q in its first half and p in its
    second.

    Args:
        kinetic: The module T, from p to one number a sample, such as `Energy`.
        potential: The module V, from q to one number a sample, such as `Energy`.

    Raises:
        InputTypeError: `kinetic` or `potential` is not an `nnx.Module`, or cannot be called as a
            field.
    """

    def __init__(self, kinetic: nnx.Module, potential: nnx.Module):
        for name, part in (("kinetic", kinetic), ("potential", potential)):
            check_part(name, part, "an nnx.Module such as nf.fields.Energy(...)")
        self.kinetic, self.potential = kinetic, potential

    def __call__(self, x: PyTree, *, context: PyTree = None) -> Any:
        """Return H at every sample.

        Args:
            x: The state, a pair (q, p) or an array whose last axis is even.
            context: The context, for energies that take one.

        Returns:
            One number a sample.

        Raises:
            InputError: The state has no two halves.

        @public
        """
        q, p = halves(x)
        parts = (self.kinetic, self.potential)
        kinetic, potential = evaluate_parts(parts, (p, q), None, context)
        return kinetic + potential


def check_part(name: str, part: Any, example: str) -> None:
    """Refuse anything but a module that is called as a field.

    Args:
        name: The name of the argument, for the message.
        part: The value to check.
        example: What to give instead, for the message.

    Raises:
        InputTypeError: `part` is not an `nnx.Module`, or cannot be called as a field.
    """
    checks.instance(name, part, nnx.Module, example)
    try:
        takes_time(part)
    except InputTypeError as error:
        raise InputTypeError(f"{name} cannot be called so: {error}") from None


def _slope(energy: Any, x: PyTree, context: PyTree) -> Any:
    """Return the gradient of every sample's energy.

    The function raises InputError for an energy that does not give one number a sample.
    """
    checks.states("x", x)
    value, pull = jax.vjp(lambda x: evaluate(energy, x, None, context), x)
    leading = jax.tree.leaves(x)[0].shape
    if (
        not isinstance(value, jax.Array)
        or value.shape != leading[: value.ndim]
        or value.ndim >= len(leading)
    ):
        raise InputError(
            f"an energy gives one number a sample, of the leading shape of x, {leading}; "
            f"{type(energy).__name__} gave {jnp.shape(value)}: sum over the last axis"
        )
    return pull(jnp.ones_like(value))[0]


class Coupled(nnx.Module):
    """The coupled field X' = F(Y), Y' = G(X), which is the field of a RevNet.

    The state is a pair (X, Y), or an array whose last axis holds X in its first half and Y in its
    second.

    Args:
        first: The module F, called as f(x), or as f(x, t) if F takes time.
        second: The module G, called in the same way.

    Raises:
        InputTypeError: `first` or `second` is not an `nnx.Module`, or is not callable as f(x) or
            f(x, t).

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> F = nf.fields.MLP(3, hidden=8, rngs=nnx.Rngs(0))
        >>> G = nf.fields.MLP(3, hidden=8, rngs=nnx.Rngs(1))
        >>> x = jnp.ones((5, 6))  # X and Y have three entries each
        >>> velocity = nf.fields.Coupled(F, G)(x)
        >>> bool(jnp.allclose(velocity[:, :3], F(x[:, 3:])))
        True
    """

    def __init__(self, first: nnx.Module, second: nnx.Module):
        for name, part in (("first", first), ("second", second)):
            check_part(name, part, "an nnx.Module; wrap functions with nf.from_function")
        self.first, self.second = first, second

    def __call__(self, x: PyTree, t: Real | None = None, *, context: PyTree = None) -> Any:
        """Return the velocity at x.

        Args:
            x: The state, a pair (X, Y) or an array whose last axis is even.
            t: The depth time, for those of the two modules that take time.
            context: The context, for those of the two modules that take one.

        Returns:
            The velocity, in the form of x: a pair (X', Y') or one array.

        Raises:
            InputError: The state has no two halves.

        @public
        """
        first, second = halves(x)
        parts = (self.first, self.second)
        moved, other = evaluate_parts(parts, (second, first), t, context)
        return joined(moved, other, x)


class SecondOrder(nnx.Module):
    """The field x' = v, v' = a(x, v, t) of a second-order equation x'' = a(x, x', t).

    The state is a pair (x, v), or an array whose last axis holds the positions x in its first half
    and the velocities v in its second. Paths of positions can cross, because samples at one
    position can differ in velocity. Paths of a first-order field cannot cross.

    A flow needs velocities to start with. `neuralflow.models.Augment` appends zeros or learned
    velocities to positions. The first half of the state at the end holds the positions there.

    Args:
        acceleration: The module a. It is called with the whole state, as a(state), or as
            a(state, t) if a takes time, with the context if a has a parameter `context`. It returns
            the acceleration, in the form of v.

    Raises:
        InputTypeError: `acceleration` is not an `nnx.Module`, or is not callable as f(x) or
            f(x, t).

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> spring = nf.from_function(lambda k, state: -k * state[0], jnp.array(1.0))
        >>> layer = nf.NeuralODE(nf.fields.SecondOrder(spring), nf.FixedGrid(nf.RK4(), steps=16))
        >>> x, v = layer((jnp.ones((1, 1)), jnp.zeros((1, 1))))  # x = cos t, from rest
        >>> print(x.round(2), v.round(2))
        [[0.54]] [[-0.84]]

    Source:
        Norcliffe et al., arXiv 2006.07220, as recalled.
    """

    def __init__(self, acceleration: nnx.Module):
        check_part(
            "acceleration", acceleration, "an nnx.Module; wrap functions with nf.from_function"
        )
        self.acceleration = acceleration

    def __call__(self, x: PyTree, t: Real | None = None, *, context: PyTree = None) -> Any:
        """Return the velocity of the state.

        Args:
            x: The state, a pair (x, v) or an array whose last axis is even.
            t: The depth time, for an acceleration that takes time.
            context: The context, for an acceleration that takes one.

        Returns:
            The velocity of the state, in the form of the state: a pair (v, a) or one array.

        Raises:
            InputError: The state has no two halves, its halves differ in form, or the acceleration
                does not have the form of v.

        @public
        """
        position, v = halves(x)
        if jax.tree.map(jnp.shape, position) != jax.tree.map(jnp.shape, v):
            raise InputError(
                "x holds positions and velocities of one form, got shapes "
                f"{jax.tree.map(jnp.shape, position)} and {jax.tree.map(jnp.shape, v)}"
            )
        a = evaluate(self.acceleration, x, t, context)
        if jax.tree.map(jnp.shape, a) != jax.tree.map(jnp.shape, v):
            raise InputError(
                f"an acceleration has the form of the velocity, {jax.tree.map(jnp.shape, v)}, got "
                f"{jax.tree.map(jnp.shape, a)}; it is called with the whole state, positions and "
                "velocities, and returns one half"
            )
        return joined(v, a, x)
