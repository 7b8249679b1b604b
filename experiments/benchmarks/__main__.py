"""Every benchmark in one command: the table of ratios, JSON, and one picture.

    pip install -r experiments/benchmarks/requirements.txt   (in an environment of its own)
    python -m experiments.benchmarks --peers PYTHON

PYTHON is the Python of that environment. Without it, the packages are looked for beside neuralflow,
and what is not installed is left out, with the reason in its row. Every workload has a process of
its own, and every package with a workload another one. The routes of a case are verified equal
before they are timed, and run in turn, in an order drawn anew every round.

The folder --out holds result.json, which is written anew with every row and can be read at any
time, and at the end page.md and page.png. `--resume` goes on from the result of a run that was
interrupted: it repeats what has not ended well. Ends with status 0 if no workload has failed.

Workloads:
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks import page
from experiments.benchmarks.plan import STAGES, Plan
from experiments.stages import options as stage_options, runner
from experiments.stages.report import show_stages

RESULT = "result.json"
PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "diffrax", "equinox", "bijx", "numpy", "torch",
    "torchdiffeq", "torchode", "torchdyn", "scikit-learn",
)  # fmt: skip
ASK = (
    "import json, platform, sys; from importlib import metadata; found = {}\n"
    "for name in sys.argv[1:]:\n"
    "    try: found[name] = metadata.version(name)\n"
    "    except metadata.PackageNotFoundError: pass\n"
    "print(json.dumps({'python': platform.python_version(), **found}))"
)


def options() -> argparse.ArgumentParser:
    parser = stage_options.parser("experiments.benchmarks", __doc__, STAGES, 5400.0)
    parser.add_argument(
        "--peers", default=sys.executable, help="the Python that has the packages to compare with"
    )
    parser.add_argument("--only", choices=STAGES, nargs="+", help="run these workloads alone")
    parser.add_argument(
        "--starts", type=int, default=3, help="first calls of every route, 3 by default"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the workloads of --out that have ended well"
    )
    parser.add_argument(
        "--dry", action="store_true", help="run two rounds of the smallest sizes, in some minutes"
    )
    parser.add_argument(
        "--page", action="store_true", help="measure nothing, and draw the page of --out anew"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder")
    return parser


def main() -> None:
    began, parser = time.monotonic(), options()
    chosen = parser.parse_args()
    path = chosen.out / RESULT
    try:
        held = checked(chosen, path)
        if chosen.page:
            page.write(held, chosen.out)
            print(f"written to {chosen.out / page.PAGE}")
            return
        about = described(chosen, held)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    kept = {n: s for n, s in held.get("stages", {}).items() if s["status"] == "done"}
    stages = {n: s for n, s in STAGES.items() if n in (chosen.only or STAGES) and n not in kept}
    result = stage_options.begin(parser, path, about, chosen.dry)
    result.stages.update(kept)
    plan = Plan(str(chosen.out), 0.0, chosen.dry, chosen.peers, chosen.starts)
    budget = chosen.budget - (time.monotonic() - began)
    try:
        good = runner.conduct("experiments.benchmarks", stages, plan._asdict(), budget, result)
    finally:
        show_stages(result.stages)
        page.write(json.loads(path.read_text()), chosen.out)
        print(f"written to {chosen.out / page.PAGE}")
    sys.exit(0 if good else 1)


def checked(chosen: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Refuse unfit options, and return the result that is there already, or an empty one.

    Raises:
        ValueError: An option has a wrong value.
    """
    stage_options.check_budget(chosen.budget)
    if chosen.starts < 1:
        raise ValueError(f"--starts must be 1 or more, got {chosen.starts}")
    goes_on = chosen.resume or chosen.page
    if not path.exists():
        if goes_on:
            raise ValueError(f"{path} is not there to go on from; leave --resume and --page out")
        return {}
    try:
        held = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path} is damaged; give another --out") from None
    if goes_on and held.get("dry") != chosen.dry and not chosen.page:
        raise ValueError(f"{path} is the result of a {'dry' if held.get('dry') else 'whole'} run")
    if not goes_on and not held.get("dry"):
        raise ValueError(f"{path} is the result of a run before; add --resume, or another --out")
    return held if goes_on else {}


def described(chosen: argparse.Namespace, held: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the run before its first stage: the machine and the versions.

    Raises:
        ValueError: The Python of the peers does not run.
    """
    asked = {}
    for name, python in (("versions", sys.executable), ("versions of the peers", chosen.peers)):
        try:
            done = subprocess.run([python, "-c", ASK, *PACKAGES], capture_output=True, text=True)
            asked[name] = json.loads(done.stdout)
        except (OSError, ValueError) as error:
            raise ValueError(f"--peers must be a Python, got {python} ({error})") from None
    command = " ".join(["python -m experiments.benchmarks", *sys.argv[1:]])
    return {
        "commands": [*held.get("commands", []), command.replace(chosen.peers, "PYTHON")],
        "dry": chosen.dry,
        "device": processor(),
        "cores": os.cpu_count(),
        **asked,
    }


def processor() -> str:
    """Return the name of the processor as Linux tells it, or an empty text."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")


if __name__ == "__main__":
    main()
