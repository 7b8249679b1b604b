"""Signals that a program under test takes for itself."""

import contextlib
import signal


@contextlib.contextmanager
def restored_signals():
    """Give SIGINT and SIGTERM back what handled them before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
