"""The picture of a trade-off: what choices give over what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from neuralflow import checks, plots
from neuralflow.inference.tradeoff import Choice, Cost, Tradeoff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def choices(table: Tradeoff) -> Figure:
    """Draw what all choices give over what they cost, with the front of best choices.

    One panel has evaluations of the field on its axis, the other one milliseconds. The line joins
    the best choices: every other choice costs more, or is worse. The star is the model as it was
    trained. Colours tell schemes apart, and marks tell bases apart. Accuracies are drawn against
    the accuracy of that model, on an axis that is linear within 0.1 points and logarithmic beyond.
    Losses of numbers are drawn on a logarithmic axis, where the best choices are the lowest ones.

    Args:
        table: The table that `tradeoff` returns.

    Returns:
        The figure.

    Raises:
        InputTypeError: `table` is no `Tradeoff`.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    checks.instance("table", table, Tradeoff, "what nf.inference.tradeoff returns")
    picture, axes = plots.figure(1, 2, height=4.4)
    for axis, cost in zip(axes, get_args(Cost), strict=True):
        _panel(axis, table, cost)
    picture.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    return picture


def _panel(axis: Axes, table: Tradeoff, cost: Cost) -> None:
    """Draw all choices over one cost."""
    own, best = table.choices[0], table.front(cost)
    done = [c for c in table.choices[1:] if not c.failure]
    axis.axhline(_height(table, own), color="0.4", linewidth=0.5)
    line = [getattr(c, cost) for c in best], [_height(table, c) for c in best]
    axis.plot(*line, color="0.6", linewidth=1.2, zorder=1, label="best choices")
    for kind in dict.fromkeys(map(_kind, done)):
        of_kind = [c for c in done if _kind(c) == kind]
        axis.scatter(
            [getattr(c, cost) for c in of_kind],
            [_height(table, c) for c in of_kind],
            s=[38 if c in best else 14 for c in of_kind],
            color=plots.COLOURS[_place(kind[0], [_kind(c)[0] for c in done])],
            marker=plots.MARKS[_place(kind[1], [_kind(c)[1] for c in done])],
            edgecolors="white",
            linewidths=0.4,
            label=", ".join(filter(None, kind)),
            zorder=2,
        )
    place = getattr(own, cost), _height(table, own)
    axis.plot(*place, "*", color="black", markersize=11, zorder=3, label="as trained")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    if table.classes:
        axis.set_yscale("symlog", linthresh=0.1)
        axis.yaxis.set_major_formatter("{x:+g}")
        axis.set_ylabel("accuracy against that as trained (points)")
    else:
        axis.set_yscale("log")
        axis.set_ylabel("loss")
    axis.set_xlabel(f"{cost} a batch of {table.batch}")


def _height(table: Tradeoff, choice: Choice) -> float:
    """Return where a choice stands on the vertical axis."""
    return 100 * (choice.accuracy - table.choices[0].accuracy) if table.classes else choice.loss


def _kind(choice: Choice) -> tuple[str, str]:
    """Return the names of the scheme and of the basis of a choice, empty for those of the model."""
    solve, basis = choice.candidate.solve, choice.candidate.basis
    scheme = "" if solve is None else type(solve.scheme).__name__
    return scheme, "" if basis is None else type(basis).__name__


def _place(name: str, names: list[str]) -> int:
    """Return the number of a name among different names, in their order, up to 5."""
    return list(dict.fromkeys(names)).index(name) % len(plots.COLOURS)
