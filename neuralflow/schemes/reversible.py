"""Schemes that can be walked back: RevNet on two halves of a state, and a reversible form of any explicit one-step scheme."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval
from jaxtyping import Array

from neuralflow.checks import InputError, InputTypeError
from neuralflow.schemes.network import (
    ReversibleScheme,
    amplified,
    cost,
    done,
    is_explicit,
    one_step,
    plus,
    traits,
)


def halves(x: Any) -> tuple[Any, Any]:
    """The two halves of a state: the pair that it is, or an array's last axis cut in the middle."""
    if isinstance(x, tuple | list) and len(x) == 2:
        return x[0], x[1]
    if not isinstance(x, Array) or not x.ndim or x.shape[-1] % 2:
        shape = f"an array of shape {x.shape}" if isinstance(x, Array) else f"a {type(x).__name__}"
        raise InputError(
            f"a state of two halves is a pair, or an array whose last axis is even, got {shape}"
        )
    first, second = jnp.split(x, 2, axis=-1)
    return first, second


def joined(first: Any, second: Any, like: Any) -> Any:
    """Two halves in the form of a state."""
    return (
        type(like)((first, second))
        if isinstance(like, tuple | list)
        else jnp.concatenate([first, second], axis=-1)
    )


class RevNet(ReversibleScheme):
    """X1 = X + h F(Y), Y1 = Y + h G(X1): the reversible residual network (Gomez et al., arXiv 1707.04585; Lu et al.).

    The state is a pair (X, Y), or one array whose last axis is halved. The field gets the pair and returns the pair
    (F(Y), G(X)), as `fields.Coupled` does; a field whose first part needs X, or the second Y, cannot be taken back and
    is refused. F has the weights at the start of the step, G those at its end. Order 1; its inverse is exact.
    Symplectic where F and G are gradients, else volume-preserving only (our derivation).
    """

    statistics: ClassVar[int] = 1

    def evaluations(self, steps: int) -> int:
        """One a step: each half of the field once."""
        return steps

    @property
    def retraced(self) -> tuple[int, ...]:
        """G first, then F."""
        return (1, 0)

    def growth(self, steps: int) -> float:
        """One."""
        return 1.0

    def order(self, terms):
        """Order 1."""
        return 1

    def init(self, terms, t0, t1, y0, args):
        """No memory; ValueError for a field whose halves are not coupled crosswise."""
        first, second = halves(y0)
        for name, own, part in (
            ("first", first, lambda x: terms.vf(t0, (x, second), args)[0]),
            ("second", second, lambda y: terms.vf(t0, (first, y), args)[1]),
        ):
            remedy = "build it as nf.fields.Coupled(F, G), or wrap another scheme: nf.schemes.Reversible(nf.Heun())"
            try:
                needed = _needs(part, own)
            except Exception as error:
                raise InputError(
                    "RevNet takes a field of pairs, (X, Y) -> (F(Y), G(X)), but this one cannot be called on the pair of shapes "
                    f"{jax.tree.map(jnp.shape, (first, second))}; {remedy}"
                ) from error
            if needed:
                raise InputError(
                    f"RevNet takes a field (X, Y) -> (F(Y), G(X)), but the {name} half of this one's velocity needs the {name} "
                    f"half of the state; {remedy}"
                )
        return None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """diffrax's form of a step."""
        h = t1 - t0
        first, second = halves(y0)
        first = plus(first, h, terms.vf(t0, (first, second), args)[0])
        second = plus(second, h, terms.vf(t1, (first, second), args)[1])
        return done(y0, joined(first, second, y0), None)

    def unstep(self, terms, t0, t1, y1, args, solver_state):
        """The state before."""
        h = t1 - t0
        first, second = halves(y1)
        second = plus(second, -h, terms.vf(t1, (first, second), args)[1])
        first = plus(first, -h, terms.vf(t0, (first, second), args)[0])
        return joined(first, second, y1), None


class Reversible(ReversibleScheme):
    """An explicit one-step scheme made algebraically reversible (McCallum & Foster, arXiv 2410.11648, as recalled).

    With the increment P_h(z) of the scheme and a second state z: y1 = c y + (1 - c) z + P_h(z), z1 = z - P_{-h}(y1).
    Of the scheme's own order, at twice its evaluations. `coupling` is c: closer to one is more exactly reversible (walking
    back multiplies rounding errors by 1/c a step), further away is more stable.
    """

    carries: ClassVar[Any] = True
    scheme: Any
    coupling: float = eqx.field(static=True)

    def __init__(self, scheme: Any, coupling: float = 0.999):
        if not is_explicit(scheme) or traits(scheme).carries:
            raise InputTypeError(
                f"Reversible wraps an explicit one-step scheme such as nf.Heun(), got {scheme!r}: an implicit one is exact to its "
                "root finder's tolerance only, and one that remembers earlier steps has more to take back"
            )
        if (
            isinstance(coupling, bool)
            or not isinstance(coupling, int | float)
            or not 0 < coupling <= 1
        ):
            raise InputError(f"coupling must lie in (0, 1], got {coupling!r}")
        self.scheme, self.coupling = scheme, float(coupling)

    def evaluations(self, steps: int) -> int:
        """Twice those of the scheme."""
        return 2 * cost(self.scheme, steps)

    @property
    def retraced(self) -> tuple[int, ...]:
        """The step back first, then the step ahead."""
        count = cost(self.scheme, 1)
        return (*range(count, 2 * count), *range(count))

    def growth(self, steps: int) -> float:
        """A power of 1/c."""
        return amplified(1 / self.coupling, steps)

    def order(self, terms):
        """That of the scheme."""
        return self.scheme.order(terms)

    def init(self, terms, t0, t1, y0, args):
        """The second state starts as the first."""
        return y0

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """diffrax's form of a step."""
        c, z = self.coupling, solver_state
        ahead = self._increment(terms, t0, t1, z, args)
        y1 = jax.tree.map(lambda y, z, p: c * y + (1 - c) * z + p, y0, z, ahead)
        z1 = jax.tree.map(jnp.subtract, z, self._increment(terms, t1, t0, y1, args))
        return done(y0, y1, z1)

    def unstep(self, terms, t0, t1, y1, args, solver_state):
        """Both states before."""
        c = self.coupling
        z0 = jax.tree.map(jnp.add, solver_state, self._increment(terms, t1, t0, y1, args))
        ahead = self._increment(terms, t0, t1, z0, args)
        return jax.tree.map(lambda y, z, p: (y - (1 - c) * z - p) / c, y1, z0, ahead), z0

    def _increment(self, terms: Any, t0: Any, t1: Any, y: Any, args: Any) -> Any:
        return jax.tree.map(jnp.subtract, one_step(self.scheme, terms, t0, t1, y, args), y)


def _needs(function: Callable[[Any], Any], x: Any) -> bool:
    """Whether a function's value depends on its argument, by what is computed and not by numbers."""
    program = jax.make_jaxpr(function)(x).jaxpr
    return any(partial_eval.dce_jaxpr(program, [True] * len(program.outvars))[1])
