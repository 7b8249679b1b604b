"""Layers on meshes, on eight devices that one machine pretends to have."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = str(Path(__file__).parent / "programs" / "meshes.py")


def test_layers_on_meshes_of_either_kind_are_those_of_one_device():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, PROGRAM],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) == 22, run.stderr[-2000:]
    for axes, name, off, spec in lines:
        # The lengths of adaptive steps carry the roundings of their error estimates.
        assert float(off) < (1e-11 if name.startswith(("adaptive", "alone")) else 1e-12), (
            axes,
            name,
            off,
        )
        assert spec == "data", (axes, name, spec)
