"""What is published: a wheel that works alone, and a source archive whose tests can run."""

import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

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


def test_the_citation_says_what_the_project_says_of_itself():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    names = {
        "name": "title",
        "description": "abstract",
        "version": "version",
        "license": "license",
        "authors": "authors",
    }
    assert {name: cited[other] for name, other in names.items()} == {n: project[n] for n in names}
    assert cited["repository-code"] == project["urls"]["Repository"]
    changed = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert changed is not None and changed[1] == project["version"]
    assert changed[2] == str(cited.get("date-released", "unreleased"))
    papers = [reference["doi"].removeprefix("10.48550/arXiv.") for reference in cited["references"]]
    assert papers == ["1810.11741", "1710.10121", "1708.06257", "1805.09585", "1904.07568"]


def check_the_wheel_alone_runs_the_readmes_first_example(wheel, tmp_path):
    venv.create(tmp_path / "v")
    python = tmp_path / "v" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "-q", "--no-compile", wheel)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    program = (
        f"{example}\nimport pathlib\n"
        "typed = pathlib.Path(nf.__file__).with_name('py.typed').is_file()\n"
        "print(x.shape, y.shape, ode(x).shape, typed)"
    )
    gap, last = run(python, "-c", program, cwd=tmp_path).splitlines()
    assert 0 < float(gap) < 0.1
    assert f"print(abs(y - ode(x)).max())  # {float(gap):.3f}: what" in example
    assert last == "(128, 2) (128, 2) (128, 2) True"
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
    assert len(here) > 300 and here | {"README.md", "CITATION.cff", "pyproject.toml"} <= names


def check_the_description_shows_its_pictures_on_a_package_index(wheel):
    """A package index knows no files beside the description: every link in it is absolute."""
    with zipfile.ZipFile(wheel) as held:
        metadata = next(name for name in held.namelist() if name.endswith("METADATA"))
        description = held.read(metadata).decode()
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert links and all(link.startswith("https://") for link in links)
    for name in ("Author", "Project-URL", "License-Expression"):
        assert f"\n{name}" in description
