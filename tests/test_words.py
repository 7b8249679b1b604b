"""Numbers that the README quotes are those of the committed results."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.report import findings
from neuralflow.labs.deep_limit import Scaling

ROOT = Path(__file__).parents[1]
NUMBER = r"-?\d+(?:\.\d+)?%?"
QUOTES = {
    "README.md": {
        "benchmarks/results/result": (
            "takes # of the time of a scan by hand",
            "An adaptive layer takes # of plain diffrax forward, # with the gradient",
        ),
        "literature/marion": ("at orders of # with GELU and # with ReLU",),
        "depth_resource/tradeoff-fashion_mnist": (
            "# as trained, # with # Euler steps in # of the time, # with one step",
        ),
    },
    "notebooks/README.md": {
        "benchmarks/results/result": ("# times slower in a scan and # times in a layer",),
    },
}
"""Words of a page that are also words of a finding. A `#` is a number, or "low to high"."""


def record(name):
    return json.loads((ROOT / "experiments" / f"{name}.json").read_text())


def quoted(text, words):
    """Return the places of a text that say these words, with their numbers."""
    return re.findall(_pattern(words), text)


def _pattern(words):
    return re.escape(words).replace(r"\#", f"(?:{NUMBER}(?: to {NUMBER})?)")


def page(name):
    return " ".join((ROOT / name).read_text().split())


@pytest.mark.parametrize(
    "where, name, words",
    [(page, name, w) for page, names in QUOTES.items() for name in names for w in names[name]],
)
def test_a_page_quotes_the_findings(where, name, words):
    told = " ".join(findings.of(name, record(name)))
    assert quoted(page(where), words) == quoted(told, words) != []


def test_the_readme_is_short_and_every_decimal_number_in_it_is_a_quote():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    prose = [line for line in lines if not line.startswith(("    ", "|", "!["))]
    assert max(map(len, prose)) <= 100
    text = page("README.md")
    for words in itertools.chain(*QUOTES["README.md"].values()):
        text = re.sub(_pattern(words), "", text)
    text = re.sub(r"```.*?```|`[^`]*`|\([^)]*\)|\[[^]]*\]", "", text)
    assert re.findall(r"\d+\.\d\d+%?", text.replace("Python 3.11 to 3.13", "")) == []


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
