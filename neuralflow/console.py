"""The console: progress that people see while work goes on."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def screen() -> Any:
    """Return a rich console, as wide as the terminal, or of 118 columns in a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 118, soft_wrap=not sys.stdout.isatty())


def span(limits: Sequence[float], digits: int = 2) -> str:
    """Return an interval as people read it, and "-" where there is none.

    Args:
        limits: The lower and the upper limit, NaN where there is no interval.
        digits: The number of decimals.
    """
    if math.isnan(limits[0]):
        return "-"
    return " to ".join(f"{limit:.{digits}f}" for limit in limits)


@contextmanager
def silence() -> Iterator[Callable[[str], None]]:
    """Yield a function that tells nobody of the progress, in the place of `progress`."""
    yield lambda what: None


@contextmanager
def progress(total: int, shown: Any = None) -> Iterator[Callable[[str], None]]:
    """Show the progress of work: a moving bar in a terminal, numbered lines in a pipe.

    Args:
        total: The number of pieces of work.
        shown: The rich console to write to, or None for a new console.

    Yields:
        A function to call after each piece of work, with a text that says what was done.
    """
    shown = screen() if shown is None else shown
    if not shown.is_terminal:
        done = 0

        def line(what: str) -> None:
            nonlocal done
            done += 1
            print(f"[{done}/{total}] {what}", flush=True)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=shown, transient=True) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda what: bar.update(task, advance=1, description=what)
