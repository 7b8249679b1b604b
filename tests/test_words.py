"""Numbers that the README quotes are those of the committed results."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.report import findings
from neuralflow.labs.deep_limit import Scaling

ROOT = Path(__file__).parents[1]
README = " ".join((ROOT / "README.md").read_text().split())
NUMBER = r"-?\d+(?:\.\d+)?%?"
QUOTES = {
    "benchmarks/results/nvidia-h200/fixed_grid": (
        "takes # of the hand-written scan's time, where `diffeqsolve` takes",
    ),
    "benchmarks/results/result": (
        "are # times slower in a scan and # times in a layer",
        "takes # of the time of a scan by hand",
        "# of that of a checkpointed one with the default memory, and # of eager PyTorch's time",
        "An adaptive layer takes # of plain diffrax forward, # with the gradient",
        "of its first call, and # of the packages of PyTorch",
        "takes # of plain diffrax's time once it is compiled and # with the compilation",
        "takes # of eager PyTorch's time, compilation included",
    ),
    "benchmarks/results/transformers": (
        'forward, its gradient # with the default memory and # with `memory="full"`',
    ),
    "deep_limit/mnist": (
        "differ at most by # points between depths (those of a single seed by up to #)",
    ),
    "depth_resource/levels": (
        "against # steps from the start, in # of the time of training steps",
        "take # times as long in all, and # times with a warm cache",
    ),
    "depth_resource/tradeoff-fashion_mnist": (
        "# as trained, # with # Euler steps in # of the time, # with one step",
    ),
    "diffeo/results": ("at mean accuracies from # points less to # more",),
    "evaluations/results": (
        "saves an adaptive layer # (#) of its evaluations on MNIST's test images",
        "Half of the learning rate alone saves # (#)",
        "the penalty at the full rate takes # evaluations where that takes #",
        "The second derivative saves # (#), the squared speed # (#)",
    ),
    "literature/hurst": (
        "β = # for weights drawn each on their own (the limit is an SDE), at # for tied ones",
    ),
    "literature/marion": (
        "at orders of # with GELU and # with ReLU",
        "L^-# (#), where GELU's falls as",
    ),
    "path_integral/gradients": (
        "branches carry # of the gradient; the mean length of all paths is # (# are longer)",
    ),
    "transformer/language": ("# bits on the test part after # seconds of training",),
    "transformer/limits": (
        "at order # (#) after # steps and # (#) after #",
        "under Adam at order # (#) and # (#)",
        "Adam comes to # (#)",
    ),
    "transformer/sphere": ("meet at rate #",),
}
"""Words of the README that are also words of a finding. A `#` is a number, or "low to high"."""


def record(name):
    return json.loads((ROOT / "experiments" / f"{name}.json").read_text())


def quoted(text, words):
    """Return the places of a text that say these words, with their numbers."""
    pattern = re.escape(words).replace(r"\#", f"(?:{NUMBER}(?: to {NUMBER})?)")
    return re.findall(pattern, text)


@pytest.mark.parametrize("name, words", [(name, w) for name in QUOTES for w in QUOTES[name]])
def test_the_readme_quotes_the_findings(name, words):
    told = " ".join(findings.of(name, record(name)))
    assert quoted(README, words) == quoted(told, words) != []


def test_a_quote_of_another_number_is_seen():
    words = "from # points to # more"
    assert quoted("from 1 to 2 points to 3% more", words) == ["from 1 to 2 points to 3% more"]
    assert quoted("from -0.5 points to 3 more, and", words) != quoted(
        "from 0.5 points to 3 more", words
    )


def test_two_optima_of_the_plane_agree_and_digits_have_one():
    draws = record("deep_limit/plane")["result"]["draws"].values()
    assert all(draw["optima_apart"] < 1e-8 for draw in draws)
    for kind in record("deep_limit/digits")["result"].values():
        assert all(draw["optima_apart"] is None for draw in kind["draws"].values())


@pytest.mark.parametrize("number", range(3))
def test_the_verdict_is_that_of_the_exponents(number):
    run = record("literature/marion")["runs"][number]
    increment = {
        key.removeprefix("increment "): np.asarray(p)
        for key, p in run.items()
        if key.startswith("increment ")
    }
    assert run["verdict"] == Scaling({}, {}, increment, {}).verdict()


@pytest.mark.parametrize("path", sorted((ROOT / "experiments/literature").glob("*.json")), ids=str)
def test_every_row_of_the_literature_has_its_statements_and_its_time(path):
    held = json.loads(path.read_text())
    assert held["statements"] and held["seconds of runs"] > 0
    page = (ROOT / "experiments/README.md").read_text()
    assert f"`python -m experiments.literature {path.stem}" in page
