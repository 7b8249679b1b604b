"""What the schemes that come from networks share: their abstract classes, their coefficients, and what they declare of themselves.

A scheme that uses earlier steps says so here (`past`, `carries`); such schemes stand in `multistep`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from diffrax import AbstractERK, AbstractSolver, LocalLinearInterpolation, ODETerm
from flax import nnx
from jaxtyping import Array

from neuralflow.checks import InputError, InputTypeError
from neuralflow.schemes.runge_kutta import explicit_step, used_stages


class PerStep(nnx.Param):
    """A trainable coefficient of a scheme with one row per step.

    A scheme of two steps has rows from the second step on, (steps - 1, ...), unless it goes on from a state before; others
    have (steps, ...). In a step the scheme sees the row of that step: a number, or (channels,) along the last axis of the state.
    """


class NetworkScheme(AbstractSolver):
    """A scheme as the step of a network: explicit, without an error estimate, for fixed grids.

    `past`: earlier steps whose states or velocities it uses, which must be of equal length. `carries`: whether a step
    hands more than its state to the next. `plain`: steps at the start that have no coefficients of their own.
    `continued`: whether it goes on from a state before x. `statistics`: which of a step's evaluations of the field updates
    batch statistics.
    """

    term_structure: ClassVar = ODETerm
    interpolation_cls: ClassVar[Callable[..., LocalLinearInterpolation]] = LocalLinearInterpolation
    past: ClassVar[Any] = 0
    carries: ClassVar[Any] = False
    plain: ClassVar[Any] = 0
    continued: ClassVar[Any] = False
    statistics: ClassVar[int] = 0

    @abstractmethod
    def evaluations(self, steps: int) -> int:
        """Evaluations of the field in so many steps."""

    def settled(self, memory: Any) -> Any:
        """A memory as it is long after the start: counts and marks of the first steps are behind it."""
        return memory

    def func(self, terms, t0, y0, args):
        """The velocity."""
        return terms.vf(t0, y0, args)


class Traits(NamedTuple):
    """What a fixed grid must know of a scheme, by the names of `NetworkScheme`; diffrax's own schemes remember nothing."""

    past: int = 0
    carries: bool = False
    plain: int = 0
    continued: bool = False
    statistics: int = 0


def traits(scheme: Any) -> Traits:
    """The declared properties of any scheme."""
    if not isinstance(scheme, NetworkScheme):
        return Traits()
    return Traits(scheme.past, scheme.carries, scheme.plain, scheme.continued, scheme.statistics)


class OneStepScheme(NetworkScheme):
    """A scheme that remembers nothing: `advance` is the whole of it."""

    @abstractmethod
    def advance(self, velocity: Callable[[Any, Any], Any], x: Any, h: Any) -> Any:
        """The state after a step of length h from x; `velocity(c, y)` is taken at the share c of the step."""

    def init(self, terms, t0, t1, y0, args):
        """No memory."""
        return None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """diffrax's form of a step."""
        y1 = self.advance(velocity_of(terms, t0, t1, args), y0, t1 - t0)
        return done(y0, y1, None)


class ReversibleScheme(NetworkScheme):
    """A scheme whose steps can be taken back exactly, up to rounding: `memory="reversible"` walks back over them."""

    @abstractmethod
    def unstep(self, terms, t0, t1, y1, args, solver_state) -> tuple[Any, Any]:
        """State and memory before the step from t0 to t1 that ended in these."""

    @property
    @abstractmethod
    def retraced(self) -> tuple[int, ...]:
        """Which of a step's evaluations of the field each evaluation of `unstep` repeats: with it, its random keys."""

    @abstractmethod
    def growth(self, steps: int) -> float:
        """The factor by which walking back so many steps may multiply a rounding error; infinite if unknown."""


def velocity_of(terms: Any, t0: Any, t1: Any, args: Any) -> Callable[[Any, Any], Any]:
    """f(c, y) at the share c of the step from t0 to t1; at its ends exactly."""

    def velocity(c: Any, y: Any) -> Any:
        if isinstance(c, int | float):
            return terms.vf(t0 if c == 0 else t1 if c == 1 else t0 + c * (t1 - t0), y, args)
        return terms.vf(t0 + jax.lax.stop_gradient(c) * (t1 - t0), y, args)

    return velocity


def one_step(scheme: AbstractSolver, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
    """The state after one step that remembers nothing of those before it."""
    if isinstance(scheme, AbstractERK):
        return explicit_step(scheme.tableau, velocity_of(terms, t0, t1, args), y0, t1 - t0)
    return scheme.step(terms, t0, t1, y0, args, scheme.init(terms, t0, t1, y0, args), False)[0]


def prepared(scheme: diffrax.AbstractSolver, dtype: Any) -> diffrax.AbstractSolver:
    """The scheme with what single steps need: a stage loop open to every derivative, a root finder with tolerances."""
    if isinstance(scheme, diffrax.AbstractRungeKutta) and scheme.scan_kind is None:
        scheme = eqx.tree_at(
            lambda s: s.scan_kind, scheme, "bounded", is_leaf=lambda leaf: leaf is None
        )
    if isinstance(scheme, diffrax.AbstractImplicitSolver) and not isinstance(
        getattr(scheme.root_finder, "rtol", 0.0), float
    ):
        # Its tolerances are left to a step size controller.
        tolerance = float(jnp.finfo(dtype).eps ** 0.5)  # of which the iteration asks a hundredth
        # Several stages have one Jacobian each, a single one Newton's. diffrax's own choice, VeryChord, gives up soon and
        # counts on an adaptive loop to shorten the step.
        kind: Any = optx.Chord if isinstance(scheme, diffrax.AbstractRungeKutta) else optx.Newton
        finder = kind(rtol=tolerance, atol=tolerance)
        scheme = eqx.tree_at(lambda s: (s.root_finder, s.root_find_max_steps), scheme, (finder, 50))
    return scheme


def is_explicit(scheme: Any) -> bool:
    """Whether a step is so many evaluations of the field in a row, with no loop of its own."""
    return isinstance(scheme, diffrax.Euler | AbstractERK | NetworkScheme)


def cost(scheme: Any, steps: int) -> int:
    """Evaluations of the field by an explicit scheme in so many steps."""
    if isinstance(scheme, NetworkScheme):
        return scheme.evaluations(steps)
    return steps * (used_stages(scheme.tableau) if isinstance(scheme, AbstractERK) else 1)


def plus(x: Any, h: Any, v: Any) -> Any:
    """x + h v."""
    return jax.tree.map(lambda a, b: a + h * b, x, v)


def done(y0: Any, y1: Any, state: Any) -> Any:
    """What a diffrax solver returns from a step that cannot fail and has no error estimate."""
    return y1, None, {"y0": y0, "y1": y1}, state, diffrax.RESULTS.successful


def value(coefficient: Any, like: Any) -> Any:
    """A coefficient as a number or an array of the state's real dtype; ValueError where it does not fit the state."""
    raw = coefficient.get_value() if isinstance(coefficient, nnx.Variable) else coefficient
    if isinstance(raw, int | float):
        return raw
    leaves = jax.tree.leaves(like)
    if raw.ndim and any(raw.shape != leaf.shape[-1:] for leaf in leaves):
        raise InputError(
            f"in a step a coefficient is one number or one per channel, {leaves[0].shape[-1:]}, got shape {raw.shape}; "
            "one row per step is a nf.schemes.PerStep"
        )
    return jnp.asarray(raw, jnp.finfo(leaves[0].dtype).dtype)


def check_coefficients(**coefficients: Any) -> None:
    """TypeError for a coefficient that is neither a number nor an array nor a variable, ValueError for one that is not finite."""
    for name, coefficient in coefficients.items():
        if isinstance(coefficient, bool) or not isinstance(
            coefficient, int | float | np.generic | np.ndarray | Array | nnx.Variable
        ):
            raise InputTypeError(
                f"the coefficient {name} must be a number, an array or an nnx.Variable (PerStep: one per step), got {coefficient!r}"
            )
        if isinstance(coefficient, int | float) and not math.isfinite(coefficient):
            raise InputError(f"the coefficient {name} must be finite, got {coefficient!r}")


def amplified(factor: float, steps: int) -> float:
    """A power of a factor that is one at least, kept within the range of numbers."""
    return math.exp(min(700.0, steps * math.log(factor)))
