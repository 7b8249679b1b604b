"""The index page of the notebooks shows all of them, and the notebooks are small."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(HERE.glob("[0-9]*.ipynb"))
PAGE = (HERE / "README.md").read_text()


def test_the_index_has_every_notebook_with_a_picture_that_the_notebook_shows():
    spec = importlib.util.spec_from_file_location("pictures", HERE / "pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = re.findall(r'^\| <img src="(.*?)" .*?\]\((.*?)\)', PAGE, re.M)
    assert [HERE / notebook for _, notebook in rows] == NOTEBOOKS
    shown = module.index()
    assert [HERE / picture for picture, _ in rows] == list(shown)
    for path, content in shown.items():
        assert path.read_bytes() == content, "run python notebooks/pictures.py"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_holds_the_outputs_of_a_run_from_the_start(notebook):
    assert notebook.stat().st_size < 400_000
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 40
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and not any(output["output_type"] == "error" for output in outputs)


def test_links_of_the_index_lead_somewhere():
    links = re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', PAGE)
    assert links and all((HERE / "".join(link)).exists() for link in links)
