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


def test_what_is_published(tmp_path):
    run(sys.executable, "-m", "build", "--outdir", tmp_path, ROOT)
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    check_the_source_archive_holds_what_its_tests_read(archive)
    check_the_description_shows_its_pictures_on_a_package_index(wheel)
    check_the_wheel_alone_runs_the_readmes_first_example(wheel, tmp_path)


def check_the_wheel_alone_runs_the_readmes_first_example(wheel, tmp_path):
    venv.create(tmp_path / "v", with_pip=True)
    python = tmp_path / "v" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-compile", wheel)
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
    # The program for accelerators runs on machines with nothing else.
    stages = [
        f"experiments.accelerator.{path.stem}"
        for path in (ROOT / "experiments" / "accelerator").glob("*.py")
        if path.stem != "__init__"
    ]
    run(python, "-c", f"import {', '.join(stages)}", cwd=ROOT)


def check_the_source_archive_holds_what_its_tests_read(archive):
    with tarfile.open(archive) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    folders = ("neuralflow", "tests", "experiments", "notebooks")
    kinds = (".py", ".ipynb", ".json", ".png", ".txt", ".md")
    here = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds and "__pycache__" not in path.parts
    }
    assert len(here) > 300 and here | {"README.md", "pyproject.toml"} <= names


def check_the_description_shows_its_pictures_on_a_package_index(wheel):
    """A package index knows no files beside the description: every link in it is absolute."""
    shown = run(sys.executable, "-m", "zipfile", "-l", wheel)
    metadata = next(line.split()[0] for line in shown.splitlines() if "METADATA" in line)
    code = f"import zipfile; print(zipfile.ZipFile({str(wheel)!r}).read({metadata!r}).decode())"
    description = run(sys.executable, "-c", code)
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert links and all(link.startswith("https://") for link in links)
    for name in ("Author", "Project-URL", "License-Expression"):
        assert f"\n{name}" in description
