"""The program for accelerators: its time, its ends, and what it counts and reads."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from flax import nnx
from support.signals import restored_signals

from experiments.accelerator import arrays
from experiments.accelerator.__main__ import main
from experiments.accelerator.plan import STAGES
from experiments.accelerator.work import operations
from experiments.lm_resnet.model import Network
from experiments.stages import runner
from experiments.stages.stage import Stage

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
ROW = "import json, time; print(json.dumps({'rows': {'case': 'a', 'n': 1}}), flush=True); "


def program(*options):
    return [sys.executable, "-m", "experiments.accelerator", *map(str, options)]


def read(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_killed_program_leaves_its_result_and_no_process(tmp_path):
    command = program("--quick", "--only", "device", "--out", tmp_path)
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 100
            # The process that asks for the device comes before the result.
            children, written = [], tmp_path / "result.json"
            while not (written.exists() and children):
                children = psutil.Process(process.pid).children() if written.exists() else []
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.01)
        finally:
            process.kill()
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert read(tmp_path)["status"] == "running"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--budget", "nan"], "--budget: must be a number above 0, got nan"),
        (["--budget", "0"], "--budget: must be a number above 0, got 0"),
        (["--resume"], "add --only recipe"),
        (["--arrays", "."], r"\. holds no files train-000.npz and so on; write them with"),
        ([], "JAX finds no accelerator; install .* or take --quick to try the stages on a CPU"),
        (["--quick", "--out", "held"], "is the result of another run; give another --out"),
        (["--quick", "--out", "file"], "--out must be a folder that can be written .*give another"),
    ],
)
def test_unfit_options_are_refused_before_any_stage(tmp_path, monkeypatch, capsys, wrong, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "result.json").write_text('{"options": {"quick": false}}')
    (tmp_path / "file").touch()
    with restored_signals(), pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert re.search(words, " ".join(capsys.readouterr().err.split()))


def run(result, workers, budget=100.0, **stage):
    """Runs stages whose processes are short programs."""
    stages = {name: Stage("", 1.0, 0.0, name)._replace(**stage) for name in workers}

    def command(name, until):
        return [sys.executable, "-S", "-c", workers[name]]

    runner.run(stages, command, budget, result)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", range(3))
def test_an_interruption_at_any_stage_leaves_a_readable_result(tmp_path, monkeypatch, number, at):
    names = ["one", "two", "three"]
    result = runner.Result(tmp_path / "result.json", {})
    last = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print(json.dumps("
    last += "{'rows': {'case': 'a', 'n': 2}}), flush=True), sys.exit(1))); "
    workers = dict.fromkeys(names, ROW)
    workers[names[at]] = "import json; " + last + ROW + "time.sleep(100)"
    hear = result.hear

    def interrupted(stage, message):
        hear(stage, message)
        if stage == names[at] and message["rows"]["n"] == 1:
            signal.raise_signal(number)

    monkeypatch.setattr(result, "hear", interrupted)
    with restored_signals(), pytest.raises(KeyboardInterrupt) as raised:
        runner.interruptible()
        run(result, workers)
    assert raised.value.args == (number,)
    stages = read(tmp_path)["stages"]
    assert [stage["status"] for stage in stages.values()] == ["done"] * at + ["interrupted"]
    # The process of the stage was told, and could say its last row.
    assert [row["n"] for row in stages[names[at]]["rows"]] == [1, 2]


def test_a_stage_that_fails_or_hangs_does_not_stop_the_others(tmp_path):
    result = runner.Result(tmp_path / "result.json", {})
    began = time.monotonic()
    workers = {
        "failed": ROW + "raise SystemExit('no memory')",
        "hung": ROW + "time.sleep(100)",
        "good": ROW,
    }
    run(result, workers, budget=runner.RESERVE + 6)
    assert time.monotonic() - began < runner.RESERVE + 6
    stages = read(tmp_path)["stages"]
    assert {name: stage["status"] for name, stage in stages.items()} == {
        "failed": "failed",
        "hung": "cut",
        "good": "done",
    }
    assert stages["failed"]["errors"] == ["the process ended with status 1: no memory"]
    assert not result.end() and read(tmp_path)["status"] == "failed"
    assert all(stage["rows"] == [{"case": "a", "n": 1}] for stage in stages.values())


def test_a_stage_that_does_not_fit_is_left_out_with_the_reason(tmp_path):
    result = runner.Result(tmp_path / "result.json", {})
    run(result, {"long": ROW}, budget=runner.RESERVE + 4, least=5.0)
    stage = read(tmp_path)["stages"]["long"]
    assert stage["status"] == "left out" and stage["rows"] == []
    assert stage["reason"] == "its share of the budget is 4 s, 5 s are needed"
    assert not result.end() and read(tmp_path)["status"] == "left out"


def test_unused_time_goes_to_later_stages():
    stages = [Stage("", share, 0.0, "") for share in (1.0, 2.0, 3.0)]
    assert [runner.allotted(60.0, stages[i:]) for i in range(3)] == [10.0, 24.0, 60.0]
    # A stage that runs on its own has all the time, whatever its share.
    assert runner.allotted(60.0, [STAGES["recipe"]]) == 60.0


def test_differences_are_the_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    assert np.array_equal(arrays.decoded(arrays.coded(images)), images)
    flat = np.broadcast_to(np.asarray([7, 9, 200], np.uint8), (3, 6, 5, 3))
    assert np.count_nonzero(arrays.coded(flat)) == 3 * 3


def test_images_are_written_up_to_a_limit_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", 8)
    sets = arrays.drawn(64)
    written = arrays.write(sets, tmp_path / "some", 200_000)
    sizes = [path.stat().st_size for path in (tmp_path / "some").iterdir()]
    assert written["bytes"] == sum(sizes) <= 200_000
    # Random images do not compress: a block of 8 takes about 25 kB.
    assert 200_000 - written["bytes"] < 2 * max(sizes)
    held = arrays.read(tmp_path / "some")
    for split, images in held.items():
        assert 0 < written[split] < 64
        for key, values in images.items():
            assert np.array_equal(values, sets[split][key][: written[split]])
    assert arrays.write(sets, tmp_path / "all", 10**6)["train"] == 64
    with pytest.raises(ValueError, match="holds .npz files already; give an empty folder"):
        arrays.write(sets, tmp_path / "some", 10**6)
    with pytest.raises(ValueError, match="0.01 MB are too few for 8 test images; give at least 0"):
        arrays.write(sets, tmp_path / "few", 10**4)
    (tmp_path / "some" / "train-000.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="train-000.npz is damaged .*; copy or write it again"):
        arrays.read(tmp_path / "some")
    with pytest.raises(ValueError, match="holds no files train-000.npz"):
        arrays.read(tmp_path)


def test_operations_are_counted_through_scans_and_convolutions():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert operations(jnp.matmul, a, b) == 2 * 3 * 4 * 5

    def scanned(a, b):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ b @ b.T), None), a, None, length=7)[0]

    assert operations(jax.jit(scanned), a, b) == 7 * 2 * (2 * 3 * 4 * 5)
    # Of a network: the first convolution, one stage at full size, and two at half and a quarter of
    # it, whose first block also has a shortcut.
    network = nnx.eval_shape(lambda: Network(20, "resnet", width=4, blocks=2, rngs=nnx.Rngs(0)))
    count = 32 * 32 * 9 * (3 * 4 + 4 * 4 * 4)
    for size, width in ((16, 8), (8, 16)):
        count += size**2 * width * (9 * (width // 2 + 3 * width) + width // 2)
    count += 16 * 10
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert operations(lambda network, x: network(x), network, x) == 2 * count
