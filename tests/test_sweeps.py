"""Sweeps: the same table wherever runs are made, and nothing made twice."""

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import dask.config
import jax.numpy as jnp
import numpy as np
import optax
import psutil
import pytest
from distributed import Client, LocalCluster
from flax import nnx
from support.cli import ENVIRONMENT
from support.sweeps import GRID, calls, counted, depth_error, mean, square, warned

import neuralflow as nf
from neuralflow import statistics, sweeps
from neuralflow.checks import InputError
from neuralflow.sweeps import SweepError

TESTS = Path(__file__).parent


def run(function, configurations, out, **options):
    return sweeps.run(function, configurations, out=out, progress=False, **options)


def processes(count=2):
    return ProcessPoolExecutor(count, get_context("spawn"))


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two workers, as processes of their own."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        LocalCluster(**options, silence_logs=logging.CRITICAL) as cluster,
        Client(cluster) as client,
    ):
        yield client


def table_of(folder):
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_grid_is_the_product_of_its_axes():
    assert sweeps.grid(a=[1, 2], b=("x",), c=range(2)) == [
        {"a": 1, "b": "x", "c": 0},
        {"a": 1, "b": "x", "c": 1},
        {"a": 2, "b": "x", "c": 0},
        {"a": 2, "b": "x", "c": 1},
    ]
    (one, _) = sweeps.grid(a=np.array([0.5, 1.5]), b=[np.int64(3)], c=[(1, 2)])
    assert one == {"a": 0.5, "b": 3, "c": [1, 2]}
    assert [type(value) for value in one.values()] == [float, int, list]
    assert sweeps.grid() == [{}]


def test_the_table_is_the_same_here_in_processes_and_on_a_dask_cluster(tmp_path, cluster):
    rows = run(depth_error, GRID, tmp_path / "here")
    with processes() as pool:
        assert run(depth_error, GRID, tmp_path / "pool", executor=pool) == rows
    assert run(depth_error, GRID, tmp_path / "dask", executor=cluster.get_executor()) == rows
    table, *others = (
        (tmp_path / name / "table.csv").read_bytes() for name in ("here", "pool", "dask")
    )
    assert others == [table, table]
    read = table_of(tmp_path / "here")
    assert list(read[0]) == ["depth", "scheme", "seed", "error", "status", "failure", "run"]
    assert [{name: row[name] for name in GRID[0]} for row in rows] == GRID
    assert [{name: str(value) for name, value in row.items()} for row in rows] == read
    for scheme, order in (("euler", 1), ("heun", 2)):
        for seed in (0, 1):
            chosen = [row for row in rows if (row["scheme"], row["seed"]) == (scheme, seed)]
            depths, errors = zip(*((row["depth"], row["error"]) for row in chosen), strict=True)
            fitted = statistics.fitted_order(depths, errors, least=16)
            assert fitted is not None and abs(fitted - order) < 0.1


def test_a_dask_worker_that_dies_costs_no_finished_run(tmp_path, cluster):
    configurations = sweeps.grid(number=range(6), place=[str(tmp_path)], stop=[2])

    def kill():
        until((tmp_path / "2.txt").exists)
        until(lambda: len(list(tmp_path.glob("out/runs/*/result.json"))) > 1)
        os.kill(int((tmp_path / "2.txt").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    rows = run(counted, configurations, tmp_path / "out", executor=cluster.get_executor())
    killer.join()
    assert [row["square"] for row in rows] == [0, 1, 4, 9, 16, 25]
    assert calls(tmp_path) == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1, 5: 1}


PROGRAM = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from neuralflow import sweeps
from support.sweeps import counted

if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        configurations = sweeps.grid(number=range(6), place=[sys.argv[1]], stop=[3])
        sweeps.run(counted, configurations, out=sys.argv[1] + "/out", executor=executor)
"""


def test_a_killed_sweep_repeats_no_run_and_leaves_no_process(tmp_path):
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, program, tmp_path],
        env=ENVIRONMENT | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: len(list(tmp_path.glob("out/runs/*/result.json"))) == 5)
    children = psutil.Process(process.pid).children(recursive=True)
    configurations = sweeps.grid(number=range(6), place=[str(tmp_path)], stop=[3])
    with pytest.raises(SweepError, match="another sweep runs in"):
        run(counted, configurations, tmp_path / "out")
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(children, timeout=60)[1]
    rows = run(counted, configurations, tmp_path / "out")
    assert [row["square"] for row in rows] == [0, 1, 4, 9, 16, 25]
    assert calls(tmp_path) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1}


def test_a_broken_pool_is_a_sentence_and_the_sweep_goes_on_from_there(tmp_path):
    configurations = sweeps.grid(number=range(3), place=[str(tmp_path)], stop=[2], how=["dies"])
    with processes(1) as pool, pytest.raises(SweepError, match="2 of 3 runs were finished"):
        run(counted, configurations, tmp_path / "out", executor=pool)
    table = table_of(tmp_path / "out")
    assert [row["status"] for row in table] == ["finished", "finished", "missing"]
    rows = run(counted, configurations, tmp_path / "out")
    assert [row["square"] for row in rows] == [0, 1, 4]
    assert calls(tmp_path) == {0: 1, 1: 1, 2: 2}


def test_a_run_that_always_kills_its_process_is_named_and_holds_nothing_up(tmp_path):
    configurations = sweeps.grid(number=range(3), place=[str(tmp_path)], stop=[0], how=["kills"])
    with processes(1) as pool, pytest.raises(SweepError, match="0 of 3 .* begun: number=0, "):
        run(counted, configurations, tmp_path / "out", executor=pool)
    with processes(1) as pool, pytest.raises(SweepError, match="2 of 3 .* begun: number=0, "):
        run(counted, configurations, tmp_path / "out", executor=pool)
    status = [row["status"] for row in table_of(tmp_path / "out")]
    assert status == ["missing", "finished", "finished"]


def test_a_failing_run_is_a_row_and_is_made_again(tmp_path, capsys):
    configurations = sweeps.grid(number=range(3), place=[str(tmp_path)], stop=[1], how=["fails"])
    rows = sweeps.run(counted, configurations, out=tmp_path / "out")
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]
    assert rows[1]["failure"] == "RuntimeError: the first call fails always"
    assert "Traceback" in (tmp_path / "out" / rows[1]["run"] / "log.txt").read_text()
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("[1/3] number=0, ") and told[0].endswith(": finished")
    assert "failed RuntimeError" in told[1] and told[2].endswith("finished (1 failed so far)")
    rows = sweeps.run(counted, configurations, out=tmp_path / "out")
    assert [row["square"] for row in rows] == [0, 1, 4]
    assert calls(tmp_path) == {0: 1, 1: 2, 2: 1}
    found, line = capsys.readouterr().out.splitlines()
    assert found == "2 of 3 runs are finished and are not made again"
    assert line.startswith("[3/3] number=1, ")


def test_a_run_that_ends_python_fails_alone(tmp_path):
    def leave(number):
        sys.exit("left") if number else None
        return {}

    rows = run(leave, sweeps.grid(number=[1, 0]), tmp_path)
    assert [row["failure"] for row in rows] == ["SystemExit: left", ""]


def test_an_interrupted_sweep_keeps_what_is_finished(tmp_path):
    made = []

    def interrupted(number):
        made.append(number)
        if made == [0, 1]:
            raise KeyboardInterrupt
        return {"square": number**2}

    configurations = sweeps.grid(number=range(3))
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, configurations, tmp_path)
    table = table_of(tmp_path)
    assert [row["status"] for row in table] == ["finished", "missing", "missing"]
    run(interrupted, configurations, tmp_path)
    assert made == [0, 1, 2, 1]  # what had begun comes last


def test_a_run_is_known_by_its_values_and_not_by_how_they_are_written(tmp_path):
    made = []

    def noted(a, b):
        made.append((a, b))
        return {"kind": type(a).__name__}

    for configuration in (
        {"a": 1, "b": 0.5},
        {"b": np.float64(0.5), "a": np.int32(1)},
        {"a": jnp.asarray(1), "b": 0.5},
    ):
        run(noted, [configuration], tmp_path)
    assert made == [(1, 0.5)]
    rows = run(noted, [{"a": a, "b": 0.5} for a in (1, 1.0, True, "1", [1], None)], tmp_path)
    assert [row["kind"] for row in rows] == ["int", "float", "bool", "str", "list", "NoneType"]
    assert len({row["run"] for row in rows}) == 6 and len(made) == 6
    rows = run(noted, [{"a": 1, "b": 0.5}] * 2, tmp_path)
    assert rows[0] == rows[1] and len(made) == 6


def test_data_are_known_by_their_content(tmp_path):
    made = []

    def total(points, scale):
        made.append(scale)
        return {"total": scale * sum(x.sum() for x in points.values())}

    def repeated(value, scale=2):
        data = {"points": {"x": value, "y": jnp.ones(2)}}
        return run(total, [{"scale": scale}], tmp_path, data=data)[0]["total"]

    assert repeated(np.ones(3)) == repeated(jnp.ones(3)) == 10 and len(made) == 1
    assert repeated(np.zeros(3)) == 4 and len(made) == 2
    assert repeated(np.ones(3, np.float32)) == 10 and len(made) == 3


def test_files_are_known_by_their_content_and_not_by_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = Path("one.txt"), Path("two.txt")
    one.write_text("1 2 3")
    two.write_text("1 2 3")
    runs = {run(mean, [{}], "out", data={"points": path})[0]["run"] for path in (one, str(two))}
    assert len(runs) == 1
    two.write_text("1 2 6")
    (row,) = run(mean, [{}], "out", data={"points": two})
    assert row["mean"] == 3 and row["run"] not in runs


def test_data_cannot_be_changed_by_a_run(tmp_path):
    def change(x, lists):
        lists.append(1)
        x[:] = 0
        return {}

    configuration = {"lists": [0]}
    x = np.ones(2)
    (row,) = run(change, [configuration], tmp_path, data={"x": x})
    assert "read-only" in row["failure"] and row["lists"] == [0] == configuration["lists"]
    x[:] = 2  # It still can be by its owner.


def test_results_come_back_as_they_were(tmp_path):
    results = {
        "nan": np.nan,
        "infinite": jnp.asarray(-jnp.inf),
        "whole": np.int64(2**53 + 1),
        "third": 1 / 3,
        "flag": np.bool_(True),
        "text": 'ü, "1"\n2',
        "none": None,
        "points": np.arange(6.0).reshape(2, 3),
        "file": jnp.arange(3),
    }

    def returned():
        return results

    first, again = (run(returned, [{}], tmp_path)[0] for _ in range(2))
    assert repr(first) == repr(again)
    expected = ["nan", "-inf", "9007199254740993", "0.3333333333333333", "True"]
    assert [str(value) for value in list(again.values())[:5]] == expected
    (line,) = table_of(tmp_path)
    assert line["text"] == results["text"] and line["infinite"] == "-inf" and line["none"] == ""
    arrays = sweeps.arrays(tmp_path / again["run"])
    assert set(arrays) == {"points", "file"}
    assert all((arrays[name] == results[name]).all() for name in arrays)


@pytest.mark.parametrize(
    "returned",
    [
        None,
        [1],
        {1: 2},
        {"a": 1},
        {"run": "x"},
        {"list": [1, 2]},
        {"objects": np.array([None])},
        {"half": jnp.ones(2, jnp.bfloat16)},
        {"complex": 1j},
    ],
    ids=str,
)
def test_results_of_other_kinds_fail_in_a_sentence(returned, tmp_path):
    def give(a):
        return returned

    (row,) = run(give, [{"a": 1}], tmp_path)
    assert row["status"] == "failed" and "function must return" in row["failure"]


EDITS = {
    "a digit": lambda text: text.replace('"square": 4', '"square": 5'),
    "cut": lambda text: text[: len(text) // 2],
    "nothing": lambda text: "",
    "a list": lambda text: "[]",
    "a copy": None,
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_damaged_result_is_made_again_and_told(edit, tmp_path):
    three, two = run(square, sweeps.grid(number=[3, 2]), tmp_path)
    path, other = (tmp_path / row["run"] / "result.json" for row in (two, three))
    text = path.read_text()
    path.write_text(other.read_text() if edit == "a copy" else EDITS[edit](text))
    assert path.read_text() != text
    with pytest.warns(UserWarning, match=f"{path} is damaged"):
        assert run(square, sweeps.grid(number=[3, 2]), tmp_path) == [three, two]


def test_damaged_arrays_are_a_sentence(tmp_path):
    def points():
        return {"x": np.arange(1000.0)}

    (row,) = run(points, [{}], tmp_path)
    path = tmp_path / row["run"] / "arrays.npz"
    held = bytearray(path.read_bytes())
    held[1000] ^= 1
    for damaged in (bytes(held), bytes(held[:500]), b""):
        path.write_bytes(damaged)
        with pytest.raises(SweepError, match="folder must be that of a finished run"):
            sweeps.arrays(path.parent)
    with pytest.raises(InputError, match=r"got that of a sweep, .*; give out / row\['run'\]"):
        sweeps.arrays(tmp_path)


def test_threads_have_logs_of_their_own(tmp_path, capsys):
    meeting = threading.Barrier(2)
    logger = logging.getLogger("sweep")

    def told(number):
        for turn in range(3):
            meeting.wait(30)
            print("print", number, turn)
            logger.warning("entry %d %d", number, turn)
            print("error", number, turn, file=sys.stderr)
        assert sweeps.folder() is not None
        return {}

    before = sys.stdout, sys.stderr, logging.getLogger().handlers[:]
    with ThreadPoolExecutor(2) as pool:
        rows = run(told, sweeps.grid(number=[1, 2]), tmp_path, executor=pool)
    assert (sys.stdout, sys.stderr, logging.getLogger().handlers) == before
    for row in rows:
        lines = (tmp_path / row["run"] / "log.txt").read_text().splitlines()
        for word in ("print", "WARNING sweep: entry", "error"):
            expected = [f"{word} {row['number']} {turn}" for turn in range(3)]
            assert [line for line in lines if line.startswith(word)] == expected
        assert len(lines) == 9
    assert "".join(capsys.readouterr()) == ""


def test_a_log_holds_its_own_warnings_also_after_other_runs(tmp_path):
    with processes(1) as pool:
        rows = run(warned, sweeps.grid(number=[1, 2]), tmp_path, executor=pool)
    for row in rows:
        assert "UserWarning: beware" in (tmp_path / row["run"] / "log.txt").read_text()


def test_a_training_in_a_run_goes_on_where_it_was(tmp_path):
    trained = []

    def train(rate, epochs):
        model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        fitted = nf.training.fit(
            model,
            nf.models.classification,
            optax.sgd(rate),
            nf.data.moons(16),
            epochs=1 if not trained else epochs,
            batch=8,
            folder=sweeps.folder(),
            resume=True,
        )
        trained.append(len(fitted.history.rows))
        if len(trained) == 1:
            raise MemoryError
        return {"loss": fitted.history["loss"][-1]}

    configurations = sweeps.grid(rate=[0.1], epochs=[3])
    (failed,) = run(train, configurations, tmp_path)
    assert failed["status"] == "failed" and sweeps.folder() is None
    (row,) = run(train, configurations, tmp_path)
    log = (tmp_path / row["run"] / "log.txt").read_text()
    assert trained == [1, 3] and row["run"] == failed["run"]
    assert [line[:9] for line in log.splitlines() if line.startswith("epoch")] == [
        "epoch 1/1",
        "epoch 2/3",
        "epoch 3/3",
    ]
    (alone,) = run(train, configurations, tmp_path / "alone")
    assert alone["loss"] == row["loss"]


def test_sweeps_add_up_in_a_folder_and_the_table_is_that_of_the_last(tmp_path):
    run(square, sweeps.grid(number=range(3)), tmp_path)
    run(square, sweeps.grid(number=[2, 3]), tmp_path)
    table = table_of(tmp_path)
    assert [row["number"] for row in table] == ["2", "3"]
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 4


def test_a_folder_tells_what_it_holds(tmp_path):
    (row,) = run(square, [{"number": 2}], tmp_path)
    record = json.loads((tmp_path / row["run"] / "configuration.json").read_text())
    assert record["function"] == "support.sweeps:square"
    assert record["configuration"] == {"number": 2}
    assert record["versions"]["neuralflow-jax"] == nf.__version__


def test_a_script_is_known_by_the_name_by_which_others_import_it(tmp_path, monkeypatch):
    def local():
        return {}

    monkeypatch.setattr(local, "__module__", "__main__")
    for attributes, name in (
        ({"__spec__": None, "__file__": "folder/study.py"}, "study"),
        ({"__spec__": ModuleSpec("package.study", None)}, "package.study"),
        ({"__spec__": None}, "__main__"),
    ):
        main = ModuleType("__main__")
        vars(main).update(attributes)
        monkeypatch.setitem(sys.modules, "__main__", main)
        (row,) = run(local, [{}], tmp_path)
        record = json.loads((tmp_path / row["run"] / "configuration.json").read_text())
        assert record["function"].split(":")[0] == name


def test_the_table_is_there_while_the_sweep_runs(tmp_path):
    seen = []

    def look(number):
        seen.append([row["status"] for row in table_of(tmp_path)].count("finished"))
        time.sleep(0.2)  # much longer than writing the table takes
        return {}

    run(look, sweeps.grid(number=range(3)), tmp_path)
    assert seen == [0, 1, 2]


def test_a_pool_that_forks_is_refused(tmp_path):
    with (
        warnings.catch_warnings(),
        ProcessPoolExecutor(1, get_context("fork")) as pool,
        pytest.raises(InputError, match="executor must not fork"),
    ):
        warnings.simplefilter("ignore")  # Python and JAX warn of the fork.
        run(square, [{"number": 2}], tmp_path, executor=pool)


def test_a_function_that_cannot_be_sent_is_a_sentence(tmp_path, cluster):
    def local(number):
        return {"square": number**2}

    with processes(1) as pool, pytest.raises(InputError, match="executor cannot call .*local"):
        run(local, [{"number": 2}], tmp_path, executor=pool)
    # Dask sends it by its code.
    (row,) = run(local, [{"number": 2}], tmp_path, executor=cluster.get_executor())
    assert row["square"] == 4


def test_a_run_that_kills_its_worker_fails_and_a_cluster_that_goes_is_a_sentence(tmp_path):
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(**options, silence_logs=logging.CRITICAL) as local,
        Client(local) as client,
    ):
        deadly = sweeps.grid(number=[7], place=[str(tmp_path)], stop=[7], how=["dies"])
        (row,) = run(counted, deadly, tmp_path / "out", executor=client.get_executor())
        assert row["failure"].startswith("KilledWorker: ")
        (row,) = run(counted, deadly, tmp_path / "out", executor=client.get_executor())
        assert row["square"] == 49

        def close():
            until((tmp_path / "0.txt").exists)
            client.shutdown()

        closing = threading.Thread(target=close)
        closing.start()
        waiting = sweeps.grid(number=range(3), place=[str(tmp_path)], stop=[0])
        with pytest.raises(SweepError, match="0 of 3 runs were finished"):
            run(counted, waiting, tmp_path / "out", executor=client.get_executor())
        closing.join()
