"""Every benchmark in one command: the table of ratios, JSON, and one picture.

    pip install -r experiments/benchmarks/requirements.txt   (in an environment of its own)
    python -m experiments.benchmarks --peers PYTHON

PYTHON is the Python of that environment. Without it, the packages are looked for beside neuralflow,
and what is not installed is left out, with the reason in its row. Every workload has a process of
its own, and every package with a workload another one. The routes of a case are verified equal
before they are timed, and run in turn, in an order drawn anew every round.

Writes result.json anew with every row, so that it can be read at any time, and at the end page.md
and page.png. `--resume` goes on from the result of a run that was interrupted: it repeats what has
not ended well. Ends with status 0 if no workload has failed.

Workloads:
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import page
from experiments.benchmarks.plan import STAGES, Plan
from experiments.program import Parser, Run, count, machine_elsewhere
from experiments.stages import options as stage_options, runner
from experiments.stages.options import RESULT
from experiments.stages.report import show_stages

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "diffrax", "equinox", "bijx", "numpy", "torch",
    "torchdiffeq", "torchode", "torchdyn", "scikit-learn",
)  # fmt: skip


def parser() -> Parser:
    quick = {"only": ["product", "memory"], "starts": 1}
    made = stage_options.parser(__file__, __doc__, STAGES, 5400.0, kept="results", quick=quick)
    made.add_argument(
        "--peers", default=sys.executable, help="the Python that has the packages to compare with"
    )
    made.add_argument(
        "--only", choices=STAGES, nargs="+", help="run these workloads alone, with --quick two"
    )
    made.add_argument(
        "--starts", type=count, default=3, help="first calls of every route, 3 by default"
    )
    made.add_argument(
        "--resume", action="store_true", help="keep the workloads of --out that have ended well"
    )
    made.add_argument(
        "--page", action="store_true", help="measure nothing, and draw the page of --out anew"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    began, made = time.monotonic(), parser()
    run = made.begin(arguments)
    chosen, path = run.options, run.options.out / RESULT
    try:
        held = checked(chosen, path)
        if chosen.page:
            page.write(held, chosen.out)
            stage_options.keep(run, FILES)
            return
        about = described(run, held)
    except (ValueError, OSError) as error:
        made.error(str(error))
    kept = {n: s for n, s in held.get("stages", {}).items() if s["status"] == "done"}
    stages = {n: s for n, s in STAGES.items() if n in (chosen.only or STAGES) and n not in kept}
    result = stage_options.begin(run, about)
    result.stages.update(kept)
    plan = Plan(str(chosen.out), 0.0, chosen.quick, chosen.peers, chosen.starts)
    budget = chosen.budget - (time.monotonic() - began)
    try:
        good = runner.conduct("experiments.benchmarks", stages, plan._asdict(), budget, result)
    finally:
        show_stages(result.stages)
        page.write(json.loads(path.read_text()), chosen.out)
        stage_options.keep(run, FILES)
    sys.exit(0 if good else 1)


FILES = (RESULT, page.PAGE, page.PICTURE)
"""What is kept."""


def checked(chosen: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Refuse unfit options, and return the result that is there already, or an empty one.

    Raises:
        ValueError: An option has a wrong value.
    """
    goes_on = chosen.resume or chosen.page
    if not path.exists():
        if goes_on:
            raise ValueError(f"{path} is not there to go on from; leave --resume and --page out")
        return {}
    quick = stage_options.was_quick(path)
    if goes_on and quick != chosen.quick and not chosen.page:
        raise ValueError(f"{path} is the result of a {'quick' if quick else 'whole'} run")
    if not goes_on and not quick:
        raise ValueError(f"{path} is the result of a run before; add --resume, or another --out")
    return json.loads(path.read_text()) if goes_on else {}


def described(run: Run, held: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the run before its first stage: the machine and the versions.

    Raises:
        ValueError: The Python of the peers does not run.
    """
    peers, words = run.options.peers, ["-m", "experiments.versions", *PACKAGES]
    try:
        done = subprocess.run([peers, *words], capture_output=True, text=True, cwd=ROOT)
        asked = json.loads(done.stdout)
    except (OSError, ValueError) as error:
        raise ValueError(f"--peers must be a Python, got {peers} ({error})") from None
    command = run.command.replace(peers, "PYTHON")
    return {
        "command": command,
        "options": {**run.about()["options"], "peers": "PYTHON"},
        "commands": [*held.get("commands", []), command],
        **machine_elsewhere(),
        "versions of the peers": {**held.get("versions of the peers", {}), **asked},
    }


if __name__ == "__main__":
    main()
