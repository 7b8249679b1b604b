"""Files that are written whole or not at all, results as strict JSON, and the user's cache."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def as_json(data: Any) -> str:
    """Return plain data as the text of strict JSON, with a line break at the end.

    JSON has no word for numbers that are not finite. These numbers become null.

    Args:
        data: Dictionaries, lists, tuples, strings, numbers, booleans and None.
    """
    return json.dumps(finite(data), indent=1, allow_nan=False) + "\n"


def finite(data: Any) -> Any:
    """Return plain data with None in place of numbers that are not finite.

    Args:
        data: Dictionaries, lists, tuples, strings, numbers, booleans and None. Tuples become lists.
    """
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write(path: Path, content: str | Callable[[Path], Any]) -> None:
    """Write a file whole or not at all.

    The content goes to `NAME.partial` beside the file first. The finished file then takes the place
    of the old file in one operation.

    Args:
        path: The path of the file.
        content: The text, or a function that writes a file at the path that it receives.
    """
    partial = path.with_name(path.name + ".partial")
    if isinstance(content, str):
        partial.write_text(content)
    else:
        content(partial)
    partial.replace(path)


def user_cache() -> Path:
    """Return the project's folder in the user's cache: `$XDG_CACHE_HOME` or `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "neuralflow"
