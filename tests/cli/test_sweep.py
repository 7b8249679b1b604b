"""The command sweep: a file, a table, and processes of this machine or of a cluster."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import dask.config
import distributed
import psutil
import pytest
from support.cli import ENVIRONMENT, command
from support.sweeps import calls

from neuralflow import sweeps

FILE = """
function = "support.sweeps:depth_error"
[grid]
depth = [4, 8, 16]
scheme = ["euler", "heun"]
seed = [0, 1]
"""


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_file_is_a_sweep_wherever_its_runs_are_made(tmp_path, here):
    (tmp_path / "study.toml").write_text(FILE)
    status, told = here("sweep", "study.toml", cwd=tmp_path)
    assert status == 0
    assert told.splitlines()[-1] == "12 of 12 runs are finished: results/study/table.csv"
    table = (tmp_path / "results" / "study" / "table.csv").read_bytes()
    status, told = here("sweep", "study.toml", "--processes", 2, "--out", "two")
    assert status == 0 and (tmp_path / "two" / "table.csv").read_bytes() == table
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options, silence_logs=50) as local:
        cluster: Any = local
        address = cluster.scheduler_address
        status, told = here("sweep", "study.toml", "--executor", address, "--out", "three")
    assert status == 0 and (tmp_path / "three" / "table.csv").read_bytes() == table
    status, told = here("sweep", "study.toml")
    assert (status, told.splitlines()[:-1]) == (
        0,
        ["12 of 12 runs are finished and are not made again"],
    )


def test_modules_and_data_of_the_current_folder_options_and_failures(tmp_path, here):
    (tmp_path / "of_this_folder.py").write_text(
        "def scaled(number, scale, points):\n"
        "    return {'total': scale * float(points.read_text()) / number}\n"
    )
    (tmp_path / "points.txt").write_text("3")
    (tmp_path / "study.toml").write_text(
        'function = "of_this_folder:scaled"\n[grid]\nnumber = [0, 2]\n[options]\nscale = 4\n'
        '[data]\npoints = "points.txt"\n'
    )
    status, told = here("sweep", "study.toml", "--processes", 1, "--out", "out", cwd=tmp_path)
    assert status == 1
    failed, last = told.splitlines()[-2:]
    assert failed.startswith("failed: out/runs/") and failed.endswith("division by zero)")
    assert last == "1 of 2 runs are finished: out/table.csv"
    table = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert table[0] == "number,scale,total,status,failure,run"
    assert table[2].startswith("2,4,6.0,finished,,runs/")


def test_failed_runs_are_made_again_and_finished_ones_are_not(tmp_path, here):
    (tmp_path / "study.toml").write_text(
        'function = "support.sweeps:counted"\n[grid]\nnumber = [0, 1]\n'
        f'[options]\nstop = 1\nhow = "fails"\nplace = "{tmp_path}"\n'
    )
    assert here("sweep", "study.toml", cwd=tmp_path)[0] == 1
    assert here("sweep", "study.toml")[0] == 0
    assert calls(tmp_path) == {0: 1, 1: 2}


def test_runs_that_fail_alike_are_one_line(tmp_path, here):
    (tmp_path / "study.toml").write_text('function = "always:fails"\n[grid]\nx = [1, 2]\n')
    (tmp_path / "always.py").write_text("def fails(x):\n    raise ValueError('alike')\n")
    status, told = here("sweep", "study.toml", cwd=tmp_path)
    (failed,) = (line for line in told.splitlines() if line.startswith("failed: "))
    assert status == 1 and failed.endswith("log.txt and 1 more (ValueError: alike)")


def test_ctrl_c_ends_a_sweep_and_its_processes_in_one_line(tmp_path):
    (tmp_path / "study.toml").write_text(
        'function = "support.sweeps:counted"\n[grid]\nnumber = [0, 1, 2]\n'
        f'[options]\nstop = 1\nplace = "{tmp_path}"\n'
    )
    process = subprocess.Popen(
        command("sweep", tmp_path / "study.toml", "--processes", 2, "--out", tmp_path / "out"),
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("out/runs/*/result.json"))) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    told, said = process.communicate(timeout=60)
    assert (process.returncode, len(told.splitlines())) == (130, 2)
    assert said == "neuralflow: interrupted; results written so far are kept\n"
    assert not psutil.wait_procs(children, timeout=60)[1]


MISTAKES = {
    "no toml": ("function", "cannot be read as TOML"),
    "no function": ("[grid]\nnumber = [1]", "study.toml has no function; write function ="),
    "no grid": ('function = "support.sweeps:square"', "study.toml has no grid; write [grid]"),
    "a number": ("function = 1\n[grid]", "study.toml: function must be"),
    "no module": ('function = "square"\n[grid]', 'function must be "module:function"'),
    "an unknown module": ('function = "no_such:f"\n[grid]', "No module named 'no_such'"),
    "a module that is broken": (
        'function = "broken:f"\n[grid]',
        "the module broken cannot be imported (SyntaxError: ",
    ),
    "a module that misses another one": (
        'function = "incomplete:f"\n[grid]',
        "cannot be imported (ModuleNotFoundError: No module named 'no_such_package'); mend",
    ),
    "an unknown function": ('function = "support.sweeps:f"\n[grid]', "has no attribute 'f'"),
    "no colon": ('function = "study.error"\n[grid]', "no colon between module and function"),
    "nothing": ('function = ":"\n[grid]', 'function must be "module:function"'),
    "an unknown name": ("[girds]", "study.toml: a name must be one of 'function', 'grid'"),
    "a lone value": (
        'function = "support.sweeps:square"\n[grid]\nnumber = 4',
        r"study.toml: grid.number must be a list such as [4], got 4",
    ),
    "an argument": (
        'function = "support.sweeps:square"\n[grid]\nnmuber = [4]',
        "must name the arguments of function",
    ),
    "twice": (
        'function = "support.sweeps:square"\n[grid]\nnumber = [4]\n[options]\nnumber = 4',
        "number stands in [grid] and in [options]",
    ),
    "no file": (
        'function = "support.sweeps:mean"\n[grid]\n[data]\npoints = "none.txt"',
        "data['points'] must be arrays or the path of a file",
    ),
    "a number as data": (
        'function = "support.sweeps:mean"\n[grid]\n[data]\npoints = 1',
        "data['points'] must be",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_sentence_that_names_it(mistake, tmp_path, here):
    text, said = MISTAKES[mistake]
    (tmp_path / "study.toml").write_text(text)
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "incomplete.py").write_text("import no_such_package")
    status, told = here("sweep", "study.toml", cwd=tmp_path)
    assert status == 2 and said in told and told.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_options_that_are_wrong_are_sentences(tmp_path, here, monkeypatch, free_address):
    (tmp_path / "study.toml").write_text(FILE)
    for options, said in (
        (("none.toml",), "FILE must be the TOML file of a sweep, got none.toml"),
        (("study.toml", "--processes", 0), "--processes must be at least 1"),
        (("study.toml", "--processes", 1, "--executor", "tcp://a:1"), "two places"),
        (("study.toml", "--executor", "nowhere"), "--executor must be the address of"),
        (("study.toml", "--executor", f"tcp://{free_address}"), "--executor must be the address"),
    ):
        with dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}):
            status, told = here("sweep", *options, cwd=tmp_path)
        assert status == 2 and said in told and told.count("\n") == 1, told
    monkeypatch.setitem(sys.modules, "distributed", None)
    status, told = here("sweep", "study.toml", "--executor", "tcp://a:1")
    assert status == 2 and "pip install 'neuralflow-jax[sweeps]'" in told


def test_a_folder_in_use_is_a_sentence(tmp_path, here, monkeypatch):
    (tmp_path / "study.toml").write_text(FILE)

    def locked(folder):
        raise BlockingIOError

    monkeypatch.setattr(sweeps.files, "lock", locked)
    status, told = here("sweep", "study.toml", cwd=tmp_path)
    assert status == 2 and "another sweep runs in" in told
