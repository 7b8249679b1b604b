"""The picture of a trade-off: what choices give over what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from neuralflow import checks, plots
from neuralflow.inference.table import Choice, Cost, Tradeoff
from neuralflow.solve import FixedGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__docformat__ = "google"


def choices(table: Tradeoff) -> Figure:
    """Draw what all choices give over what they cost, with the front of best choices.

    One panel has evaluations of the field on its axis, the other one times. The line joins the best
    choices: every other choice costs more, or is worse. Their numbers of steps stand beside them.
    The star is the model as it was trained. Colours tell schemes apart, and marks tell bases apart.

    Accuracies are drawn against the accuracy of that model, with the intervals
    `neuralflow.inference.Choice.change` of the best choices. Where accuracies differ by more than a
    point, the axis is linear within 0.1 points and logarithmic beyond. Losses of numbers are drawn
    on a logarithmic axis, where the best choices are the lowest ones.

    Args:
        table: The table that `neuralflow.inference.tradeoff` returns.

    Returns:
        The figure.

    Raises:
        InputTypeError: `table` is no `neuralflow.inference.Tradeoff`.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    checks.instance("table", table, Tradeoff, "what nf.inference.tradeoff returns")
    picture, axes = plots.figure(1, 2, height=4.6)
    for axis, cost in zip(axes, get_args(Cost), strict=True):
        _panel(axis, table, cost)
    axes[0].set_xlabel(f"evaluations of the field for a batch of {table.batch}")
    axes[1].set_xlabel("time of a batch, relative to the model as it was trained")
    plots.legend_below(picture, axes[0])
    return picture


def _panel(axis: Axes, table: Tradeoff, cost: Cost) -> None:
    """Draw all choices over one cost."""
    own, best = table.choices[0], table.front(cost)
    done = [c for c in table.choices[1:] if np.isfinite(getattr(c, cost))]
    axis.axhline(_height(table, own), color="0.4", linewidth=0.5)
    line = [getattr(c, cost) for c in best], [_height(table, c) for c in best]
    axis.plot(*line, color="0.6", linewidth=1.2, zorder=1, label="best choices, numbers of steps")
    if table.classes:
        low, high = 100 * np.transpose([c.change for c in best])
        axis.vlines(
            line[0], low, high, "0.6", "dotted", label="95% over samples", linewidth=1, zorder=1
        )
    schemes, bases = (list(dict.fromkeys(_kind(c)[i] for c in done)) for i in (0, 1))
    for kind in sorted(set(map(_kind, done))):
        for sizes, chosen in ((16, False), (44, True)):
            of_kind = [c for c in done if _kind(c) == kind and (c in best) is chosen]
            axis.scatter(
                [getattr(c, cost) for c in of_kind],
                [_height(table, c) for c in of_kind],
                s=sizes,
                color=plots.COLOURS[schemes.index(kind[0]) % 5],
                marker=plots.MARKS[bases.index(kind[1]) % 5],
                edgecolors="white",
                linewidths=0.4,
                label="_small" if chosen else ", ".join(kind),
                zorder=2,
            )
    for choice in best:
        if isinstance(choice.candidate.solve, FixedGrid):
            axis.annotate(
                str(choice.candidate.solve.grid.steps),
                (getattr(choice, cost), _height(table, choice)),
                xytext=(-4, 5),
                textcoords="offset points",
                ha="right",
                fontsize=7,
            )
    if np.isfinite(getattr(own, cost)):
        place = getattr(own, cost), _height(table, own)
        axis.plot(*place, "*", color="black", markersize=11, zorder=3, label="as trained")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    if table.classes:
        unit = "points"
        if max(abs(_height(table, c)) for c in done or [own]) > 1:
            axis.set_yscale("symlog", linthresh=0.1)
            unit = "points, logarithmic beyond 0.1"
        axis.yaxis.set_major_formatter(lambda points, _: f"{points:+g}" if points else "0")
        axis.margins(y=0.1)
        axis.set_ylabel(f"accuracy gained ({unit})")
    else:
        axis.set_yscale("log")
        axis.set_ylabel("loss")


def _height(table: Tradeoff, choice: Choice) -> float:
    """Return where a choice stands on the vertical axis."""
    return 100 * (choice.accuracy - table.choices[0].accuracy) if table.classes else choice.loss


def _kind(choice: Choice) -> tuple[str, str]:
    """Return the names of the scheme and of the basis of a choice."""
    solve, basis = choice.candidate.solve, choice.candidate.basis
    scheme = "own steps" if solve is None else type(solve.scheme).__name__
    return scheme, "own weights" if basis is None else type(basis).__name__
