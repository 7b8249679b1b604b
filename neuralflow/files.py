"""Files written whole or not at all, and results as strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


def as_json(data: Any) -> str:
    """Plain data as strict JSON: numbers that are not finite, for which JSON has no word, are null."""
    return json.dumps(finite(data), indent=1, allow_nan=False) + "\n"


def finite(data: Any) -> Any:
    """Plain data with None in place of numbers that are not finite."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write(path: Path, content: str | Callable[[Path], Any]) -> None:
    """A file with this text, or as a function of its path writes it; whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    if isinstance(content, str):
        partial.write_text(content)
    else:
        content(partial)
    partial.replace(path)
