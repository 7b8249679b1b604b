"""Commands in processes of their own."""

import os
import subprocess
import sys

# These processes inherit the tests' quick compilation, which does not change what a command does.
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}


def command(*arguments):
    return [sys.executable, "-m", "neuralflow", *map(str, arguments)]


def run(*arguments, cwd=None):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=300
    )
