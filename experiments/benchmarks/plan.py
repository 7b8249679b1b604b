"""The stages of the benchmarks, and what every stage is told."""

from __future__ import annotations

from typing import NamedTuple

from experiments.stages.stage import Stage


class Plan(NamedTuple):
    """What a stage is told.

    Attributes:
        out: The folder of the result.
        until: The time, as `time.time` gives it, at which no case begins any more.
        quick: Whether to run the smallest sizes, to see that everything runs.
        peers: The Python that has the packages of `requirements.txt`.
        starts: How often every route starts anew, for as many first calls.
    """

    out: str
    until: float
    quick: bool
    peers: str
    starts: int


def _workload(name: str, share: float, what: str) -> Stage:
    return Stage(f"workloads.{name}:cases", share, 5, what)


STAGES = {
    "product": _workload("product", 2, "a product of matrices: what the cores can multiply"),
    "fixed_grid": _workload("fixed_grid", 12, "ResNets on fixed grids"),
    "memory": _workload("memory", 2, "memory and time of a gradient over depth"),
    "small_ode": _workload("small_ode", 10, "a small neural ODE with adaptive steps"),
    "spiral": _workload("spiral", 6, "the fit of a spiral, from the first call to the last step"),
    "accuracy": _workload("accuracy", 8, "training to a set accuracy"),
    "flow": _workload("flow", 4, "a training step of a normalising flow on two moons"),
    "lm_resnet": _workload("lm_resnet", 4, "a training step of an LM-ResNet on small images"),
    "convolution": _workload("convolution", 4, "fields of convolutions"),
    "exponential": _workload("exponential", 4, "the exponential of a displacement on a grid"),
    "marion": _workload("marion", 8, "the protocol of Marion et al."),
    "first_minute": _workload("first_minute", 8, "imports and first calls in a new process"),
    "choices": _workload("choices", 10, "what neuralflow's own choices cost"),
}
