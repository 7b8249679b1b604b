"""The benchmarks: values are compared before times, and the page says what was lost and why."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.signals import restored_signals

from experiments.benchmarks import page
from experiments.benchmarks.__main__ import main
from experiments.benchmarks.compare import HERE, Host, Route, Workload
from experiments.benchmarks.host import Bench
from experiments.benchmarks.plan import STAGES, Plan

ROOT = Path(__file__).parents[2]
RATIO = {"median": 1.3, "low": 1.2, "high": 1.4}


def double(factor=2.0):
    return jax.jit(lambda x: {"twice": factor * x}), (jnp.arange(3.0),)


def eager(slow=False):
    x = np.arange(3.0)
    return lambda: {"twice": x + x, "steps": np.asarray(7)}, ()


class Local(Bench):
    """A bench that finds the builders of this file."""

    def start(self, name, where, case):
        sys.modules["experiments.benchmarks.local"] = sys.modules[__name__]
        return super().start(name, where, case)


def workload(**options):
    routes = (
        Route("ours", "local:double", options),
        Route("other", "local:eager"),
        Route("absent", "local:eager", {}, ("no_such_package",)),
    )
    pairs = (("ours", "other"), ("ours", "absent"))
    return Workload(routes, pairs, {"twice": 1e-6}, ("steps",), {"other": "a reason"})


def test_rows_tell_ratios_first_calls_and_what_is_not_installed():
    first, second = workload().rows({}, {HERE: Local()}, 2, 0.0, (4, 4))
    assert first["apart"] == 0 and first["rounds"] == 4 and first["cause"] == "a reason"
    assert first["steps"] == "? and 7"
    assert first["time"]["low"] <= first["time"]["median"] <= first["time"]["high"]
    assert first["first s"] > first["other first s"] > 0
    assert second == {
        "neuralflow": "ours",
        "other": "absent",
        "left out": "no_such_package not installed",
    }


def test_routes_of_different_values_are_not_timed_against_each_other():
    with pytest.raises(ValueError, match="twice of ours and of other differ by 5.0e-01"):
        workload(factor=1.0).rows({}, {HERE: Local()}, 1, 0.0, (2, 2))


def test_a_host_answers_from_another_process_and_tells_its_errors():
    host = Host(sys.executable)
    case = {"of": "forward", "width": 2, "depth": 2, "batch": 1, "checkpoint": False}
    started = host.start("scan", "experiments.benchmarks.workloads.fixed_grid:scan", case)
    assert started.values["output"].shape == (1, 2) and host.run("scan") > 0
    assert host.missing(("json", "no_such_package")) == ["no_such_package"]
    with pytest.raises(RuntimeError, match="ModuleNotFoundError.*no_such"):
        host.start("x", "experiments.benchmarks.no_such:x", {})
    with host.process:
        host.process.kill()
        with pytest.raises(RuntimeError, match="its process ended with status -9"):
            host.run("scan")


def result(**stages):
    about = {"device": "a CPU", "cores": 2, "versions": {"jax": "1"}, "commands": []}
    about |= {"versions of the peers": {"torch": "2"}, "written": "today"}
    return {**about, "stages": stages}


def row(**entries):
    return {
        "case": "a",
        "neuralflow": "full",
        "other": "PyTorch, 1 thread",
        "time": RATIO,
    } | entries


def test_the_page_has_a_row_for_every_loss_with_its_cause(tmp_path):
    fast = {"median": 0.5, "low": 0.4, "high": 0.6}
    rows = [
        row(cause="its kernel"),
        row(other="diffrax", time=fast, **{"first call": RATIO, "first cause": "its tracing"}),
        row(**{"first call": RATIO}, time=fast),
        row(other="scan by hand", time={**RATIO, "low": 0.9}),  # not told apart from one
        {"case": "a", "neuralflow": "full", "other": "bijx", "left out": "bijx not installed"},
    ]
    known = result(fixed_grid={"status": "done", "rows": rows})
    lost = page.losses(known)
    assert [(r["other"], r["cause"]) for r in lost] == [
        ("PyTorch, 1 thread", "its kernel"),
        ("diffrax", "its tracing"),
        ("PyTorch, 1 thread", "nothing is compiled before eager PyTorch runs"),
    ]
    page.write(known, tmp_path)
    text = (tmp_path / page.PAGE).read_text()
    assert "- Left out: bijx: bijx not installed." in text and "1.30 (1.20-1.40)" in text
    assert (tmp_path / page.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_operations_a_second_are_shares_of_the_best_product():
    rates = {"GFLOP/s": 5.0, "other GFLOP/s": 1.0}
    product = {"status": "done", "rows": [{"route": "JAX", "GFLOP/s": 10.0}]}
    known = result(product=product, fixed_grid={"status": "done", "rows": [row(**rates)]})
    assert page.peak(known) == 10
    text = "\n".join(page.lines(known))
    assert "| 0.5 | 0.1 |" in text and "share of peak" in text


def test_a_quick_run_writes_result_page_and_picture_and_can_be_resumed(tmp_path):
    command = [sys.executable, "-m", "experiments.benchmarks", "--quick", "--out", str(tmp_path)]
    only = [*command, "--only", "product"]
    done = subprocess.run(only, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    known = json.loads((tmp_path / "result.json").read_text())
    assert {n: s["status"] for n, s in known["stages"].items()} == {"product": "done"}
    assert (tmp_path / page.PAGE).exists() and (tmp_path / page.PICTURE).exists()
    again = subprocess.run(
        [*only, "--resume"], capture_output=True, text=True, cwd=ROOT, timeout=600
    )
    assert again.returncode == 0, again.stderr
    kept = json.loads((tmp_path / "result.json").read_text())
    assert kept["stages"] == known["stages"]


@pytest.mark.parametrize("name", STAGES)
def test_every_workload_names_its_cases(name):
    module, _, function = STAGES[name].cases.partition(":")
    found = __import__(f"experiments.benchmarks.{module}", fromlist=[function])
    names = [case for case, _ in getattr(found, function)(Plan("", 0.0, False, sys.executable, 1))]
    assert names and len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--budget", "inf"], "--budget: must be a number above 0, got inf"),
        (["--starts", "0"], "--starts: must be a whole number of at least 1, got 0"),
        (["--resume"], "is not there to go on from; leave --resume and --page out"),
        (["--page"], "is not there to go on from"),
        (["--out", "held"], "is the result of a run before; add --resume, or another --out"),
        (["--quick", "--resume", "--out", "held"], "is the result of a whole run"),
        (["--out", "damaged"], "is damaged; give another --out"),
        (["--quick", "--peers", "no_such_python"], "--peers must be a Python, got no_such_python"),
        (["--quick", "--out", "file"], "--out must be a folder that can be written .*give another"),
    ],
)
def test_unfit_options_are_refused_before_any_workload(tmp_path, monkeypatch, capsys, wrong, words):
    monkeypatch.chdir(tmp_path)
    for name, text in (("held", '{"options": {"quick": false}}'), ("damaged", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    (tmp_path / "file").touch()
    with restored_signals(), pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert re.search(words, " ".join(capsys.readouterr().err.split()))
