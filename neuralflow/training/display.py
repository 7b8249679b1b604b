"""The progress of a training: a bar in a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from neuralflow.console import screen


class Display(NamedTuple):
    """What is told of a training: `step(epoch, step)` as it goes, `row(row, epochs)` at the end of an epoch."""

    step: Callable[[int, int], None]
    row: Callable[[dict[str, float], int], None]


@contextmanager
def display(epochs: int, steps: int, shown: bool) -> Iterator[Display]:
    """A bar over the steps of an epoch in a terminal, and a line an epoch everywhere."""

    def nothing(*_):
        return None

    if not shown:
        yield Display(nothing, nothing)
        return
    console = screen()
    if not console.is_terminal:
        yield Display(nothing, lambda row, epochs: print(_line(row, epochs), flush=True))
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=steps)
        yield Display(
            lambda epoch, step: bar.update(
                task, completed=step, description=f"epoch {epoch + 1}/{epochs}"
            ),
            lambda row, epochs: bar.console.print(_line(row, epochs), highlight=False),
        )


def _line(row: dict[str, float], epochs: int) -> str:
    hidden = (
        "epoch",
        "seconds",
        "samples_per_second",
        "rejected",
        "accepted",
        "validation_gradient_norm",
    )
    shown = [
        f"{name.replace('_', ' ')} {value:.4g}" for name, value in row.items() if name not in hidden
    ]
    return f"epoch {int(row['epoch'])}/{epochs}: {', '.join(shown)}; {row['samples_per_second']:.0f} samples/s"
