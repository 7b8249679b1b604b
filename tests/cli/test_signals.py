"""Signals, missing processes and edited options, as a person or a scheduler meets them."""

import json
import re
import signal
import subprocess
import sys
import time

import jax
import pytest
from support.cli import ENVIRONMENT, command

PROGRAM = "import sys, neuralflow.cli as c; print('main', flush=True); c.main(sys.argv[1:])"
MOONS = ("train", "--data", "moons", "--width", 8, "--steps", 2, "--epochs", 2, "--batch", 20)


def begin(words, *arguments):
    return subprocess.Popen(
        [*words, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_imported_is_one_line(number, tmp_path):
    process = begin([sys.executable, "-c", PROGRAM], *MOONS, "--out", tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "main\n"
    time.sleep(0.1)  # it has told that `main` comes next
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert (process.returncode, said.splitlines()) == (
        128 + number,
        [f"neuralflow: {word}; results written so far are kept"],
    )


def test_a_terminated_training_has_saved_where_it_was_and_goes_on_to_the_same_bits(tmp_path, here):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = begin(command(*MOONS, "--save-every", 10, "--out", cut))
    while not list(cut.glob("checkpoints/[0-9]*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said == "neuralflow: terminated; results written so far are kept\n"
    # A process of its own computes in float32.
    with jax.enable_x64(False):
        for options in (("--out", cut, "--resume"), ("--out", whole)):
            status, told = here(*MOONS, *options)
            assert status == 0, told
    one, two = (
        [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        for folder in (cut, whole)
    )
    for row in (*one, *two):
        del row["seconds"], row["samples_per_second"]
    assert one == two


def test_a_missing_process_is_a_sentence_in_time(tmp_path, free_address):
    joined = ("--coordinator", free_address, "--processes", 2, "--process", 0, "--timeout", 6)
    process = begin(command(*MOONS, "--out", tmp_path, *joined))
    told, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.fullmatch(
        rf"neuralflow: not all of the 2 processes met at {free_address} within 6 s; .*\n", said
    )
    assert f"waiting for all processes at {free_address}: 5 of 6 s" in told


EDITS = {
    "a digit": lambda text: text.replace('"steps": 2', '"steps": 3'),
    "a word": lambda text: text.replace('"euler"', '"heun"'),
    "cut": lambda text: text[: len(text) // 2],
    "nothing": lambda text: "",
    "null": lambda text: "null",
    "empty": lambda text: "{}",
    "a type": lambda text: text.replace('"seed": 0', '"seed": "a"'),
    "no digest": lambda text: json.dumps(
        {name: value for name, value in json.loads(text).items() if name != "digest"}
    ),
}


def test_edited_options_are_refused_by_every_command(tmp_path, here):
    quick = ("train", "--data", "moons", "--width", 4, "--steps", 2, "--batch", 500)
    assert here(*quick, "--epochs", 1, "--out", tmp_path)[0] == 0
    path = tmp_path / "options.json"
    text = path.read_text()
    for edit in EDITS.values():
        path.write_text(edit(text))
        assert path.read_text() != text
        for words in (
            ("evaluate", "--folder", tmp_path),
            ("certify", "--folder", tmp_path),
            (*quick, "--epochs", 2, "--resume", "--out", tmp_path),
        ):
            status, told = here(*words)
            assert status == 2 and "is not what neuralflow train has written" in told
    path.unlink()
    assert here("evaluate", "--folder", tmp_path)[0] == 2
    assert here(*quick, "--epochs", 2, "--resume", "--out", tmp_path)[0] == 0
    assert here("evaluate", "--folder", tmp_path)[0] == 0
