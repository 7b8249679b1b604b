"""Statements of the literature beside what is measured here, one row in one command.

    python -m experiments.literature NAME

NAME is gradient-error, sander, cohen, chizat, depth-transfer, marion or hurst, or some of them;
without a name all rows run, one after the other. The module of a row tells its question, its
protocol and the published statements. A statement agrees where the whole interval of what was
measured lies in a range that is ours, which the table shows. `--paper` takes the paper's size, as
far as it can be had. Finished runs in the folder are found again, so that a row that was
interrupted goes on; give another folder when the code has changed. With `--keep`, all runs are made
anew.

Writes NAME.json (statements with number, interval and verdict, and all runs), NAME.png, and the
sweep of the runs with its table in a folder NAME.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.literature.statements import Size, sentence, table
from experiments.program import Parser, cores, count
from neuralflow import sweeps
from neuralflow.console import screen

NAMES = ("gradient-error", "sander", "cohen", "chizat", "depth-transfer", "marion", "hurst")

TABLE = (
    "statements",
    ("published", "source", "measured", "mean", "agrees from", "agrees to", "verdict"),
)
"""What the page of the experiments shows of a row."""


def module(name: str) -> Any:
    """Return the module of a row."""
    return importlib.import_module(f"experiments.literature.{name.replace('-', '_')}")


def rows(name: str, size: Size, seeds: int | None, out: Path) -> list[dict[str, Any]]:
    """Make the runs of a row by the sweep engine, and return them with their arrays.

    Each has the seconds that it took, also where it was found finished.
    """
    row = module(name)
    finished = sweeps.run(row.run, row.configurations(size, seeds), out=out)
    for each in finished:
        if each["status"] != "finished":
            raise SystemExit(f"{name}: {each['failure']} (see {out / each['run'] / 'log.txt'})")
    own = ("status", "failure", "run")
    return [
        {k: v for k, v in each.items() if k not in own}
        | sweeps.arrays(out / each["run"])
        | {"seconds": _seconds(out / each["run"])}
        for each in finished
    ]


def _seconds(folder: Path) -> float:
    return json.loads((folder / "result.json").read_text())["seconds"]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a run as plain data."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--paper", action="store_true", help="take the paper's size")
    parser.add_argument("--seeds", type=count, help="their number; every row has its own default")
    run = parser.begin(arguments)
    options = run.options
    if options.quick and options.paper:
        parser.error("take --quick or --paper, not both")
    for name in options.names:
        if name not in NAMES:
            parser.error(f"NAME must be one of {', '.join(NAMES)}, got {name}")
    size: Size = "quick" if options.quick else "paper" if options.paper else "default"
    for name in options.names or NAMES:
        found = rows(name, size, options.seeds, run.work / name)
        statements, picture = module(name).report(found)
        screen().print(table(name, statements))
        print(f"{name}: {sentence(statements)}")
        if size == "quick":
            print("these are the smallest sizes: they show that all of it runs, and decide nothing")
        held = {
            "question": module(name).__doc__.splitlines()[0],
            "size": size,
            "seconds of runs": round(sum(row["seconds"] for row in found), 1),
            "verdict": sentence(statements),
            "statements": [statement.record() for statement in statements],
            "runs": [plain(row) for row in found],
        }
        run.write(name, held, {f"{name}.png": picture})


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", cores())  # The seeds of marion are shared out.
    main()
