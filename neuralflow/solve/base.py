"""What every discretisation is: data that says how to walk through depth, and the walk itself."""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import diffrax
import equinox as eqx
from flax import nnx
from jaxtyping import Array

from neuralflow.depth.basis import Basis
from neuralflow.depth.grid import Plan
from neuralflow.solve.results import Solution, Status

StepMap = Callable[[Any], Any]
"""One step of a fixed grid as a function from states to states."""


class EveryStep(enum.Enum):
    """The type of `EVERY_STEP`."""

    EVERY_STEP = "every step"


EVERY_STEP = EveryStep.EVERY_STEP
"""In place of depth times: both ends of the walk, and all edges between its steps."""


class Discretisation(eqx.Module):
    """How a layer walks through normalised depth s in [0, 1]: `FixedGrid` and `Adaptive`.

    `planned`: whether its steps are known before the walk. `scheme`: a diffrax solver. `ends`: the normalised depths
    between which it walks.
    """

    planned: eqx.AbstractClassVar[bool]
    scheme: eqx.AbstractVar[diffrax.AbstractSolver]
    ends: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def check(self, field: nnx.Module) -> None:
        """Raises ValueError or TypeError where it cannot carry the field."""

    @abc.abstractmethod
    def integrate(
        self,
        field: nnx.Module,
        x: Any,
        t0: Any,
        t1: Any,
        *,
        depths: Any = None,
        backward: bool = False,
    ) -> tuple[Solution, dict[int, Array]]:
        """Carries x through the interval, and the field's new state beside it.

        `depths` (m,): depth times to return states at, or EVERY_STEP.
        """

    @abc.abstractmethod
    def invert(
        self, field: nnx.Module, y: Any, t0: Any, t1: Any, *, backward: bool = False
    ) -> Solution:
        """Solves every step for its input, from the last to the first."""

    @abc.abstractmethod
    def per_step(
        self,
        field: nnx.Module,
        x: Any,
        t0: Any,
        t1: Any,
        function: Callable[[StepMap, Any], Any],
        *,
        backward: bool = False,
    ) -> Any:
        """function(block, x_k) of every step, along a new leading axis."""

    @abc.abstractmethod
    def plan(self, bases: Sequence[Basis], *, backward: bool = False) -> Plan:
        """Its steps against the bases of a field's weights, in the order and direction of the walk."""

    @abc.abstractmethod
    def refined(self, parts: int, scheme: Any = None) -> Self:
        """The same walk so many times as fine, under another scheme if one is given."""

    @property
    @abc.abstractmethod
    def as_data(self) -> Self:
        """The same with its numbers as arrays, where new ones shall compile nothing anew."""

    @abc.abstractmethod
    def remedy(self, status: Status, accepted: int, rejected: int) -> str:
        """Why a solve may have ended with this status, and what to do."""

    @property
    @abc.abstractmethod
    def options(self) -> dict[str, Any]:
        """The arguments beside the scheme that are not the defaults, as they would be written."""

    def __repr__(self) -> str:
        written = [
            repr(self.scheme),
            *(f"{name}={value!r}" for name, value in self.options.items()),
        ]
        return f"{type(self).__name__}({', '.join(written)})"

    def __treescope_repr__(self, path: Any, subtree_renderer: Any) -> Any:
        """One line, for `nnx.display`."""
        from treescope import rendering_parts

        line = rendering_parts.text(repr(self))
        return rendering_parts.build_one_line_tree_node(line=line, path=path)

    def part(self, start: Any, stop: Any) -> Self:
        """The walk between two normalised depths."""
        return replace(self, ends=(start, stop))


def out_of_range(scheme: Any, accepted: int) -> str:
    """The remedy for a state that is not finite."""
    return (
        f"the state left the range of floating point within {accepted} steps of {type(scheme).__name__}; "
        "take more steps, or an implicit scheme such as nf.ImplicitEuler() if the field is stiff"
    )
