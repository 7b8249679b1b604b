"""The abstract base of every discretisation: data that says how to walk through depth.

The base also declares the walk itself. `fixed_grid` and `adaptive` hold the two kinds.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import diffrax
import equinox as eqx
import numpy as np
from diffrax import AbstractSolver
from flax import nnx
from jax import core
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError
from neuralflow.depth.basis import Basis
from neuralflow.depth.grid import Plan
from neuralflow.solve.results import Solution, Status

StepMap = Callable[[Any], Any]
"""The type of one step of a fixed grid, as a function from states to states."""


class EveryStep(enum.Enum):
    """The type of `EVERY_STEP`."""

    EVERY_STEP = "every step"


EVERY_STEP = EveryStep.EVERY_STEP
"""A mark in place of depth times: it asks for both ends of the walk and all edges of steps."""


class Discretisation(eqx.Module):
    """The way in which a layer walks through normalised depth s in [0, 1].

    The two kinds are `FixedGrid` and `Adaptive`.

    Attributes:
        planned: Whether the steps are known before the walk.
        scheme: The diffrax solver that takes the steps.
        ends: The two normalised depths between which the walk goes.
    """

    planned: eqx.AbstractClassVar[bool]
    scheme: eqx.AbstractVar[diffrax.AbstractSolver]
    ends: eqx.AbstractVar[Any]

    @property
    @abc.abstractmethod
    def whole(self) -> bool:
        """Whether the walk is known to cover the whole interval."""

    @property
    def real(self) -> bool:
        """Whether states must be real, so that complex states travel as pairs of real numbers.

        The unknowns of steps that solve equations are real.
        """
        return isinstance(self.scheme, diffrax.AbstractImplicitSolver)

    @abc.abstractmethod
    def check(self, field: nnx.Module) -> None:
        """Refuse a field that this discretisation cannot carry.

        Args:
            field: The velocity field.

        Raises:
            InputError: The discretisation cannot carry the field.
            InputTypeError: The field cannot be called as f(x) or f(x, t).
        """

    @abc.abstractmethod
    def integrate(
        self,
        field: nnx.Module,
        x: PyTree,
        t0: Real,
        t1: Real,
        *,
        context: PyTree = None,
        depths: Array | EveryStep | None = None,
        backward: bool = False,
    ) -> tuple[Solution, dict[int, Array]]:
        """Carry a state through the interval.

        Args:
            field: The velocity field.
            x: The state where the walk starts, a pytree of arrays.
            t0: The depth time that belongs to normalised depth 0.
            t1: The depth time that belongs to normalised depth 1.
            context: The context that the field is called with, a pytree of arrays, or None.
            depths: The depth times at which to return states, shape `(m,)`, in the order of the
                walk. `EVERY_STEP` asks for the states at all edges of the steps. None asks for the
                final state alone.
            backward: Whether to walk from the later end of the walk to the earlier one.

        Returns:
            The solution, and the new state of the field. The new state maps the place of an array
            in the field's flat list to its new value. The mapping is empty if no state changes.

        Raises:
            InputError: The discretisation cannot take this walk.
        """

    @abc.abstractmethod
    def invert(
        self,
        field: nnx.Module,
        y: PyTree,
        t0: Real,
        t1: Real,
        *,
        context: PyTree = None,
        backward: bool = False,
    ) -> Solution:
        """Solve every step for its input, from the last step to the first.

        Args:
            field: The velocity field.
            y: The state where the walk ends.
            t0: The depth time that belongs to normalised depth 0.
            t1: The depth time that belongs to normalised depth 1.
            context: The context that the field is called with, a pytree of arrays, or None.
            backward: Whether the walk that led to `y` went backward.

        Returns:
            The solution whose state is the start of the walk that ends in `y`.

        Raises:
            InputTypeError: The discretisation has no steps that could be solved for their inputs.
        """

    @abc.abstractmethod
    def per_step(
        self,
        field: nnx.Module,
        x: PyTree,
        t0: Real,
        t1: Real,
        function: Callable[[StepMap, PyTree], PyTree],
        *,
        context: PyTree = None,
        backward: bool = False,
    ) -> Any:
        """Compute function(block, x_k) for every step k.

        Args:
            field: The velocity field.
            x: The state where the walk starts.
            t0: The depth time that belongs to normalised depth 0.
            t1: The depth time that belongs to normalised depth 1.
            function: The function to compute. Its first argument `block` is the step, a function
                from states to states. Its second argument x_k is the state where the step starts.
            context: The context that the field is called with, a pytree of arrays, or None.
            backward: Whether to walk from the later end of the walk to the earlier one.

        Returns:
            The values of the function, stacked along a new leading axis of length `steps`.

        Raises:
            InputTypeError: The discretisation has no steps of its own, or its steps are no
                functions of the state alone.
        """

    @abc.abstractmethod
    def plan(self, bases: Sequence[Basis], *, backward: bool = False) -> Plan:
        """Set the steps against the bases of a field's weights.

        Args:
            bases: The bases on which the weights of the field vary with depth.
            backward: Whether the walk goes from the later end to the earlier one.

        Returns:
            The plan of the steps, in the order and direction of the walk.

        Raises:
            InputError: A step crosses a knot of a basis.
            InputTypeError: The steps are not known before the walk.
        """

    @abc.abstractmethod
    def refined(self, parts: int, scheme: AbstractSolver | None = None) -> Self:
        """Return the same walk with finer steps.

        Args:
            parts: How many times as fine the new walk is.
            scheme: The scheme of the new walk. None keeps the present scheme.

        Returns:
            The finer discretisation.
        """

    @property
    @abc.abstractmethod
    def as_data(self) -> Self:
        """The same discretisation with its numbers as arrays.

        New numbers in these arrays compile nothing anew.
        """

    @abc.abstractmethod
    def remedy(self, status: Status, accepted: int, rejected: int) -> str:
        """Say why a solve may have ended with a status, and what to do about the failure.

        Args:
            status: The status of the failed solve.
            accepted: The number of accepted steps.
            rejected: The number of rejected steps.

        Returns:
            The text of the remedy.
        """

    @property
    @abc.abstractmethod
    def forward_mode(self) -> str:
        """The option to change for forward-mode derivatives; empty if the walk has them."""

    @property
    @abc.abstractmethod
    def options(self) -> dict[str, Any]:
        """The arguments beside the scheme, by name, as a user would write them.

        Optional arguments that have their default value are left out.
        """

    def __repr__(self) -> str:
        written = [
            repr(self.scheme),
            *(f"{name}={value!r}" for name, value in self.options.items()),
        ]
        return f"{type(self).__name__}({', '.join(written)})"

    def __treescope_repr__(self, path: Any, subtree_renderer: Any) -> Any:
        """Return one line for `nnx.display`."""
        from treescope import rendering_parts

        line = rendering_parts.text(repr(self))
        return rendering_parts.build_one_line_tree_node(line=line, path=path)

    def part(self, start: Real, stop: Real) -> Self:
        """Return the walk between two normalised depths.

        Args:
            start: The normalised depth where the new walk starts, in [0, 1].
            stop: The normalised depth where the new walk stops, in [0, 1].

        Returns:
            The same discretisation with these `ends`.

        Raises:
            InputError: The new discretisation refuses the ends.
            InputTypeError: The steps are planned before the walk, and an end is a traced array.
        """
        return replace(self, ends=(start, stop))


def check_ends(ends: Any) -> tuple[Any, Any]:
    """Return the two ends of a walk, and refuse known ends that are not depths in order in [0, 1].

    Args:
        ends: The normalised depths where the walk starts and stops. Either may be traced.

    Raises:
        InputError: `ends` are not two, or lie outside of [0, 1] or out of order.
        InputTypeError: An end is not a number.
    """
    wanted = "ends are two increasing normalised depths in [0, 1]"
    if not isinstance(ends, list | tuple | np.ndarray) or len(ends) != 2:
        raise InputError(f"{wanted}, got {ends!r}")
    start, stop = ends
    for end in (start, stop):
        checks.number("each of ends", end, least=0, most=1)
    traced = isinstance(start, core.Tracer) or isinstance(stop, core.Tracer)
    if not traced and not float(start) <= float(stop):
        raise InputError(f"{wanted}, got {start} and {stop}")
    return start, stop


def out_of_range(scheme: AbstractSolver, accepted: int) -> str:
    """Say what to do about a state that is not finite.

    Args:
        scheme: The scheme that took the steps.
        accepted: The number of accepted steps.

    Returns:
        The text of the remedy.
    """
    return (
        f"the state left the range of floating point within {accepted} steps of "
        f"{type(scheme).__name__}; take more steps, or an implicit scheme such as "
        "nf.ImplicitEuler() if the field is stiff"
    )
