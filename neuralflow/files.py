"""Files that are written whole or not at all, sealed records, locks, and the user's cache."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np


class WriteError(OSError):
    """A file cannot be written; the message says which one, why and what to do."""


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
    of the old file in one operation. A link of either name is replaced and not followed.

    Args:
        path: The path of the file.
        content: The text, or a function that writes a file at the path that it receives.

    Raises:
        WriteError: The file cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        if isinstance(content, str):
            partial.write_text(content)
        else:
            content(partial)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise WriteError(
            f"{path} could not be written ({error.strerror or error}); "
            "what was written before is kept: mend the cause, and go on from there"
        ) from None


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with a digest of all its entries.

    Args:
        record: Plain data by name.

    Returns:
        The record as JSON gives it back, and its digest under the name `digest`.
    """
    plain = json.loads(json.dumps(dict(record)))
    return {**plain, "digest": _seal_of(plain)}


def unseal(sealed: Any) -> dict[str, Any]:
    """Return the entries of a sealed record, without the digest.

    Args:
        sealed: What `seal` has returned, read from a file.

    Raises:
        ValueError: The record has no digest, or an entry has changed since the record was sealed.
    """
    if not isinstance(sealed, dict) or "digest" not in sealed:
        raise ValueError("the record has no digest")
    record = {name: value for name, value in sealed.items() if name != "digest"}
    if sealed["digest"] != _seal_of(record):
        raise ValueError("the record does not match its digest")
    return record


def _seal_of(plain: dict[str, Any]) -> str:
    """Return the digest of plain data, whatever the order of its names."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def digest(*arrays: Any) -> str:
    """Return a digest of the kinds, shapes and values of arrays.

    Args:
        *arrays: Arrays, in an order that is part of the digest.
    """
    total = hashlib.sha256()
    for array in map(np.asarray, arrays):
        total.update(f"{array.dtype} {array.shape};".encode())
        raw: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        total.update(raw)
    return total.hexdigest()


@functools.cache
def versions(*packages: str) -> Mapping[str, str]:
    """Return the versions of those packages that are installed, by name.

    Args:
        *packages: The names by which packages are installed.
    """
    known = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            known[name] = metadata.version(name)
    return MappingProxyType(known)


def inside(path: Path, folder: Path) -> bool:
    """Return whether a path lies in a folder, also after links are followed.

    Args:
        path: The path.
        folder: The folder, which may be reached over links itself.
    """
    return path.resolve().is_relative_to(folder.resolve())


def lock(folder: Path) -> Any:
    """Lock a folder until the result is closed or this process ends, in whatever way it ends.

    Args:
        folder: The folder. A missing folder is made.

    Returns:
        The open file that holds the lock. None where no lock file can be opened. On a file system
        without locks the file is open but not locked.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A link is not followed: the file that it names belongs to somebody else.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = open(folder / ".lock", "r+", opener=lambda path, _: os.open(path, flags))  # noqa: SIM115
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:
        pass  # a file system without locks
    return file


def user_cache() -> Path:
    """Return the project's folder in the user's cache: `$XDG_CACHE_HOME` or `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "neuralflow"
