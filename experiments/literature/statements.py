"""What the rows of the literature share: a published statement beside what was measured here.

Every row is a module with three functions:

    configurations(size, seeds=None)   the runs of a size: "quick", "default" or "paper"
    run(**configuration)               one run: scalars and arrays with one entry for each seed
    report(rows)                       the statements, and a picture

A row of `report` is a configuration together with what its run returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from neuralflow.console import span
from neuralflow.statistics import ASYMPTOTIC, fitted_order, over_seeds

Size = Literal["quick", "default", "paper"]


@dataclass(frozen=True)
class Statement:
    """A published statement about one number, and the number that was measured.

    The number agrees with the statement if its whole 95% interval over seeds lies between `low` and
    `high`. The number differs if its whole interval lies outside. Otherwise the seeds do not
    decide.

    Attributes:
        published: The statement in our words, with the number of the paper.
        source: Where the statement stands, and whether it was read there or recalled.
        what: What was measured.
        values: The number that was measured, one for each seed.
        low: The least number that agrees with the statement.
        high: The largest number that agrees with the statement.
        rests: What the comparison rests on: sizes, and what differs from the paper.
    """

    published: str
    source: str
    what: str
    values: Sequence[float]
    low: float
    high: float
    rests: str

    @property
    def interval(self) -> tuple[float, float]:
        """Student's 95% interval for the mean over seeds; the value where all seeds agree."""
        low, high = over_seeds(self.values)["interval"]
        if np.isnan(low) and len(self.values) > 1:
            return float(self.values[0]), float(self.values[0])
        return low, high

    @property
    def verdict(self) -> str:
        """The word "agrees", "differs" or "undecided"."""
        low, high = self.interval
        if self.low <= low and high <= self.high:
            return "agrees"
        if high < self.low or low > self.high:
            return "differs"
        return "undecided"

    @property
    def band(self) -> str:
        """The numbers that agree, as people read them."""
        if not np.isfinite(self.low):
            return f"at most {self.high:g}"
        return f"{self.low:g} to {self.high:g}" if np.isfinite(self.high) else f"from {self.low:g}"

    @property
    def ours(self) -> str:
        """The mean and the interval, as people read them."""
        mean = float(np.mean(self.values))
        if mean and abs(mean) < 0.01:
            return f"{mean:.1e} ({' to '.join(f'{end:.1e}' for end in self.interval)})"
        return f"{mean:.3f} ({span(self.interval, 3)})"

    def record(self) -> dict[str, Any]:
        """Return the statement as plain data."""
        mean, ends = over_seeds(self.values)["mean"], self.interval
        return {
            "published": self.published,
            "source": self.source,
            "measured": self.what,
            "mean": mean,
            "interval": list(ends),
            "covers": f"the mean over seeds, 95% from {len(self.values)} if roughly normal",
            "seeds": [float(value) for value in self.values],
            "agrees from": self.low,
            "agrees to": self.high,
            "verdict": self.verdict,
            "rests on": self.rests,
        }


def sentence(statements: Sequence[Statement]) -> str:
    """Return one sentence on all statements of a row: how many agree, and which do not."""
    counts = {
        word: [s for s in statements if s.verdict == word]
        for word in ("agrees", "differs", "undecided")
    }
    text = f"{len(counts['agrees'])} of {len(statements)} statements agree with what was measured"
    for word, name in (("differs", "differing"), ("undecided", "undecided")):
        if counts[word]:
            text += f"; {name}: " + ", ".join(f"{s.what} = {s.ours}" for s in counts[word])
    return text + "."


def table(title: str, statements: Sequence[Statement]) -> Any:
    """Return the statements as a table for the screen."""
    from rich.table import Table

    shown = Table(title=title, show_lines=True)
    widths = {"published": 40, "measured": 32, "ours (95%)": 22, "agrees if": 14, "verdict": 10}
    for name, most in widths.items():
        shown.add_column(name, max_width=most)
    for s in statements:
        shown.add_row(f"{s.published} [{s.source}]", s.what, s.ours, s.band, s.verdict)
    return shown


def orders(
    depths: Sequence[int], errors: np.ndarray, *, reference: int | None = None
) -> list[float]:
    """Return the order p of errors C n^-p, one for each seed.

    Depths below 32 are left out where three others are left.

    Args:
        depths: The depths n, at least two.
        errors: The errors (depths, seeds).
        reference: The depth against which the errors were measured, as in `fitted_order`.
    """
    least = ASYMPTOTIC if sum(n >= ASYMPTOTIC for n in depths) >= 3 else 1
    fits = (
        fitted_order(depths, list(case), least=least, reference=reference)
        for case in np.transpose(errors)
    )
    return [float("nan") if p is None else p for p in fits]


def chosen(rows: Sequence[dict[str, Any]], key: str, **wanted: Any) -> tuple[list[Any], np.ndarray]:
    """Return the depths and a column of the rows that have the wanted entries.

    Args:
        rows: Rows with an entry "depth".
        key: The name of the column.
        wanted: Entries that a row must have.

    Returns:
        The depths in increasing order, and the column (depths, ...).
    """
    fitting = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    fitting.sort(key=lambda row: row["depth"])
    return [row["depth"] for row in fitting], np.asarray([row[key] for row in fitting])


def ticks(axis: Any, depths: Sequence[int]) -> None:
    """Mark the depths, and no others, on the lower axis of a panel with logarithmic axes."""
    axis.set_xticks(depths, [str(n) for n in depths], fontsize=8)
    axis.set_xticks([], minor=True)
