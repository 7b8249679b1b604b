"""JAX's persistent compilation cache for the commands: where it lies, and when it is on."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

from neuralflow.files import user_cache

LARGEST = 2**30
"""Bytes that the cache may take; the programs used longest ago make room."""

_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def folder() -> Path:
    """Return the folder of compiled programs for this kind of processor."""
    return user_cache() / f"compiled-{platform.machine()}-{_processor()}"


def switch_on() -> None:
    """Keep compiled programs in `folder()`, unless JAX's own environment variables say otherwise.

    Several processes may use the folder at once: JAX locks it while it makes room. A folder that
    cannot be written leaves the cache off.
    """
    if any(name in os.environ for name in _VARIABLES):
        return
    try:
        folder().mkdir(parents=True, exist_ok=True)
        if not os.access(folder(), os.W_OK):
            return
    except OSError:
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder()))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    # Many small programs add up: they are kept too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def state() -> str:
    """Return what `neuralflow info` says of the cache: on or off, where, and how large."""
    import jax

    config: Any = jax.config
    place = config.jax_compilation_cache_dir
    if not place or not config.jax_enable_compilation_cache:
        return "off"
    files = [path.stat().st_size for path in Path(place).glob("*") if path.is_file()]
    return f"on, {place} ({len(files)} files, {sum(files) / 2**20:.0f} MiB)"


def _processor() -> str:
    """Return a name for the processor's instructions: programs of one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    features = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return hashlib.sha256(features.encode()).hexdigest()[:8]
