"""Signals that would end a training, held back until its state is on disk."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any


class HeldBack:
    """SIGINT and SIGTERM while a training walks: they wait until the training calls `deliver`.

    A second signal of the same kind comes through at once. Signals that the caller ignores stay
    ignored. Outside the main thread Python delivers no signals, and nothing is held back.

    Args:
        active: Whether to hold signals back at all.
    """

    def __init__(self, active: bool = True):
        self.pending: int | None = None
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> HeldBack:
        """Take the place of the present handlers."""
        for number in (signal.SIGINT, signal.SIGTERM) if self._active else ():
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the handlers back, and let a signal through that still waits."""
        self._put_back()
        if error is None and self.pending is not None:
            signal.raise_signal(self.pending)

    def deliver(self) -> None:
        """Let a signal through that waits; return where its handler returns."""
        if self.pending is None:
            return
        number, self.pending = self.pending, None
        self._put_back()
        signal.raise_signal(number)
        self.__enter__()

    def _note(self, number: int, frame: Any) -> None:
        """Keep a first signal, and let a second one through."""
        second, self.pending = self.pending == number, number
        if second:
            self.deliver()

    def _put_back(self) -> None:
        """Give the signals back to the handlers before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
