"""Kill trainings and depth-limit studies at random moments, resume them, compare the results.

    python -m experiments.resume.kill

The reference of each target is a run that was left alone. Every kill (SIGKILL) falls between the
appearance of something new on disk and a random moment up to a quarter of a second later. Most of
the kills therefore fall into or beside the writing of a checkpoint. The targets are

- fit: a training with batch statistics, random streams and accumulated gradients;
- train: the command `neuralflow train`;
- deep-limit: the command `neuralflow deep-limit`.

Two further series send SIGINT and SIGTERM to the commands at random moments, from the first line of
`main` on, and look at the status and at the lines on the error stream.

Ends with status 0 if every target reached the same bits (weights, batch statistics, random streams
and history), and if every signal ended in one line with its status. Writes results.json.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.program import Parser, count
from neuralflow.console import progress

PROGRAM = "import sys, neuralflow.cli as c; print('main', flush=True); c.main(sys.argv[1:])"
TIMING = ("seconds", "samples_per_second")
TABLE = ("kills", ("", "kills", "writing", "equal"))
"""The rows and the columns that the report shows."""


@dataclass(frozen=True)
class Target:
    """A program that is killed and resumed.

    `command` gives the words after the interpreter for a folder, `saved` what is on disk, `final`
    what two runs must have in common.
    """

    command: Callable[[Path], list[str]]
    saved: Callable[[Path], list[str]]
    final: Callable[[Path], Any]


@dataclass(frozen=True)
class Outcome:
    """What the kills met.

    `saved` holds how much was on disk at each kill. `writing` counts the kills during a write.
    `equal` says whether the end was the same.
    """

    kills: int
    saved: list[str]
    writing: int
    equal: bool


def start(target: Target, folder: Path) -> subprocess.Popen[str]:
    """Start the target as a process of its own. All processes share one compilation cache."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, *target.command(folder)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(target: Target, kills: int, seed: int = 0) -> Outcome:
    """Run the reference, then kill and resume a second run, and at last let it end."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        whole, cut = Path(place) / "whole", Path(place) / "cut"
        _finish(start(target, whole))
        met, writing = [], 0
        while len(met) < kills:
            before = target.saved(cut)
            process = start(target, cut)
            while process.poll() is None and target.saved(cut) == before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.25))
            if process.poll() is not None:
                # The run was faster than the kill: begin anew, so that every kill counts.
                _finish(process)
                subprocess.run(["rm", "-rf", str(cut)], check=True)
                continue
            process.kill()
            process.communicate()
            met.append((target.saved(cut) or ["nothing"])[-1])
            writing += any(
                "tmp" in path.name or path.suffix == ".partial" for path in cut.rglob("*")
            )
        _finish(start(target, cut))
        return Outcome(kills, met, writing, target.final(whole) == target.final(cut))


def _finish(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a process, and raise what it said if it failed."""
    _, said = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"status {process.returncode}: {said[-2000:]}")


def steps(folder: Path) -> list[str]:
    """Return the steps of the complete checkpoints."""
    names = [path.name for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]
    return sorted(names, key=int)


def minima(folder: Path) -> list[str]:
    """Return the minimisers on disk, in the order of their appearance."""
    found = (folder / "minima").glob("*.npz")
    return [path.stem for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def weights(model: nnx.Module) -> dict[str, str]:
    """Return all variables of a model, byte for byte."""

    def raw(leaf: Any) -> np.ndarray:
        typed = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if typed else leaf)

    leaves = jax.tree.leaves_with_path(nnx.state(model))
    return {jax.tree_util.keystr(path): raw(leaf).tobytes().hex() for path, leaf in leaves}


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the history of a training without its times."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMING} for line in lines]


def trained(folder: Path) -> Any:
    """Return the weights and the history of `neuralflow train`."""
    from neuralflow.cli.train import Evaluate, restored

    return weights(restored(Evaluate(folder, best=False))[1]), rows(folder)


def train(folder: Path) -> list[str]:
    """Return the words of a training that saves every seven steps."""
    options = "--data moons --width 8 --steps 3 --scheme heun --epochs 8 --batch 32"
    return [*("train " + options).split(), "--save-every", "7", "--out", str(folder)]


def sweep(folder: Path) -> list[str]:
    """Return the words of a sweep over six depths."""
    options = "--depths 2 4 8 16 32 64 --schemes euler heun"
    return [*("deep-limit " + options).split(), "--out", str(folder)]


TARGETS = {
    "fit": Target(
        lambda folder: ["-m", "experiments.resume.train", str(folder), "1"],
        steps,
        lambda folder: json.loads((folder / "final.json").read_text()),
    ),
    "train": Target(
        lambda folder: ["-m", "neuralflow", *train(folder), "--resume"], steps, trained
    ),
    "deep-limit": Target(
        lambda folder: ["-m", "neuralflow", *sweep(folder), "--resume"],
        minima,
        lambda folder: {**json.loads((folder / "results.json").read_text()), "seconds": None},
    ),
}


def signalled(count: int, number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Send a signal to the commands at random moments; return what each of them ended with."""
    rng, told = random.Random(seed), []
    for words, longest in ((train, 8.0), (sweep, 12.0)):
        command = Target(lambda folder, words=words: ["-c", PROGRAM, *words(folder)], steps, steps)
        while sum(entry["command"] == words.__name__ for entry in told) < count:
            with tempfile.TemporaryDirectory() as place:
                process = start(command, Path(place) / "run")
                assert process.stdout is not None
                process.stdout.readline()
                moment = rng.uniform(0, longest)
                time.sleep(moment)
                if process.poll() is not None:
                    process.communicate()
                    longest *= 0.8  # the run was faster: draw earlier moments
                    continue
                process.send_signal(number)
                _, said = process.communicate()
                told.append(
                    {
                        "command": words.__name__,
                        "after": round(moment, 2),
                        "status": process.returncode,
                        "lines": said.splitlines(),
                    }
                )
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, quick={"kills": 1, "signals": 0})
    parser.add_argument("--kills", type=count, default=20, help="of fit and of train")
    parser.add_argument("--sweeps", type=count, default=10, help="kills of deep-limit")
    parser.add_argument("--signals", type=int, default=5, help="of each kind and command")
    run = parser.begin(arguments)
    options = run.options
    counts = {"fit": options.kills}
    if not options.quick:
        counts |= {"train": options.kills, "deep-limit": options.sweeps}
    outcomes, signals = {}, {}
    with progress(len(counts) + 2) as done:
        for name, times in counts.items():
            outcomes[name] = outcome = kill(TARGETS[name], times)
            end = "equal bit for bit" if outcome.equal else "NOT equal"
            done(f"{name}: {outcome.kills} kills, {outcome.writing} during a write; {end}")
        for number in (signal.SIGINT, signal.SIGTERM):
            told = signalled(options.signals, number)
            clean = [e["status"] == 128 + number and len(e["lines"]) == 1 for e in told]
            signals[number.name] = {"sent": len(told), "one line": sum(clean), "ends": told}
            done(f"{number.name}: {sum(clean)} of {len(told)} ended in one line")
    kills = {name: asdict(outcome) for name, outcome in outcomes.items()}
    run.write("results", {"kills": kills, "signals": signals})
    good = all(outcome.equal for outcome in outcomes.values())
    if not good or any(s["sent"] != s["one line"] for s in signals.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
