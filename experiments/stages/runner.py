"""Run stages in processes of their own until a deadline, and keep what they say.

The process of a stage may fail, hang in a compilation or run out of memory. The other stages do not
notice. The result is written anew with every row, whole or not at all, so that it can be read at
any time and is left behind by every kind of end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.program import now
from experiments.stages.stage import Stage
from neuralflow import files

GRACE = 8.0
"""Seconds between the request to end a stage and its forced end."""
RESERVE = GRACE + 5.0
"""Seconds of the budget for a forced end, and for what comes before and after the stages."""
LAST = 0.1
"""The share of a stage's time that is kept for its last case to end in."""

Message = dict[str, Any]


class Result:
    """The result on disk: what is known of every stage.

    Args:
        path: The JSON file.
        about: Plain data on the whole run.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]):
        self.path = path
        self.stages: dict[str, dict[str, Any]] = {}
        self.about = {"status": "running", "process": os.getpid(), **about}
        self.began = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self) -> None:
        """Write everything that is known, and when."""
        seconds = round(time.monotonic() - self.began, 1)
        known = {**self.about, "seconds": seconds, "written": now(), "stages": self.stages}
        files.write(self.path, files.as_json(known))

    def end(self, status: str | None = None) -> bool:
        """Note how the whole run has ended, and tell whether no stage has failed.

        Args:
            status: How the run has ended. None takes the worst end of a stage: "failed" if one has
                failed, "left out" if none has run, else "done".
        """
        ends = {stage["status"] for stage in self.stages.values()}
        worst = "failed" if "failed" in ends else "left out" if ends <= {"left out"} else "done"
        self.about["status"] = status or worst
        self.write()
        return self.about["status"] == "done"

    def note(self, stage: str, **entries: Any) -> None:
        """Change entries of a stage."""
        self.stages.setdefault(stage, {"status": "running", "rows": []}).update(entries)
        self.write()

    def hear(self, stage: str, message: Message) -> None:
        """Keep a message of a stage: a row, an entry that is replaced, or an item of a list."""
        record = self.stages[stage]
        for name, value in message.items():
            if name in ("rows", "errors", "left out"):
                record.setdefault(name, []).append(value)
            else:
                record[name] = value
        self.write()


def allotted(left: float, stages: Iterable[Stage]) -> float:
    """Return the seconds of the first of the stages that are still to run.

    Time that a stage does not use goes to all later ones.

    Args:
        left: The seconds that are left for all stages.
        stages: The stages that are still to run.
    """
    first, *later = (stage.share for stage in stages)
    return left * first / (first + sum(later)) if later else left


def conduct(
    program: str,
    stages: Mapping[str, Stage],
    plan: Mapping[str, Any],
    budget: float,
    result: Result,
) -> bool:
    """Run the stages of a program, and note how the whole run has ended.

    An interruption ends this process with the number of its signal, after the result is written.

    Args:
        program: The package of the program, such as `experiments.accelerator`.
        stages: The stages by name, in order.
        plan: What every stage is told, but `until`.
        budget: The seconds for all stages.
        result: Where to keep the result.

    Returns:
        Whether no stage has failed and one has run.
    """

    def command(name: str, until: float) -> list[str]:
        words = [program, name, json.dumps({**plan, "until": until})]
        return [sys.executable, "-m", "experiments.stages.worker", *words]

    try:
        run(stages, command, budget, result)
        return result.end()
    except KeyboardInterrupt as signal:
        result.end("interrupted")
        raise SystemExit(128 + (signal.args or (2,))[0]) from None


def run(
    stages: Mapping[str, Stage],
    command: Callable[[str, float], list[str]],
    budget: float,
    result: Result,
) -> None:
    """Run stages one after the other within a budget.

    Args:
        stages: The stages by name, in order.
        command: A function of the name of a stage and the time at which no case may begin any more,
            to the command of the process that runs the stage.
        budget: The seconds for all stages.
        result: Where to keep the result.
    """
    end = time.monotonic() + budget - RESERVE
    names = list(stages)
    for i, name in enumerate(names):
        left = end - time.monotonic()
        seconds = allotted(left, [stages[name] for name in names[i:]])
        if seconds < stages[name].least:
            reason = (
                f"its share of the budget is {max(seconds, 0):.0f} s, {stages[name].least:.0f} s "
                "are needed"
            )
            result.note(name, status="left out", reason=reason)
            continue
        began = time.monotonic()
        result.note(name, allotted=seconds)
        print(f"{name}: {stages[name].what}; {seconds:.0f} s at most", flush=True)
        status = "interrupted"
        try:
            until = time.time() + (1 - LAST) * seconds
            log = result.path.parent / f"{name}.log"
            status = _ended(result, name, command(name, until), seconds, log)
        finally:
            result.note(name, status=status, seconds=time.monotonic() - began)


def _ended(result: Result, name: str, command: list[str], seconds: float, log: Path) -> str:
    """Run the process of one stage, and return how it ended."""
    code, cut = _listen(command, seconds, lambda message: result.hear(name, message), log)
    record = result.stages[name]
    if cut:
        result.note(name, reason=f"its time was over during {record.get('case', 'its start')}")
        return "cut"
    if code:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing in its log"]
        result.hear(name, {"errors": f"the process ended with status {code}: {last[0]}"})
    if record.get("errors"):
        return "failed"
    return "left out" if record.get("reason") else "done"


def _listen(
    command: list[str], seconds: float, heard: Callable[[Message], None], log: Path
) -> tuple[int, bool]:
    """Run a process that writes messages, one JSON object a line.

    At the deadline the process is asked to end, and some seconds later it is forced. An exception
    in this process, such as KeyboardInterrupt, also ends the other process, and hears its last
    messages.

    Returns:
        The status of the process, and whether the deadline ended it.
    """
    cut = threading.Event()
    with (
        log.open("w") as said,
        subprocess.Popen(
            command,
            # The worker ends when this pipe closes, however this process ends.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            # Ctrl-C in a terminal goes to this process alone, which ends the other one.
            start_new_session=True,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None

        def stop() -> None:
            cut.set()
            process.terminate()

        timers = [threading.Timer(seconds, stop), threading.Timer(seconds + GRACE, process.kill)]
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            for line in process.stdout:
                heard(json.loads(line))
        except BaseException:
            process.terminate()
            timers.append(threading.Timer(GRACE, process.kill))
            timers[-1].start()
            for line in process.stdout:
                heard(json.loads(line))
            raise
        finally:
            process.wait()
            for timer in timers:
                timer.cancel()
    return process.returncode, cut.is_set()


def interruptible() -> None:
    """Let SIGTERM end this process as Ctrl-C does, with the number of the signal."""

    def stop(number: int, _: Any) -> None:
        raise KeyboardInterrupt(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
