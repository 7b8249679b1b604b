"""What the command lines of programs of stages share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.stages.runner import Result, interruptible
from experiments.stages.stage import Stage


def parser(
    program: str, about: str | None, stages: Mapping[str, Stage], seconds: float
) -> argparse.ArgumentParser:
    """Return a parser with the option --budget, whose help lists the stages.

    Args:
        program: The package of the program.
        about: The text before the list of the stages.
        stages: The stages by name.
        seconds: The budget by default.
    """
    width = max(map(len, stages)) + 1
    listed = "\n".join(f"  {name:{width}} {stage.what}" for name, stage in stages.items())
    made = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=f"{about}{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--budget",
        type=float,
        default=seconds,
        help=f"seconds for everything, {seconds:g} by default",
    )
    return made


def check_budget(budget: float) -> None:
    """Refuse a budget that is no number of seconds.

    Raises:
        ValueError: The budget is not positive and finite.
    """
    if not 0 < budget < float("inf"):
        raise ValueError(f"--budget must be a number of seconds above 0, got {budget:g}")


def begin(
    parser: argparse.ArgumentParser, path: Path, about: Mapping[str, Any], dry: bool
) -> Result:
    """Prepare this process for a run, and return where the result is kept.

    A folder that cannot be written ends the program.

    Args:
        parser: The parser, which tells errors.
        path: The JSON file of the result.
        about: Plain data on the whole run.
        dry: Whether the stages compile quickly, as the tests do. The times of a dry run mean
            nothing.
    """
    if dry:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    interruptible()
    try:
        return Result(path, about)
    except OSError as error:
        parser.error(f"--out must be a folder that can be written ({error}); give another one")
