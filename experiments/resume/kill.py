"""Kill a training with SIGKILL at random moments, resume it each time, and compare the results.

    python -m experiments.resume.kill --kills 20

The reference is a training that was left alone. The moments are drawn between the appearance of a
checkpoint and the end of the training. Most of them therefore fall into or beside the writing of a
checkpoint (every 7 steps). Ends with status 0 if weights, batch statistics, random streams and
history are equal bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from neuralflow import files


@dataclass(frozen=True)
class Outcome:
    """What the kills met.

    `steps` holds the steps that were on disk at each kill. `writing` counts the kills during the
    writing of a checkpoint. `equal` says whether the end was the same.
    """

    kills: int
    steps: list[int]
    writing: int
    equal: bool


def start(folder: Path, epochs: int) -> subprocess.Popen[bytes]:
    """Start the training as a process of its own. All processes share one compilation cache."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **cache}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.resume.train", str(folder), str(epochs)],
        env=environment,
    )


def saved(folder: Path) -> list[int]:
    """Return the steps of the complete checkpoints."""
    return sorted(
        int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit()
    )


def kill(kills: int, epochs: int, seed: int = 0) -> Outcome:
    """Run the reference, then kill and resume a second training, and at last let it end."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        whole, cut = Path(place) / "whole", Path(place) / "cut"
        if start(whole, epochs).wait() != 0:
            raise RuntimeError("the training that nobody killed failed")
        met, writing = [], 0
        while len(met) < kills:
            before = saved(cut)[-1:]
            process = start(cut, epochs)
            while process.poll() is None and saved(cut)[-1:] == before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.25))
            process.send_signal(signal.SIGKILL)
            process.wait()
            if (cut / "final.json").exists():
                # The training was faster than the kill: begin anew, so that every kill counts.
                subprocess.run(["rm", "-rf", str(cut)], check=True)
                continue
            met.append(saved(cut)[-1])
            writing += any("tmp" in path.name for path in (cut / "checkpoints").glob("*"))
        if start(cut, epochs).wait() != 0:
            raise RuntimeError(f"the training did not resume after {kills} kills")
        results = [json.loads((folder / "final.json").read_text()) for folder in (whole, cut)]
    return Outcome(kills, met, writing, results[0] == results[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=8, help="62 steps each")
    parser.add_argument("--out", type=Path, default=Path("experiments/resume/results.json"))
    options = parser.parse_args()
    outcome = kill(options.kills, options.epochs)
    print(
        f"killed at steps {outcome.steps}; {outcome.writing} while a checkpoint was being written"
    )
    print("equal bit for bit" if outcome.equal else "NOT equal")
    files.write(options.out, json.dumps(asdict(outcome)) + "\n")
    sys.exit(0 if outcome.equal else 1)


if __name__ == "__main__":
    main()
