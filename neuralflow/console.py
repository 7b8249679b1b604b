"""The console: progress that people see while work goes on, and what goes to a log instead."""

from __future__ import annotations

import logging
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any


def screen() -> Any:
    """Return a rich console, as wide as the terminal, or of 118 columns in a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 118, soft_wrap=not sys.stdout.isatty())


def span(limits: Sequence[float | None], digits: int = 2) -> str:
    """Return an interval as people read it, and "-" where there is none.

    Args:
        limits: The lower and the upper limit, NaN where there is no interval, or None as in JSON.
        digits: The number of decimals.
    """
    if limits[0] is None or math.isnan(limits[0]):
        return "-"
    return " to ".join(f"{limit:.{digits}f}" for limit in limits)


@contextmanager
def silence() -> Iterator[Callable[[str], None]]:
    """Yield a function that tells nobody of the progress, in the place of `progress`."""
    yield lambda what: None


@contextmanager
def progress(total: int, shown: Any = None, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Show the progress of work: a moving bar in a terminal, numbered lines in a pipe.

    Args:
        total: The number of pieces of work.
        shown: The rich console to write to, or None for a new console.
        done: The number of pieces that were done before.

    Yields:
        A function to call after each piece of work, with a text that says what was done.
    """
    shown = screen() if shown is None else shown
    if not shown.is_terminal:

        def line(what: str) -> None:
            nonlocal done
            done += 1
            print(f"[{done}/{total}] {what}", flush=True)

        yield line
        return
    with bar(shown, total, "starting", done) as update:
        yield lambda what: update(advance=1, description=what)


@contextmanager
def bar(shown: Any, total: int, what: str, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show a bar that moves in a terminal and leaves nothing behind.

    Args:
        shown: The rich console of the terminal.
        total: The number of pieces of work.
        what: The text in front of the bar.
        done: The number of pieces that were done before.

    Yields:
        A function that changes the bar: `completed=` or `advance=` pieces, `description=` the text.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown, transient=True) as moving:
        task = moving.add_task(what, total=total, completed=done)
        yield lambda **changes: moving.update(task, **changes)


_LOG: ContextVar[Any] = ContextVar("log", default=None)
_CAPTURING: list[Any] = []  # the logs of all threads that capture
_CHANGING = threading.Lock()  # held while standard streams are replaced


@contextmanager
def captured(log: Any) -> Iterator[None]:
    """Write to a log what this thread prints, warns and logs meanwhile.

    Every thread has its own log. What other threads and processes write goes on to the console. A
    thread that is not the main one tells a warning only where no earlier thread has told it.

    Args:
        log: An open text file.
    """
    with _CHANGING:
        _CAPTURING.append(log)
        for name in ("stdout", "stderr"):
            if not isinstance(getattr(sys, name), _Routed):
                setattr(sys, name, _Routed(getattr(sys, name)))
    token, handler, root = _LOG.set(log), logging.StreamHandler(log), logging.getLogger()
    handler.addFilter(lambda entry: _LOG.get() is log)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    # Without handlers, or with one on a standard stream of here, entries come to the log anyway.
    streams = [getattr(known, "stream", None) for known in root.handlers]
    if streams and not any(isinstance(stream, _Routed) for stream in streams):
        root.addHandler(handler)
    # Python tells a warning once, and all warnings anew after this. It is for one thread only.
    main = threading.current_thread() is threading.main_thread()
    try:
        with warnings.catch_warnings() if main else nullcontext():
            yield
    finally:
        root.removeHandler(handler)
        _LOG.reset(token)
        with _CHANGING:
            _CAPTURING.remove(log)
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if not _CAPTURING and isinstance(stream, _Routed):
                    setattr(sys, name, stream.stream)


class _Routed:
    """A standard stream whose text goes to the log of the thread that writes, if there is one.

    Args:
        stream: The stream for all other threads.
    """

    def __init__(self, stream: Any):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(_LOG.get() or self.stream, name)
