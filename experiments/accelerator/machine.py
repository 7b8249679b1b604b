"""The device: what it is, and how fast it multiplies, copies and launches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import program
from experiments.accelerator.plan import Plan
from experiments.benchmarks.measure import side_by_side
from experiments.stages.stage import Case, Row, each

PEAKS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""Dense bfloat16 operations a second as the makers give them, by a part of the device's name."""


def peak(kind: str) -> float | None:
    """Return the peak in bfloat16 of a kind of device, in operations a second, if it is known."""
    return next((value for name, value in PEAKS.items() if name in kind), None)


def cases(plan: Plan) -> Iterator[Case]:
    yield "device", each(described)
    for dtype in ("bfloat16", "float32", "float64"):
        yield f"products in {dtype}", each(product, dtype, 64 if plan.quick else 8192)
    yield "a launch", each(launch, 3 if plan.quick else 1000)


def described() -> Iterator[Row]:
    """Say what the device is, and which versions work on it."""
    device = jax.devices()[0]
    held = device.memory_stats() or {}
    known = program.machine()
    versions = known.pop("versions")
    yield {
        **known,
        "memory, MB": held["bytes_limit"] / 1e6 if "bytes_limit" in held else None,
        "peak in bfloat16, TFLOP/s": (peak(device.device_kind) or 0) / 1e12 or None,
        **versions,
    }


def accelerator() -> dict[str, Any]:
    """Return what JAX runs on, and the versions.

    Raises:
        ValueError: JAX finds no accelerator.
    """
    try:
        known = program.machine_elsewhere()
    except OSError:
        known = {}
    if known.get("platform", "cpu") == "cpu":
        raise ValueError(
            "JAX finds no accelerator; install JAX's part for it, such as jax[cuda13] or jax[tpu], "
            "and look at JAX_PLATFORMS, or take --quick to try the stages on a CPU"
        )
    return known


def product(dtype: str, size: int) -> Iterator[Row]:
    """Measure a product of square matrices at the default precision."""
    with jax.enable_x64(dtype == "float64"):
        a: Any = jnp.ones((size, size), dtype)
        function = {"product": lambda a: a @ a}
        seconds = float(np.median(side_by_side(function, {"product": (a,)}, 5)["product"].runs))
    yield {"size": size, "seconds": seconds, "TFLOP/s": 2 * size**3 / seconds / 1e12}


def launch(rounds: int) -> Iterator[Row]:
    """Measure a program that has next to nothing to compute."""
    runs = side_by_side({"add": lambda x: x + 1}, {"add": (jnp.zeros(8),)}, rounds)["add"].runs
    low, middle, high = np.percentile(runs, [25, 50, 75])
    yield {"microseconds": {"median": 1e6 * middle, "low": 1e6 * low, "high": 1e6 * high}}
