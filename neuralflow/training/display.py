"""Show the progress of a training: a bar in a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from neuralflow.console import bar, screen


class Display(NamedTuple):
    """The two functions that show the progress of a training.

    Attributes:
        step: Called as `step(epoch, step)` while an epoch runs. The epoch is counted from zero, the
            step is the number of steps done in the epoch.
        row: Called as `row(row, epochs)` at the end of an epoch, with the row of the history and
            the number of epochs in all.
    """

    step: Callable[[int, int], None]
    row: Callable[[dict[str, float], int], None]


@contextmanager
def display(epochs: int, steps: int, shown: bool | str) -> Iterator[Display]:
    """Show a bar over the steps of an epoch in a terminal, and one line an epoch everywhere.

    Args:
        epochs: The number of epochs in all.
        steps: The number of steps in an epoch.
        shown: Whether to show anything. A text is shown in front of every line and of the bar.

    Returns:
        A context manager that gives a `Display`.
    """

    def nothing(*_):
        return None

    if not shown:
        yield Display(nothing, nothing)
        return
    console, front = screen(), f"{shown}, " if isinstance(shown, str) else ""
    if not console.is_terminal:
        yield Display(nothing, lambda row, epochs: print(front + _line(row, epochs), flush=True))
        return
    with bar(console, steps, "compiling") as update:
        yield Display(
            lambda epoch, step: update(
                completed=step, description=f"{front}epoch {epoch + 1}/{epochs}"
            ),
            lambda row, epochs: console.print(front + _line(row, epochs), highlight=False),
        )


def _line(row: dict[str, float], epochs: int) -> str:
    """Return a row of the history as one line of text, without the less telling columns."""
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
    return (
        f"epoch {int(row['epoch'])}/{epochs}: {', '.join(shown)}; "
        f"{row['samples_per_second']:.0f} samples/s"
    )
