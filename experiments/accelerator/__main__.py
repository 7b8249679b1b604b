"""Make the most of some minutes on a GPU or a TPU: measure in stages, in order of worth.

    python -m experiments.accelerator.arrays --data-dir FOLDER --out ARRAYS
    python -m experiments.accelerator --budget 600 --arrays ARRAYS

The first command runs where CIFAR-10 is prepared. The second one needs no network. Every stage has
a process of its own, a share of the budget and a deadline. Time that a stage does not use goes to
the later ones. The tests need pytest and beartype, and are left out without them.

The folder --out holds result.json, which is written anew with every row, and a log for each stage.
The result can be read at any time, and the program ends before its budget does.

Stages:
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.accelerator import runner
from experiments.accelerator.plan import STAGES, Plan
from experiments.benchmarks.measure import show
from neuralflow.console import screen


def options() -> argparse.ArgumentParser:
    stages = "\n".join(f"  {name:11} {stage.what}" for name, stage in STAGES.items())
    parser = argparse.ArgumentParser(
        prog="python -m experiments.accelerator",
        description=f"{__doc__}{stages}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--budget", type=float, default=600.0, help="seconds for everything, 600 by default"
    )
    parser.add_argument(
        "--arrays",
        type=Path,
        help="folder that experiments.accelerator.arrays has written; without it, the stages that "
        "need images are left out",
    )
    parser.add_argument(
        "--only", choices=STAGES, help="run this stage alone, with the whole budget"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="let the stage recipe go on from its checkpoints in --out",
    )
    parser.add_argument(
        "--dry",
        action="store_true",
        help="run a few steps of every stage, on a CPU in a minute or two; without --arrays, on "
        "random images",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/accelerator"),
        help="folder of the result, results/accelerator by default",
    )
    return parser


def main() -> None:
    parser = options()
    chosen = parser.parse_args()
    if not chosen.budget > 0:
        parser.error(f"--budget must be a number of seconds above 0, got {chosen.budget:g}")
    if chosen.arrays is not None and not chosen.arrays.is_dir():
        parser.error(f"there is no folder {chosen.arrays}; give the one that arrays has written")
    names = [name for name, stage in STAGES.items() if stage.share]
    stages = {name: STAGES[name] for name in ([chosen.only] if chosen.only else names)}
    plan = Plan(
        str(chosen.out), 0.0, chosen.dry, chosen.arrays and str(chosen.arrays), chosen.resume
    )

    def command(name: str, until: float) -> list[str]:
        return runner.worker(name, plan._replace(until=until)._asdict())

    if chosen.dry:
        # Compile quickly, as the tests do: the times of a dry run mean nothing.
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    about = {"options": " ".join(sys.argv[1:]), "budget": chosen.budget, "dry": chosen.dry}
    runner.interruptible()
    try:
        result = runner.Result(chosen.out / "result.json", about)
    except OSError as error:
        parser.error(str(error))
    try:
        runner.run(stages, command, chosen.budget, result)
        result.end("done")
    except KeyboardInterrupt as signal:
        result.end("interrupted")
        raise SystemExit(128 + (signal.args or (2,))[0]) from None
    finally:
        report(result.stages)
        print(f"written to {result.path}")


def report(stages: dict[str, dict[str, Any]]) -> None:
    """Print the rows of every case, and a table of the stages."""
    for record in stages.values():
        cases: dict[str, list[dict[str, Any]]] = {}
        for row in record["rows"]:
            cases.setdefault(row["case"], []).append(
                {name: value for name, value in row.items() if name != "case"}
            )
        for case, rows in cases.items():
            show(case, rows)
    table = Table(title="Stages")
    for name in ("stage", "status", "seconds", "rows", "errors and what was left out"):
        table.add_column(name, justify="right" if name in ("seconds", "rows") else "left")
    for name, record in stages.items():
        said = [record.get("reason", ""), *record.get("errors", []), *record.get("left out", [])]
        seconds = f"{record['seconds']:.1f}" if "seconds" in record else ""
        rows = str(len(record["rows"]))
        table.add_row(name, record["status"], seconds, rows, "; ".join(filter(None, said)))
    screen().print(table)


if __name__ == "__main__":
    main()
