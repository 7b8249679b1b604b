"""What the tests of the commands share as fixtures."""

import signal
import sys

import pytest

from neuralflow import cli


@pytest.fixture
def here(monkeypatch, capsys):
    """Runs a command in this process, and returns its status and what it told."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    hook = sys.unraisablehook

    def call(*arguments, cwd=None):
        if cwd:
            monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, arguments)))
        return ended.value.code, "".join(capsys.readouterr())

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook
