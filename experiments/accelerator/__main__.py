"""Make the most of some minutes on a GPU or a TPU: measure in stages, in order of worth.

    python -m experiments.accelerator.arrays --data-dir FOLDER --out ARRAYS
    python -m experiments.accelerator --budget 600 --arrays ARRAYS

The first command runs where CIFAR-10 is prepared. The second one needs no network. Every stage has
a process of its own, a share of the budget and a deadline. Time that a stage does not use goes to
the later ones. The tests need pytest and beartype, and are left out without them.

The folder --out holds result.json, which is written anew with every row, and a log for each stage.
The result can be read at any time, and the program ends before its budget does. Ends with status 0
if no stage has failed and one has run.

Stages:
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from experiments.accelerator import arrays, machine
from experiments.accelerator.plan import STAGES, Plan
from experiments.stages import options as stage_options, runner
from experiments.stages.report import show_rows, show_stages

RESULT = "result.json"


def options() -> argparse.ArgumentParser:
    parser = stage_options.parser("experiments.accelerator", __doc__, STAGES, 600.0)
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
        help="with --only recipe: go on from the checkpoints in --out, if there are any",
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
        help="folder of the result, results/accelerator by default (results/accelerator-dry with "
        "--dry)",
    )
    return parser


def main() -> None:
    began, parser = time.monotonic(), options()
    chosen = parser.parse_args()
    chosen.out = chosen.out or Path(f"results/accelerator{'-dry' * chosen.dry}")
    try:
        about = checked(chosen)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    names = [name for name, stage in STAGES.items() if stage.share]
    stages = {name: STAGES[name] for name in ([chosen.only] if chosen.only else names)}
    plan = Plan(
        str(chosen.out), 0.0, chosen.dry, chosen.arrays and str(chosen.arrays), chosen.resume
    )
    result = stage_options.begin(parser, chosen.out / RESULT, about, chosen.dry)
    budget = chosen.budget - (time.monotonic() - began)
    try:
        good = runner.conduct("experiments.accelerator", stages, plan._asdict(), budget, result)
    finally:
        show_rows(result.stages)
        show_stages(result.stages)
        print(f"written to {result.path}")
    sys.exit(0 if good else 1)


def checked(chosen: argparse.Namespace) -> dict[str, Any]:
    """Refuse unfit options, and return what is known of the run before its first stage.

    Raises:
        ValueError: An option has a wrong value, or JAX finds no accelerator.
    """
    stage_options.check_budget(chosen.budget)
    if chosen.resume and chosen.only != "recipe":
        raise ValueError("--resume goes on from checkpoints of the recipe; add --only recipe")
    if chosen.arrays is not None:
        arrays.check(chosen.arrays)
    held = chosen.out / RESULT
    if held.exists() and not chosen.resume and not json.loads(held.read_text()).get("dry"):
        raise ValueError(f"{held} is the result of another run; give another --out")
    return {
        "options": " ".join(sys.argv[1:]),
        "budget": chosen.budget,
        "dry": chosen.dry,
        "images": str(chosen.arrays or ("random ones" if chosen.dry else None)),
        "device": None if chosen.dry else machine.accelerator(),
    }


if __name__ == "__main__":
    main()
