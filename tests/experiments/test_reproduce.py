"""Kept results are made again, and a changed number does not go unnoticed."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest

from experiments import reproduce
from experiments.program import ROOT
from experiments.report.kept import Result, experiments


@pytest.fixture
def counted(tmp_path):
    """The result of a program that computes nothing, as it would be kept, and made again."""
    command = "python -m experiments.report --keep --out FOLDER"
    kept = Result(ROOT / "report" / "report.json", {"command": command, "seconds": 1.0})
    row = reproduce.again(kept, tmp_path / "first", None)
    shown = {place[1]: now for place, (_, now) in _changes(row).items()}
    return Result(kept.path, {**kept.data, "shown": shown})


def _changes(row):
    return {tuple(place.split(" / ")): pair for place, pair in row["changed"].items()}


def test_a_result_made_again_is_the_same_and_a_changed_number_is_told(counted, tmp_path):
    assert reproduce.again(counted, tmp_path / "second", None)["outcome"] == "the same"
    counted.data["shown"]["results"] += 1
    row = reproduce.again(counted, tmp_path / "third", None)
    now = counted.data["shown"]["results"]
    assert row["changed"] == {"shown / results": [now, now - 1]}
    assert row["outcome"] == "1 numbers have changed"
    assert row["largest relative change"] == pytest.approx(1 / now)


def test_a_program_that_fails_is_told_with_its_log(tmp_path):
    kept = Result(ROOT / "report" / "x.json", {"command": "python -m experiments.report --no"})
    outcome = reproduce.again(kept, tmp_path, None)["outcome"]
    assert outcome == f"failed with status 2, see {tmp_path / 'log.txt'}"
    assert "unrecognized arguments: --no" in (tmp_path / "log.txt").read_text()


def test_numbers_are_compared_and_times_and_words_are_not():
    held = {
        "seconds": 3.0,
        "options": {"depth": 4},
        "rows": [{"error": 0.1, "milliseconds": 2.0, "name": "a", "order": None, "agreed": True}],
        "inner": {"options": 5, "ladder over direct": 1.0, "over seeds": 6.0, "time": 2},
    }
    assert dict(reproduce.numbers(held)) == {
        ("rows", 0, "error"): 0.1,
        ("rows", 0, "order"): None,
        ("rows", 0, "agreed"): True,
        ("inner", "options"): 5,
        ("inner", "over seeds"): 6.0,
    }


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1.0, 1.009, True),
        (1.0, 1.02, False),
        (1e-12, 3e-12, True),
        (0.0, 1e-3, False),
        (None, 1.0, False),
        (None, None, True),
        (True, False, False),
        (math.inf, math.inf, True),
    ],
)
def test_a_number_is_the_same_within_one_percent(before, after, expected):
    assert reproduce.same(before, after) is expected
    assert reproduce.same(after, before) is expected


def test_what_fits_the_minutes_is_made_and_the_rest_has_its_reason():
    def planned(**changes):
        options = {"only": [""], "data_dir": Path("data"), **changes}
        return reproduce.plan(Namespace(**options))

    everything, left_out = planned()
    total = sum(1 for each in experiments() for _ in each.results)
    assert len(everything) + len(left_out) == total and everything
    seconds = list(map(reproduce.seconds, everything))
    assert seconds == sorted(seconds) and math.isfinite(seconds[-1])
    assert reproduce.too_long(everything[0], seconds[0]) is None
    assert (
        reproduce.too_long(everything[0], -1)
        == f"it takes {seconds[0]:.0f} seconds, and 0 are left"
    )
    _, without = planned(data_dir=None)
    assert "it needs the data of --data-dir" in without.values()
    assert planned(only=["transformer/language"])[1] == {
        "transformer/language.json": "its training ends when its time is up"
    }


def test_nothing_begins_that_does_not_fit_what_is_left_of_the_minutes(tmp_path, capsys):
    part = "transformer/sphere.json"
    reproduce.main(["--minutes", "0.01", "--only", part, "--out", str(tmp_path)])
    made = json.loads((tmp_path / "reproduce.json").read_text())
    assert made["results"] == [] and made["left out"][part].endswith(
        ("and 1 are left", "0 are left")
    )
    assert "0 results were made again, 1 left out" in capsys.readouterr().out


def test_the_words_of_a_process_are_those_of_the_kept_command():
    told = "python -m experiments.a.b --data-dir FOLDER --seeds 3 --out FOLDER --keep"
    assert reproduce.words(told, Path("out"), Path("my data"))[1:] == [
        *("-m", "experiments.a.b", "--data-dir", "my data", "--seeds", "3"),
        *("--out", "out"),
    ]
    assert reproduce.words("neuralflow deep-limit", Path("out"), None)[1:] == [
        *("-m", "neuralflow", "deep-limit", "--out", "out")
    ]


def test_parts_that_fit_no_result_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        reproduce.main(["--only", "no such result", "--out", str(tmp_path)])
    assert "--only must be parts of paths of kept results" in capsys.readouterr().err
