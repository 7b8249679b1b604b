"""Schemes around another scheme."""

from __future__ import annotations

from typing import Any

import equinox as eqx
from diffrax import AbstractAdaptiveSolver


class Wrapped(AbstractAdaptiveSolver):
    """A scheme around another scheme: all but the step is that of the inner scheme.

    Args:
        scheme: The inner scheme.
    """

    scheme: eqx.AbstractVar[Any]

    @property
    def interpolation_cls(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """The interpolation of the inner scheme."""
        return self.scheme.interpolation_cls

    def order(self, terms):
        """Return the order of the inner scheme."""
        return self.scheme.order(terms)

    def error_order(self, terms):
        """Return the order of the inner scheme's error estimate."""
        return self.scheme.error_order(terms)

    def init(self, terms, t0, t1, y0, args):
        """Return the memory of the inner scheme."""
        return self.scheme.init(terms, t0, t1, y0, args)

    def func(self, terms, t0, y0, args):
        """Return the velocity, in the form of `diffrax.AbstractSolver.func`."""
        return self.scheme.func(terms, t0, y0, args)
