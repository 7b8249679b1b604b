"""MNIST under fixed and adaptive steps: the same command with one option changed.

    python -m experiments.mnist.run --data-dir FOLDER

FOLDER holds MNIST as TFDS writes it (`neuralflow data prepare mnist --data-dir FOLDER`). Every
scheme trains in a process of its own, from the start of Python to the last checkpoint. Table and
JSON tell the test accuracy and the seconds of each scheme.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.measure import report

OPTIONS = "--data mnist --width 16 --steps 2 --epochs 7 --batch 128 --learning-rate 5e-3"


def train(scheme: str, folder: Path) -> dict[str, Any]:
    """Run `neuralflow train` once."""
    with tempfile.TemporaryDirectory() as out:
        command = ["neuralflow", "train", *OPTIONS.split(), "--scheme", scheme]
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of prepared TFDS sets")
    parser.add_argument("--schemes", nargs="+", default=["euler", "heun", "tsit5"])
    options = parser.parse_args()
    rows = [train(scheme, options.data_dir) for scheme in options.schemes]
    report(f"MNIST on {os.cpu_count()} cores", rows, Path(__file__).parent / "results.json")


if __name__ == "__main__":
    main()
