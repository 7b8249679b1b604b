"""Training on many devices and in many processes."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PARALLEL = str(ROOT / "tests" / "programs" / "parallel.py")


def losses(*arguments, devices=1):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, PARALLEL, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def last_line(process):
    return json.loads(process.communicate(timeout=200)[0].splitlines()[-1])


def test_many_devices_and_many_processes_train_as_one(tmp_path, free_address, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [PARALLEL, str(tmp_path / "one")])
    runpy.run_path(PARALLEL)
    one = json.loads(capsys.readouterr().out.splitlines()[-1])
    together = [losses(tmp_path / "eight", devices=8)]
    eight = last_line(together[0])
    pair = [losses(tmp_path / "two", free_address, 2, k) for k in (0, 1)]
    try:
        two = last_line(pair[0])
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    assert (one["devices"], eight["devices"], two["devices"]) == (1, 8, 2)
    assert eight["drawn alike"]
    # Arrays that no process sees whole have a digest for every shard.
    assert (one["pieces"], eight["pieces"], two["pieces"]) == (1, 1, 2)
    assert len(one["losses"]) == 50 and one["losses"][-1] < one["losses"][0]
    for results in (one, eight, two):
        assert np.allclose(results["losses"], one["losses"], rtol=1e-12, atol=0)
        assert results["resumed"] == results["losses"][:4]
        assert np.allclose(results["by depth"], one["losses"][:10], rtol=1e-12, atol=0)
