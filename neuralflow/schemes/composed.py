"""PolyNet and FractalNet: networks whose step evaluates one field several times in a row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError
from neuralflow.schemes.network import OneStepScheme, PerStep, check_coefficients, plus, value
from neuralflow.schemes.runge_kutta import times

# A step holds each evaluation of its field once in the compiled program.
_MOST = 1024
_MOST_COLUMNS = 11  # 2^10 evaluations


class PolyNet(OneStepScheme):
    """Poly-K: u1 = u + F(u) + F(F(u)) + ... + F^K(u) with F = h f.

    Here u is the state before a step, u1 the state after the step, h the length of the step, f the
    field and K the degree. Powers of F are compositions. The scheme uses the weights at the end of
    the step.

    The step is a truncated backward Euler step. For a linear f it differs from (1 - h f)^{-1} u by
    O(h^{K+1}). The order is 1 for every K, where the scheme is consistent.

    For a nonlinear f with f(0) = 0 the step agrees with backward Euler to O(h^2). For a nonlinear f
    with f(0) != 0 the scheme is *inconsistent*, because f(h f(u)) is then not small. The limit is
    u' = f(u) + (K - 1) f(0) (our derivation). `FixedPointEuler` is the consistent cousin.

    Args:
        degree: The degree K, at least 1.

    Raises:
        InputError: `degree` is below 1 or above 1024.
        InputTypeError: `degree` is not a whole number.

    Source:
        Zhang et al., arXiv 1611.05725; as a scheme, Lu et al., arXiv 1710.10121.
    """

    degree: int = eqx.field(static=True)

    def __init__(self, degree: int):
        checks.whole("degree", degree, most=_MOST)
        self.degree = int(degree)

    def evaluations(self, steps: int) -> int:
        """Return K times the number of steps."""
        return self.degree * steps

    def order(self, terms):
        """Return 1, the order of the scheme where it is consistent."""
        return 1

    def advance(self, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, h: Real) -> Any:
        """Return the state after a step: the sum of the powers."""
        power, total = x, x
        for _ in range(self.degree):
            power = jax.tree.map(lambda v: times(h, v), velocity(1.0, power))
            total = jax.tree.map(jnp.add, total, power)
        return total


class FixedPointEuler(OneStepScheme):
    """K fixed-point iterations v <- u + h f(v) towards backward Euler, from v = u.

    Here u is the state before a step, h the length of the step and f the field. The last v is the
    state after the step. The scheme uses the weights at the end of the step.

    The scheme has order 1 and is consistent for every f. Its distance from backward Euler is
    O(h^{K+1}) for every smooth f.

    Args:
        iterations: The number K of iterations, at least 1.

    Raises:
        InputError: `iterations` is below 1 or above 1024.
        InputTypeError: `iterations` is not a whole number.
    """

    iterations: int = eqx.field(static=True)

    def __init__(self, iterations: int):
        checks.whole("iterations", iterations, most=_MOST)
        self.iterations = int(iterations)

    def evaluations(self, steps: int) -> int:
        """Return K times the number of steps."""
        return self.iterations * steps

    def order(self, terms):
        """Return 1, the order of the scheme."""
        return 1

    def advance(self, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, h: Real) -> Any:
        """Return the state after a step: the last iterate."""
        y = x
        for _ in range(self.iterations):
            y = plus(x, h, velocity(1.0, y))
        return y


class FractalNet(OneStepScheme):
    """FractalNet of order 2: u1 = k1 u + k2 (k3 u + c1 h f(u)) + c2 h f(k3 u + c1 h f(u)).

    Here u is the state before a step, u1 the state after the step, h the length of the step and f
    the field. The formula is the published form with one field in both branches, f1 = c1 h f and
    f2 = c2 h f. The default coefficients give Heun's scheme.

    The scheme is consistent if and only if k3 = 1, k1 + k2 = 1 and k2 c1 + c2 = 1. The scheme has
    order 2 if also c1 c2 = 1/2 and c1 is a number in [0, 1] (our derivation). Other coefficients,
    given or learned, need not be consistent. `ConsistentFractalNet` keeps the constraints.

    Every coefficient is a number, an array, an `nnx.Variable`, or a `PerStep` with one row per
    step.

    The second evaluation has the weights at the share c1 of the step, limited to [0, 1]. If c1 is
    not a number, as when c1 is learned, the weights are those at the end of the step.

    Args:
        k1: The weight of u in the sum.
        k2: The weight of the inner state k3 u + c1 h f(u) in the sum.
        k3: The weight of u in the inner state.
        c1: The weight of h f(u) in the inner state.
        c2: The weight of the second velocity, times h, in the sum.

    Raises:
        InputError: A coefficient is a number that is not finite.
        InputTypeError: A coefficient is neither a number nor an array nor an `nnx.Variable`.

    Source:
        Lu et al., arXiv 1710.10121.
    """

    k1: Any
    k2: Any
    k3: Any
    c1: Any
    c2: Any

    def __init__(
        self,
        k1: Real | nnx.Param = 0.5,
        k2: Real | nnx.Param = 0.5,
        k3: Real | nnx.Param = 1.0,
        c1: Real | nnx.Param = 1.0,
        c2: Real | nnx.Param = 0.5,
    ):
        check_coefficients(k1=k1, k2=k2, k3=k3, c1=c1, c2=c2)
        self.k1, self.k2, self.k3, self.c1, self.c2 = k1, k2, k3, c1, c2

    @classmethod
    def learned(cls, steps: int) -> FractalNet:
        """Make a scheme that learns all five coefficients, in every step its own.

        The coefficients start as those of Heun's scheme.

        Args:
            steps: The number of steps of the grid.

        Returns:
            The scheme, with coefficients of shape `(steps,)`.

        Raises:
            InputError: `steps` is below 1 or above 2^24.
            InputTypeError: `steps` is not a whole number.
        """
        checks.whole("steps", steps, most=checks.MOST_STEPS)
        return cls(
            *(PerStep(jnp.full(steps, start, jnp.float32)) for start in (0.5, 0.5, 1.0, 1.0, 0.5))
        )

    def evaluations(self, steps: int) -> int:
        """Return two times the number of steps."""
        return 2 * steps

    def order(self, terms):
        """Return the order that the coefficients give.

        Returns:
            0, 1 or 2 where all coefficients are numbers. 0 says that the scheme is not consistent.
            1 where a coefficient is an array or a variable.
        """
        coefficients = (self.k1, self.k2, self.k3, self.c1, self.c2)
        if not all(isinstance(c, int | float) for c in coefficients):
            return 1
        k1, k2, k3, c1, c2 = coefficients
        if max(abs(k3 - 1), abs(k1 + k2 - 1), abs(k2 * c1 + c2 - 1)) > 1e-12:
            return 0
        return 2 if abs(c1 * c2 - 0.5) <= 1e-12 and 0 <= c1 <= 1 else 1

    def advance(self, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, h: Real) -> Any:
        """Return the state after a step: the published formula."""
        return _fractal(
            velocity, x, h, *(value(c, x) for c in (self.k1, self.k2, self.k3, self.c1, self.c2))
        )


class ConsistentFractalNet(OneStepScheme):
    """FractalNet of order 2 with coefficients that keep it consistent with u' = f.

    The step is u1 = u + k2 c1 h f(u) + (1 - k2 c1) h f(u + c1 h f(u)). Here u is the state before a
    step, u1 the state after the step, h the length of the step and f the field. In the terms of
    `FractalNet`, k3 = 1, k1 = 1 - k2 and c2 = 1 - k2 c1 (our formulation).

    Two coefficients stay free, learned or given. The order is 2 where c1 (1 - k2 c1) = 1/2 and c1
    is a number in [0, 1], and 1 otherwise. The defaults give Heun's scheme. k2 = 0 and c1 = 1/2
    give the midpoint rule.

    The second evaluation has the weights of the same depth as in `FractalNet`.

    Args:
        k2: The first free coefficient: a number, an array, an `nnx.Variable`, or a `PerStep` with
            one row per step.
        c1: The second free coefficient, of the same kinds.

    Raises:
        InputError: A coefficient is a number that is not finite.
        InputTypeError: A coefficient is neither a number nor an array nor an `nnx.Variable`.
    """

    k2: Any
    c1: Any

    def __init__(self, k2: Real | nnx.Param = 0.5, c1: Real | nnx.Param = 1.0):
        check_coefficients(k2=k2, c1=c1)
        self.k2, self.c1 = k2, c1

    @classmethod
    def learned(cls, steps: int) -> ConsistentFractalNet:
        """Make a scheme that learns both coefficients, in every step its own.

        The coefficients start as those of Heun's scheme.

        Args:
            steps: The number of steps of the grid.

        Returns:
            The scheme, with coefficients of shape `(steps,)`.

        Raises:
            InputError: `steps` is below 1 or above 2^24.
            InputTypeError: `steps` is not a whole number.
        """
        checks.whole("steps", steps, most=checks.MOST_STEPS)
        return cls(*(PerStep(jnp.full(steps, start, jnp.float32)) for start in (0.5, 1.0)))

    def evaluations(self, steps: int) -> int:
        """Return two times the number of steps."""
        return 2 * steps

    def order(self, terms):
        """Return 2 where the coefficients are numbers that give order 2, and 1 otherwise."""
        k2, c1 = self.k2, self.c1
        second = (
            isinstance(k2, int | float)
            and isinstance(c1, int | float)
            and abs(c1 * (1 - k2 * c1) - 0.5) <= 1e-12
            and 0 <= c1 <= 1
        )
        return 2 if second else 1

    def advance(self, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, h: Real) -> Any:
        """Return the state after a step: the formula."""
        k2, c1 = value(self.k2, x), value(self.c1, x)
        return _fractal(velocity, x, h, 1 - k2, k2, 1.0, c1, 1 - k2 * c1)


def _fractal(
    velocity: Any,
    x: PyTree,
    h: Real,
    k1: Real,
    k2: Real,
    k3: Real,
    c1: Real,
    c2: Real,
) -> Any:
    """Return the state after a step of the published formula with the given coefficients."""
    share = min(max(c1, 0.0), 1.0) if isinstance(c1, int | float) else 1.0
    first = velocity(0.0, x)
    inner = jax.tree.map(lambda u, v: k3 * u + c1 * times(h, v), x, first)
    return jax.tree.map(
        lambda u, y, v: k1 * u + k2 * y + c2 * times(h, v), x, inner, velocity(share, inner)
    )


class FractalExpansion(OneStepScheme):
    """The fractal of any number C of columns.

    E_1 is an Euler step. E_{C+1} joins E_C of half the step, taken twice, with one Euler step:

        E_{C+1}(u; h) = w_C E_C(E_C(u; h/2); h/2) + (1 - w_C) (u + h f(u))

    Here u is the state before a step, h the length of the step, f the field and w_C the weight of
    the join. One join of w = 2 is Richardson's extrapolation of Euler, which is the midpoint rule.

    Args:
        joins: The weights w_1, ..., w_{C-1}, at least one, from the innermost join to the
            outermost. Each is a number, an array, an `nnx.Variable`, or a `PerStep` with one row
            per step.

    Raises:
        InputError: `joins` is not a sequence of 1 to 10 weights, or a weight is a number that
            is not finite.
        InputTypeError: A weight is neither a number nor an array nor an `nnx.Variable`.

    Source:
        The expansion rule of FractalNet, Larsson et al., arXiv 1605.07648, whose joins are means
        (w = 1/2). The halved steps, which make the scheme consistent for all joins, are our
        formulation.
    """

    joins: tuple[Any, ...]

    def __init__(self, joins: Sequence[Any]):
        sequence = isinstance(joins, Sequence | nnx.List) or (
            isinstance(joins, np.ndarray | jax.Array) and joins.ndim > 0
        )
        if not sequence or isinstance(joins, str) or not len(joins):
            raise InputError(
                "joins is a sequence of at least one weight, one per join, got "
                f"{'none' if sequence else f'a {type(joins).__name__}'}"
            )
        checks.whole("the number of joins", len(joins), most=_MOST_COLUMNS - 1)
        check_coefficients(**{f"joins[{i}]": w for i, w in enumerate(joins)})
        self.joins = tuple(joins)

    @classmethod
    def learned(cls, columns: int, steps: int) -> FractalExpansion:
        """Make a scheme that learns the joins, in every step its own.

        The joins start as means, w = 1/2.

        Args:
            columns: The number C of columns, at least 2.
            steps: The number of steps of the grid.

        Returns:
            The scheme, with C - 1 joins of shape `(steps,)`.

        Raises:
            InputError: `columns` is below 2 or above 11, or `steps` is below 1 or above 2^24.
            InputTypeError: `columns` or `steps` is not a whole number.
        """
        checks.whole("columns", columns, least=2, most=_MOST_COLUMNS)
        checks.whole("steps", steps, most=checks.MOST_STEPS)
        return cls([PerStep(jnp.full(steps, 0.5, jnp.float32)) for _ in range(columns - 1)])

    def evaluations(self, steps: int) -> int:
        """Return 2^joins times the number of steps, where `joins` is the number of joins.

        The two branches of a join share their first evaluation.
        """
        return 2 ** len(self.joins) * steps

    def order(self, terms):
        """Return 2 where the joins are numbers that give order 2, and 1 otherwise."""
        if not all(isinstance(w, int | float) for w in self.joins):
            return 1
        # The factor of h^2 f'f, which is 1/2 in the exact solution and 0 in an Euler step.
        bend = functools.reduce(lambda bend, w: w * (bend / 2 + 1 / 4), self.joins, 0.0)
        return 2 if abs(bend - 1 / 2) <= 1e-12 else 1

    def advance(self, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, h: Real) -> Any:
        """Return the state after a step: the whole fractal."""
        return self._expand(velocity, x, velocity(0.0, x), h, 0.0, 1.0, len(self.joins))

    def _expand(
        self,
        velocity: Any,
        x: PyTree,
        first: PyTree,
        h: Real,
        start: float,
        share: float,
        joins: int,
    ) -> Any:
        """Return the state after a fractal with a number of joins over a share of the step.

        `first` is the velocity where the fractal starts.
        """
        euler = plus(x, share * h, first)
        if not joins:
            return euler
        half, w = share / 2, value(self.joins[joins - 1], x)
        middle = self._expand(velocity, x, first, h, start, half, joins - 1)
        deep = self._expand(
            velocity, middle, velocity(start + half, middle), h, start + half, half, joins - 1
        )
        return jax.tree.map(lambda a, b: w * a + (1 - w) * b, deep, euler)
