"""Sweeps: one function over many configurations, as one table and one folder a run.

A run is a call of a function with one configuration. The function takes the entries of the
configuration by name, and returns scalars by name:

    # study.py
    import neuralflow as nf
    from flax import nnx

    SCHEMES = {"euler": nf.Euler, "heun": nf.Heun}

    def error(depth, scheme, seed):
        field = nf.fields.MLP(2, hidden=16, rngs=nnx.Rngs(seed))
        ...
        return {"error": ..., "evaluations": ...}

    if __name__ == "__main__":
        configurations = nf.sweeps.grid(depth=[4, 8, 16], scheme=["euler", "heun"], seed=range(2))
        nf.sweeps.run(error, configurations, out="results/study")

**What is written.** `table.csv` has one row a configuration, in the order of the configurations:
the configuration, the results, `status` (finished, failed or missing), `failure` (the error of a
failed run) and `run`, the folder of the run in `out`. This folder holds `configuration.json` (the
configuration, versions, when and where the run started), `log.txt` (what the function prints, logs
and warns), `result.json`, and `arrays.npz` where the function returns arrays. The table can be read
while the sweep runs. It holds no times, so that it is the same wherever the runs are made; the
seconds of a run stand in its `result.json`.

**What is repeated.** A run is known by the name of its function, its configuration and the content
of its data. A sweep that is started again, in whatever way it ended, makes only the runs that are
not finished. The code of the function, and what the function takes from elsewhere than its
arguments, do not count: give another folder when they change. A run that was interrupted can go on
where it was: `folder()` is the folder of the run for checkpoints, to give to
`neuralflow.training.fit` with `resume=True`. Sweeps of other configurations into the same folder
add their runs, and the table is that of the last sweep.

**On one big machine**, in processes of Python that begin anew, because the threads of JAX do not
survive a fork:

    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    if __name__ == "__main__":
        with ProcessPoolExecutor(16, get_context("spawn")) as executor:
            nf.sweeps.run(error, configurations, out="results/study", executor=executor)

or, with the file below, `neuralflow sweep study.toml --processes 16`. In every process, each
pool of XLA has as many threads as the process may use cores: `PJRT_NPROC=1` in the environment
makes it one thread a pool, and `OMP_NUM_THREADS=1` does the same for NumPy. On a machine with
several GPUs, every process takes one of them before it computes:

    def take_one(numbers):
        os.environ["CUDA_VISIBLE_DEVICES"] = str(numbers.get())

    if __name__ == "__main__":
        context = get_context("spawn")
        numbers = context.Queue()
        for number in range(8):
            numbers.put(number)
        with ProcessPoolExecutor(8, context, take_one, (numbers,)) as executor:
            nf.sweeps.run(error, configurations, out="results/study", executor=executor)

**On a cluster**, the executor of a Dask client, as it is (`pip install 'neuralflow-jax[sweeps]'`).
All machines share the file system of `out`, and Python finds the function's module on all of them.
Workers keep the modules that they have imported: start them anew when the code changes. A worker
that dies costs the run that it was making, and Dask gives this run to another worker. With SLURM
and dask-jobqueue, jobs of one GPU and four cores that make one run at a time:

    from dask.distributed import Client
    from dask_jobqueue import SLURMCluster

    if __name__ == "__main__":
        cluster = SLURMCluster(
            queue="gpu", cores=1, job_cpu=4, processes=1, memory="16GB", walltime="08:00:00",
            job_extra_directives=["--gres=gpu:1"], job_script_prologue=["export PYTHONPATH=$PWD"],
        )
        cluster.scale(jobs=20)
        executor = Client(cluster).get_executor()
        nf.sweeps.run(error, configurations, out="results/study", executor=executor)

or in one allocation, with the scheduler on the machine that runs the script of the job:

    #!/bin/bash
    #SBATCH --ntasks=20 --cpus-per-task=4 --gpus-per-task=1 --time=08:00:00
    export PYTHONPATH=$PWD
    address=tcp://$(hostname):8786
    dask scheduler --port 8786 &
    srun dask worker $address --nthreads 1 --memory-limit 0 &
    neuralflow sweep study.toml --executor $address

**A sweep as a file**, for `neuralflow sweep study.toml`; the current directory is where `study` and
the files of `[data]` are looked for:

    function = "study:error"

    [grid]
    depth = [4, 8, 16]
    scheme = ["euler", "heun"]
    seed = [0, 1]

    [options]          # joined to every configuration
    epochs = 3

    [data]             # handed to the function as paths, and known by their content
    points = "points.npz"
"""

from __future__ import annotations

import copy
import csv
import functools
import hashlib
import inspect
import io
import itertools
import json
import math
import multiprocessing
import multiprocessing.context
import os
import platform
import sys
import textwrap
import threading
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, as_completed
from contextlib import closing, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from neuralflow import checks, console, files
from neuralflow.checks import InputError, InputTypeError

__docformat__ = "google"

# This number grows when the meaning of what a run leaves behind changes.
_FORMAT = 1
_OWN = ("status", "failure", "run")  # the columns of the table that are no one else's
_PACKAGES = ("neuralflow-jax", "jax", "jaxlib", "flax", "optax", "diffrax", "numpy")
_FOLDER: ContextVar[Path | None] = ContextVar("folder", default=None)


class SweepError(RuntimeError):
    """A sweep cannot go on, or a run cannot be read; the message says why and what to do."""


def grid(**axes: Sequence[Any] | np.ndarray) -> list[dict[str, Any]]:
    """Return all combinations of the values of some axes, in order; the last axis is the fastest.

    Grids are lists of dicts: `a + b` joins them, and a comprehension filters or changes them.

    Args:
        **axes: The different values of every axis, in a list, a tuple, a range or an array with one
            axis. The values are plain data: strings, finite numbers, booleans, None, and lists and
            dicts of these. Numbers of NumPy become those of Python, tuples become lists.

    Returns:
        The configurations.

    Raises:
        InputError: An axis is empty or has a value twice.
        InputTypeError: An axis is no list, or holds what is not plain data.

    Example:
        >>> import neuralflow as nf
        >>> nf.sweeps.grid(depth=[4, 8], seed=range(2))
        [{'depth': 4, 'seed': 0}, {'depth': 4, 'seed': 1},
         {'depth': 8, 'seed': 0}, {'depth': 8, 'seed': 1}]
    """
    return [
        dict(zip(axes, values, strict=True))
        for values in itertools.product(*(_axis(name, axes[name]) for name in axes))
    ]


def run(
    function: Callable[..., Mapping[str, Any]],
    configurations: Sequence[Mapping[str, Any]],
    *,
    out: str | Path,
    executor: Executor | None = None,
    data: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Call a function with every configuration, and keep what it returns.

    Finished runs in the folder are not made again; failed ones are. A run that fails is a row of
    the table with its error, and its log has the traceback; the other runs go on. The head of this
    module tells what is written, and how to use many processes or a cluster.

    Args:
        function: A function of the entries of a configuration and of `data`, by name. It returns a
            mapping from names to scalars (numbers, strings, booleans, None), which are the columns
            of its row, and to arrays, which `arrays` reads. The function has a name of its own, by
            which other processes import it.
        configurations: Dicts of plain data, such as those of `grid`. Each run has its own copy.
        out: The folder for the table and the runs. No second sweep runs in it at the same time.
        executor: Where the runs are made: an executor of `concurrent.futures`, with processes that
            are spawned and not forked, or `Client(...).get_executor()` of dask.distributed. None
            makes the runs here, one after the other. The sweep leaves the executor open.
        data: What all runs share, by name: the paths of files, or arrays and pytrees of arrays.
            Files reach the function as absolute paths, arrays as arrays of NumPy that cannot be
            changed. Arrays travel with every run: large ones are better read from a file.
        progress: Whether to show a bar over all runs in a terminal, and a line a run elsewhere.

    Returns:
        The rows of the table, one dict a configuration.

    Raises:
        InputError: An argument has a wrong value, or the executor cannot call the function.
        InputTypeError: An argument has a wrong type.
        SweepError: Another sweep runs in the folder, or the executor broke. What was finished is
            kept.
        WriteError: The table cannot be written.

    Example:
        >>> import tempfile
        >>> import neuralflow as nf
        >>> def error(steps):
        ...     return {"error": (1 + 1 / steps) ** steps - 2.718281828459045}
        >>> with tempfile.TemporaryDirectory() as out:
        ...     rows = nf.sweeps.run(error, nf.sweeps.grid(steps=[8, 16]), out=out, progress=False)
        >>> [(row["steps"], round(row["error"], 3), row["status"]) for row in rows]
        [(8, -0.152, 'finished'), (16, -0.08, 'finished')]
    """
    checks.path("out", out)
    checks.flag("progress", progress)
    if executor is not None:
        example = "an executor such as concurrent.futures.ProcessPoolExecutor(...), or None"
        checks.instance("executor", executor, Executor, example)
    folder = Path(out).expanduser().absolute()
    runs = _runs(function, configurations, folder, data)
    with _alone(folder):
        table = _Table(folder, runs)
        # What has begun before comes last: it may be what ended the processes of the executor.
        rest = sorted((each for each in runs if each.folder not in table.outcomes), key=_begun)
        todo = {each.folder: each for each in rest}
        done, total = len(table.outcomes), len(table.outcomes) + len(todo)
        table.write()
        if progress and done:
            print(f"{done} of {total} runs are finished and are not made again", flush=True)
        try:
            if executor is not None and todo:
                _check_executor(executor, runs[0])
            with (
                console.progress(total, done=done) if progress else console.silence() as shown,
                closing(_outcomes(executor, todo)) as outcomes,
            ):
                for each, outcome in outcomes:
                    table.add(each, outcome)
                    shown(table.words(each))
        except (BrokenExecutor, CancelledError) as error:
            begun = [table.entries(e) for e in todo if e not in table.outcomes and _begun(todo[e])]
            raise SweepError(
                f"the executor broke ({_sentence(error)}) when {table.count('finished')} of "
                f"{total} runs were finished and these had begun: {'; '.join(begun) or 'none'}; "
                f"what is finished is kept in {folder}: start the same sweep again"
            ) from None
        finally:
            table.write()
    return table.rows()


def folder() -> Path | None:
    """Return the folder of the run that this thread makes, or None outside of a sweep.

    Whatever a run writes there is still there when the run is started again.
    """
    return _FOLDER.get()


def arrays(folder: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays that a finished run has returned, by name.

    Args:
        folder: The folder of the run: `out` and the column `run` of its row.

    Raises:
        InputError: `folder` is that of a whole sweep.
        InputTypeError: `folder` is no path.
        SweepError: The folder holds no finished run, or a file in it is damaged.
    """
    checks.path("folder", folder)
    path = Path(folder).expanduser() / "arrays.npz"
    if path.with_name("table.csv").exists():
        raise InputError(
            f"folder must be that of one run, got that of a sweep, {folder}; give out / row['run']"
        )
    try:
        record = _record(path.with_name("result.json"))
        if record["arrays"] is None:
            return {}
        # numpy closes no file that it opened itself and cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            values = {name: held[name] for name in held.files}
        if _digest(values) != record["arrays"]:
            raise ValueError("the arrays do not match their digest")
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise SweepError(
            f"folder must be that of a finished run, got {folder} ({_sentence(error)}); "
            "remove what is damaged, and start the same sweep again"
        ) from None
    return values


@functools.cache
def end_with_parent() -> None:
    """End this process when its parent has ended, because nobody would take what it computes.

    A killed sweep could otherwise be started again beside its own processes. Runs call this where
    another process makes them; as the `initializer` of a pool, it also ends processes that wait for
    their first run.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Outcome(NamedTuple):
    """What has become of a run.

    Attributes:
        status: "finished", "failed" or "missing".
        results: The scalars by name.
        failure: The error of a failed run in one sentence.
    """

    status: str
    results: dict[str, Any]
    failure: str


@dataclass(frozen=True)
class _Run:
    """A run, as it travels to the process that makes it.

    Attributes:
        function: The function.
        configuration: The configuration.
        data: What all runs share.
        identity: What the run is known by: function, configuration, and digests of the data.
        folder: The folder of the run.
        sweep: The process of the sweep and when it began. The same run of another sweep differs in
            it, so that Dask, which calls nothing twice, calls it again.
    """

    function: Callable[..., Any]
    configuration: dict[str, Any]
    data: dict[str, Any]
    identity: dict[str, Any]
    folder: Path
    sweep: tuple[int, int]


class _Table:
    """The table of a sweep, on disk and here.

    Args:
        folder: The folder of the sweep.
        runs: The runs in the order of the rows.
    """

    def __init__(self, folder: Path, runs: list[_Run]):
        self.path, self.runs, self._pause_until = folder / "table.csv", runs, 0.0
        kept = {each.folder: _kept(each) for each in runs}
        self.outcomes = {each: outcome for each, outcome in kept.items() if outcome is not None}
        self._configurations = {each.folder: each.configuration for each in runs}

    def add(self, each: Path, outcome: _Outcome) -> None:
        """Take an outcome down; write the table, unless writing would take a tenth of the time."""
        self.outcomes[each] = outcome
        if time.monotonic() >= self._pause_until:
            self.write()

    def count(self, status: str) -> int:
        """Return the number of runs with a status."""
        return sum(outcome.status == status for outcome in self.outcomes.values())

    def entries(self, each: Path) -> str:
        """Return the configuration of a run as people see it."""
        return ", ".join(f"{name}={value}" for name, value in self._configurations[each].items())

    def words(self, each: Path) -> str:
        """Return what people see of a run that has ended."""
        failed, outcome = self.count("failed"), self.outcomes[each]
        end = f"{outcome.status} {textwrap.shorten(outcome.failure, 60)}".rstrip()
        said = f"{self.entries(each)}: {end}"
        return f"{said} ({failed} failed so far)" if failed else said

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the table."""
        rows = []
        for each in self.runs:
            outcome = self.outcomes.get(each.folder, _Outcome("missing", {}, ""))
            own = (outcome.status, outcome.failure, f"{each.folder.parent.name}/{each.folder.name}")
            row = {**copy.deepcopy(each.configuration), **outcome.results}
            rows.append(row | dict(zip(_OWN, own, strict=True)))
        return rows

    def write(self) -> None:
        """Write table.csv."""
        began, rows = time.monotonic(), self.rows()
        names = [name for each in self.runs for name in each.configuration]
        results = [name for row in rows for name in row if name not in _OWN]
        text = io.StringIO()
        columns = list(dict.fromkeys([*names, *results, *_OWN]))
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        files.write(self.path, text.getvalue())
        now = time.monotonic()
        self._pause_until = now + 9 * (now - began)


def _cell(value: Any) -> Any:
    """Return a value as the table holds it: lists and dicts as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _axis(name: str, values: Any) -> list[Any]:
    """Return the values of an axis as plain data, which differ and are one at least."""
    lone = isinstance(values, str | int | float | np.generic)
    example = f"a list such as {[values] if lone else [4, 8]}"
    axis = [_plain(name, value) for value in checks.sequence(name, values, example)]
    if not axis or len({json.dumps(value, sort_keys=True) for value in axis}) < len(axis):
        raise InputError(f"{name} must be different values, one at least, got {values!r}")
    return axis


def _plain(name: str, value: Any) -> Any:
    """Return plain data that JSON gives back as it was, and refuse anything else."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(name, entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, entry) for entry in value]
    value = _scalar(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InputTypeError(
        f"{name} must be plain data: strings, finite numbers, booleans, None, lists and dicts, "
        f"got {type(value).__name__} {value!r}; give arrays and files as data"
    )


def _scalar(value: Any) -> Any:
    """Return the number of Python that an array without axes holds, and anything else as it is."""
    array = checks.known(value)
    return array.item() if isinstance(array, np.generic | np.ndarray) and not array.ndim else array


def _runs(function: Any, configurations: Any, folder: Path, data: Any) -> list[_Run]:
    """Return the runs of a sweep, after all that can be checked before any work is done."""
    checks.function("function", function)
    named = getattr(function, "__qualname__", "<lambda>")
    if "<lambda>" in named:
        raise InputTypeError(
            f"function must have a name of its own, by which its runs are found again, got "
            f"{function!r}; define it with def"
        )
    shared = _shared(data)
    values = {name: value for name, (value, _) in shared.items()}
    runs, sweep = [], (os.getpid(), time.time_ns())
    example = "a list of dicts, such as grid(depth=[4, 8])"
    for given in checks.sequence("configurations", configurations, example):
        configuration = _configuration(given, shared)
        _check_call(function, {**configuration, **values})
        identity = {
            "function": f"{_module(function)}:{named}",
            "configuration": configuration,
            "data": {name: mark for name, (_, mark) in shared.items()},
        }
        place = folder / "runs" / files.seal(identity)["digest"][:16]
        runs.append(_Run(function, configuration, values, identity, place, sweep))
    if not runs:
        raise InputError("configurations must be one at least, got none; give grid(depth=[4, 8])")
    return runs


def _module(function: Any) -> str:
    """Return the name under which other programs import the module of a function."""
    main = sys.modules["__main__"]
    if function.__module__ != "__main__":
        return function.__module__
    if main.__spec__ is not None:
        return main.__spec__.name
    return Path(getattr(main, "__file__", "__main__")).stem


def _configuration(given: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as plain data, and refuse names that belong to something else."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InputTypeError(
            f"configurations must be dicts with names, such as {{'depth': 4}}, got {given!r}"
        )
    taken = {*_OWN, *shared}.intersection(given)
    if taken:
        raise InputError(
            f"configurations must not have the name {min(taken)!r}, which is a column of the table "
            "or a name of data; give another name"
        )
    return {name: _plain(f"configurations: {name}", value) for name, value in given.items()}


def _shared(data: Any) -> dict[str, tuple[Any, str]]:
    """Return what the function receives of the data, and digests of the content, by name."""
    if data is None:
        return {}
    checks.named("data", data, object, "{'points': array, 'table': 'table.csv'}")
    return {name: _content(f"data[{name!r}]", value) for name, value in data.items()}


def _content(name: str, value: Any) -> tuple[Any, str]:
    """Return a file as an absolute path or arrays on the host, and a digest of the content."""
    if not isinstance(value, str | os.PathLike):
        checks.arrays(name, value)
        if any(jnp.issubdtype(x.dtype, jax.dtypes.extended) for x in jax.tree.leaves(value)):
            raise InputTypeError(f"{name} must not be random keys; give a seed in configurations")
        value = jax.tree.map(np.asarray, value)
        return value, _digest(value)
    checks.path(name, value)
    path = Path(value).expanduser().absolute()
    try:
        with path.open("rb") as file:
            return path, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{name} must be arrays or the path of a file that can be read, got {path} "
            f"({error.strerror})"
        ) from None


def _digest(tree: Any) -> str:
    """Return a digest of the arrays of a pytree and their places."""
    leaves = jax.tree.leaves_with_path(tree)
    return files.digest(*(x for path, leaf in leaves for x in (jax.tree_util.keystr(path), leaf)))


def _check_call(function: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse a configuration that the function does not take."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some functions of other languages do not tell.
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(
            f"configurations and data must name the arguments of function, got "
            f"{', '.join(arguments) or 'no name'} ({error})"
        ) from None


def _alone(folder: Path) -> Any:
    """Lock the folder of a sweep, and refuse one in which another sweep runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return files.lock(folder) or nullcontext()
    except BlockingIOError:
        raise SweepError(
            f"another sweep runs in {folder}; wait for its end, or give another folder"
        ) from None
    except OSError as error:
        raise InputError(
            f"out must be a folder that can be written, got {folder} ({error.strerror})"
        ) from None


def _check_executor(executor: Executor, first: _Run) -> None:
    """Refuse an executor that forks, or whose processes cannot import the function."""
    try:
        forked = executor.submit(_is_forked, first.function, first.sweep).result()
    except Exception as error:
        raise InputError(
            f"executor cannot call {first.identity['function']} ({_sentence(error)}); define the "
            "function in a module that all its processes find, and start the sweep of a script "
            "under if __name__ == '__main__'"
        ) from None
    if forked:
        raise InputError(
            "executor must not fork, because the threads of JAX do not survive it; make it with "
            "mp_context=multiprocessing.get_context('spawn')"
        )


def _is_forked(function: Any, sweep: tuple[int, int]) -> bool:
    """Tell whether this process was forked for the executor. The function has come here, too."""
    kind = getattr(multiprocessing.context, "ForkProcess", ())
    return os.getpid() != sweep[0] and isinstance(multiprocessing.current_process(), kind)


def _outcomes(
    executor: Executor | None, todo: dict[Path, _Run]
) -> Generator[tuple[Path, _Outcome]]:
    """Make runs, and yield their outcomes as they end."""
    if executor is None:
        yield from ((each, _attempt(todo[each])) for each in todo)
        return
    futures: dict[Any, Path] = {}
    try:
        futures |= {executor.submit(_attempt, todo[each]): each for each in todo}
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except (BrokenExecutor, CancelledError):
                raise
            except Exception as error:  # such as a run that kills every worker that makes it
                outcome = _Outcome("failed", {}, _sentence(error))
            yield futures[future], outcome
    finally:
        for future in futures:
            future.cancel()


def _attempt(each: _Run) -> _Outcome:
    """Make a run in this process, unless the run is finished; a failure is an outcome, too."""
    if os.getpid() != each.sweep[0]:
        end_with_parent()
    try:
        kept = _kept(each)
        if kept is not None:  # A worker may die after a run, and before it has told of the run.
            return kept
        each.folder.mkdir(parents=True, exist_ok=True)
        log = (each.folder / "log.txt").open("a", buffering=1, encoding="utf-8")
        with log, console.captured(log):
            try:
                return _called(each)
            except BaseException:
                traceback.print_exc(file=log)
                raise
    except (Exception, SystemExit) as error:
        return _Outcome("failed", {}, _sentence(error))


def _called(each: _Run) -> _Outcome:
    """Call the function, and write what it gets and what it returns."""
    record = {
        **each.identity,
        "versions": {"python": platform.python_version(), **files.versions(*_PACKAGES)},
        "paths": {name: str(path) for name, path in each.data.items() if isinstance(path, Path)},
        "host": platform.node(),
        "process": os.getpid(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    files.write(each.folder / "configuration.json", files.as_json(record))
    began, token = time.perf_counter(), _FOLDER.set(each.folder)
    try:
        data = jax.tree.map(_read_only, each.data)
        returned = each.function(**copy.deepcopy(each.configuration), **data)
    finally:
        _FOLDER.reset(token)
    results, values = _split(returned, each.configuration)
    seconds = time.perf_counter() - began
    if values:
        files.write(each.folder / "arrays.npz", lambda path: _save(path, values))
    infinite = {
        name: repr(value)
        for name, value in results.items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    record = {
        "format": _FORMAT,
        "identity": each.identity,
        "results": files.finite(results),
        "not finite": infinite,  # JSON has no word for these numbers
        "arrays": _digest(values) if values else None,
        "device": _device(),
        "seconds": seconds,
    }
    files.write(each.folder / "result.json", files.as_json(files.seal(record)))
    return _Outcome("finished", results, "")


def _device() -> str | None:
    """Return the kind of the device of this process, or None if JAX finds none."""
    try:
        device = jax.devices()[0]
    except Exception:  # JAX raises an AssertionError for one platform, a RuntimeError for others.
        return None
    return f"{device.platform} ({device.device_kind})"


def _read_only(value: Any) -> Any:
    """Return an array that cannot be changed: other runs may share it. Paths stay as they are."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def _split(returned: Any, configuration: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the scalars and the arrays that a function has returned, and refuse anything else."""
    if not isinstance(returned, Mapping):
        raise InputTypeError(
            f"function must return a mapping such as {{'error': 0.1}}, got a "
            f"{type(returned).__name__}"
        )
    scalars, values = {}, {}
    for name, given in returned.items():
        if not isinstance(name, str) or name in configuration or name in _OWN:
            raise InputError(
                f"function must return names that are no columns of the table yet, got {name!r}"
            )
        value = _scalar(given)
        if value is None or isinstance(value, str | bool | int | float):
            scalars[name] = value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufcU":
            values[name] = value
        else:
            raise InputTypeError(
                f"function must return numbers, strings, booleans, None and arrays of NumPy's own "
                f"kinds, got {name}={type(given).__name__}; make arrays of lists with np.array"
            )
    return scalars, values


def _save(path: Path, values: Mapping[str, np.ndarray]) -> None:
    """Write arrays as `np.savez` does, which keeps some names for itself."""
    with zipfile.ZipFile(path, "w") as held:
        for name, value in values.items():
            with held.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, value, allow_pickle=False)


def _kept(each: _Run) -> _Outcome | None:
    """Return the outcome of a finished run, or None; a damaged result is told and put away."""
    path = each.folder / "result.json"
    try:
        record = _record(path)
        if record["identity"] != each.identity:
            raise ValueError("it belongs to another run")
        infinite = {name: float(value) for name, value in record["not finite"].items()}
        return _Outcome("finished", record["results"] | infinite, "")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(
            f"{path} is damaged ({_sentence(error)}); the run is made again", stacklevel=2
        )
        with suppress(OSError):
            path.unlink()
        return None


def _record(path: Path) -> dict[str, Any]:
    """Return the record of a finished run."""
    record = files.unseal(json.loads(path.read_text()))
    if record.get("format") != _FORMAT:
        raise ValueError(f"it has format {record.get('format')}, this version reads {_FORMAT}")
    return record


def _begun(each: _Run) -> bool:
    """Return whether some process has begun with a run, in this sweep or in an earlier one."""
    return (each.folder / "configuration.json").exists()


def _sentence(error: BaseException) -> str:
    """Return an error as one line: its type and its message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
