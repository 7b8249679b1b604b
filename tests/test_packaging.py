"""What is published: a wheel that works alone, and a source archive whose tests can run."""

import re
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, **options):
    process = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=600, **options
    )
    if re.search(r"No matching distribution|connection|Temporary failure", process.stderr):
        pytest.skip("no package index can be reached")
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    return process.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The folder with the wheel and the source archive."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return folder


def test_the_wheel_alone_runs_the_readmes_first_example(archives, tmp_path):
    (wheel,) = archives.glob("*.whl")
    venv.create(tmp_path / "v", with_pip=True)
    python = tmp_path / "v" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel)
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert example is not None
    program = (
        f"import jax.numpy as jnp\nx = jnp.ones((3, 2))\n{example[1]}\nprint(y.shape, ode(x).shape)"
    )
    assert run(python, "-c", program, cwd=tmp_path).split("\n")[0] == "(3, 2) (3, 2)"
    typed = (
        "import neuralflow, pathlib\n"
        "print(pathlib.Path(neuralflow.__file__).with_name('py.typed').is_file())"
    )
    assert run(python, "-c", typed, cwd=tmp_path).strip() == "True"


def test_the_tests_of_the_source_archive_are_collected(archives, tmp_path):
    (archive,) = archives.glob("*.tar.gz")
    with tarfile.open(archive) as held:
        held.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    collected = run(sys.executable, "-m", "pytest", "-q", "-n0", "--collect-only", cwd=root)
    assert re.search(r"\d+ tests collected", collected)


def test_the_description_shows_its_pictures_on_a_package_index(archives):
    """A package index knows no files beside the description: every link in it is absolute."""
    (wheel,) = archives.glob("*.whl")
    shown = run(sys.executable, "-m", "zipfile", "-l", wheel)
    metadata = next(line.split()[0] for line in shown.splitlines() if "METADATA" in line)
    code = f"import zipfile; print(zipfile.ZipFile({str(wheel)!r}).read({metadata!r}).decode())"
    description = run(sys.executable, "-c", code)
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert links and all(link.startswith("https://") for link in links)
    for name in ("Author", "Project-URL", "License-Expression"):
        assert f"\n{name}" in description
