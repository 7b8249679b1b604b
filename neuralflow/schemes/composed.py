"""PolyNet and FractalNet: networks whose step evaluates one field several times in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.schemes.network import OneStepScheme, PerStep, check_coefficients, plus, value


class PolyNet(OneStepScheme):
    """u1 = u + F(u) + F(F(u)) + ... + F^K(u) with F = h f: Poly-K (Zhang et al., arXiv 1611.05725; as a scheme, Lu et al.).

    A truncated backward Euler step: for linear f it differs from (1 - h f)^{-1} u by O(h^{K+1}); order 1 for every K.
    For nonlinear f it agrees with backward Euler to O(h^2) where f(0) = 0, and is *inconsistent* where f(0) != 0, for
    f(h f(u)) is then not small: the limit is u' = f(u) + (K - 1) f(0) (our derivation). `FixedPointEuler` is the
    consistent cousin. The weights are those at the end of the step.
    """

    degree: int = eqx.field(static=True)

    def __init__(self, degree: int):
        checks.whole("degree", degree)
        self.degree = int(degree)

    def evaluations(self, steps: int) -> int:
        """K a step."""
        return self.degree * steps

    def order(self, terms):
        """Order 1, where it is consistent."""
        return 1

    def advance(self, velocity: Callable[[Any, Any], Any], x: Any, h: Any) -> Any:
        """The sum of the powers."""
        power, total = x, x
        for _ in range(self.degree):
            power = jax.tree.map(lambda v: h * v, velocity(1.0, power))
            total = jax.tree.map(jnp.add, total, power)
        return total


class FixedPointEuler(OneStepScheme):
    """K fixed-point iterations v <- u + h f(v) towards backward Euler, from v = u: order 1, consistent for every f.

    Its distance from backward Euler is O(h^{K+1}) for every smooth f. The weights are those at the end of the step.
    """

    iterations: int = eqx.field(static=True)

    def __init__(self, iterations: int):
        checks.whole("iterations", iterations)
        self.iterations = int(iterations)

    def evaluations(self, steps: int) -> int:
        """K a step."""
        return self.iterations * steps

    def order(self, terms):
        """Order 1."""
        return 1

    def advance(self, velocity: Callable[[Any, Any], Any], x: Any, h: Any) -> Any:
        """The last iterate."""
        y = x
        for _ in range(self.iterations):
            y = plus(x, h, velocity(1.0, y))
        return y


class FractalNet(OneStepScheme):
    """u1 = k1 u + k2 (k3 u + c1 h f(u)) + c2 h f(k3 u + c1 h f(u)): FractalNet of order 2 (Lu et al., arXiv 1710.10121).

    The published form with one field in both branches, f1 = c1 h f and f2 = c2 h f. The default is Heun's scheme.
    Consistent if and only if k3 = 1, k1 + k2 = 1 and k2 c1 + c2 = 1, of order 2 if also c1 c2 = 1/2 (our derivation);
    coefficients of one's own, or learned ones, need not be, which `order` then calls 0. `ConsistentFractalNet` keeps
    the constraints. The second evaluation has the weights at the share c1 of the step, at its end for a learned c1.
    """

    k1: Any
    k2: Any
    k3: Any
    c1: Any
    c2: Any

    def __init__(self, k1: Any = 0.5, k2: Any = 0.5, k3: Any = 1.0, c1: Any = 1.0, c2: Any = 0.5):
        check_coefficients(k1=k1, k2=k2, k3=k3, c1=c1, c2=c2)
        self.k1, self.k2, self.k3, self.c1, self.c2 = k1, k2, k3, c1, c2

    @classmethod
    def learned(cls, steps: int) -> FractalNet:
        """All five coefficients learned, for every step of its own, from those of Heun's scheme on."""
        checks.whole("steps", steps)
        return cls(
            *(PerStep(jnp.full(steps, start, jnp.float32)) for start in (0.5, 0.5, 1.0, 1.0, 0.5))
        )

    def evaluations(self, steps: int) -> int:
        """Two a step."""
        return 2 * steps

    def order(self, terms):
        """From the coefficients where they are numbers; 0 where they are not consistent, 1 where they are learned."""
        coefficients = (self.k1, self.k2, self.k3, self.c1, self.c2)
        if not all(isinstance(c, int | float) for c in coefficients):
            return 1
        k1, k2, k3, c1, c2 = coefficients
        if max(abs(k3 - 1), abs(k1 + k2 - 1), abs(k2 * c1 + c2 - 1)) > 1e-12:
            return 0
        return 2 if abs(c1 * c2 - 0.5) <= 1e-12 else 1

    def advance(self, velocity: Callable[[Any, Any], Any], x: Any, h: Any) -> Any:
        """The published formula."""
        return _fractal(
            velocity, x, h, *(value(c, x) for c in (self.k1, self.k2, self.k3, self.c1, self.c2))
        )


class ConsistentFractalNet(OneStepScheme):
    """FractalNet of order 2 within what is consistent with u' = f: k3 = 1, k1 = 1 - k2, c2 = 1 - k2 c1 (our formulation).

    u1 = u + k2 c1 h f(u) + (1 - k2 c1) h f(u + c1 h f(u)). Two free coefficients, learned or given; order 2 where
    c1 (1 - k2 c1) = 1/2: Heun's scheme by default, the midpoint rule for k2 = 0, c1 = 1/2.
    """

    k2: Any
    c1: Any

    def __init__(self, k2: Any = 0.5, c1: Any = 1.0):
        check_coefficients(k2=k2, c1=c1)
        self.k2, self.c1 = k2, c1

    @classmethod
    def learned(cls, steps: int) -> ConsistentFractalNet:
        """Both coefficients learned, for every step of its own, from those of Heun's scheme on."""
        checks.whole("steps", steps)
        return cls(*(PerStep(jnp.full(steps, start, jnp.float32)) for start in (0.5, 1.0)))

    def evaluations(self, steps: int) -> int:
        """Two a step."""
        return 2 * steps

    def order(self, terms):
        """From the coefficients where they are numbers; 1 where they are learned."""
        k2, c1 = self.k2, self.c1
        second = (
            isinstance(k2, int | float)
            and isinstance(c1, int | float)
            and abs(c1 * (1 - k2 * c1) - 0.5) <= 1e-12
        )
        return 2 if second else 1

    def advance(self, velocity: Callable[[Any, Any], Any], x: Any, h: Any) -> Any:
        """The published formula with the constrained coefficients."""
        k2, c1 = value(self.k2, x), value(self.c1, x)
        return _fractal(velocity, x, h, 1 - k2, k2, 1.0, c1, 1 - k2 * c1)


def _fractal(velocity: Any, x: Any, h: Any, k1: Any, k2: Any, k3: Any, c1: Any, c2: Any) -> Any:
    share = min(max(c1, 0.0), 1.0) if isinstance(c1, int | float) else 1.0
    first = velocity(0.0, x)
    inner = jax.tree.map(lambda u, v: k3 * u + c1 * (h * v), x, first)
    return jax.tree.map(
        lambda u, y, v: k1 * u + k2 * y + c2 * (h * v), x, inner, velocity(share, inner)
    )


class FractalExpansion(OneStepScheme):
    """The fractal of any number of columns: E_1 is an Euler step, E_{C+1} joins E_C of half the step, twice, with one Euler step.

    E_{C+1}(u; h) = w_C E_C(E_C(u; h/2); h/2) + (1 - w_C) (u + h f(u)): the expansion rule of FractalNet (Larsson et
    al., arXiv 1605.07648), whose joins are means (w = 1/2); the halved steps, which make it consistent for all joins,
    are our formulation. `joins`: w_1, ..., w_{C-1}, numbers or learned ones; one join of w = 2 is Richardson's
    extrapolation of Euler, the midpoint rule.
    """

    joins: tuple[Any, ...]

    def __init__(self, joins: Sequence[Any]):
        if isinstance(joins, int | float | nnx.Variable) or not len(joins):
            raise InputError(
                f"joins is a sequence of at least one weight, one per join, got {joins!r}"
            )
        check_coefficients(**{f"joins[{i}]": w for i, w in enumerate(joins)})
        self.joins = tuple(joins)

    @classmethod
    def learned(cls, columns: int, steps: int) -> FractalExpansion:
        """Joins learned for every step of its own, from means on."""
        checks.whole("columns", columns, least=2)
        checks.whole("steps", steps)
        return cls([PerStep(jnp.full(steps, 0.5, jnp.float32)) for _ in range(columns - 1)])

    def evaluations(self, steps: int) -> int:
        """Two to the number of joins a step: the branches of a join share their first evaluation."""
        return 2 ** len(self.joins) * steps

    def order(self, terms):
        """Order 1; 2 for the one join of Richardson's extrapolation."""
        return (
            2
            if len(self.joins) == 1
            and isinstance(self.joins[0], int | float)
            and self.joins[0] == 2
            else 1
        )

    def advance(self, velocity: Callable[[Any, Any], Any], x: Any, h: Any) -> Any:
        """The fractal, its joins from the innermost to the outermost."""
        return self._expand(velocity, x, velocity(0.0, x), h, 0.0, 1.0, len(self.joins))

    def _expand(
        self, velocity: Any, x: Any, first: Any, h: Any, start: float, share: float, joins: int
    ) -> Any:
        """A fractal with so many joins over a share of the step; `first` is the velocity where it starts."""
        euler = plus(x, share * h, first)
        if not joins:
            return euler
        half, w = share / 2, value(self.joins[joins - 1], x)
        middle = self._expand(velocity, x, first, h, start, half, joins - 1)
        deep = self._expand(
            velocity, middle, velocity(start + half, middle), h, start + half, half, joins - 1
        )
        return jax.tree.map(lambda a, b: w * a + (1 - w) * b, deep, euler)
