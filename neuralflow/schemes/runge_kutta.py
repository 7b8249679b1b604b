"""Runge-Kutta schemes that diffrax lacks, as tableaus, and one explicit step.

The explicit step is written stage by stage, as one writes it by hand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from diffrax import (
    AbstractERK,
    AbstractESDIRK,
    ButcherTableau,
    ThirdOrderHermitePolynomialInterpolation,
)
from jax import lax
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.annotations import Real

# None of these schemes has an embedded error estimate. The zeros stand for it, and Adaptive refuses
# the schemes.
_NO_ERROR = np.zeros(4)
_VERY_CHORD = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)


class _Tableau(NamedTuple):
    """The entries of diffrax's `ButcherTableau` that a step needs."""

    c: np.ndarray
    a_lower: tuple[np.ndarray, ...]
    b_sol: np.ndarray
    num_stages: int


# diffrax has no tableau for Euler's scheme, and builds none with one stage.
EULER = _Tableau(np.zeros(0), (), np.ones(1), 1)


def _check_scan_kind(kind: Any) -> None:
    """Refuse what no loop over stages is called."""
    checks.choice("scan_kind", kind, (None, "lax", "checkpointed", "bounded"))


class RK4(AbstractERK):
    """The classical Runge-Kutta scheme: order 4, 4 stages.

    The scheme has no error estimate and is for fixed grids.

    Args:
        scan_kind: How diffrax's own step loops over the stages. A fixed grid has a
            loop of its own.

    Raises:
        InputError: The kind of loop is none of diffrax's.

    Source:
        Kutta 1901.
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(  # pyright: ignore[reportIncompatibleVariableOverride]
        c=np.array([1 / 2, 1 / 2, 1.0]),
        a_lower=(np.array([1 / 2]), np.array([0.0, 1 / 2]), np.array([0.0, 0.0, 1.0])),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=_NO_ERROR,
    )
    interpolation_cls: ClassVar[Callable[..., ThirdOrderHermitePolynomialInterpolation]] = (
        ThirdOrderHermitePolynomialInterpolation.from_k
    )

    def __check_init__(self):
        _check_scan_kind(self.scan_kind)

    def order(self, terms):
        """Return 4, the order of the scheme."""
        return 4


class ThreeEighths(AbstractERK):
    """Kutta's 3/8 rule: order 4, 4 stages.

    The scheme has no error estimate and is for fixed grids.

    Args:
        scan_kind: How diffrax's own step loops over the stages. A fixed grid has a
            loop of its own.

    Raises:
        InputError: The kind of loop is none of diffrax's.

    Source:
        Kutta 1901.
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(  # pyright: ignore[reportIncompatibleVariableOverride]
        c=np.array([1 / 3, 2 / 3, 1.0]),
        a_lower=(np.array([1 / 3]), np.array([-1 / 3, 1.0]), np.array([1.0, -1.0, 1.0])),
        b_sol=np.array([1 / 8, 3 / 8, 3 / 8, 1 / 8]),
        b_error=_NO_ERROR,
    )
    interpolation_cls: ClassVar[Callable[..., ThirdOrderHermitePolynomialInterpolation]] = (
        ThirdOrderHermitePolynomialInterpolation.from_k
    )

    def __check_init__(self):
        _check_scan_kind(self.scan_kind)

    def order(self, terms):
        """Return 4, the order of the scheme."""
        return 4


class ImplicitTrapezoid(AbstractESDIRK):
    """The trapezoidal rule u1 = u + (h/2) (f(u) + f(u1)): order 2, A-stable.

    Here u is the state before a step, u1 the state after the step, h the length of the step and f
    the field. The scheme has no error estimate and is for fixed grids.

    Args:
        scan_kind: How diffrax loops over the stages. The single steps of this package replace the
            default by a loop that every kind of derivative can pass.
        root_finder: The optimistix root finder that solves the implicit stage. The default leaves
            its tolerances to a step size controller. A fixed grid has none, and replaces the
            default by `optimistix.Chord` with at most 50 iterations.
        root_find_max_steps: The largest number of iterations of the root finder in a stage.

    Raises:
        InputError: The kind of loop is none of diffrax's, or `root_find_max_steps` is below 1.
        InputTypeError: `root_finder` is not a root finder, or `root_find_max_steps` not a whole
            number.
    """

    tableau: ClassVar[ButcherTableau] = ButcherTableau(  # pyright: ignore[reportIncompatibleVariableOverride]
        c=np.array([1.0]),
        a_lower=(np.array([1 / 2]),),
        a_diagonal=np.array([0.0, 1 / 2]),
        a_predictor=(np.array([1.0]),),
        b_sol=np.array([1 / 2, 1 / 2]),
        b_error=_NO_ERROR[:2],
    )
    interpolation_cls: ClassVar[Callable[..., ThirdOrderHermitePolynomialInterpolation]] = (
        ThirdOrderHermitePolynomialInterpolation.from_k
    )
    root_finder: optx.AbstractRootFinder = _VERY_CHORD()  # pyright: ignore[reportIncompatibleVariableOverride]
    root_find_max_steps: int = 10  # pyright: ignore[reportIncompatibleVariableOverride]

    def __check_init__(self):
        _check_scan_kind(self.scan_kind)
        checks.instance(
            "root_finder",
            self.root_finder,
            optx.AbstractRootFinder,
            "a root finder of optimistix such as optimistix.Chord(rtol=1e-6, atol=1e-6)",
        )
        checks.whole("root_find_max_steps", self.root_find_max_steps, most=2**31 - 1)

    def order(self, terms):
        """Return 2, the order of the scheme."""
        return 2


def used_stages(tableau: Any) -> int:
    """Count the stages that a step itself uses.

    A last stage that serves only an error estimate or the next step is left out.

    Args:
        tableau: The Butcher tableau of a scheme.

    Returns:
        The number of stages.
    """
    return int(np.flatnonzero(tableau.b_sol)[-1]) + 1


def explicit_step(
    tableau: Any,
    velocity: Callable[[float, PyTree], PyTree],
    x: PyTree,
    h: Real,
    first: PyTree = None,
) -> Any:
    """Take one step of an explicit Runge-Kutta tableau, stage by stage as one writes it by hand.

    A last stage that serves only an error estimate or the next step is left out.

    Args:
        tableau: The Butcher tableau of an explicit scheme.
        velocity: The field as a function velocity(c, y) of the share c of the step, from 0 to 1,
            and of the state y.
        x: The state where the step starts, an array or a pytree of arrays.
        h: The length of the step in depth time.
        first: The velocity where the step starts, if it is known. By default the step evaluates it.

    Returns:
        The state after the step, in the form of x.
    """
    ks = _stages(tableau, velocity, x, h, used_stages(tableau), first)
    return _plus(x, h, tableau.b_sol, ks)


def dense_step(
    tableau: Any, velocity: Callable[[float, PyTree], PyTree], x: PyTree, h: Real
) -> tuple[Any, dict[str, Any]]:
    """Take the step of `explicit_step`, and return what the scheme's interpolant needs as well.

    Args:
        tableau: The Butcher tableau of an explicit scheme.
        velocity: The field as a function velocity(c, y) of the share c of the step, from 0 to 1,
            and of the state y.
        x: The state where the step starts, an array or a pytree of arrays.
        h: The length of the step in depth time.

    Returns:
        The state after the step, and the arguments of diffrax's interpolations beside the times:
        both states, and h times the velocity of every stage.
    """
    ks = _stages(tableau, velocity, x, h, tableau.num_stages)
    y = _plus(x, h, tableau.b_sol, ks)
    return y, {"y0": x, "y1": y, "k": jax.tree.map(lambda *rows: times(h, jnp.stack(rows)), *ks)}


def _stages(
    tableau: Any,
    velocity: Callable[[float, PyTree], PyTree],
    x: PyTree,
    h: Real,
    count: int,
    first: PyTree = None,
) -> list[Any]:
    """Return the velocities of the first stages of a step."""
    ks: list[Any] = [velocity(0.0, x) if first is None else first]
    rows = list(zip(tableau.c.tolist(), tableau.a_lower, strict=True))
    for c, row in rows[: count - 1]:
        ks.append(velocity(float(c), _plus(x, h, row, ks)))
    return ks


def _plus(x: PyTree, h: Real, weights: PyTree, ks: Sequence[Any]) -> Any:
    """Return x plus h times a weighted sum of the velocities."""
    used = [(float(w), k) for w, k in zip(weights, ks, strict=False) if w != 0]
    if not used:
        return x
    total = functools.reduce(
        lambda a, b: jax.tree.map(jnp.add, a, b), (_scaled(w, k) for w, k in used)
    )
    return jax.tree.map(lambda a, b: a + times(h, b), x, total)


def rolled_step(
    tableau: Any, velocity: Callable[[Array, PyTree], PyTree], x: PyTree, h: Array
) -> Any:
    """Take the step of `explicit_step` as a loop over the stages, which compiles the field once.

    Reverse-mode differentiation of this loop is not possible.

    Args:
        tableau: The Butcher tableau of an explicit scheme.
        velocity: The field as a function velocity(c, y) of the share c of the step, from 0 to 1,
            and of the state y.
        x: The state where the step starts, an array or a pytree of arrays.
        h: The length of the step in depth time. Its dtype is the dtype of the shares.

    Returns:
        The state after the step, in the form of x.
    """
    count = used_stages(tableau)
    rows = np.zeros((count + 1, count))
    for i, row in enumerate(tableau.a_lower[: count - 1], 1):
        rows[i, :i] = row
    rows[count] = tableau.b_sol[:count]
    weights, shares = (
        jnp.asarray(rows, h.dtype),
        jnp.asarray([0.0, *tableau.c[: count - 1]], h.dtype),
    )

    def plus(i: Any, ks: PyTree) -> Any:
        def summed(a: Array, k: Array) -> Array:
            row, exact = weights[i].astype(k.dtype), lax.Precision.HIGHEST
            return a + times(h, jnp.tensordot(row, k, axes=1, precision=exact))

        return jax.tree.map(summed, x, ks)

    def stage(i: Any, ks: PyTree) -> Any:
        k = velocity(shares[i], plus(i, ks))
        return jax.tree.map(lambda a, b: a.at[i].set(b), ks, k)

    empty = jax.tree.map(lambda a: jnp.zeros((count, *a.shape), a.dtype), x)
    return plus(count, lax.fori_loop(0, count, stage, empty))


def times(h: Real, v: Array) -> Any:
    """Return h v in the dtype of v, as one writes the step of a network in that dtype.

    Args:
        h: The length of a step, which may have more digits than v.
        v: The velocity.

    Returns:
        The product. A real h is rounded to the dtype of v first.
    """
    return (h if jnp.iscomplexobj(h) else jnp.asarray(h, jnp.finfo(v.dtype).dtype)) * v


def _scaled(weight: float, k: Any) -> Any:
    """Multiply a pytree by a weight; a weight of one leaves the pytree as it is."""
    return k if weight == 1 else jax.tree.map(lambda a: weight * a, k)
