"""What the commands share: the schemes by name, and a check of output folders."""

from __future__ import annotations

from pathlib import Path

from neuralflow import checks, schemes
from neuralflow.checks import InputError

SCHEMES = {
    "euler": schemes.Euler,
    "heun": schemes.Heun,
    "midpoint": schemes.Midpoint,
    "rk4": schemes.RK4,
    "tsit5": schemes.Tsit5,
    "dopri5": schemes.Dopri5,
}


def writable(folder: Path) -> Path:
    """Create a folder and try to write in it, before any work is done.

    Args:
        folder: The folder.

    Returns:
        The same folder.

    Raises:
        InputError: The folder cannot be written.
    """
    checks.path("--out", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror
        raise InputError(
            f"--out {folder} cannot be written ({reason}); give another folder"
        ) from None
    return folder
