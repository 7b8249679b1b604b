"""Schemes that can be walked back: `RevNet`, and a reversible form of any explicit one-step scheme.

`RevNet` acts on the two halves of a state. `halves` and `joined` take a state apart and put it
together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from diffrax import AbstractSolver
from jax.interpreters import partial_eval
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.schemes.network import (
    ReversibleScheme,
    Traits,
    amplified,
    cost,
    done,
    is_explicit,
    one_step,
    plus,
    traits,
)


def halves(x: PyTree) -> tuple[Any, Any]:
    """Return the two halves of a state.

    Args:
        x: A pair, or an array whose last axis is even.

    Returns:
        The two entries of the pair, or the array cut in the middle of its last axis.

    Raises:
        InputError: `x` is neither.
    """
    if isinstance(x, tuple | list) and len(x) == 2:
        return x[0], x[1]
    if not isinstance(x, Array) or not x.ndim or x.shape[-1] % 2:
        shape = f"an array of shape {x.shape}" if isinstance(x, Array) else f"a {type(x).__name__}"
        raise InputError(
            f"a state of two halves is a pair, or an array whose last axis is even, got {shape}"
        )
    first, second = jnp.split(x, 2, axis=-1)
    return first, second


def joined(first: PyTree, second: PyTree, like: PyTree) -> Any:
    """Put two halves together in the form of a state.

    Args:
        first: The first half.
        second: The second half.
        like: The state whose form counts, a tuple, a list or an array.

    Returns:
        A pair of the type of `like`, or the halves concatenated along the last axis.
    """
    return (
        type(like)((first, second))
        if isinstance(like, tuple | list)
        else jnp.concatenate([first, second], axis=-1)
    )


class RevNet(ReversibleScheme):
    """The reversible residual network X1 = X + h F(Y), Y1 = Y + h G(X1).

    The state is a pair (X, Y), or an array whose last axis holds X in its first half and Y in its
    second. The length of the step is h. The states after the step are X1 and Y1.

    The field gets the pair and returns the pair (F(Y), G(X)), as `neuralflow.fields.Coupled` does.
    A step of another field cannot be taken back. The scheme refuses a field if the first half of
    the velocity needs X, or the second half needs Y.

    F has the weights at the start of the step, and G has the weights at its end. The scheme has
    order 1. The inverse of a step is exact. A step is symplectic where F and G are gradients, and
    otherwise only volume-preserving (our derivation).

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> F = nf.fields.MLP(3, hidden=8, rngs=nnx.Rngs(0))
        >>> G = nf.fields.MLP(3, hidden=8, rngs=nnx.Rngs(1))
        >>> grid = nf.FixedGrid(nf.schemes.RevNet(), steps=8, memory="reversible")
        >>> nf.NeuralODE(nf.fields.Coupled(F, G), grid)(jnp.ones((5, 6))).shape
        (5, 6)

    Source:
        Gomez et al., arXiv 1707.04585; as a scheme, Lu et al., arXiv 1710.10121.
    """

    @property
    def traits(self) -> Traits:
        """The second evaluation of a step, that of G, updates batch statistics."""
        return Traits(statistics=1)

    def evaluations(self, steps: int) -> int:
        """Return the number of steps, because a step evaluates each half of the field once."""
        return steps

    def retraced(self, parts: int = 1) -> tuple[int, ...]:
        """Return the evaluation of G first, then the evaluation of F."""
        return (1, 0)

    def growth(self, steps: int) -> float:
        """Return 1, because walking back does not multiply rounding errors."""
        return 1.0

    def order(self, terms):
        """Return 1, the order of the scheme."""
        return 1

    def init(self, terms, t0, t1, y0, args):
        """Check the field and return None, because the scheme has no memory.

        The form is that of `diffrax.AbstractSolver.init`.

        Raises:
            InputError: The field cannot be called on the pair, or one half of its velocity needs
                the same half of the state.
        """
        first, second = halves(y0)
        for name, own, part in (
            ("first", first, lambda x: terms.vf(t0, (x, second), args)[0]),
            ("second", second, lambda y: terms.vf(t0, (first, y), args)[1]),
        ):
            remedy = (
                "build it as nf.fields.Coupled(F, G), or wrap another scheme: "
                "nf.schemes.Reversible(nf.Heun())"
            )
            try:
                needed = _needs(part, own)
            except Exception as error:
                raise InputError(
                    "RevNet takes a field of pairs, (X, Y) -> (F(Y), G(X)), but this one cannot be "
                    f"called on the pair of shapes {jax.tree.map(jnp.shape, (first, second))}; "
                    f"{remedy}"
                ) from error
            if needed:
                raise InputError(
                    f"RevNet takes a field (X, Y) -> (F(Y), G(X)), but the {name} half of this "
                    f"one's velocity needs the {name} half of the state; {remedy}"
                )
        return None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step, in the form of `diffrax.AbstractSolver.step`."""
        h = t1 - t0
        first, second = halves(y0)
        first = plus(first, h, terms.vf(t0, (first, second), args)[0])
        second = plus(second, h, terms.vf(t1, (first, second), args)[1])
        return done(y0, joined(first, second, y0), None)

    def unstep(self, terms, t0, t1, y1, args, solver_state):
        """Return the state before the step, and None for the memory."""
        h = t1 - t0
        first, second = halves(y1)
        second = plus(second, -h, terms.vf(t1, (first, second), args)[1])
        first = plus(first, -h, terms.vf(t0, (first, second), args)[0])
        return joined(first, second, y1), None


class Reversible(ReversibleScheme):
    """An explicit one-step scheme made algebraically reversible.

    Let P_h(z) be the increment of the wrapped scheme in a step of length h from z. A second state z
    is carried beside the state y. With the coupling c, a step gives

        y1 = c y + (1 - c) z + P_h(z)
        z1 = z - P_{-h}(y1)

    The scheme has the order of the wrapped scheme, at twice its evaluations.

    Args:
        scheme: An explicit one-step scheme such as `neuralflow.Heun()`.
        coupling: The coupling c in (0, 1]. A value closer to one is more exactly reversible,
            because walking back multiplies rounding errors by 1/c a step. A value further away is
            more stable.

    Raises:
        InputTypeError: `scheme` is not explicit, or carries more than the state from step to step.
        InputError: `coupling` is not one number in (0, 1].

    Source:
        McCallum & Foster, arXiv 2410.11648, as recalled.
    """

    scheme: Any
    coupling: float = eqx.field(static=True)

    def __init__(self, scheme: AbstractSolver, coupling: float = 0.999):
        if not is_explicit(scheme) or traits(scheme).carries:
            raise InputTypeError(
                f"Reversible wraps an explicit one-step scheme such as nf.Heun(), got {scheme!r}: "
                "an implicit one is exact to its root finder's tolerance only, and one that "
                "remembers earlier steps has more to take back"
            )
        if not checks.is_number(coupling) or not 0 < coupling <= 1:
            raise InputError(f"coupling must lie in (0, 1], got {coupling!r}")
        self.scheme, self.coupling = scheme, float(coupling)

    @property
    def traits(self) -> Traits:
        """A step hands on a second state."""
        return Traits(carries=True, parted=traits(self.scheme).parted)

    def evaluations(self, steps: int, parts: int = 1) -> int:
        """Return twice the evaluations of the wrapped scheme in a number of steps."""
        return 2 * cost(self.scheme, steps, parts)

    def retraced(self, parts: int = 1) -> tuple[int, ...]:
        """Return the evaluations of the step back first, then those of the step ahead."""
        count = cost(self.scheme, 1, parts)
        return (*range(count, 2 * count), *range(count))

    def growth(self, steps: int) -> float:
        """Return (1/c)^steps, where c is the coupling."""
        return amplified(1 / self.coupling, steps)

    def order(self, terms):
        """Return the order of the wrapped scheme."""
        return self.scheme.order(terms)

    def init(self, terms, t0, t1, y0, args):
        """Return the state itself, because the second state starts as the first."""
        return y0

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step, in the form of `diffrax.AbstractSolver.step`."""
        c, z = self.coupling, solver_state
        ahead = self._increment(terms, t0, t1, z, args)
        y1 = jax.tree.map(lambda y, z, p: c * y + (1 - c) * z + p, y0, z, ahead)
        z1 = jax.tree.map(jnp.subtract, z, self._increment(terms, t1, t0, y1, args))
        return done(y0, y1, z1)

    def unstep(self, terms, t0, t1, y1, args, solver_state):
        """Return both states before the step."""
        c = self.coupling
        z0 = jax.tree.map(jnp.add, solver_state, self._increment(terms, t1, t0, y1, args))
        ahead = self._increment(terms, t0, t1, z0, args)
        return jax.tree.map(lambda y, z, p: (y - (1 - c) * z - p) / c, y1, z0, ahead), z0

    def _increment(self, terms: Any, t0: Real, t1: Real, y: PyTree, args: PyTree) -> Any:
        """Return the increment of the wrapped scheme in a step from t0 to t1."""
        return jax.tree.map(jnp.subtract, one_step(self.scheme, terms, t0, t1, y, args), y)


def _needs(function: Callable[[Any], Any], x: PyTree) -> bool:
    """Tell whether the value of a function depends on its argument.

    The traced program decides, and not the numbers.
    """
    program = jax.make_jaxpr(function)(x).jaxpr
    return any(partial_eval.dce_jaxpr(program, [True] * len(program.outvars))[1])
