"""Who may import whom, read off every import in the tree, also those inside functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import neuralflow as nf

ROOT = Path(nf.__file__).parent
FREE = ("files", "console")
CORE = (
    "annotations",
    "checks",
    "statistics",
    "depth",
    "schemes",
    "fields",
    "solve",
    "layers",
    "gradients",
    "branches",
    "refinement",
    "transport",
    "regularisers",
)
BESIDE = ("plots", "models", "data", "training", "sweeps", "inference", "labs")
TOP = ("cli", "__main__")
DOOR = "neuralflow"


def room(module):
    """The room of a dotted module: its first part below the package.

    The room of a laboratory has the first two parts.
    """
    parts = module.split(".")[1:]
    if parts[:1] == ["labs"]:
        return ".".join(parts[:2])
    return parts[0] if parts else DOOR


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """The modules of the package that a file imports.

    `from a import b` imports a.b where that is a module, and otherwise a.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (
                alias.name for alias in node.names if alias.name.split(".")[0] == "neuralflow"
            )
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            if node.module.split(".")[0] == "neuralflow":
                yield from (
                    f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in FILES else node.module
                    for a in node.names
                )


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}
IMPORTS = {module: set(imported(path)) - {module} for module, path in FILES.items()}
LABS = sorted({room(module) for module in FILES if module.startswith("neuralflow.labs.")})


def allowed(importer, target):
    """Whether one room may import another."""
    if importer == target or target in FREE:
        return True
    if importer in FREE or target in (DOOR, *TOP):
        return False
    if importer in CORE:
        return target in CORE and CORE.index(target) < CORE.index(importer)
    if importer in (*LABS, "inference"):
        return target in (*CORE, "plots")
    if importer == "training":
        return target in (*CORE, "data")
    return target in CORE


@pytest.mark.parametrize("module", [m for m in FILES if room(m) not in (DOOR, *TOP, "labs")])
def test_a_module_imports_only_what_its_room_may(module):
    for target in IMPORTS[module]:
        assert allowed(room(module), room(target)), f"{module} imports {target}"


def test_every_room_has_its_place():
    rooms = {room(module) for module in FILES} - {DOOR, "labs"}
    assert rooms == {*FREE, *CORE, *BESIDE, *TOP, *LABS} - {"labs"}
    assert [
        f"labs.{name}"
        for name in ("deep_limit", "diffeo", "operators", "paths", "plain_net", "stochastic")
    ] == LABS


def test_there_is_no_circle_of_modules():
    """A module stands for its file alone here.

    A package's own list of names is what others import from it.
    """
    done, above = set(), []

    def visit(module):
        assert module not in above, (
            f"a circle: {' -> '.join([*above[above.index(module) :], module])}"
        )
        if module in done:
            return
        above.append(module)
        for target in sorted(IMPORTS[module]):
            visit(target)
        above.pop()
        done.add(module)

    for module in FILES:
        visit(module)


def test_a_forbidden_import_would_be_seen(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        "import neuralflow.labs.paths\n\ndef f():\n"
        "    from neuralflow import cli, labs\n    from neuralflow.labs import diffeo\n"
    )
    rooms = {room(target) for target in imported(path)}
    assert rooms == {"labs.paths", "cli", "labs", "labs.diffeo"}
    assert not any(allowed("layers", target) for target in rooms)
    assert (
        not allowed("labs.operators", "labs.diffeo")
        and not allowed("labs.paths", "training")
        and not allowed("depth", "fields")
    )
    assert (
        allowed("labs.operators", "plots")
        and allowed("training", "files")
        and not allowed("files", "checks")
    )


def test_importing_loads_the_core_only():
    code = "import sys, neuralflow; print(*sorted(m for m in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = (
        "matplotlib",
        "tensorflow_datasets",
        "sklearn",
        "tyro",
        "scipy.optimize",
        "scipy.stats",
        "orbax.checkpoint",
        "distributed",
    )
    assert not [name for name in heavy if name in loaded]
    ours = {room(name) for name in loaded if name.startswith("neuralflow.")}
    assert ours <= set(CORE), ours
