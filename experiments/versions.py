"""The versions of packages, asked of any Python: `python -m experiments.versions NAME ...`."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    known = {"python": platform.python_version()}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            known[name] = metadata.version(name)
    return known


if __name__ == "__main__":
    print(json.dumps(versions(sys.argv[1:])))
