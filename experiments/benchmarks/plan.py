"""The stages of the benchmarks, and what every stage is told."""

from __future__ import annotations

from typing import NamedTuple

from experiments.stages.stage import Stage


class Plan(NamedTuple):
    """What a stage is told.

    Attributes:
        out: The folder of the result.
        until: The time, as `time.time` gives it, at which no case begins any more.
        dry: Whether to run the smallest sizes, to see that everything runs.
        peers: The Python that has the packages of `requirements.txt`.
        starts: How often every route starts anew, for as many first calls.
    """

    out: str
    until: float
    dry: bool
    peers: str
    starts: int


def _workload(name: str, share: float, what: str) -> Stage:
    return Stage(f"workloads.{name}:cases", share, 5, what)


STAGES = {
    "fixed_grid": _workload("fixed_grid", 10, "ResNets on fixed grids"),
    "small_ode": _workload("small_ode", 10, "a small neural ODE with adaptive steps"),
}
