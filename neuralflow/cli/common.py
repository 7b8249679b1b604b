"""What the commands share."""

from __future__ import annotations

from pathlib import Path

from neuralflow import schemes

SCHEMES = {
    "euler": schemes.Euler,
    "heun": schemes.Heun,
    "midpoint": schemes.Midpoint,
    "rk4": schemes.RK4,
    "tsit5": schemes.Tsit5,
    "dopri5": schemes.Dopri5,
}


class UsageError(Exception):
    """Input that a person can mend: printed as one sentence, exit status 2."""


def writable(folder: Path) -> Path:
    """The folder, made and tried before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {folder} cannot be written ({error.strerror}); give another folder"
        ) from None
    return folder
