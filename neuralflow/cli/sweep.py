"""`neuralflow sweep`: one function over a grid of configurations, as a file says."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from neuralflow import checks, sweeps
from neuralflow.checks import ExtraMissing, InputError, InputTypeError
from neuralflow.cli import cache

_KEYS = ("function", "grid", "options", "data")


@dataclass(frozen=True)
class Sweep:
    """Call a function with every configuration of a grid, and keep a table and a folder a run.

    The file names the function as "module:function" and the values of every axis in [grid]. Its
    [options] are joined to every configuration, its [data] names files. The current directory is
    where modules and files are looked for. A sweep that is started again makes the runs that are
    not finished: give another folder where the code has changed. `neuralflow.sweeps` describes all
    of it, with SLURM.

    The exit status is 0 if all runs are finished, 1 if a run failed, and 2 for bad input.
    """

    file: Positional[Path]
    """The TOML file of the sweep."""
    out: Path | None = None
    """The folder for the table and the runs. The default is results/ and the name of the file."""
    processes: int | None = None
    """The number of processes on this machine that make runs. The default makes the runs here."""
    executor: str | None = None
    """The address of a Dask scheduler whose workers make the runs, such as tcp://host:8786."""


def run(options: Sweep) -> int:
    """Run `neuralflow sweep`: make the runs that are not finished, and write table.csv.

    Args:
        options: The options of the command.

    Returns:
        The exit status: 0 if all runs are finished, 1 if a run failed.

    Raises:
        InputError: The file or an option is wrong.
        SweepError: Another sweep runs in the folder, or the processes broke.
        ExtraMissing: The package of Dask is not installed.
    """
    if options.processes is not None:
        checks.whole("--processes", options.processes)
        if options.executor is not None:
            raise InputError("--processes and --executor are two places; give one of them")
    folder = str(Path.cwd())
    if folder not in sys.path:  # Processes that are spawned take the path over.
        sys.path.insert(0, folder)
    function, configurations, data = _read(options.file)
    out = options.out or Path("results") / options.file.stem
    with _executor(options) as executor:
        rows = sweeps.run(function, configurations, out=out, executor=executor, data=data)
    failures: dict[str, list[Path]] = {}
    for row in rows:
        if row["status"] == "failed":
            failures.setdefault(row["failure"], []).append(out / row["run"] / "log.txt")
    for failure, (first, *others) in failures.items():
        more = f" and {len(others)} more" if others else ""
        print(f"failed: {first}{more} ({failure})")
    finished = sum(row["status"] == "finished" for row in rows)
    print(f"{finished} of {len(rows)} runs are finished: {out / 'table.csv'}")
    return 1 if failures else 0


def _read(file: Path) -> tuple[Callable[..., Any], list[dict[str, Any]], dict[str, Any] | None]:
    """Return the function, the configurations and the data that a file names."""
    try:
        held = tomllib.loads(file.read_text())
    except OSError as error:
        raise InputError(
            f"FILE must be the TOML file of a sweep, got {file} ({error.strerror})"
        ) from None
    except ValueError as error:
        raise InputError(f"{file} cannot be read as TOML ({error})") from None
    for name in held:
        checks.choice(f"{file}: a name", name, _KEYS)
    for name in _KEYS:
        kind, example = (str, '"study:error"') if name == "function" else (dict, f"[{name}]")
        if name in held:
            checks.instance(f"{file}: {name}", held[name], kind, example)
        elif name in ("function", "grid"):
            line = f"function = {example}" if name == "function" else example
            raise InputError(f"{file} has no {name}; write {line}")
    grid, constants = held["grid"], held.get("options", {})
    for name in grid:
        if name in constants:
            raise InputError(f"{file}: {name} stands in [grid] and in [options]; keep one of them")
    try:
        configurations = [{**each, **constants} for each in sweeps.grid(**grid)]
    except InputError as error:
        raise InputTypeError(f"{file}: grid.{error}") from None
    return _function(file, held["function"]), configurations, held.get("data")


def _function(file: Path, words: str) -> Callable[..., Any]:
    """Return the function that "module:function" names."""
    module, colon, name = words.partition(":")
    try:
        if not colon:
            raise ValueError("it has no colon between module and function")
        return getattr(importlib.import_module(module), name)
    except (ImportError, SyntaxError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module}.".startswith(f"{missing}."):
            raise InputError(
                f"{file}: the module {module} cannot be imported ({type(error).__name__}: "
                f"{error}); mend the module"
            ) from None
        reason = str(error)
    except (ValueError, AttributeError) as error:
        reason = str(error)
    raise InputError(
        f'{file}: function must be "module:function" of a module in {Path.cwd()} or of an '
        f"installed one, got {words!r} ({reason})"
    )


@contextmanager
def _executor(options: Sweep) -> Iterator[Executor | None]:
    """Yield where the runs are made, and close it."""
    if options.processes is not None:
        with _processes(options.processes) as executor:
            yield executor
    elif options.executor is not None:
        with _client(options.executor) as client:
            yield client.get_executor()
    else:
        yield None


def _processes(count: int) -> Executor:
    """Return a pool of processes that begin anew and do not hear Ctrl-C, but end with this one."""
    import jax

    # The system takes back what a pool leaves behind when Ctrl-C ends it. Python would warn of it.
    sys.warnoptions.append("ignore:resource_tracker")
    config: Any = jax.config
    context = multiprocessing.get_context("spawn")
    keeps = bool(config.jax_compilation_cache_dir)
    executor = ProcessPoolExecutor(count, context, _begin, (keeps,))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which processes inherit
    for _ in range(count):
        executor.submit(_begin, keeps)  # A process is started where none is idle.
    signal.signal(signal.SIGINT, before)
    return executor


def _begin(keeps: bool) -> None:
    """Begin a process: it ends with its parent, and keeps what JAX compiles as its parent does."""
    sweeps.end_with_parent()
    if keeps:
        cache.switch_on()


def _client(address: str) -> Any:
    """Return a client of a Dask scheduler."""
    try:
        from distributed import Client
    except ImportError:
        raise ExtraMissing(
            "--executor needs dask.distributed; install the extra: "
            "pip install 'neuralflow-jax[sweeps]'"
        ) from None
    # What the client logs of a scheduler that is gone is told in one sentence.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        return Client(address)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--executor must be the address of a Dask scheduler that runs, got {address!r} "
            f"({reason}); start one: dask scheduler"
        ) from None
