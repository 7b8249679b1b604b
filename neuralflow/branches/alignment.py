"""Alignment: hidden units of neighbouring branches in one order, with one sign and one scale.

The functions work on arrays of NumPy by name, with a leading axis of branches. None of them changes
what a branch computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

import numpy as np

from neuralflow.branches.units import HiddenUnits

Weights = dict[str, np.ndarray]
"""Arrays `(branches, ...)` by their names in a branch."""

_SWEEPS = 100  # Sweeps end when nothing moves, after a handful as a rule.
_GAIN = 1e-6  # A move must raise the score by this share of it, which rounding does not.


class Aligned(NamedTuple):
    """Aligned weights, and what was done to the units.

    Attributes:
        weights: The weights of all branches.
        moved: How many units of all branches have another place than before.
        flipped: How many units of all branches have another sign than before.
    """

    weights: Weights
    moved: int
    flipped: int


def balanced(weights: Weights, units: Sequence[HiddenUnits]) -> Weights:
    """Return weights whose homogeneous units have incoming and outgoing weights of equal norms.

    Args:
        weights: The weights of all branches.
        units: The hidden units.
    """
    weights = _copied(weights)
    groups = [group for group in units if group.homogeneous]
    # Weights between two hidden layers belong to both, and then one pass is not enough.
    for _ in range(20 if len(groups) > 1 else 1):
        for group in groups:
            norms = (
                sum((_by_unit(weights, name, group) ** 2).sum(-1) for name in names)
                for names in (group.incoming, group.outgoing)
            )
            incoming, outgoing = map(np.asarray, norms)
            alive = (incoming > 0) & (outgoing > 0)
            share = np.divide(outgoing, incoming, out=np.ones_like(incoming), where=alive)
            multiply(weights, group, share**0.25)
    return weights


def aligned(
    weights: Weights,
    units: Sequence[HiddenUnits],
    counted: Set[str],
    projector: np.ndarray,
) -> Aligned:
    """Put the hidden units of all branches in the order in which their weights fit a basis best.

    First, each branch is aligned with the branch before it, one hidden layer after the other. Then
    each branch is aligned with what the fit of the other branches has in its place, until nothing
    moves. Every such move lowers the misfit |W - P W|^2 of the weights W under the projector P.

    Args:
        weights: The weights of all branches.
        units: The hidden units.
        counted: The names of the weights whose misfit counts. The other weights follow.
        projector: The matrix P `(branches, branches)` from the weights of the branches to the
            weights that their fit on the basis has in the same places.
    """
    weights, count = _copied(weights), len(projector)
    orders = [np.tile(np.arange(size_of(weights, group)), (count, 1)) for group in units]
    signs = [np.ones(order.shape, int) for order in orders]

    def move(k: int, target: Weights, ignored: Sequence[Set[str]]) -> bool:
        """Align branch k with a target, and tell whether a unit moved."""
        block, moved = {name: array[k : k + 1] for name, array in weights.items()}, False
        for group, order, sign, left in zip(units, orders, signs, ignored, strict=True):
            match = _match(block, target, group, counted - left)
            if match is not None:
                reorder(block, group, match[0])
                if group.odd:
                    multiply(block, group, match[1])
                order[k], sign[k] = order[k, match[0]], sign[k, match[0]] * match[1]
                moved = True
        return moved

    # Weights to a later hidden layer tell nothing as long as that layer is not in order.
    later = [set().union(*(g.axes for g in units[i + 1 :])) for i in range(len(units))]
    none: list[set[str]] = [set() for _ in units]
    for k in range(1, count):
        target = {name: array[k - 1 : k] for name, array in weights.items()}
        move(k, target, later)
        _until(lambda k=k, target=target: move(k, target, none))
    others = projector - np.diag(np.diag(projector))

    def sweep() -> bool:
        return any(
            [
                move(
                    k, {n: np.tensordot(others[k : k + 1], a, 1) for n, a in weights.items()}, none
                )
                for k in range(count)
            ]
        )

    if np.abs(others).max(initial=0) > _GAIN:
        _until(sweep)
    moved = sum(int((order != np.arange(order.shape[1])).sum()) for order in orders)
    return Aligned(weights, moved, sum(int((sign < 0).sum()) for sign in signs))


def reorder(weights: Weights, group: HiddenUnits, order: np.ndarray) -> None:
    """Renumber units of all branches, in place.

    Args:
        weights: The weights of all branches.
        group: The units.
        order: For every new place of a unit, its present place.
    """
    for name, axis in group.axes.items():
        weights[name][...] = np.take(weights[name], order, axis + 1)


def multiply(weights: Weights, group: HiddenUnits, factor: np.ndarray) -> None:
    """Multiply units of all branches by factors, in place.

    Args:
        weights: The weights of all branches.
        group: The units.
        factor: One factor for each unit, or for each unit of each branch, that is not zero.
    """
    rows = np.atleast_2d(factor)
    for names, by in ((group.incoming, rows), (group.outgoing, 1 / rows)):
        for name in names:
            units = np.moveaxis(weights[name], group.axes[name] + 1, 1)
            units *= by.reshape(*by.shape, *[1] * (units.ndim - 2)).astype(units.dtype)


def _until(move: Callable[[], bool]) -> None:
    """Repeat a move until nothing moves."""
    for _ in range(_SWEEPS):
        if not move():
            return


def _copied(weights: Weights) -> Weights:
    return {name: array.copy() for name, array in weights.items()}


def size_of(weights: Weights, group: HiddenUnits) -> int:
    """Return the number of units of a group in one branch.

    Args:
        weights: The weights of all branches.
        group: The units.
    """
    name, axis = next(iter(group.axes.items()))
    return weights[name].shape[axis + 1]


def wide(array: np.ndarray) -> np.ndarray:
    """Return an array in double precision, real or complex.

    Args:
        array: An array of any precision.
    """
    return array.astype(np.result_type(array.dtype, np.float64))


def _by_unit(weights: Weights, name: str, group: HiddenUnits) -> np.ndarray:
    """Return the weights of every unit of every branch in a row `(branches, units, weights)`."""
    rows = np.moveaxis(weights[name], group.axes[name] + 1, 1)
    return np.ascontiguousarray(wide(rows.reshape(*rows.shape[:2], -1))).view(float)


def _match(
    block: Weights, target: Weights, group: HiddenUnits, counted: Set[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the order and the signs of units that are nearest to a target.

    None says that the units are in that order already.
    """
    size = size_of(block, group)
    fixed, turning = np.zeros((size, size)), np.zeros((size, size))
    for name in counted & group.axes.keys():
        products = _by_unit(target, name, group)[0] @ _by_unit(block, name, group)[0].T
        if group.odd and name in (*group.incoming, *group.outgoing):
            turning += products
        else:
            fixed += products
    score = fixed + np.abs(turning)
    order = _assignment(score, group.groups)
    best = score[np.arange(size), order].sum()
    if best - np.trace(fixed + turning) <= _GAIN * abs(best):
        return None
    return order, np.where(turning[np.arange(size), order] < 0, -1, 1)


def _assignment(score: np.ndarray, groups: int) -> np.ndarray:
    """Return which unit comes to every place, such that the sum of scores is largest.

    Groups of neighbouring units change places as wholes.
    """
    from scipy.optimize import linear_sum_assignment

    size = len(score) // groups
    parts = score.reshape(groups, size, groups, size).swapaxes(1, 2)
    inner = [[linear_sum_assignment(part, maximize=True)[1] for part in row] for row in parts]
    sums = np.array(
        [
            [part[np.arange(size), order].sum() for part, order in zip(row, orders, strict=True)]
            for row, orders in zip(parts, inner, strict=True)
        ]
    )
    outer = linear_sum_assignment(sums, maximize=True)[1]
    return np.concatenate([size * b + inner[a][b] for a, b in enumerate(outer)])
