"""What all programs of the experiments share: their options, and the files of their results.

A program is a module with a function `main`, and runs by `python -m experiments.NAME`:

    def main(arguments: Sequence[str] | None = None) -> None:
        parser = Parser(__file__, __doc__, seeds=3, quick={"seeds": 1, "epochs": 1})
        parser.add_argument("--epochs", type=count, default=20)
        run = parser.begin(arguments)
        ...
        run.write("results", {"rows": rows}, {"curves.png": figure})
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import neuralflow
from experiments.versions import versions
from neuralflow import files
from neuralflow.checks import InputError, InputTypeError

ROOT = Path(__file__).parent
PACKAGES = ("jax", "jaxlib", "flax", "optax", "diffrax", "equinox", "orbax-checkpoint", "numpy")


class Parser(argparse.ArgumentParser):
    """The command line of a program, with the options that all programs have.

    Args:
        file: The file of the program, `__file__`. The name of the program follows from it.
        about: The docstring of the program.
        seeds: The number of seeds by default. None leaves out --seeds.
        data: Whether the program needs --data-dir, or takes it. None leaves it out.
        quick: What --quick takes in the place of defaults, by the name of the option.
        shorter: What --quick does, for its help.
        kept: The folder of the kept results, relative to that of the file.
    """

    def __init__(
        self,
        file: str,
        about: str | None,
        *,
        seeds: int | None = None,
        data: Literal["needed", "taken"] | None = None,
        quick: Mapping[str, Any] | None = None,
        shorter: str = "take the smallest sizes, to see in under a minute that all of it runs",
        kept: str = ".",
    ):
        parts = Path(file).relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__main__" else parts
        out = Path("results") / "-".join(parts)
        self.kept, self.quick = Path(file).parent / kept, {"out": Path(f"{out}-quick")}
        self.quick |= quick or {}
        super().__init__(
            prog=f"python -m {'.'.join(('experiments', *parts))}",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument(
            "--out",
            type=Path,
            default=out,
            help=f"folder of the results, {out} by default, or {out}-quick with --quick",
        )
        self.add_argument(
            "--keep",
            action="store_true",
            help="write the results over those that are kept beside the program",
        )
        self.add_argument(
            "--quick",
            action="store_true",
            help=shorter,
        )
        if seeds is not None:
            self.add_argument(
                "--seeds", type=count, default=seeds, help=f"their number, {seeds} by default"
            )
        if data is not None:
            self.add_argument(
                "--data-dir",
                type=Path,
                required=data == "needed",
                help="folder of prepared TFDS sets",
            )

    def begin(self, arguments: Sequence[str] | None = None) -> Run:
        """Read the command line, and return the run that it asks for.

        Bad options, and a folder that cannot be written, end the program with one sentence.

        Args:
            arguments: The words of the command line. None takes those of this process.
        """
        words = list(sys.argv[1:] if arguments is None else arguments)
        options = self.parse_args(words)
        if options.quick:
            self.set_defaults(**self.quick)
            options = self.parse_args(words)
            if options.keep:
                self.error("--keep keeps the results of whole runs; leave --quick or --keep out")
        folder = getattr(options, "data_dir", None)
        if folder is not None and not folder.is_dir():
            self.error(f"--data-dir must be a folder of prepared TFDS sets, got {folder}")
        command = shlex.join([*self.prog.split(), *_without_paths(words, options)])
        run = Run(options, command, self.kept if options.keep else options.out)
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=run.folder).close()
        except OSError as error:
            self.error(f"--out must be a folder that can be written ({error}); give another one")
        print(f"results go to {run.folder}", flush=True)
        sys.excepthook = functools.partial(_told, self.prog, run.folder)
        return run


class Run:
    """One run of a program.

    Attributes:
        options: The options.
        command: The command, with FOLDER in the place of paths.
        folder: The folder of the results: that of --out, or with --keep that of the kept results.
        started: The time of the start in UTC, to the second.
    """

    def __init__(self, options: argparse.Namespace, command: str, folder: Path):
        self.options, self.command, self.folder = options, command, folder
        self.started = now()
        self._began, self._before = time.perf_counter(), 0.0

    @property
    def work(self) -> Path:
        """The folder of what an interrupted run goes on from: that of --out.

        With --keep the folder is a new one below, because what is kept is measured anew.
        """
        out: Path = self.options.out
        return out / f"kept-{self.started[:19].replace(':', '')}" if self.options.keep else out

    def about(self) -> dict[str, Any]:
        """Return what is known of the run before it measures: plain data without its machine."""
        options = {
            name: value
            for name, value in vars(self.options).items()
            if name not in ("out", "keep", "data_dir") and not isinstance(value, Path)
        }
        return {"command": self.command, "options": options, "started": self.started}

    def write(
        self, name: str, results: Mapping[str, Any], pictures: Mapping[str, Any] | None = None
    ) -> None:
        """Write what was measured, and pictures of it, each whole or not at all.

        Args:
            name: The name of the JSON file, without its ending.
            results: Plain data. They stand beside what is known of the run.
            pictures: Figures by the names of their files.
        """
        pictures = pictures or {}
        for file, figure in pictures.items():
            files.write(
                self.folder / file,
                lambda path, figure=figure: figure.savefig(path, format="png", dpi=150),
            )
        known = {
            **self.about(),
            "seconds": round(self._before + time.perf_counter() - self._began, 1),
            **machine(),
        }
        known |= {"pictures": list(pictures)} if pictures else {}
        if both := known.keys() & results.keys():
            raise ValueError(f"results must have names of their own, got {sorted(both)}")
        files.write(self.folder / f"{name}.json", files.as_json({**known, **results}))

    def held(self, name: str) -> dict[str, Any]:
        """Return the result that is there already, to go on from, or an empty one.

        Its seconds count as those of this run. With --keep all is measured anew, because the kept
        result is that of an earlier whole run.
        """
        path = self.folder / f"{name}.json"
        if self.options.keep or not path.exists():
            return {}
        result = json.loads(path.read_text())
        self._before = result["seconds"]
        return result


def machine() -> dict[str, Any]:
    """Return what JAX runs on, the cores that this process may use, and the versions."""
    import jax

    device = jax.devices()[0]
    return {
        "device": (device.platform == "cpu" and processor()) or device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "cores": cores(),
        "versions": {"neuralflow": neuralflow.__version__, **versions(PACKAGES)},
    }


def machine_elsewhere() -> dict[str, Any]:
    """Return what `machine` returns, asked in another process: this one leaves the device alone.

    Raises:
        OSError: JAX finds no device.
    """
    code = "import json; from experiments.program import machine; print(json.dumps(machine()))"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if asked.returncode:
        raise OSError(f"JAX finds no device ({asked.stderr.strip().splitlines()[-1:]})")
    return json.loads(asked.stdout.splitlines()[-1])


def cores() -> int:
    """Return the number of cores that this process may use, or that the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor as Linux tells it, or an empty text."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def count(text: str) -> int:
    """Read a whole number of at least 1, as the `type` of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def positive(text: str) -> float:
    """Read a number above 0, as the `type` of an option."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return number


def _told(prog: str, folder: Path, kind: Any, error: BaseException, trace: Any) -> None:
    """Tell in one line what ended a program, if that is a key or an input and no bug."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{prog}: interrupted; what is finished is kept in {folder}", file=sys.stderr)
    elif issubclass(kind, InputError | InputTypeError):
        print(f"{prog}: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _without_paths(words: Sequence[str], options: argparse.Namespace) -> list[str]:
    """Return the words of a command with FOLDER in the place of the paths among the options."""
    paths = {value for value in vars(options).values() if isinstance(value, Path)}

    def shown(word: str) -> str:
        name, equals, value = word.rpartition("=")
        return f"{name}{equals}FOLDER" if Path(value) in paths else word

    return [shown(word) for word in words]
