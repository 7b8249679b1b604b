"""Measure kept results again, and tell every number that has changed.

    python -m experiments.reproduce --quick --data-dir FOLDER

Every program runs with the options of its kept result, the shortest first, in a process and a
folder of its own. `--quick` goes on for 30 minutes, as long as the next one fits what is left by
the time of its kept result. `--minutes` names another limit; without a limit all are made. `--only`
takes results by parts of their paths. FOLDER holds the prepared TFDS sets; without it, what needs
data is left out.

Numbers are compared one by one, but for times, ratios of times, and what a clock or chance decides.
A number has changed where it differs by more than 1% and more than a millionth. On another
processor long trainings end elsewhere, so that a change there is no fault by itself: the largest
one stands in the table.

Writes reproduce.json: a row for each result that was made again, with the numbers that have
changed, and the reason for each that was left out. Ends with status 1 if a number has changed or a
program has failed.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.program import ROOT, Parser, positive
from experiments.report.kept import Result, experiments
from experiments.report.tables import RUN
from neuralflow.console import progress, screen

RELATIVE, ABSOLUTE = 1e-2, 1e-6
TIMES = re.compile(
    r"second|\btimes?\b|compile|first call|imports|cache\b|(ladder|diffrax|step) over"
)
CHANCE = {
    "benchmarks": "its numbers are times and ratios of times",
    "resume": "the moments of its signals are those of the machine",
    "transformer/language.json": "its training ends when its time is up",
}
"""Results that are no numbers to be made again, by the beginning of their paths, and why."""
Place = tuple[str | int, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    shorter = "leave out what does not fit 30 minutes"
    parser = Parser(__file__, __doc__, data="taken", quick={"minutes": 30.0}, shorter=shorter)
    parser.add_argument(
        "--minutes", type=positive, help="leave out what does not fit, none by default"
    )
    parser.add_argument("--only", nargs="+", default=[""], metavar="PART", help="parts of paths")
    run = parser.begin(arguments)
    options = run.options
    began = time.monotonic()
    chosen, left_out = plan(options)
    for part in options.only:
        if not any(part in known for known in (*map(name, chosen), *left_out)):
            parser.error(f"--only must be parts of paths of kept results, got {part}")
    rows = []
    run.write("reproduce", {"results": rows, "left out": left_out})
    with progress(len(chosen)) as done:
        for result in chosen:
            rest = 60 * (options.minutes or math.inf) - (time.monotonic() - began)
            if reason := too_long(result, rest):
                left_out[name(result)] = reason
                outcome = "left out"
            else:
                out = run.folder / "runs" / Path(name(result)).with_suffix("")
                rows.append(again(result, out, options.data_dir))
                outcome = rows[-1]["outcome"]
            run.write("reproduce", {"results": rows, "left out": left_out})
            done(f"{name(result)}: {outcome}")
    show(rows, left_out)
    if any(row["outcome"] != "the same" for row in rows):
        raise SystemExit(1)


def name(result: Result) -> str:
    """Return the path of a result below the experiments."""
    return result.path.relative_to(ROOT).as_posix()


def plan(options: Namespace) -> tuple[list[Result], dict[str, str]]:
    """Return the results to make again, the shortest first, and why the others are left out."""
    held = [result for each in experiments() for result, _ in each.results]
    held = [result for result in held if any(part in name(result) for part in options.only)]
    chosen, left_out = [], {}
    for result in sorted(held, key=seconds):
        reason = unfit(result, options.data_dir)
        if reason is None:
            chosen.append(result)
        else:
            left_out[name(result)] = reason
    return chosen, left_out


def seconds(result: Result) -> float:
    """Return the seconds that a result took when it was kept, or infinity if nobody knows."""
    return result.time[1] if result.time else math.inf


def too_long(result: Result, rest: float) -> str | None:
    """Return why a result does not fit the seconds that are left, or None."""
    if seconds(result) <= rest:
        return None
    return f"it takes {seconds(result):.0f} seconds, and {max(rest, 0):.0f} are left"


def unfit(result: Result, data: Path | None) -> str | None:
    """Return why a result cannot be made again, or None."""
    for beginning, reason in CHANCE.items():
        if name(result).startswith(beginning):
            return reason
    if len(result.commands) != 1:
        return f"it has {len(result.commands)} commands, and one makes a result again"
    if result.time is None:
        return "its time is not recorded"
    if "FOLDER" in result.commands[0] and data is None:
        return "it needs the data of --data-dir"
    return None


def again(result: Result, out: Path, data: Path | None) -> dict[str, Any]:
    """Make a result again, and return its row."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("w") as log:
        ended = subprocess.run(
            words(result.commands[0], out, data), cwd=ROOT.parent, stdout=log, stderr=log
        )
    made = out / result.path.name
    row: dict[str, Any] = {"result": name(result), "outcome": "the same"}
    if ended.returncode or not made.is_file():
        return row | {"outcome": f"failed with status {ended.returncode}, see {out / 'log.txt'}"}
    now = Result(result.path, json.loads(made.read_text()))
    before, after = dict(numbers(result.data)), dict(numbers(now.data))
    changed = {
        " / ".join(map(str, place)): [before.get(place), after.get(place)]
        for place in before | after
        if not same(before.get(place), after.get(place))
    }
    both = [(before[place], after[place]) for place in before.keys() & after.keys()]
    return row | {
        "outcome": f"{len(changed)} numbers have changed" if changed else "the same",
        "numbers": len(before),
        "largest relative change": max((apart(*pair) for pair in both), default=0.0),
        "changed": changed,
        "seconds kept": result.time and result.time[1],
        "seconds now": now.time and now.time[1],
    }


def words(command: str, out: Path, data: Path | None) -> list[str]:
    """Return the words of a process that makes a kept result again, in another folder."""
    told = re.sub(r" --keep\b| --out[ =]\S+", "", command)
    program, *rest = shlex.split(told.removeprefix("python "))
    start = [program, *rest] if program == "-m" else ["-m", program, *rest]
    filled = [word.replace("FOLDER", str(data)) for word in start]
    return [sys.executable, *filled, "--out", str(out)]


def numbers(value: Any, place: Place = ()) -> Iterator[tuple[Place, float | None]]:
    """Yield the numbers of a result with their places, but for times and what tells of the run."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if not TIMES.search(key) and (place or key not in RUN):
                yield from numbers(entry, (*place, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from numbers(entry, (*place, index))
    elif value is None or isinstance(value, int | float):
        yield place, value


def same(before: float | None, after: float | None) -> bool:
    """Return whether a number is what it was."""
    if before is None or after is None:
        return before is after
    return math.isclose(before, after, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def apart(before: float | None, after: float | None) -> float:
    """Return how far two numbers are apart, relative to the larger one."""
    if before is None or after is None or abs(before - after) <= ABSOLUTE:
        return 0.0
    return abs(before - after) / max(abs(before), abs(after))


def show(rows: Sequence[dict[str, Any]], left_out: dict[str, str]) -> None:
    """Print a table of the results that were made again, and what was left out."""
    table = Table(title="Kept results, made again")
    for head in ("result", "outcome", "numbers", "largest relative change", "seconds kept", "now"):
        table.add_column(head, justify="left" if head in ("result", "outcome") else "right")
    for row in rows:
        cells = (row.get(key) for key in ("numbers", "largest relative change"))
        times = (row.get(key) for key in ("seconds kept", "seconds now"))
        table.add_row(row["result"], row["outcome"], *map(_text, cells), *map(_text, times))
    screen().print(table)
    for result, reason in left_out.items():
        print(f"left out: {result}, because {reason}")
    changed = sum(row["outcome"] != "the same" for row in rows)
    if rows:
        print(f"{len(rows) - changed} of {len(rows)} results are the same")
    print(f"{len(rows)} results were made again, {len(left_out)} left out")


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
