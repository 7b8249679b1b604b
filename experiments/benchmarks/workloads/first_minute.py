"""The first minute with a layer: imports, the first output, the first gradient in a new process.

The layer is an MLP of two dimensions and 32 hidden units, on 16 Euler steps or with adaptive steps
at tolerances of 1e-4, for a batch of 16. Every measurement has a process of its own. The time
starts before the imports. Python's compiled files are there already. *Cold* has an empty
compilation cache of JAX, and *warm* the one that a run before has filled. PyTorch has no such
cache, so that its rows are the same in both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.compare import ROOT
from experiments.benchmarks.measure import ratio
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case, Row, each

MINE = "neuralflow"
MODULES = {
    MINE: "first.ours",
    "by hand, flax and diffrax": "first.plain",
    "torchdiffeq": "peers.first_torchdiffeq",
    "torchdyn": "peers.first_torchdyn",
}
CAUSES = {
    "by hand, flax and diffrax": "neuralflow loads flax, optax, diffrax and orbax, where the scan "
    "by hand needs flax alone; the rest is the tracing of the checks",
    "torchdiffeq": "JAX traces, compiles and loads a program before it computes",
    "torchdyn": "JAX traces, compiles and loads a program before it computes",
}


class Taken(NamedTuple):
    """What one process has measured.

    Attributes:
        imports: The seconds of the imports.
        until: The seconds from before the imports until the value was there.
        value: The value that the layer computed.
    """

    imports: float
    until: float
    value: float


def alone(name: str, plan: Plan, folder: Path, case: dict[str, Any]) -> Taken | str:
    """Run one layer in a new process, or say why it did not run."""
    peer = MODULES[name].startswith("peers.")
    where = f"experiments.benchmarks.{MODULES[name]}:computes"
    environment = {
        **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        "PYTHONPYCACHEPREFIX": str(folder / "python"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / name.split(",")[0].replace(" ", "_")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [plan.peers if peer else sys.executable, "-m", "experiments.benchmarks.alone", where,
         json.dumps(case)],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    if done.returncode == 0:
        return Taken(**json.loads(done.stdout.splitlines()[-1]))
    print(done.stderr, file=sys.stderr)
    why = done.stderr.strip().splitlines()[-1]
    if peer and "ModuleNotFoundError" in why:
        return f"{why.split()[-1].strip(chr(39))} not installed"
    raise RuntimeError(f"{name}: {why}")


def compare(plan: Plan, adaptive: bool, of: str, rounds: int) -> Iterator[Row]:
    """Yield a row for every other package, with a cold cache and with a warm one."""
    case = {"adaptive": adaptive, "of": of}
    taken: dict[tuple[str, bool], list[Taken]] = {}
    left_out: dict[str, str] = {}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as python:
        for name in MODULES:  # The first processes compile Python's files.
            answer = alone(name, plan, Path(python), case)
            if isinstance(answer, str):
                left_out[name] = answer
        present = [name for name in MODULES if name not in left_out]
        for _ in range(rounds):
            for name in rng.permutation(present):
                _forget(Path(python))
                for warm in (False, True):
                    answer = alone(name, plan, Path(python), case)
                    assert isinstance(answer, Taken), answer
                    taken.setdefault((name, warm), []).append(answer)
    for name in MODULES:
        if name in left_out:
            yield {"neuralflow": "a new process", "other": name, "left out": left_out[name]}
        elif name != MINE:
            for warm in (False, True):
                yield _row(name, warm, taken[MINE, warm], taken[name, warm])


def _forget(folder: Path) -> None:
    """Empty the compilation caches, and keep Python's files."""
    for path in folder.iterdir():
        if path.name != "python":
            for entry in path.iterdir():
                entry.unlink()


def _row(name: str, warm: bool, ours: list[Taken], theirs: list[Taken]) -> Row:
    a, b = (np.asarray(taken) for taken in (ours, theirs))
    apart = abs(a[0, 2] - b[0, 2]) / abs(b[0, 2])
    if not apart < 1e-2:
        raise ValueError(f"the value of {MINE} and of {name} differ by {apart:.1e}")
    return {
        "neuralflow": "warm cache" if warm else "cold cache",
        "other": name,
        "time": ratio(a[:, 1], b[:, 1]),
        "over its imports": ratio(a[:, 1], a[:, 0]),
        "other over its imports": ratio(b[:, 1], b[:, 0]),
        "ms": 1e3 * float(np.median(a[:, 1])),
        "other ms": 1e3 * float(np.median(b[:, 1])),
        "imports s": float(np.median(a[:, 0])),
        "other imports s": float(np.median(b[:, 0])),
        "rounds": len(a),
        "apart": apart,
        "cause": CAUSES[name],
    }


def cases(plan: Plan) -> Iterator[Case]:
    for adaptive in (False,) if plan.quick else (False, True):
        for of in ("gradient",) if plan.quick else ("output", "gradient"):
            steps = "adaptive steps" if adaptive else "16 Euler steps"
            yield f"first {of}, {steps}", each(compare, plan, adaptive, of, 1 if plan.quick else 7)
