"""The frame of the command line: sentences for people, tracebacks for bugs, and the cache."""

import os
import subprocess
import sys

import pytest

from neuralflow import cli
from neuralflow.checks import ExtraMissing, InputError, InputTypeError
from neuralflow.cli import info
from neuralflow.data import DataMissing
from neuralflow.training import CheckpointError

MENDABLE = [
    InputError("give another"),
    InputTypeError("give another"),
    ExtraMissing("install the extra"),
    DataMissing("prepare it"),
    CheckpointError("give another folder"),
]


@pytest.mark.parametrize("error", MENDABLE, ids=lambda error: type(error).__name__)
def test_what_a_person_can_mend_is_a_sentence_and_status_two(error, monkeypatch, capsys):
    def refuse(options):
        raise error

    monkeypatch.setattr(info, "run", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.main(["info"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"neuralflow: {error}\n"


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, OSError, ImportError])
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    def fail(options):
        raise error("a bug")

    monkeypatch.setattr(info, "run", fail)
    with pytest.raises(error, match="a bug"):
        cli.main(["info"])


def told(folder, *options, code=None, **variables):
    """What `neuralflow info` says of its cache in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(folder), **variables}
    program = f"from neuralflow import cli; cli.main({[*options, 'info']!r})"
    process = subprocess.run(
        [sys.executable, "-c", code or program], capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_compilation_cache_is_on_and_can_be_turned_off(tmp_path):
    assert f"compilation cache: on, {tmp_path}" in told(tmp_path / "on")
    for options, variables in (
        (["--no-compilation-cache"], {}),
        ([], {"JAX_ENABLE_COMPILATION_CACHE": "false"}),
    ):
        assert "compilation cache: off" in told(tmp_path / "off", *options, **variables)
    assert not (tmp_path / "off").exists()
    own = told(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert f"compilation cache: on, {tmp_path / 'own'}" in own


COMPILES = """
import jax
from jax._src import monitoring
from neuralflow.cli import cache

cache.switch_on()
hits = []
monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jax.numpy.linalg.qr(y)[0] + i, x))(
    jax.numpy.eye(30)
).block_until_ready()
print(sum("cache_hits" in event for event in hits))
"""


def test_a_second_process_finds_what_the_first_has_compiled(tmp_path):
    assert told(tmp_path, code=COMPILES) == "0\n"
    assert int(told(tmp_path, code=COMPILES)) >= 1


def test_the_cache_keeps_to_its_size(tmp_path):
    small = COMPILES.replace("cache.switch_on()", "cache.LARGEST = 1; cache.switch_on()")
    told(tmp_path, code=small)
    kept = [path.stat().st_size for path in tmp_path.rglob("*") if path.name.endswith("-cache")]
    assert sum(kept) <= 1
