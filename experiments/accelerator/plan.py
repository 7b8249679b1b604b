"""The stages in order of worth, and what every stage is told."""

from __future__ import annotations

from typing import NamedTuple

from experiments.stages.stage import Stage


class Plan(NamedTuple):
    """What a stage is told.

    Attributes:
        out: The folder of the result.
        until: The time, as `time.time` gives it, at which no case begins any more.
        quick: Whether to run the smallest sizes, to see that everything runs.
        arrays: The folder that `experiments.accelerator.arrays` has written, or None.
        resume: Whether the whole recipe goes on from its checkpoints.
    """

    out: str
    until: float
    quick: bool
    arrays: str | None
    resume: bool


STAGES = {
    "device": Stage("machine:cases", 60, 5, "device, versions, speed of products and launches"),
    "tests": Stage("marked:cases", 90, 20, "the tests that are marked `device`"),
    "benchmarks": Stage("benchmarks:cases", 160, 30, "ratios to a hand-written scan and diffrax"),
    "images": Stage("images:cases", 240, 60, "ResNet-20 and LM-ResNet-20 on CIFAR-10, stretched"),
    "limits": Stage("limits:cases", 80, 20, "minimisers of networks of up to 4096 layers"),
    "recipe": Stage("images:recipe_cases", 0, 60, "the published 160 epochs, by --only recipe"),
}
