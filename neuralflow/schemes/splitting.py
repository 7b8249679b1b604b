"""Splittings: schemes that walk along the parts of a field one after the other.

A field f = f_0 + ... + f_{m-1} is given by its parts, as `nf.fields.Split`. A substep is a step of
an inner scheme along one part alone. A block of a transformer consists of such substeps: attention
is one part, and the perceptron on every token is the other.
"""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
from diffrax import AbstractSolver, Euler, Midpoint

from neuralflow.annotations import Real
from neuralflow.checks import InputTypeError
from neuralflow.schemes.network import (
    NetworkScheme,
    Traits,
    check_scheme,
    cost,
    done,
    one_step,
    parts_of,
    tableau_of,
)


class Splitting(NetworkScheme):
    """A scheme whose step is a sequence of substeps, each along one part of the field.

    Attributes:
        inner: The explicit Runge-Kutta scheme that takes the substeps.
    """

    inner: eqx.AbstractVar[AbstractSolver]

    def __check_init__(self):
        check_scheme(self.inner)
        if tableau_of(self.inner) is None:
            raise InputTypeError(
                f"the inner scheme of {type(self).__name__} is an explicit Runge-Kutta scheme such "
                f"as nf.Euler() or nf.Midpoint(), got {self.inner!r}"
            )

    @abstractmethod
    def substeps(self, parts: int) -> list[tuple[int, float, float]]:
        """List the substeps of one step.

        Args:
            parts: The number of parts of the field.

        Returns:
            The number of the part of every substep, from 0, and the shares of the step where the
            substep starts and ends.
        """

    @abstractmethod
    def order(self, terms) -> int:
        """Return the order of the scheme, for parts that do not commute."""

    @property
    def traits(self) -> Traits:
        """A step evaluates the parts of the field one by one."""
        return Traits(parted=True)

    def evaluations(self, steps: int, parts: int = 1) -> int:
        """Count the evaluations of all parts.

        Args:
            steps: The number of steps.
            parts: The number of parts of the field.

        Returns:
            The number of evaluations, where the evaluation of one part counts as one.
        """
        return steps * len(self.substeps(parts)) * cost(self.inner, 1)

    def init(self, terms, t0, t1, y0, args):
        """Return None, because the scheme has no memory."""
        return None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step, in the form of `diffrax.AbstractSolver.step`."""

        def at(share: float) -> Real:
            return t0 if share == 0 else t1 if share == 1 else t0 + share * (t1 - t0)

        y, parts = y0, parts_of(self, terms)
        for part, start, end in self.substeps(len(parts)):
            y = one_step(self.inner, parts[part], at(start), at(end), y, args)
        return done(y0, y, None)


class LieTrotter(Splitting):
    """The Lie-Trotter splitting: one step of the inner scheme along each part, in their order.

    For two parts and Euler substeps of length one, a step is the block of a pre-norm transformer:
    y = x + f_0(x), then y + f_1(y). The order is 1.

    Args:
        inner: The explicit Runge-Kutta scheme that takes the substeps.

    Raises:
        InputTypeError: `inner` is not an explicit Runge-Kutta scheme.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> first = nf.from_function(lambda a, x: a * x, 1.0)
        >>> second = nf.from_function(lambda b, x: b + 0 * x, 3.0)
        >>> grid = nf.FixedGrid(nf.schemes.LieTrotter(), steps=1)
        >>> block = nf.NeuralODE(nf.fields.Split(first, second), grid)
        >>> block(jnp.ones(2)).tolist()  # 1 + 1, then 2 + 3
        [5.0, 5.0]

    Source:
        Lu et al., arXiv 1906.02762, read the transformer's block as this splitting of particles
        that move by convection and diffusion (stated there; the form for any parts and any inner
        scheme is our formulation).
    """

    inner: AbstractSolver = Euler()

    def substeps(self, parts: int) -> list[tuple[int, float, float]]:
        """List one substep over the whole step for every part."""
        return [(part, 0.0, 1.0) for part in range(parts)]

    def order(self, terms) -> int:
        """Return 1, the order of the scheme."""
        return 1


class Strang(Splitting):
    """Strang's splitting: half steps along all parts but the last, and back in the other order.

    The last part has one substep over the whole step, in the middle. The sequence of substeps is a
    palindrome. The order is 2 where the inner scheme has order 2, and 1 with Euler substeps.

    With Euler substeps of length one, and the parts feed-forward and attention, a step is the
    block of a Macaron network: half of feed-forward, attention, half of feed-forward. A Macaron
    block with two feed-forward nets of its own is `LieTrotter` over three parts, the halves being
    factors of the parts.

    Args:
        inner: The explicit Runge-Kutta scheme that takes the substeps.

    Raises:
        InputTypeError: `inner` is not an explicit Runge-Kutta scheme.

    Source:
        Strang 1968, as recalled; Lu et al., arXiv 1906.02762, for the Macaron network. The order 1
        of the Macaron block is our derivation: its Euler substeps miss a quarter of f_0' f_0 and
        half of f_1' f_1.
    """

    inner: AbstractSolver = Midpoint()

    def substeps(self, parts: int) -> list[tuple[int, float, float]]:
        """List the palindrome of the parts."""
        first = [(part, 0.0, 0.5) for part in range(parts - 1)]
        second = [(part, 0.5, 1.0) for part in reversed(range(parts - 1))]
        return [*first, (parts - 1, 0.0, 1.0), *second]

    def order(self, terms) -> int:
        """Return the order of the inner scheme, but at most 2."""
        return min(2, self.inner.order(terms) or 1)
