"""MNIST under fixed and adaptive steps: the same command with one option changed.

    python -m experiments.mnist.run --data-dir FOLDER

FOLDER holds MNIST as TFDS writes it (`neuralflow data prepare mnist --data-dir FOLDER`). Every
scheme trains in a process of its own, from the start of Python to the last checkpoint. Table and
JSON tell the test accuracy and the seconds of each scheme. Writes results.json, in two to three
minutes for a scheme of fixed steps on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.measure import report
from experiments.program import Parser, cores
from neuralflow.console import progress

OPTIONS = "--data mnist --width 16 --steps 2 --epochs 7 --batch 128 --learning-rate 5e-3"
QUICK = (
    "--data mnist --width 4 --steps 2 --epochs 1 --train-split train[:256] --test-split test[:128]"
)


def train(scheme: str, options: str, folder: Path) -> dict[str, Any]:
    """Run `neuralflow train` once."""
    with tempfile.TemporaryDirectory() as out:
        command = ["neuralflow", "train", *options.split(), "--scheme", scheme]
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", *command, "--data-dir", str(folder), "--out", out], check=True
        )
        seconds = time.perf_counter() - began
        last = json.loads((Path(out) / "history.jsonl").read_text().splitlines()[-1])
    return {
        "command": " ".join(command),
        "test accuracy": last["validation_accuracy"],
        "evaluations a pass": last["evaluations"],
        "seconds": seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, data="needed", quick={"schemes": ["euler"]})
    parser.add_argument("--schemes", nargs="+", default=["euler", "heun", "tsit5"])
    run = parser.begin(arguments)
    schemes, rows = run.options.schemes, []
    options = QUICK if run.options.quick else OPTIONS
    with progress(len(schemes)) as done:
        for scheme in schemes:
            rows.append(train(scheme, options, run.options.data_dir))
            done(f"{scheme}: {rows[-1]['test accuracy']:.2%}, {rows[-1]['seconds']:.0f} s")
    report(run, "results", f"MNIST on {cores()} cores", rows)


if __name__ == "__main__":
    main()
