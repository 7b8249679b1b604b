"""The commands, as a person or a script runs them."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from neuralflow import cli, data
from neuralflow.cli.common import UsageError
from neuralflow.cli.train import Train, dataset

# What a command does is the same however hard XLA optimises it, and is sooner done.
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}


def command(*arguments):
    return [sys.executable, "-m", "neuralflow", *map(str, arguments)]


def run(*arguments, cwd=None):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=300
    )


@pytest.fixture
def here(monkeypatch, capsys):
    """Runs a command in this process: its status, and what it told."""

    def call(*arguments, cwd=None):
        if cwd:
            monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, arguments)))
        return ended.value.code, "".join(capsys.readouterr())

    return call


def test_a_sweep_that_is_killed_goes_on_where_it_was_and_writes_what_it_says(tmp_path, here):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 2))
    np.savez(tmp_path / "points.npz", x=x, y=(x[:, 0] > 0).astype(float))
    options = (
        "deep-limit",
        "--depths",
        2,
        4,
        "--schemes",
        "euler",
        "heun",
        "--data",
        "points.npz",
        "--out",
        "here/there",
    )
    began = subprocess.Popen(
        command(*options), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    out = tmp_path / "here" / "there"
    minima = out / "minima"
    while len(list(minima.glob("euler-*.npz"))) < 2:
        assert began.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    began.kill()
    began.wait()
    left = {path.name: path.read_bytes() for path in minima.glob("*.npz")}
    rows = json.loads((out / "results.json").read_text())["rows"]
    status, told = here(*options, "--resume", cwd=tmp_path)
    assert status == 0, told
    assert "[5/5] heun, depth 4" in told
    assert "give at least two depths of 32 or more" in told
    assert sorted(p.name for p in out.iterdir()) == [
        "deep-limit.png",
        "further.png",
        "minima",
        "results.json",
        "table.txt",
    ]
    assert all(
        (minima / name).read_bytes() == held for name, held in left.items()
    )  # nothing was computed again
    record = json.loads((out / "results.json").read_text())
    whole = record["rows"]
    assert [row["depth"] for row in whole] == [2, 4, 2, 4] and whole[: len(rows)] == rows
    assert record["options"]["data"] == "points.npz"
    assert "heun" in (out / "table.txt").read_text()
    assert (out / "deep-limit.png").read_bytes()[:4] == b"\x89PNG"
    (minima / "of.json").write_text('{"data"')
    status, told = here(*options, "--resume", cwd=tmp_path)
    assert status == 2 and "holds minimisers of other options" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("deep-limit", "--schemes", "leapfrog"), "invalid choice 'leapfrog'"),
        (("deep-limit", "--depth", "4"), "--depth"),
        (("deep-limit", "--depths", "1"), "from 2 to 4096, got 1"),
        (("deep-limit", "--seed", "-1"), "must not be negative"),
        (("deep-limit", "--data", "nowhere.npz"), "there is no file nowhere.npz"),
        (("deep-limit", "--out", "blocked/results"), "cannot be written"),
        (("shallow-limit",), "deep-limit"),
        (("train", "--scheme", "leapfrog"), "invalid choice 'leapfrog'"),
        (("train", "--data", "kmnist", "--data-dir", "."), "neuralflow data prepare kmnist"),
        (("train", "--batch", "5000"), "more than the 1437 samples"),
        (("train", "--width", "6"), "multiple of 4"),
        (("train", "--batch", "0"), "batch must be at least 1"),
        (("train", "--processes", "2"), "need --coordinator HOST:PORT"),
        (("train", "--coordinator", "127.0.0.1:1"), "--processes and --process; or give auto"),
        (
            ("train", "--coordinator", "a:1", "--processes", "2", "--process", "5"),
            "between 0 and 1, got 5",
        ),
        (("train", "--coordinator", "auto"), "could not be joined"),
        (("train", "--data", "moons", "--test-split", "train"), "leave the split 'train' out"),
        (("train", "--data", "moons", "--precision", "bfloat16"), "moons has points"),
        (("train", "--test-split", "gibberish"), "the digits have the splits"),
        (("train", "--learning-rate", "0"), "must be positive"),
        (("train", "--data", "moons", "--augment"), "moons has none"),
        (
            ("train", "--tolerance", "1e-4"),
            "--tolerance is that of adaptive steps; euler takes --steps 4",
        ),
        (("train", "--depth-penalty", "-1"), "must not be negative, got -1"),
        (("evaluate", "--folder", "nowhere"), "--out folder of neuralflow train"),
        (("certify", "--folder", "nowhere"), "--out folder of neuralflow train"),
        (("certify", "--samples", "1"), "must be at least 2, got 1"),
        (("data", "show", "kmnist", "--data-dir", "."), "is not prepared in ."),
    ],
)
def test_bad_input_ends_in_a_sentence_and_status_two(arguments, said, tmp_path, here):
    (tmp_path / "blocked").write_text("a file, not a folder")
    status, told = here(*arguments, cwd=tmp_path)
    assert status == 2
    assert said in " ".join(told.split())


def test_info_and_help(tmp_path, here):
    process = run("info", cwd=tmp_path)
    assert (
        process.returncode == 0
        and "jax " in process.stdout
        and "extra experiments: installed" in process.stdout
    )
    status, told = here("deep-limit", "--help")
    assert status == 0 and "1810.11741" in told and "--depths" in told


def test_trains_resumes_and_evaluates_under_another_scheme(tmp_path, here):
    folder = tmp_path / "run"
    options = (
        "--data",
        "moons",
        "--width",
        8,
        "--steps",
        2,
        "--learning-rate",
        0.02,
        "--out",
        folder,
    )
    first = run("train", *options, "--epochs", 2, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "epoch 2/2: loss" in first.stdout and "Test accuracy" in first.stdout
    for others, status, said in (
        (("train", *options, "--epochs", 2), 2, "go on with resume=True"),
        (
            ("train", *options, "--epochs", 3, "--resume", "--scheme", "heun"),
            2,
            "was trained with --scheme euler (now heun)",
        ),
        (("evaluate", "--folder", folder, "--scheme", "heun"), 0, "moons, heun, step "),
    ):
        ended, told = here(*others)
        assert ended == status and said in " ".join(told.split())
    with jax.enable_x64(False):  # as it runs on its own
        certified, told = here("certify", "--folder", folder, "--samples", 50, cwd=tmp_path)
    assert certified in (0, 1), told
    record = json.loads((folder / "certificate.json").read_text())
    assert record["is_ode"] == (certified == 0) and ("not an ODE" in told) != record["is_ode"]
    assert (folder / "certificate.png").read_bytes()[:4] == b"\x89PNG"


def test_a_set_without_images_and_labels_is_refused(monkeypatch):
    monkeypatch.setattr(
        data, "load", lambda *_, **__: {"text_length": np.zeros(3), "label": np.zeros(3)}
    )
    with pytest.raises(
        UsageError,
        match="imdb has the features text_length, label; a classifier needs image and label",
    ):
        dataset(dataclasses.replace(Train(), data="imdb"), "train")


def test_two_processes_train_as_one(tmp_path, free_address, here):
    options = (
        "train",
        "--data",
        "moons",
        "--width",
        8,
        "--steps",
        2,
        "--epochs",
        2,
        "--batch",
        100,
    )
    status, told = here(*options, "--out", tmp_path / "one")
    assert status == 0, told
    together = (
        *options,
        "--out",
        tmp_path / "two",
        "--coordinator",
        free_address,
        "--processes",
        2,
    )
    pair = [
        subprocess.Popen(
            command(*together, "--process", k), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        for k in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=200)[0] for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [0, 0]
    assert "Test accuracy" in told[0] and "accuracy" not in told[1]
    one, two = (
        [json.loads(line) for line in (tmp_path / k / "history.jsonl").open()]
        for k in ("one", "two")
    )
    for name in ("loss", "validation_loss"):
        assert np.allclose(
            [row[name] for row in two], [row[name] for row in one], rtol=1e-5, atol=0
        )


def test_nobody_reads_on(tmp_path):
    options = " ".join(
        command("train", "--data", "moons", "--width", 8, "--epochs", 40, "--out", tmp_path / "run")
    )
    process = subprocess.run(
        ["bash", "-c", f"{options} | head -1; exit ${{PIPESTATUS[0]}}"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (
        process.returncode == 141
        and process.stdout.startswith("epoch 1/40")
        and "Traceback" not in process.stderr
    )


def test_options_of_a_run_that_never_began_are_forgotten(tmp_path, here):
    out = tmp_path / "run"
    assert here("train", "--data", "moons", "--batch", 5000, "--width", 64, "--out", out)[0] == 2
    assert (
        here("train", "--data", "moons", "--batch", 500, "--width", 8, "--epochs", 1, "--out", out)[
            0
        ]
        == 0
    )
    status, told = here("evaluate", "--folder", out)
    assert status == 0 and "accuracy" in told.splitlines()[-1]
    (out / "options.json").write_text("{}")
    status, told = here("evaluate", "--folder", out)
    assert status == 2 and "is not what neuralflow train has written" in told
