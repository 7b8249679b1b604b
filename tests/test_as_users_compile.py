"""The tests marked `optimised`, in a process that compiles as users do.

Rounding matters in them. conftest.py says how the other tests are compiled.
"""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def test_what_rounds_does_so_as_users_compile():
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    files = [path for path in TESTS.rglob("test_*.py") if "mark.optimised" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "optimised", *map(str, files)]
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=TESTS.parent, env=environment, timeout=500
    )
    assert process.returncode == 0, process.stdout[-5000:]
