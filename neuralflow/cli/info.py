"""`neuralflow info`: versions, devices, extras."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Info:
    """Versions, devices, and which extras are installed."""


def run(options: Info) -> int:
    """What is installed."""
    import jax

    print(f"python {platform.python_version()} on {platform.machine()}")
    for name in ("neuralflow-jax", "jax", "jaxlib", "flax", "optax", "diffrax", "equinox"):
        print(f"{name} {importlib.metadata.version(name)}")
    for name in (
        "orbax-checkpoint",
        "grain",
        "tensorflow-datasets",
        "array-record",
        "scipy",
        "matplotlib",
        "tyro",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            print(f"{name} {importlib.metadata.version(name)}")
    print("devices: " + ", ".join(f"{d.platform} ({d.device_kind})" for d in jax.devices()))
    extras = {
        "data": ("sklearn", "tensorflow_datasets", "array_record", "grain", "PIL"),
        "experiments": ("sklearn", "matplotlib", "scipy", "tyro", "rich"),
        "notebooks": ("ipykernel", "nbclient"),
    }
    for extra, modules in extras.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        print(f"extra {extra}: {'missing ' + ', '.join(missing) if missing else 'installed'}")
    return 0
