"""Write the pictures of the index page: one of every notebook, as the notebook shows it.

python notebooks/pictures.py
"""

import base64
import json
from pathlib import Path

HERE = Path(__file__).parent
CHOSEN = {"01": 1, "05": 2, "06": 1, "07": 2}
"""Which picture stands for a notebook, where it is not the first."""


def pictures(notebook):
    """Return the pictures of a notebook as PNG files, in their order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = [
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    return [base64.b64decode("".join(text)) for text in texts]


def index(folder=HERE):
    """Return the pictures of the index page by their paths."""
    notebooks = sorted(folder.glob("[0-9]*.ipynb"))
    numbers = {notebook: notebook.name.partition("_")[0] for notebook in notebooks}
    return {
        folder / "pictures" / f"{number}.png": pictures(notebook)[CHOSEN.get(number, 0)]
        for notebook, number in numbers.items()
    }


if __name__ == "__main__":
    for path, content in index().items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
