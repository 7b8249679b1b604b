"""Findings: words by hand, numbers from the results, and words that follow the numbers."""

import ast
import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.program import ROOT
from experiments.report import findings

NAMES = re.compile(r"h = 1\b|\b1/[nLN]\b")
"""Digits in the names of things."""
WHOLE = ("resume/edit", "resume/read", "resume/results")
"""Results that count, and measure nothing else."""


def record(name):
    return json.loads((ROOT / f"{name}.json").read_text())


def scaled(value, kind) -> Any:
    """Return a record with every number of a type half as large again."""
    if isinstance(value, dict):
        return {key: scaled(entry, kind) for key, entry in value.items()}
    if isinstance(value, list):
        return [scaled(entry, kind) for entry in value]
    return kind(1.5 * value) if type(value) is kind else value


def changed(name, path, value):
    """Return a record with one entry replaced."""
    whole = copy.deepcopy(record(name))
    *outer, last = path
    entry = whole
    for key in outer:
        entry = entry[key]
    entry[last] = value
    return whole


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.json")), ids=str)
def test_every_kept_result_says_what_was_found(path):
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    told = findings.of(name, record(name))
    assert told or record(name)["verdict"]
    assert all(sentence[-1] == "." and not re.search(r"\bnan\b", sentence) for sentence in told)


def test_every_function_has_a_result():
    kept = {path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.json")}
    assert findings.FINDINGS.keys() <= kept
    assert findings.of("no result", {}) == ()


@pytest.mark.parametrize("name", findings.FINDINGS)
def test_other_numbers_change_every_sentence_that_tells_a_measured_one(name):
    number = r"\d" if name in WHOLE else r"\d\.\d|\de[+-]\d"
    told = findings.of(name, record(name))
    kind = int if name in WHOLE else float
    try:
        other = findings.of(name, scaled(record(name), kind))
    except findings.FindingError:
        other = ()
    assert not [each for each in told if each in other and re.search(number, each)]


def test_no_number_is_typed_by_hand():
    nodes = list(ast.walk(ast.parse(Path(findings.__file__).read_text())))
    formats = [node.format_spec for node in nodes if isinstance(node, ast.FormattedValue)]
    texts = [node for node in nodes if isinstance(node, ast.JoinedStr) and node not in formats]
    yielded = [node.value for node in nodes if isinstance(node, ast.Yield)]
    parts = [part for text in texts for part in text.values] + yielded
    words = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
    assert len(words) > 200
    assert not [each for each in words if re.search(r"\d", NAMES.sub("", each))]


def test_findings_need_no_device():
    code = "import sys; from experiments.report import findings; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=True)


@pytest.mark.parametrize(
    "name, path, value, words",
    [
        ("resume/edit", ["refused"], 0, "every edit is refused or mended"),
        ("resume/read", ["same weights"], False, "a reader changes no training"),
        ("resume/results", ["kills", "fit", "equal"], False, "all that is resumed ends alike"),
        ("literature/marion", ["statements", 6, "verdict"], "differs", "have no limit"),
    ],
)
def test_a_result_that_no_longer_bears_a_sentence_is_refused(name, path, value, words):
    with pytest.raises(findings.FindingError, match=f"does not show that .*{words}; write its"):
        findings.of(name, changed(name, path, value))


def test_words_follow_the_numbers():
    name, lost = "depth_resource/levels", ["result", "rows", "shallow", "points lost", "interval"]
    for interval, words in (([-1.0, 1.0], "depth does not pay"), ([0.5, 1.0], "depth pays")):
        assert words in " ".join(findings.of(name, changed(name, lost, interval)))
    best = ["best learning rate"]
    for rates, words in (({"8": 0.1, "64": 0.1}, "One"), ({"8": 0.1, "64": 0.2}, "The best")):
        _, told = findings.of("deep_limit/mnist", changed("deep_limit/mnist", best, rates))
        assert told.startswith(words)
    for folded, words in ((0.0, "none of 20"), (0.5, "1 of 20")):
        whole = record("diffeo/results")
        fields = [row for row in whole["random fields"] if row["bounded"]]
        fields[0]["folded"] = folded
        assert f"and {words} with it" in findings.of("diffeo/results", whole)[1]
