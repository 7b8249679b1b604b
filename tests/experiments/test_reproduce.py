"""Kept results are made again, and a changed number does not go unnoticed."""

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
        options = {"only": [""], "minutes": None, "data_dir": Path("data"), **changes}
        return reproduce.plan(Namespace(**options))

    everything, left_out = planned()
    total = sum(1 for each in experiments() for _ in each.results)
    assert len(everything) + len(left_out) == total and everything
    assert not any("the others leave" in reason for reason in left_out.values())
    seconds = [result.time[1] for result in everything if result.time]
    assert seconds == sorted(seconds)
    some, more = planned(minutes=5.0)
    assert sum(result.time[1] for result in some if result.time) <= 300 < sum(seconds)
    assert any("and the others leave" in reason for reason in more.values())
    _, without = planned(data_dir=None)
    assert "it needs the data of --data-dir" in without.values()
    assert planned(only=["transformer/language"])[1] == {
        "transformer/language.json": "its training ends when its time is up"
    }


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
