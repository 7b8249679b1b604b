"""Every program of the experiments has the common options, and writes what it says and no more."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from support.data import TFDS
from support.signals import restored_signals

from experiments.accelerator.plan import STAGES
from experiments.depth_resource import levels
from experiments.report.kept import programs

ROOT = Path(__file__).parents[2]
COMMON = {"command", "options", "started", "seconds", "device", "platform", "devices", "cores"}


def usage(name):
    """What a program says of itself."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"experiments.{name}").main(["--help"])
    return said.getvalue()


def needs_data(name):
    return re.search(r"(?<!\[)--data-dir", usage(name).partition("\n\n")[0]) is not None


def module(name):
    return f"experiments.{name.removesuffix('.__main__')}"


def files(folder):
    """What lies below a folder, but for bytecode."""
    paths = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in paths}


def strict(path):
    def refuse(word):
        raise ValueError(f"{path} has {word}, which is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Runs in an empty folder, as a process of its own would: in float32, with JAX's own settings.

    What a program chooses for its process is taken back.
    """
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = dict(jax.config.values)
    with jax.enable_x64(False), restored_signals():
        yield work
    for name, value in before.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)
    compilation_cache.reset_cache()


def measured_on_every_stage(result, printed):
    stages = result["stages"]
    assert result["status"] == "done"
    assert {name: stage["status"] for name, stage in stages.items()} == dict.fromkeys(
        [name for name, stage in STAGES.items() if stage.share], "done"
    ), stages
    assert all(stage["rows"] and f"│ {name} " in printed for name, stage in stages.items())
    assert [row["outcome"] for row in stages["tests"]["rows"]] == ["passed"]
    spread = stages["benchmarks"]["rows"][0]["time"]
    assert spread["low"] <= spread["median"] <= spread["high"]
    trained = stages["images"]["rows"][-1]
    assert trained["epochs"] == trained["epochs of the schedule"] == 2
    assert trained["training images"] == 64 and 0 <= trained["test error, percent"] <= 100
    minimum = stages["limits"]["rows"][0]
    assert minimum["gradient"] < 1e-8 and 0 < minimum["error in float32"] < 1e-4


def ended_in_the_same_bits(result, printed):
    assert result["kills"]["fit"]["kills"] == 1 and result["kills"]["fit"]["equal"]


CHECKS = {
    "accelerator.__main__": measured_on_every_stage,
    "resume.kill": ended_in_the_same_bits,
}
"""What a quick run of some programs shows beyond the common entries, from JSON and screen."""


SMALLER = {"reproduce": ["--only", "transformer/sphere.json"]}
"""Programs whose quick form is not one of under a minute, and the words that make it one."""


@pytest.mark.parametrize("name", list(programs()))
def test_a_quick_run_writes_its_results_and_nothing_else(name, own, tmp_path, capsys):
    out, kept = tmp_path / "out", files(ROOT / "experiments")
    words = ["--quick", "--out", str(out), *SMALLER.get(name, [])]
    if needs_data(name):
        if not TFDS.is_dir():
            pytest.skip("needs the prepared data sets beside the project")
        words += ["--data-dir", str(TFDS)]
    try:
        importlib.import_module(f"experiments.{name}").main(words)
    except SystemExit as end:
        assert not end.code
    assert files(ROOT / "experiments") == kept and not files(own)
    results = [path for path in out.glob("*.json") if "command" in strict(path)]
    assert results
    printed = capsys.readouterr().out
    for path in results:
        known = strict(path)
        assert known.keys() >= COMMON, known.keys()
        assert known["command"].startswith(
            f"python -m experiments.{name.removesuffix('.__main__')} "
        )
        assert (
            known["options"]["quick"]
            and {"python", "jax", "neuralflow"} <= known["versions"].keys()
        )
        for picture in known.get("pictures", []):
            assert (out / picture).read_bytes().startswith(b"\x89PNG")
        if name in CHECKS:
            CHECKS[name](known, printed)


@pytest.mark.parametrize("name", list(programs()))
def test_help_tells_the_command_the_common_options_and_what_is_written(name):
    said = " ".join(usage(name).split())
    assert said.count(f"python -m {module(name)}") >= 2
    assert {"--out", "--keep", "--quick"} <= set(re.findall(r"--[a-z-]+", said))
    assert "rites" in said


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--seeds", "0"], "--seeds: must be a whole number of at least 1, got 0"),
        (["--quick", "--keep"], "--keep keeps the results of whole runs; leave --quick or"),
        (["--out", "file"], "--out must be a folder that can be written .*; give another one"),
        (["--data-dir", "none"], "--data-dir must be a folder of prepared TFDS sets, got none"),
    ],
)
def test_unfit_options_are_refused_before_anything_is_computed(own, capsys, wrong, words):
    (own / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        levels.main(wrong)
    assert re.search(words, " ".join(capsys.readouterr().err.split()))


def test_the_command_is_told_without_paths_and_results_go_to_the_name(own):
    run = levels.parser().begin(["--data-dir", str(own), "--out=some/where"])
    assert run.command == f"python -m {levels.__name__} --data-dir FOLDER --out=FOLDER"
    assert not {"out", "keep", "data_dir"} & run.about()["options"].keys()
    assert levels.parser().begin([]).folder == Path("results/depth_resource-levels")


def test_options_that_are_given_win_over_those_of_a_quick_run(own):
    options = levels.parser().begin(["--quick", "--epochs", "8"]).options
    assert (options.epochs, options.seeds, options.data) == (8, 1, "swirl")


def test_results_cannot_take_the_names_of_what_is_known_of_a_run(own):
    with pytest.raises(ValueError, match=r"names of their own, got \['options', 'seconds'\]"):
        levels.parser().begin([]).write("result", {"options": 1, "seconds": 2, "rows": []})


def test_a_run_goes_on_with_the_seconds_of_what_it_holds_and_a_kept_one_begins_anew(own):
    first = levels.parser().begin([])
    assert first.held("result") == {}
    first.write("result", {"rows": [1]})
    held = {**strict(first.folder / "result.json"), "seconds": 100.0}
    (first.folder / "result.json").write_text(json.dumps(held))
    second = levels.parser().begin([])
    assert second.held("result") == held
    second.write("result", {"rows": [1, 2]})
    assert strict(first.folder / "result.json")["seconds"] >= 100
    kept = levels.parser().begin(["--keep"])
    kept.folder = first.folder
    assert kept.held("result") == {}


def test_a_kept_run_works_in_a_folder_of_its_own_so_that_nothing_is_found_finished(own):
    first = levels.parser().begin(["--out", "here"])
    assert first.work == first.folder == Path("here")
    kept = levels.parser().begin(["--out", "here", "--keep"])
    assert kept.work.parent == Path("here") and not kept.work.exists()


def test_a_kept_run_replaces_the_result_beside_the_program(tmp_path):
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    command = [sys.executable, "-m", "experiments.transformer.sphere", "--keep"]
    before = files(tmp_path)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=300)
    after = files(tmp_path)
    changed = {str(path) for path in after if after[path] != before.get(path)}
    folder = "experiments/transformer"
    assert changed == {f"{folder}/sphere.json", f"{folder}/sphere.png"}
