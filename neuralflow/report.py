"""What people see while work goes on, and files written whole or not at all."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def console() -> Any:
    """A rich console: as wide as the terminal, or 118 columns in a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 118, soft_wrap=not sys.stdout.isatty())


@contextmanager
def steps(total: int, shown: Any = None) -> Iterator[Callable[[str], None]]:
    """Calls with what was done move a bar in a terminal, and print numbered lines in a pipe."""
    shown = console() if shown is None else shown
    if not shown.is_terminal:
        done = 0

        def line(what: str) -> None:
            nonlocal done
            done += 1
            print(f"[{done}/{total}] {what}", flush=True)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=shown, transient=True) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda what: bar.update(task, advance=1, description=what)


def as_json(data: Any) -> str:
    """Plain data as strict JSON: numbers that are not finite, for which JSON has no word, are null."""
    return json.dumps(finite(data), indent=1, allow_nan=False) + "\n"


def finite(data: Any) -> Any:
    """Plain data with None in place of numbers that are not finite."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write(path: Path, content: str | Callable[[Path], Any]) -> None:
    """A file with this text, or as a function of its path writes it; whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    if isinstance(content, str):
        partial.write_text(content)
    else:
        content(partial)
    partial.replace(path)
