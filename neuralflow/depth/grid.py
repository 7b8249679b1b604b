"""The plan of a fixed grid, made once on the host: for every step its cell, where it enters and leaves the cell,
and its share of the interval. NumPy only, float64, integers where they decide something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.depth.basis import Basis

# Given times that differ from a knot by no more than this (of the whole interval) are that knot.
_SNAP = 1e-12


class Place(NamedTuple):
    """Where each step lies in one basis: its `cell` (integers), and the local coordinates where it starts and ends."""

    cell: np.ndarray
    enter: np.ndarray
    leave: np.ndarray

    def reversed(self) -> Place:
        """The same steps walked from the last to the first, each from its end to its start."""
        return Place(self.cell[::-1], self.leave[::-1], self.enter[::-1])


@dataclass(frozen=True)
class Grid:
    """Step edges as `edges / total`: whole numbers over `steps` on a uniform grid, so that no share is rounded twice.

    `edges` (steps + 1,): increasing, from 0 to `total`, or between two depths inside.
    """

    edges: np.ndarray
    total: float

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.edges) - 1

    @property
    def shares(self) -> np.ndarray:
        """Each step's share of the interval; those of the whole interval sum to one."""
        return np.diff(self.edges) / self.total

    @property
    def is_uniform(self) -> bool:
        """Whether the grid was asked for by its number of steps, and cut at none but their edges."""
        return self.edges.dtype.kind == "i"

    def part(self, start: float, stop: float) -> Grid:
        """The steps between two normalised depths; the first and the last are shortened where these are no edges."""
        low, high = (self._edge(share * self.total) for share in (start, stop))
        inside = self.edges[(self.edges > low) & (self.edges < high)]
        kind = int if self.is_uniform and {low, high} <= set(self.edges.tolist()) else float
        return Grid(np.array([low, *inside, high], kind), self.total)

    def _edge(self, depth: float) -> float:
        """The edge at a depth (over `total`), where there is one within rounding."""
        nearest = self.edges[np.abs(self.edges - depth).argmin()]
        return float(nearest) if abs(nearest - depth) <= _SNAP * self.total else depth


def uniform(steps: Any) -> Grid:
    """`steps` equal steps."""
    checks.whole("steps", steps)
    return Grid(np.arange(steps + 1), int(steps))


def uneven(times: Sequence[float] | np.ndarray) -> Grid:
    """Steps between given normalised depths, which increase strictly from 0 to 1."""
    edges = np.asarray(times, float)
    if (
        edges.ndim != 1
        or len(edges) < 2
        or not np.isfinite(edges).all()
        or not (np.diff(edges) > 0).all()
    ):
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
    """The cell of every step, and where it starts and ends there; ValueError for a step across a knot.

    `cells`: a number of equal cells, or knots from 0 to 1.
    """
    if grid.is_uniform and isinstance(cells, int):
        # Integers throughout: step k covers [k, k + 1] * cells / steps.
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
            f"step {across[0]} of {grid.steps} crosses a knot of weights with {count} cells; {remedy}, "
            "or bring the weights to the grid with DepthVarying.project()"
        )
    return Place(cell, enter, leave)


@dataclass(frozen=True)
class Plan:
    """A grid against the bases of a field's weights.

    `starts`, `lengths` (steps,): depth of each step's start and its signed length, both over `total`.
    `places`: one Place per basis. `jumps` (steps,): whether the weights jump where the step starts.
    `block`: every run of `block` consecutive steps stays inside one cell of every basis.
    """

    starts: np.ndarray
    lengths: np.ndarray
    total: float
    places: tuple[Place, ...]
    jumps: np.ndarray
    block: int

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.starts)

    def local(self, share: float, k: int | None = None) -> list[tuple[Any, Any]]:
        """Where every step, or step k, is after a share of its length: its cell and the local coordinate in it, for every basis."""
        inside = [(p.cell, p.enter + share * (p.leave - p.enter)) for p in self.places]
        return inside if k is None else [(cell[k], s[k]) for cell, s in inside]

    def reversed(self) -> Plan:
        """The plan that walks the same grid from the end of the interval to its start."""
        # A jump at the start of step k is met, on the way back, at the start of step k - 1.
        jumps = np.concatenate([[False], self.jumps[:0:-1]])
        places = tuple(place.reversed() for place in self.places)
        starts = (self.starts + self.lengths)[::-1]
        return replace(self, starts=starts, lengths=-self.lengths[::-1], places=places, jumps=jumps)


def plan(grid: Grid, bases: Sequence[Basis]) -> Plan:
    """The plan of a grid for weights on these bases; ValueError where a step would straddle a knot."""
    places = tuple(locate_steps(grid, basis.cells) for basis in bases)
    changed = np.zeros(grid.steps, bool)
    jumps = np.zeros(grid.steps, bool)
    for basis, place in zip(bases, places, strict=True):
        moved = np.concatenate([[False], np.diff(place.cell) != 0])
        changed |= moved
        if basis.smoothness < 0:
            jumps |= moved
    runs = np.diff(np.flatnonzero(np.concatenate([[True], changed[1:], [True]])))
    block = int(runs[0]) if (runs == runs[0]).all() else 1
    return Plan(grid.edges[:-1], np.diff(grid.edges), grid.total, places, jumps, block)
