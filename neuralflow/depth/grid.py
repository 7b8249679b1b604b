"""Grids of fixed steps, and the plan of a grid: where each step lies in the bases of a field.

A plan is made once on the host. It holds the cell of every step, the local coordinates at which the
step enters and leaves the cell, and the length of the step. This module uses NumPy in float64, and
integers where a number decides which cell a step has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.depth.basis import Basis

# A time that differs from a knot by at most this share of the interval counts as the knot.
_SNAP = 1e-12


class Place(NamedTuple):
    """Where each step of a grid lies in one basis.

    Attributes:
        cell: The cell of each step, integers `(steps,)`.
        enter: The local coordinate in [0, 1] at which each step starts, `(steps,)`.
        leave: The local coordinate in [0, 1] at which each step ends, `(steps,)`.
    """

    cell: np.ndarray
    enter: np.ndarray
    leave: np.ndarray

    def reversed(self) -> Place:
        """Return the same steps from last to first, each walked from its end to its start."""
        return Place(self.cell[::-1], self.leave[::-1], self.enter[::-1])


@dataclass(frozen=True)
class Grid:
    """The edges of the steps of a grid, as the fractions `edges / total` of the interval.

    On a uniform grid the edges are whole numbers and `total` is the number of steps, so no share is
    rounded twice.

    Attributes:
        edges: The edges, `(steps + 1,)`, increasing. They run from 0 to `total`, or between two
            depths inside.
        total: The length of the whole interval in the unit of `edges`.
    """

    edges: np.ndarray
    total: float

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.edges) - 1

    @property
    def shares(self) -> np.ndarray:
        """The share of the interval that each step covers, `(steps,)`.

        The shares of a grid of the whole interval sum to one.
        """
        return np.diff(self.edges) / self.total

    @property
    def is_uniform(self) -> bool:
        """Whether a number of steps defines the grid, and every cut of the grid lies at an edge."""
        return self.edges.dtype.kind == "i"

    def part(self, start: float, stop: float) -> Grid:
        """Return the grid of the steps between two normalised depths.

        The first and the last step are shortened where the depths are not edges.

        Args:
            start: The normalised depth of the first edge.
            stop: The normalised depth of the last edge, greater than `start`.
        """
        low, high = (self._edge(share * self.total) for share in (start, stop))
        inside = self.edges[(self.edges > low) & (self.edges < high)]
        kind = int if self.is_uniform and {low, high} <= set(self.edges.tolist()) else float
        return Grid(np.array([low, *inside, high], kind), self.total)

    def _edge(self, depth: float) -> float:
        """Return the edge that equals a depth within rounding, or the depth if there is none.

        The depth has the unit of `edges`.
        """
        nearest = self.edges[np.abs(self.edges - depth).argmin()]
        return float(nearest) if abs(nearest - depth) <= _SNAP * self.total else depth


def uniform(steps: Any) -> Grid:
    """Return the grid of equal steps over the whole interval.

    Args:
        steps: The number of steps, at least one.

    Raises:
        InputError: `steps` is less than one or more than 2^24.
        InputTypeError: `steps` is not a whole number.
    """
    checks.whole("steps", steps, most=checks.MOST_STEPS)
    return Grid(np.arange(steps + 1), int(steps))


def uneven(times: Sequence[float] | np.ndarray) -> Grid:
    """Return the grid of steps between given normalised depths.

    Args:
        times: The edges as normalised depths, `(steps + 1,)`, strictly increasing from 0 to 1.

    Raises:
        InputError: The times are not finite, do not increase strictly, or do not run from 0 to 1.
        InputTypeError: `times` is not a sequence of known numbers.
    """
    edges = np.asarray(checks.row("times", times), float)
    if len(edges) < 2 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise InputError(
            f"times must be finite and strictly increasing, at least two of them, got {times!r}"
        )
    if edges[0] != 0 or edges[-1] != 1:
        raise InputError(
            f"times are normalised depths from 0 to 1, got {edges[0]:g} to {edges[-1]:g}; "
            "divide (t - t0) by t1 - t0, and give the layer t0 and t1"
        )
    return Grid(edges, 1.0)


def locate_steps(grid: Grid, cells: int | tuple[float, ...]) -> Place:
    """Return where every step of a grid lies among the cells of a basis.

    Args:
        grid: The grid.
        cells: The number of equal cells, or the knots from 0 to 1 of unequal cells.

    Returns:
        The cell of every step, and the local coordinates where the step starts and ends.

    Raises:
        InputError: A step crosses a knot.
    """
    if grid.is_uniform and isinstance(cells, int):
        # All numbers are integers: step k covers [k, k + 1] * cells / steps.
        total = int(grid.total)
        cell, rest = np.divmod(grid.edges[:-1] * cells, total)
        enter, leave = rest / total, (rest + cells) / total
    else:
        knots = np.arange(cells + 1) / cells if isinstance(cells, int) else np.asarray(cells)
        edges = grid.edges / grid.total
        middle = (edges[:-1] + edges[1:]) / 2
        cell = np.clip(np.searchsorted(knots, middle, "right") - 1, 0, len(knots) - 2)
        widths = np.diff(knots)[cell]
        enter, leave = (edges[:-1] - knots[cell]) / widths, (edges[1:] - knots[cell]) / widths
        snap = _SNAP / widths
        enter = np.where(np.abs(enter) <= snap, 0.0, enter)
        leave = np.where(np.abs(leave - 1) <= snap, 1.0, leave)
    across = np.flatnonzero((enter < 0) | (leave > 1))
    if len(across):
        count = cells if isinstance(cells, int) else len(cells) - 1
        remedy = (
            f"use a multiple of {count} steps"
            if grid.is_uniform
            else "let the times contain every knot"
        )
        raise InputError(
            f"step {across[0]} of {grid.steps} crosses a knot of weights with {count} cells; "
            f"{remedy}, or take weights on a basis whose knots are edges of steps (nf.projected)"
        )
    return Place(cell, enter, leave)


@dataclass(frozen=True)
class Plan:
    """A grid against the bases of the weights of a field.

    Attributes:
        starts: The depth where each step starts, `(steps,)`, in units of 1 / `total` of the
            interval.
        lengths: The signed length of each step, `(steps,)`, in units of 1 / `total` of the
            interval. Lengths are negative in a walk backward.
        total: The length of the whole interval in the unit of `starts` and `lengths`.
        places: One `Place` for each basis.
        smoothness: The number of continuous derivatives that the weights have where each step
            starts, `(steps,)`. -1 means that they jump. Infinite inside of cells.
        block: A number of steps. Each successive run of so many steps stays inside one cell of
            every basis.
    """

    starts: np.ndarray
    lengths: np.ndarray
    total: float
    places: tuple[Place, ...]
    smoothness: np.ndarray
    block: int

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.starts)

    @property
    def jumps(self) -> np.ndarray:
        """Whether the weights jump where each step starts, `(steps,)`."""
        return self.smoothness < 0

    def runs(self, smoothness: float) -> np.ndarray:
        """Return how many steps lie between knots at which the weights are not smooth enough.

        Args:
            smoothness: The number of continuous derivatives that is enough.

        Returns:
            The numbers of steps `(runs,)`, in the order of the walk. They sum to `steps`.
        """
        return _runs(self.smoothness < smoothness)

    def local(self, share: float, k: int | None = None) -> list[tuple[Any, Any]]:
        """Return where the steps are after a share of their length.

        Args:
            share: The share of a step in [0, 1]. 0 is its start, 1 is its end.
            k: The number of one step, or None for all steps.

        Returns:
            A pair for each basis: the cell, and the local coordinate in the cell. Both are
            `(steps,)`, or single numbers for one step.
        """
        inside = [(p.cell, p.enter + share * (p.leave - p.enter)) for p in self.places]
        return inside if k is None else [(cell[k], s[k]) for cell, s in inside]

    def reversed(self) -> Plan:
        """Return the plan that walks the same grid from its last edge to its first."""
        # A knot at the start of step k is met, on the way back, at the start of step k - 1.
        smoothness = np.concatenate([[np.inf], self.smoothness[:0:-1]])
        places = tuple(place.reversed() for place in self.places)
        starts = (self.starts + self.lengths)[::-1]
        return replace(
            self,
            starts=starts,
            lengths=-self.lengths[::-1],
            places=places,
            smoothness=smoothness,
        )


def plan(grid: Grid, bases: Sequence[Basis]) -> Plan:
    """Return the plan of a grid for weights on given bases.

    Args:
        grid: The grid.
        bases: The bases of the weights.

    Raises:
        InputError: A step crosses a knot of a basis.
    """
    places = tuple(locate_steps(grid, basis.cells) for basis in bases)
    smoothness = np.full(grid.steps, np.inf)
    for basis, place in zip(bases, places, strict=True):
        knots = 1 + np.flatnonzero(np.diff(place.cell))
        smoothness[knots] = np.minimum(smoothness[knots], basis.smoothness)
    runs = _runs(smoothness < np.inf)
    block = int(runs[0]) if (runs == runs[0]).all() else 1
    return Plan(grid.edges[:-1], np.diff(grid.edges), grid.total, places, smoothness, block)


def _runs(marked: np.ndarray) -> np.ndarray:
    """Return the lengths of the runs of steps of which each but the first starts at a mark."""
    return np.diff(np.flatnonzero(np.concatenate([[True], marked[1:], [True]])))
