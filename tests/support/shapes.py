"""The check of shapes that conftest.py puts on every function of the library."""

import re

from beartype import BeartypeConf, beartype


def shapes(function):
    """Checks a function whose annotations speak of shapes, and leaves every other as it is."""
    annotations = " ".join(str(a) for a in getattr(function, "__annotations__", {}).values())
    if re.search(r"\b(Float|Int|Shaped)\[", annotations):
        return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
    return function
