"""What a type checker says of programs that use the library."""

import json
import subprocess
import sys

import pytest

RIGHT = """
import neuralflow as nf

grid = nf.FixedGrid(nf.Euler(), steps=4, memory="two_level")
adaptive = nf.Adaptive(nf.Tsit5(), 1e-6, 1e-6, gradient="direct")
mask = nf.depth.decayed
report = nf.labs.diffeo.report
energy = nf.regularisers.depth_energy
configurations = nf.sweeps.grid(depth=range(3), scheme=["euler"])
"""
WRONG = {
    "a scheme's class": "nf.FixedGrid(nf.Euler, steps=4)",
    "a misspelt memory": 'nf.FixedGrid(nf.Euler(), steps=4, memory="checkpont")',
    "a misspelt gradient": 'nf.Adaptive(nf.Tsit5(), gradient="adjoint")',
    "an unknown laboratory": "nf.labs.diffeomorphisms",
    "an unknown room": "nf.transports",
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """The lines of which pyright complains, of a program that is right and of five that are not."""
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text("\n".join([RIGHT, *WRONG.values(), ""]))
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--pythonpath",
        sys.executable,
        "--outputjson",
        path,
    ]
    process = subprocess.run(command, capture_output=True, text=True, cwd=path.parent)
    if "nodeenv failed" in process.stderr:
        pytest.skip("pyright finds no node.js here, and cannot fetch it")
    errors = json.loads(process.stdout)["generalDiagnostics"]
    errors = [error for error in errors if error["rule"] != "reportUnusedExpression"]
    return {path.read_text().splitlines()[error["range"]["start"]["line"]] for error in errors}


def test_a_right_program_has_no_errors(complaints):
    assert complaints <= set(WRONG.values())


@pytest.mark.parametrize("mistake", WRONG)
def test_a_misspelt_one_has(mistake, complaints):
    assert WRONG[mistake] in complaints
