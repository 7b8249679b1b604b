"""What the tests of the commands share as fixtures."""

import sys

import pytest

from neuralflow import cli


@pytest.fixture
def here(monkeypatch, capsys):
    """Runs a command in this process, and returns its status and what it told."""
    hook = sys.unraisablehook

    def call(*arguments, cwd=None):
        if cwd:
            monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, arguments)))
        return ended.value.code, "".join(capsys.readouterr())

    yield call
    sys.unraisablehook = hook
