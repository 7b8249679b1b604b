"""Read the checkpoints of a training again and again while the training saves every five steps.

    python -m experiments.resume.read

Two trainings of the same options run for at least a minute each: one alone, one beside a reader.
Every 0.1 seconds the reader restores the last checkpoint, and now and then the best one. Ends with
status 0 if no read failed, the steps that were read never went back, and both trainings reached the
same history and the same weights. Writes read.json.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax import nnx

import neuralflow as nf
from experiments.program import Parser, count, positive
from experiments.resume.kill import Target, rows, start, steps, trained
from neuralflow import data, training
from neuralflow.console import progress


def words(folder: Path, epochs: int) -> list[str]:
    """Return the words of a training on the digits that saves every five steps."""
    options = f"train --data digits --width 8 --steps 2 --epochs {epochs} --save-every 5"
    return ["-m", "neuralflow", *options.split(), "--out", str(folder)]


def model() -> nnx.Module:
    """Return the model of these options, with weights of its own."""
    solve = nf.FixedGrid(nf.Euler(), steps=2)
    return nf.models.ImageClassifier((8, 8, 1), 10, solve, width=8, cells=2, rngs=nnx.Rngs(1))


def read(folder: Path, trainer: subprocess.Popen[str], pause: float) -> dict[str, Any]:
    """Restore the last checkpoint every `pause` seconds, until the trainer ends."""
    like, met, failed, best = model(), [], [], 0
    while not steps(folder) and trainer.poll() is None:
        time.sleep(0.01)
    began = time.monotonic()
    while trainer.poll() is None:
        try:
            met.append(training.restore(folder, like))
            if (folder / "history.jsonl").exists() and len(met) % 10 == 0:
                best += training.restore(folder, like, best=True) > 0
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}")
        time.sleep(pause)
    return {
        "seconds of reading": round(time.monotonic() - began, 1),
        "reads": len(met),
        "reads of the best": best,
        "different steps": len(set(met)),
        "in order": met == sorted(met),
        "failed": failed,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, quick={"epochs": 2})
    parser.add_argument("--epochs", type=count, default=110, help="22 steps each")
    parser.add_argument("--pause", type=positive, default=0.1, help="seconds between reads")
    run = parser.begin(arguments)
    options, met = run.options, {}
    target = Target(lambda folder: words(folder, options.epochs), steps, trained)
    assert set(data.digits()) == {"x", "y"}  # the data is at hand before the clock starts
    with tempfile.TemporaryDirectory() as place, progress(2) as done:
        alone, watched = Path(place) / "alone", Path(place) / "watched"
        for folder in (alone, watched):
            trainer = start(target, folder)
            if folder is watched:
                met = read(folder, trainer, options.pause)
            _, said = trainer.communicate()
            if trainer.returncode != 0:
                raise RuntimeError(f"the training ended with {trainer.returncode}: {said[-500:]}")
            done(f"{folder.name}: {22 * options.epochs} steps")
        record = {
            **met,
            "steps": 22 * options.epochs,
            "same history": rows(alone) == rows(watched),
            "same weights": trained(alone) == trained(watched),
        }
    run.write("read", record)
    print("\n".join(f"{name}: {value}" for name, value in record.items()))
    good = record["in order"] and record["same history"] and record["same weights"]
    if not good or record["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
