"""What the schemes that come from networks share: abstract classes, coefficients, declarations.

A scheme declares here whether it uses earlier steps (`past`, `carries`). The schemes that use them
stand in `multistep`.
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
from diffrax import AbstractERK, AbstractSolver, AbstractTerm, LocalLinearInterpolation, ODETerm
from flax import nnx
from jax import core
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.schemes.runge_kutta import EULER, explicit_step, times, used_stages


class PerStep(nnx.Param):
    """A trainable coefficient of a scheme with one row per step.

    The first axis of the value counts the steps. A two-step scheme has rows from the second step
    on, `(steps - 1, ...)`. A two-step scheme that goes on from a state before has `(steps, ...)`.
    All other schemes have `(steps, ...)`.

    In a step the scheme sees the row of that step: one number, or an array `(channels,)` along the
    last axis of the state.

    Args:
        value: The rows, an array.
    """


def step_coefficients(scheme: AbstractSolver) -> list[PerStep]:
    """Return the coefficients of a scheme that have one row per step.

    Args:
        scheme: A diffrax solver.
    """
    leaves = jax.tree.leaves(scheme, is_leaf=lambda leaf: isinstance(leaf, PerStep))
    return [leaf for leaf in leaves if isinstance(leaf, PerStep)]


class Traits(NamedTuple):
    """What a fixed grid must know of a scheme.

    The defaults are those of diffrax's own schemes, which remember nothing.

    Attributes:
        past: The number of earlier steps whose states or velocities a step uses. Steps must be of
            equal length where `past` is not zero.
        carries: Whether a step hands more than its state to the next step.
        plain: The number of steps at the start that have no coefficients of their own.
        continued: Whether the scheme goes on from a state before x.
        statistics: The number, from 0, of the evaluation in a step that updates batch statistics.
        restart: The number of continuous derivatives that the weights need at a knot. Where they
            have fewer, the scheme starts anew. -1 means that it never does.
        parted: Whether a step evaluates the parts of a field one by one. The field must then be an
            `nf.fields.Split`.
    """

    past: int = 0
    carries: bool = False
    plain: int = 0
    continued: bool = False
    statistics: int = 0
    restart: int = -1
    parted: bool = False


class Parts(ODETerm):
    """A field as diffrax's term, with a term for each of its parts beside the whole.

    Attributes:
        parts: The terms of the parts. The whole is their sum.
    """

    parts: tuple[ODETerm, ...]


class NetworkScheme(AbstractSolver):
    """A scheme as the step of a network: explicit, without an error estimate, for fixed grids.

    What a fixed grid must know of a scheme stands in its `traits`.
    """

    term_structure: ClassVar = ODETerm
    interpolation_cls: ClassVar[Callable[..., LocalLinearInterpolation]] = LocalLinearInterpolation

    @property
    def traits(self) -> Traits:
        """What a fixed grid must know of the scheme."""
        return Traits()

    @abstractmethod
    def evaluations(self, steps: int) -> int:
        """Return the number of evaluations of the field in a number of steps."""

    def settled(self, memory: PyTree) -> Any:
        """Return a memory as it is long after the start.

        The counts and marks of the first steps are then over.

        Args:
            memory: The memory of the scheme, as `init` returns it.

        Returns:
            The memory after the first steps, of the same structure.
        """
        return memory

    def func(self, terms, t0, y0, args):
        """Return the velocity, in the form of `diffrax.AbstractSolver.func`."""
        return terms.vf(t0, y0, args)


def traits(scheme: AbstractSolver) -> Traits:
    """Return the declared properties of any scheme.

    Args:
        scheme: A diffrax solver.

    Returns:
        The declarations of a `NetworkScheme`, and the defaults of `Traits` for any other scheme.
    """
    # A wrapper of diffrax passes for the class that it wraps, and declares nothing.
    wrapper = isinstance(scheme, diffrax.AbstractWrappedSolver)
    return scheme.traits if isinstance(scheme, NetworkScheme) and not wrapper else Traits()


class OneStepScheme(NetworkScheme):
    """A scheme that remembers nothing between steps.

    A subclass defines the whole step in `advance`.
    """

    @abstractmethod
    def advance(self, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, h: Real) -> Any:
        """Take one step of length h from the state x.

        Args:
            velocity: The field as a function velocity(c, y) of the share c of the step, from 0 to
                1, and of the state y.
            x: The state where the step starts.
            h: The length of the step in depth time.

        Returns:
            The state after the step, in the form of x.
        """

    def init(self, terms, t0, t1, y0, args):
        """Return None, because the scheme has no memory."""
        return None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step, in the form of `diffrax.AbstractSolver.step`."""
        y1 = self.advance(velocity_of(terms, t0, t1, args), y0, t1 - t0)
        return done(y0, y1, None)


class ReversibleScheme(NetworkScheme):
    """A scheme whose steps can be taken back exactly, up to rounding.

    The backward pass of `FixedGrid(..., memory="reversible")` walks back over the steps.
    """

    @abstractmethod
    def unstep(self, terms, t0, t1, y1, args, solver_state) -> tuple[Any, Any]:
        """Take one step back.

        Args:
            terms: The field, as diffrax's terms.
            t0: The depth time where the step starts.
            t1: The depth time where the step ends.
            y1: The state after the step.
            args: What diffrax hands to the field.
            solver_state: The memory after the step.

        Returns:
            The state and the memory before the step.
        """

    @abstractmethod
    def retraced(self, parts: int = 1) -> tuple[int, ...]:
        """Return the numbers of the evaluations in a step that those of `unstep` repeat.

        The evaluations in a step count from 0. The k-th entry belongs to the k-th evaluation of
        `unstep`. Both evaluations have the same random keys.

        Args:
            parts: The number of parts of the field, for a scheme that evaluates them one by one.
        """

    @abstractmethod
    def growth(self, steps: int) -> float:
        """Return the factor by which walking back may multiply a rounding error.

        Args:
            steps: The number of steps.

        Returns:
            The factor, infinite if it is unknown.
        """


def check_scheme(scheme: AbstractSolver) -> None:
    """Refuse anything but an instance of a diffrax solver of one velocity field.

    Args:
        scheme: The value to check.

    Raises:
        InputTypeError: The value is a class of schemes, or no diffrax solver. Or the solver asks
            for several terms, such as a drift and a noise.
    """
    if isinstance(scheme, type) and issubclass(scheme, AbstractSolver):
        raise InputTypeError(
            f"a scheme is an instance: write {scheme.__name__}(), not {scheme.__name__}"
        )
    if not isinstance(scheme, AbstractSolver):
        raise InputTypeError(f"a scheme is a diffrax solver such as nf.Euler(), got {scheme!r}")
    terms = scheme.term_structure
    if not isinstance(terms, type) or not issubclass(ODETerm, terms):
        raise InputTypeError(
            f"the scheme {type(scheme).__name__} integrates several terms, such as a drift and a "
            "noise, and a NeuralODE has one velocity field; take a scheme of one, such as nf.Heun()"
        )


def velocity_of(terms: AbstractTerm, t0: Real, t1: Real, args: PyTree) -> Callable[[Any, Any], Any]:
    """Return the field as a function f(c, y) of the share c of a step and of the state y.

    Args:
        terms: The field, as diffrax's terms.
        t0: The depth time where the step starts.
        t1: The depth time where the step ends.
        args: What diffrax hands to the field.

    Returns:
        The function f(c, y), which evaluates the field at the depth time t0 + c (t1 - t0). A number
        c of 0 gives exactly t0, and a number c of 1 gives exactly t1. No gradient flows through the
        depth time to an array c.
    """

    def velocity(c: Real, y: PyTree) -> Any:
        if isinstance(c, int | float):
            return terms.vf(t0 if c == 0 else t1 if c == 1 else t0 + c * (t1 - t0), y, args)
        return terms.vf(t0 + jax.lax.stop_gradient(c) * (t1 - t0), y, args)

    return velocity


def one_step(
    scheme: AbstractSolver,
    terms: AbstractTerm,
    t0: Real,
    t1: Real,
    y0: PyTree,
    args: PyTree,
) -> Any:
    """Return the state after one step that remembers nothing of the steps before.

    Args:
        scheme: A diffrax solver.
        terms: The field, as diffrax's terms.
        t0: The depth time where the step starts.
        t1: The depth time where the step ends.
        y0: The state where the step starts.
        args: What diffrax hands to the field.

    Returns:
        The state after the step, in the form of `y0`.
    """
    tableau = tableau_of(scheme)
    if tableau is not None:
        return explicit_step(tableau, velocity_of(terms, t0, t1, args), y0, t1 - t0)
    return scheme.step(terms, t0, t1, y0, args, scheme.init(terms, t0, t1, y0, args), False)[0]


def prepared(scheme: diffrax.AbstractSolver, dtype: DTypeLike) -> diffrax.AbstractSolver:
    """Return a scheme with what single steps need.

    A Runge-Kutta scheme gets a loop over stages that every kind of derivative can pass. An implicit
    scheme whose root finder has no tolerances of its own gets a root finder with tolerances.

    Args:
        scheme: A diffrax solver.
        dtype: The real dtype of the state. The tolerances follow from its precision.

    Returns:
        The prepared scheme.
    """
    if isinstance(scheme, diffrax.AbstractRungeKutta) and scheme.scan_kind is None:
        scheme = eqx.tree_at(
            lambda s: s.scan_kind, scheme, "bounded", is_leaf=lambda leaf: leaf is None
        )
    if _leaves_tolerances(scheme):
        tolerance = float(jnp.finfo(dtype).eps ** 0.5)  # The iteration asks a hundredth of it.
        # A Runge-Kutta scheme takes Chord, with one Jacobian for each stage. Others take Newton.
        # diffrax's own choice, VeryChord, gives up soon and counts on an adaptive loop to shorten
        # the step.
        kind: Any = optx.Chord if isinstance(scheme, diffrax.AbstractRungeKutta) else optx.Newton
        finder = kind(rtol=tolerance, atol=tolerance)
        scheme = eqx.tree_at(lambda s: (s.root_finder, s.root_find_max_steps), scheme, (finder, 50))
    return scheme


def controlled(
    scheme: diffrax.AbstractSolver, rtol: Real, atol: Real, norm: Callable[[PyTree], Array]
) -> diffrax.AbstractSolver:
    """Return a scheme whose root finder has the tolerances of an adaptive loop.

    Args:
        scheme: A diffrax solver.
        rtol: The relative tolerance of the loop.
        atol: The absolute tolerance of the loop.
        norm: The norm in which the loop measures errors.

    Returns:
        The same scheme. A root finder that has tolerances of its own keeps them.
    """
    if not _leaves_tolerances(scheme):
        return scheme

    def left(scheme: Any) -> Any:
        return scheme.root_finder.rtol, scheme.root_finder.atol, scheme.root_finder.norm

    return eqx.tree_at(left, scheme, (rtol, atol, norm))


def _leaves_tolerances(scheme: diffrax.AbstractSolver) -> bool:
    """Return whether a step size controller sets the tolerances of the root finder of a scheme."""
    return isinstance(scheme, diffrax.AbstractImplicitSolver) and not isinstance(
        getattr(scheme.root_finder, "rtol", 0.0), float
    )


def tableau_of(scheme: AbstractSolver) -> Any:
    """Return the Butcher tableau of an explicit Runge-Kutta scheme, and None for other schemes.

    Args:
        scheme: A diffrax solver.
    """
    if isinstance(scheme, diffrax.Euler):
        return EULER
    return scheme.tableau if isinstance(scheme, AbstractERK) else None


def is_explicit(scheme: AbstractSolver) -> bool:
    """Tell whether a step is a fixed number of evaluations of the field, with no loop of its own.

    Args:
        scheme: A diffrax solver.

    Returns:
        True for Euler, explicit Runge-Kutta schemes and every `NetworkScheme`.
    """
    return isinstance(scheme, NetworkScheme) or tableau_of(scheme) is not None


def parts_of(scheme: AbstractSolver, terms: AbstractTerm) -> tuple[ODETerm, ...]:
    """Return the terms of the parts of a field, for a scheme that evaluates them one by one.

    Args:
        scheme: The scheme, for the message.
        terms: The field, as diffrax's terms.

    Raises:
        InputTypeError: The terms are those of a whole field.
    """
    if not isinstance(terms, Parts):
        raise InputTypeError(
            f"{type(scheme).__name__} walks along the parts of a field one by one, and here the "
            "field is whole; take it in a NeuralODE of an nf.fields.Split on a FixedGrid"
        )
    return terms.parts


def cost(scheme: AbstractSolver, steps: int, parts: int = 1) -> int:
    """Count the evaluations of the field by an explicit scheme.

    Args:
        scheme: An explicit scheme.
        steps: The number of steps.
        parts: The number of parts of the field. A scheme that evaluates them one by one counts each
            evaluation of a part.

    Returns:
        The number of evaluations in all these steps.
    """
    if traits(scheme).parted:
        splitting: Any = scheme
        return splitting.evaluations(steps, parts)
    if isinstance(scheme, NetworkScheme):
        return scheme.evaluations(steps)
    return steps * used_stages(tableau_of(scheme))


def plus(x: PyTree, h: Real, v: PyTree) -> Any:
    """Return x + h v for pytrees x and v and a number h."""
    return jax.tree.map(lambda a, b: a + times(h, b), x, v)


def done(y0: PyTree, y1: PyTree, state: PyTree) -> Any:
    """Return what a diffrax solver returns from a step that cannot fail and has no error estimate.

    Args:
        y0: The state before the step.
        y1: The state after the step.
        state: The memory of the scheme after the step.

    Returns:
        The five values that `diffrax.AbstractSolver.step` prescribes.
    """
    return y1, None, {"y0": y0, "y1": y1}, state, diffrax.RESULTS.successful


def value(coefficient: Any, like: PyTree) -> Any:
    """Return a coefficient as a number, or as an array of the state's real dtype.

    Args:
        coefficient: A number, an array or an `nnx.Variable`.
        like: The state, an array or a pytree of arrays.

    Returns:
        A Python number as it is. Otherwise an array of shape `()` or `(channels,)`, where
        `channels` is the size of the last axis of the state.

    Raises:
        InputError: The coefficient is an array that is neither one number nor one number per
            channel.
    """
    raw = coefficient.get_value() if isinstance(coefficient, nnx.Variable) else coefficient
    if isinstance(raw, int | float):
        return raw
    leaves = jax.tree.leaves(like)
    if raw.ndim and any(raw.shape != leaf.shape[-1:] for leaf in leaves):
        raise InputError(
            f"in a step a coefficient is one number or one per channel, {leaves[0].shape[-1:]}, "
            f"got shape {raw.shape}; one row per step is a nf.schemes.PerStep"
        )
    return jnp.asarray(raw, jnp.finfo(leaves[0].dtype).dtype)


def check_coefficients(**coefficients: Any) -> None:
    """Check that coefficients are finite numbers, arrays or variables.

    Args:
        **coefficients: The coefficients by their names, which the messages use.

    Raises:
        InputTypeError: A coefficient is neither a number nor an array nor an `nnx.Variable`.
        InputError: A known coefficient is not finite.
    """
    for name, coefficient in coefficients.items():
        raw = coefficient.get_value() if isinstance(coefficient, nnx.Variable) else coefficient
        if not isinstance(raw, np.ndarray | Array) or not checks.holds_numbers(raw):
            if not checks.is_number(raw, finite=False):
                raise InputTypeError(
                    f"the coefficient {name} must be a number, an array or an nnx.Variable "
                    f"(PerStep: one per step), got a {type(raw).__name__}"
                )
            if not checks.is_number(raw):
                raise InputError(f"the coefficient {name} must be finite, got {raw!r}")
        elif jnp.iscomplexobj(raw) or jnp.issubdtype(raw.dtype, jnp.bool_):
            raise InputTypeError(f"the coefficient {name} must be real, got {raw.dtype}")
        elif not isinstance(raw, core.Tracer) and not np.isfinite(np.asarray(raw)).all():
            raise InputError(f"the coefficient {name} must be finite, got numbers that are not")


def amplified(factor: float, steps: int) -> float:
    """Return a power of a factor that is at least one, kept within the range of numbers.

    Args:
        factor: The factor of one step.
        steps: The exponent.

    Returns:
        factor^steps, but at most exp(700).
    """
    return math.exp(min(700.0, steps * math.log(factor)))
