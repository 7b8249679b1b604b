"""The prepared data sets beside the project."""

from pathlib import Path

import pytest

TFDS = Path(__file__).resolve().parents[3] / "shared" / "data" / "tfds"
real = pytest.mark.skipif(
    not TFDS.is_dir(), reason="needs the prepared data sets beside the project"
)
