"""The command line: the only place where strings become objects.

A mistake that a person can mend ends in one sentence and status 2; a bug keeps its traceback.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import make_dataclass
from typing import Annotated, Any

__all__ = ["main"]
__docformat__ = "google"


def main(arguments: list[str] | None = None) -> None:
    """Run `neuralflow`, or `python -m neuralflow`, and end the process with the command's status.

    SIGINT (Ctrl-C) ends the process with one line and status 130, SIGTERM with status 143. What was
    written stays: files are written whole or not at all. A training saves its state before.

    Args:
        arguments: The words behind `neuralflow`; those of the process by default.
    """
    with _ended_in_one_line():
        _run(arguments)


def _run(arguments: list[str] | None) -> None:
    """Read the words, run the command, and end the process with its status."""
    try:
        import tyro
    except ImportError:
        sys.exit(
            "neuralflow's commands need tyro and rich; "
            "install the extra: pip install 'neuralflow-jax[cli]'"
        )
    from neuralflow.cli import cache, certify, data, deep_limit, info, sweep, train

    commands: dict[str, tuple[Any, Any]] = {
        "deep-limit": (deep_limit.DeepLimit, deep_limit.run),
        "certify": (certify.Certify, certify.run),
        "train": (train.Train, train.run),
        "evaluate": (train.Evaluate, train.run_evaluate),
        "sweep": (sweep.Sweep, sweep.run),
        "data": (data.Data, data.run),
        "info": (info.Info, info.run),
    }
    choices: Any = None
    for name, (options, _) in commands.items():
        choice = Annotated[options, tyro.conf.subcommand(name)]
        choices = choice if choices is None else choices | choice

    keep = tyro.conf.arg(help="Keep compiled programs in the user's cache folder for later runs.")
    line = make_dataclass(
        "Neuralflow", [("command", choices), ("compilation_cache", Annotated[bool, keep], True)]
    )
    line.__doc__ = "Continuous-depth networks in JAX."
    plain = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
    try:
        parsed: Any = tyro.cli(line, prog="neuralflow", args=arguments, config=plain)
        if parsed.compilation_cache:
            cache.switch_on()
        run = next(run for options, run in commands.values() if isinstance(parsed.command, options))
        _only_its_own_words()
        status = run(parsed.command)
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # `| head`: nobody reads on; what was written so far is kept
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        sentence = error if isinstance(error, _mendable()) else _missing_platform()
        if sentence is None:
            raise
        print(f"neuralflow: {sentence}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def _ended_in_one_line() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the process in one line meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, _end) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _end(number: int, frame: Any) -> None:
    """End the process at once, with one line.

    An exception in place of this end could arise where nobody catches it, such as in an import or
    in a callback, and would leave a traceback.
    """
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # a bar has hidden the cursor
    said = "interrupted" if number == signal.SIGINT else "terminated"
    os.write(2, f"neuralflow: {said}; results written so far are kept\n".encode())
    os._exit(128 + number)


def _only_its_own_words() -> None:
    """Silence what asynchronous reads and writes leave behind when they fail.

    The command itself raises the error, and tells it in one sentence.
    """
    from neuralflow.training.checkpoints import is_echo

    before = sys.unraisablehook
    sys.unraisablehook = lambda raised: None if is_echo(raised) else before(raised)
    warnings.filterwarnings("ignore", r"coroutine .* was never awaited", RuntimeWarning)
    logging.getLogger("asyncio").addFilter(
        lambda entry: "was never retrieved" not in entry.getMessage()
    )


def _missing_platform() -> str | None:
    """Return what is wrong with JAX_PLATFORMS, or None if JAX finds devices."""
    import jax

    try:
        jax.devices()
    except Exception:  # JAX raises an AssertionError for one platform, a RuntimeError for others.
        named = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX finds no device of JAX_PLATFORMS={named!r}; install JAX's part for it, such as "
            "jax[cuda13], or unset the variable"
        )
    return None


def _mendable() -> tuple[type[Exception], ...]:
    """Return the errors whose message tells a person what to mend."""
    from neuralflow.checks import ExtraMissing, InputError
    from neuralflow.data import DataMissing
    from neuralflow.files import WriteError
    from neuralflow.sweeps import SweepError
    from neuralflow.training import CheckpointError

    mine = (InputError, ExtraMissing, DataMissing, CheckpointError, SweepError, WriteError)
    return (*mine, ConnectionError)
