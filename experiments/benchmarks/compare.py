"""The same mathematics by several routes, verified equal and then timed in turn."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from experiments.benchmarks.host import Bench, Failed, Started
from experiments.benchmarks.measure import ratio
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case, Row, each

ROOT = Path(__file__).parents[2]
SERVE = "from experiments.benchmarks.host import main; main()"
ROUNDS = (9, 61)
"""The least and the largest number of timed rounds, over all starts."""
HERE = "neuralflow"
"""The process of the routes that need nothing beside neuralflow."""


class Route(NamedTuple):
    """A way to compute what a workload asks for.

    Attributes:
        name: The name of the route.
        where: The function `module:name` of `experiments.benchmarks` that builds the route.
        options: The arguments of the builder beside those of the case.
        needs: The packages that the route needs, beside those of neuralflow.
        process: The name of the process that runs the route. Routes share a process where their
            packages get along.
    """

    name: str
    where: str
    options: Mapping[str, Any] = {}
    needs: tuple[str, ...] = ()
    process: str = HERE


def torch_routes(
    where: str,
    name: str = "PyTorch",
    needs: tuple[str, ...] = ("torch",),
    threads: tuple[int, ...] = (1, 2),
    **options: Any,
) -> tuple[Route, ...]:
    """Return a route of PyTorch for each number of threads.

    All routes with as many threads share a process.
    """
    return tuple(
        Route(
            f"{name}, {n} thread{'s' * (n > 1)}",
            where,
            {**options, "threads": n},
            needs,
            f"PyTorch, {n}",
        )
        for n in threads
    )


class Runner(Protocol):
    """What runs routes: a bench in this process, or a host, which has a bench in another one."""

    def clear(self) -> None: ...
    def missing(self, packages: tuple[str, ...]) -> list[str]: ...
    def start(self, name: str, where: str, case: Mapping[str, Any]) -> Started: ...
    def run(self, name: str) -> float: ...


class Host:
    """A bench in another process, which ends with this one."""

    def __init__(self, python: str):
        self.process = subprocess.Popen(
            [python, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )

    @staticmethod
    @cache
    def of(python: str, process: str) -> Host:
        """Return the process of that name, which the Python with its packages runs."""
        return Host(python)

    def clear(self) -> None:
        self._asked("clear")

    def missing(self, packages: tuple[str, ...]) -> list[str]:
        return self._asked("missing", packages)

    def start(self, name: str, where: str, case: Mapping[str, Any]) -> Started:
        return self._asked("start", name, where, dict(case))

    def run(self, name: str) -> float:
        return self._asked("run", name)

    def _asked(self, *request: Any) -> Any:
        """Return the answer to a request.

        Raises:
            RuntimeError: The request failed in the other process.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            pickle.dump(request, self.process.stdin)
            self.process.stdin.flush()
            answer = pickle.load(self.process.stdout)
        except (BrokenPipeError, EOFError):
            raise RuntimeError(f"its process ended with status {self.process.wait()}") from None
        if isinstance(answer, Failed):
            raise RuntimeError(answer.why)
        return answer


@dataclass
class Measured:
    """What was measured of a route.

    Attributes:
        first: The seconds of the first call, for every start.
        runs: The seconds of every timed run.
        memory: The bytes of temporary memory of a compiled program, or None.
        values: The arrays that the route has computed, by name.
        left_out: Why the route did not run. Empty if the route ran.
    """

    first: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    memory: int | None = None
    values: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: str = ""


@dataclass(frozen=True)
class Workload:
    """One piece of mathematics, and the routes to it.

    Attributes:
        routes: The routes.
        pairs: The names of routes that are compared: one of neuralflow, and another one.
        same: The relative difference up to which values of a pair are equal, by the name of the
            value. The differences are relative to the largest entry.
        told: The names of single values that the rows report, such as the numbers of steps.
        causes: Why neuralflow loses, where it does, by the name of the other route.
    """

    routes: Sequence[Route]
    pairs: Sequence[tuple[str, str]]
    same: Mapping[str, float]
    told: Sequence[str] = ()
    causes: Mapping[str, str] = field(default_factory=dict)

    def case(
        self,
        name: str,
        case: Mapping[str, Any],
        plan: Plan,
        *,
        seconds: float = 12.0,
        rounds: tuple[int, int] = ROUNDS,
        work: float | None = None,
    ) -> Case:
        """Return a case of a stage that compares all routes, in processes of their own.

        Args:
            name: The name of the case.
            case: The arguments of the builders.
            plan: What the stage is told.
            seconds: The seconds of the timed rounds, about.
            rounds: The least and the largest number of timed rounds, over all starts.
            work: The operations of the mathematics, two for a multiply-add, or None. The rows then
                tell the operations a second.
        """

        def rows() -> Iterator[Row]:
            starts, least, limits = (
                (1, 0.0, (2, 2)) if plan.quick else (plan.starts, seconds, rounds)
            )
            for row in self.rows(case, opened(self.routes, plan), starts, least, limits):
                if work and "ms" in row:
                    row["GFLOP/s"] = 1e-6 * work / row["ms"]
                    row["other GFLOP/s"] = 1e-6 * work / row["other ms"]
                yield row

        return name, each(rows)

    def here(self, case: Mapping[str, Any], rounds: int) -> list[Row]:
        """Compare the routes that need nothing beside neuralflow, in this process."""
        routes = [route for route in self.routes if route.process == HERE]
        names = {route.name for route in routes}
        pairs = [pair for pair in self.pairs if names.issuperset(pair)]
        alone = replace(self, routes=routes, pairs=pairs)
        return alone.rows(case, {HERE: Bench()}, 1, 0.0, (rounds, rounds))

    def rows(
        self,
        case: Mapping[str, Any],
        hosts: Mapping[str, Runner],
        starts: int,
        seconds: float,
        rounds: tuple[int, int],
    ) -> list[Row]:
        """Return a row for every pair.

        Args:
            case: The arguments of the builders.
            hosts: The processes that run the routes, by name.
            starts: How often the routes start anew, for as many first calls.
            seconds: The seconds of the timed rounds, about.
            rounds: The least and the largest number of rounds, over all starts.

        Raises:
            ValueError: The values of a pair differ.
        """
        measured = {route.name: Measured() for route in self.routes}
        rng = np.random.default_rng(0)
        limits = [max(1, n // starts) for n in rounds]
        for _ in range(starts):
            for host in hosts.values():
                host.clear()
            routes = [self.routes[i] for i in rng.permutation(len(self.routes))]
            ready = [r for r in routes if _start(r, case, hosts, measured[r.name])]
            _time(ready, hosts, measured, rng, seconds / starts, limits)
        return [self._row(ours, other, measured) for ours, other in self.pairs]

    def _row(self, ours: str, other: str, measured: Mapping[str, Measured]) -> Row:
        """Return the row of a pair, after a comparison of its values."""
        a, b = measured[ours], measured[other]
        row: Row = {"neuralflow": ours, "other": other}
        if a.left_out or b.left_out:
            return {**row, "left out": a.left_out or b.left_out}
        apart = {
            name: _apart(a.values[name], b.values[name])
            for name in self.same
            if name in a.values and name in b.values
        }
        for name, difference in apart.items():
            if not difference <= self.same[name]:
                raise ValueError(
                    f"{name} of {ours} and of {other} differ by {difference:.1e}, "
                    f"{self.same[name]:.0e} is allowed"
                )
        told = {
            name: " and ".join(
                f"{m.values[name].item():.4g}" if name in m.values else "?" for m in (a, b)
            )
            for name in self.told
        }
        return {
            **row,
            **told,
            "time": ratio(np.asarray(a.runs), np.asarray(b.runs)),
            "first call": ratio(np.asarray(a.first), np.asarray(b.first)),
            "ms": 1e3 * float(np.median(a.runs)),
            "other ms": 1e3 * float(np.median(b.runs)),
            "first s": float(np.median(a.first)),
            "other first s": float(np.median(b.first)),
            "memory": a.memory / b.memory if a.memory and b.memory else None,
            "rounds": len(a.runs),
            "apart": max(apart.values(), default=None),
            "cause": self.causes.get(other, ""),
        }


def opened(routes: Sequence[Route], plan: Plan) -> dict[str, Runner]:
    """Return the processes of routes, by name."""
    pythons = {HERE: sys.executable}
    return {
        route.process: Host.of(pythons.get(route.process, plan.peers), route.process)
        for route in routes
    }


def one_by_one(
    routes: Sequence[Route], case: Mapping[str, Any], plan: Plan, runs: int
) -> Iterator[tuple[Route, Measured]]:
    """Measure routes one after the other, each alone, with two runs in a quick run."""
    hosts = opened(routes, plan)
    for route in routes:
        measured = Measured()
        if _start(route, case, hosts, measured):
            host = hosts[route.process]
            measured.runs = [host.run(route.name) for _ in range(2 if plan.quick else runs)]
            host.clear()
        yield route, measured


def _start(
    route: Route, case: Mapping[str, Any], hosts: Mapping[str, Runner], measured: Measured
) -> bool:
    """Start a route, and return whether the route is ready."""
    host = hosts[route.process]
    try:
        if missing := host.missing(route.needs):
            measured.left_out = f"{', '.join(missing)} not installed"
            return False
        started = host.start(
            route.name, f"experiments.benchmarks.{route.where}", {**case, **route.options}
        )
    except RuntimeError as error:
        if route.process == HERE:
            raise
        measured.left_out = str(error)
        return False
    measured.first.append(started.first)
    measured.memory, measured.values = started.memory, started.values
    return True


def _time(
    routes: Sequence[Route],
    hosts: Mapping[str, Runner],
    measured: Mapping[str, Measured],
    rng: np.random.Generator,
    seconds: float,
    rounds: Sequence[int],
) -> None:
    """Run all routes in turn, in an order drawn anew every round."""
    runs: dict[str, list[float]] = {route.name: [] for route in routes}

    def run_all() -> float:
        for i in rng.permutation(len(routes)):
            runs[routes[i].name].append(hosts[routes[i].process].run(routes[i].name))
        return sum(taken[-1] for taken in runs.values())

    count = seconds / run_all() if routes else 0
    for _ in range(int(min(max(count, rounds[0]), rounds[1])) - 1):
        run_all()
    for name, taken in runs.items():
        measured[name].runs += taken


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference, relative to the largest entry."""
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
