"""Make the most of some minutes on a GPU or a TPU: measure in stages, in order of worth.

    python -m experiments.accelerator.arrays --data-dir FOLDER --out ARRAYS
    python -m experiments.accelerator --budget 600 --arrays ARRAYS

The first command runs where CIFAR-10 is prepared. The second one needs no network. Every stage has
a process of its own, a share of the budget and a deadline. Time that a stage does not use goes to
the later ones. The tests need pytest and beartype, and are left out without them.

Writes result.json anew with every row, so that it can be read at any time, and a log for each
stage. The program ends before its budget does, with status 0 if no stage has failed and one has
run.

Stages:
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.accelerator import arrays, machine
from experiments.accelerator.plan import STAGES, Plan
from experiments.program import Parser, machine_elsewhere
from experiments.stages import options as stage_options, runner
from experiments.stages.options import RESULT
from experiments.stages.report import show_rows, show_stages


def parser() -> Parser:
    made = stage_options.parser(__file__, __doc__, STAGES, 600.0)
    made.add_argument(
        "--arrays",
        type=Path,
        help="folder that experiments.accelerator.arrays has written; without it, the stages that "
        "need images are left out, and those of --quick take random images",
    )
    made.add_argument("--only", choices=STAGES, help="run this stage alone, with the whole budget")
    made.add_argument(
        "--resume",
        action="store_true",
        help="with --only recipe: go on from the checkpoints in --out, if there are any",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    began, made = time.monotonic(), parser()
    run = made.begin(arguments)
    chosen = run.options
    try:
        about = checked(chosen)
    except (ValueError, OSError) as error:
        made.error(str(error))
    names = [name for name, stage in STAGES.items() if stage.share]
    stages = {name: STAGES[name] for name in ([chosen.only] if chosen.only else names)}
    plan = Plan(
        str(chosen.out), 0.0, chosen.quick, chosen.arrays and str(chosen.arrays), chosen.resume
    )
    result = stage_options.begin(run, about)
    budget = chosen.budget - (time.monotonic() - began)
    try:
        good = runner.conduct("experiments.accelerator", stages, plan._asdict(), budget, result)
    finally:
        show_rows(result.stages)
        show_stages(result.stages)
        stage_options.keep(run, [RESULT])
    sys.exit(0 if good else 1)


def checked(chosen: argparse.Namespace) -> dict[str, Any]:
    """Refuse unfit options, and return what is known of the run before its first stage.

    Raises:
        ValueError: An option has a wrong value, or JAX finds no accelerator.
    """
    if chosen.resume and chosen.only != "recipe":
        raise ValueError("--resume goes on from checkpoints of the recipe; add --only recipe")
    if chosen.arrays is not None:
        arrays.check(chosen.arrays)
    held = chosen.out / RESULT
    if held.exists() and not chosen.resume and not stage_options.was_quick(held):
        raise ValueError(f"{held} is the result of another run; give another --out")
    images = str(chosen.arrays or ("random ones" if chosen.quick else None))
    return {"images": images, **(machine_elsewhere() if chosen.quick else machine.accelerator())}


if __name__ == "__main__":
    main()
