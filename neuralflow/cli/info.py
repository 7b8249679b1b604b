"""`neuralflow info`: print versions, devices and extras."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass

from neuralflow import files
from neuralflow.cli import cache


@dataclass(frozen=True)
class Info:
    """Print versions, devices, and which extras are installed."""


def run(options: Info) -> int:
    """Run `neuralflow info`: print what is installed.

    Args:
        options: The options of the command, of which there are none.

    Returns:
        The exit status 0.
    """
    import jax

    print(f"python {platform.python_version()} on {platform.machine()}")
    known = files.versions(
        "neuralflow-jax",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "diffrax",
        "equinox",
        "orbax-checkpoint",
        "grain",
        "tensorflow-datasets",
        "array-record",
        "scipy",
        "matplotlib",
        "tyro",
        "distributed",
    )
    for name, version in known.items():
        print(f"{name} {version}")
    print("devices: " + ", ".join(f"{d.platform} ({d.device_kind})" for d in jax.devices()))
    print(f"compilation cache: {cache.state()}")
    extras = {
        "cli": ("sklearn", "matplotlib", "tyro", "rich", "filelock"),
        "data": ("sklearn", "tensorflow_datasets", "array_record", "grain", "PIL"),
        "notebooks": ("flatbuffers", "ipykernel", "nbclient", "numpyro"),
        "sweeps": ("distributed",),
        "docs": ("pdoc",),
    }
    for extra, modules in extras.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        print(f"extra {extra}: {'missing ' + ', '.join(missing) if missing else 'installed'}")
    return 0
