"""The commands train and evaluate, as a person or a script runs them."""

import dataclasses
import json
import shutil
import subprocess

import jax
import numpy as np
import pytest
from support.cli import ENVIRONMENT, command, run

import neuralflow as nf
from neuralflow import data
from neuralflow.checks import InputError
from neuralflow.cli import tradeoff
from neuralflow.cli.train import Train, dataset
from neuralflow.inference import Candidate


def test_trains_resumes_and_evaluates_under_another_scheme(tmp_path, here, monkeypatch):
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
    one = [Candidate(nf.FixedGrid(nf.Euler(), steps=1), nf.PiecewiseLinear(1))]
    monkeypatch.setattr(tradeoff, "candidates", lambda cells, scheme: one)
    ended, told = here("evaluate", "--folder", folder, "--tradeoff", "--out", tmp_path / "table")
    assert ended == 0 and "[2/3] Euler, 1 step, PiecewiseLinear(1): loss" in told
    record = json.loads((tmp_path / "table" / "tradeoff.json").read_text())
    assert [row["evaluations"] for row in record["choices"]] == [2, 1]
    assert (tmp_path / "table" / "tradeoff.png").read_bytes()[:4] == b"\x89PNG"
    # A process of its own computes in float32.
    with jax.enable_x64(False):
        certified, told = here("certify", "--folder", folder, "--samples", 50, cwd=tmp_path)
    assert certified in (0, 1), told
    record = json.loads((folder / "certificate.json").read_text())
    assert record["is_ode"] == (certified == 0) and record["sentence"][:40] in " ".join(
        told.split()
    )
    assert (folder / "certificate.png").read_bytes()[:4] == b"\x89PNG"


def test_trains_level_by_level(tmp_path, here):
    folder = tmp_path / "run"
    options = ("--data", "moons", "--width", 4, "--batch", 500, "--levels", 1, 2, "--out", folder)
    status, told = here("train", *options, "--epochs", 3)
    assert status == 0 and "level 1/2, epoch 2/2" in told and "level 2/2, epoch 3/3" in told, told
    last = told.split("Test accuracy ")[1].split(";")[0]
    status, told = here("evaluate", "--folder", folder)
    assert status == 0 and "step 12: loss" in told and f"accuracy {last}" in told
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["evaluations"] for row in rows] == [1, 1, 2]
    # Another number of epochs would have refined the network elsewhere.
    written = (folder / "options.json").read_text()
    status, told = here("train", *options, "--epochs", 5, "--resume")
    assert status == 2 and "was trained with --epochs 3 (now 5)" in " ".join(told.split())
    assert (folder / "options.json").read_text() == written
    # The second level is gone: the first one still knows its options.
    shutil.rmtree(folder / "checkpoints")
    status, told = here("train", *options, "--epochs", 3, "--resume", "--seed", 1)
    assert status == 2 and "was trained with --seed 0 (now 1)" in " ".join(told.split())


def test_a_set_without_images_and_labels_is_refused(monkeypatch):
    monkeypatch.setattr(
        data, "load", lambda *_, **__: {"text_length": np.zeros(3), "label": np.zeros(3)}
    )
    with pytest.raises(
        InputError,
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
        [json.loads(line) for line in (tmp_path / k / "history.jsonl").read_text().splitlines()]
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
