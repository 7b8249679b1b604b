"""What the command lines of programs of stages share, beside the options of all programs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.program import Parser, Run, positive
from experiments.stages.runner import Result, interruptible
from experiments.stages.stage import Stage
from neuralflow import files

RESULT = "result.json"


def parser(
    file: str, about: str | None, stages: Mapping[str, Stage], seconds: float, **shared: Any
) -> Parser:
    """Return a parser with the option --budget, whose help lists the stages.

    Args:
        file: The file of the program, `__file__`.
        about: The text before the list of the stages.
        stages: The stages by name.
        seconds: The budget by default.
        **shared: Whatever else `Parser` takes.
    """
    width = max(map(len, stages)) + 1
    listed = "\n".join(f"  {name:{width}} {stage.what}" for name, stage in stages.items())
    made = Parser(file, f"{about}{listed}", **shared)
    made.add_argument(
        "--budget",
        type=positive,
        default=seconds,
        help=f"seconds for everything, {seconds:g} by default",
    )
    return made


def begin(run: Run, about: Mapping[str, Any]) -> Result:
    """Prepare this process for a run, and return where the result is written, in --out.

    The stages of a quick run compile quickly, as the tests do.

    Args:
        run: The run.
        about: Plain data on the whole run.
    """
    if run.options.quick:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    interruptible()
    return Result(run.options.out / RESULT, {**run.about(), **about})


def was_quick(path: Path) -> bool:
    """Return whether a result is that of a quick run.

    Raises:
        ValueError: The result is damaged.
    """
    try:
        return json.loads(path.read_text()).get("options", {}).get("quick", False)
    except ValueError:
        raise ValueError(f"{path} is damaged; give another --out") from None


def keep(run: Run, names: Iterable[str]) -> None:
    """Copy files of --out over those that are kept beside the program, with --keep."""
    for name in names if run.options.keep else ():
        files.write(
            run.folder / name, lambda to, name=name: shutil.copy(run.options.out / name, to)
        )
