"""Errors of states between the edges of adaptive steps: interpolated and stepped, in float64.

    python -m experiments.benchmarks.interpolation

The errors are those at 401 depths. The reference is a solve at tolerances of 1e-12 that steps to
every depth.
Writes interpolation.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import neuralflow as nf
from experiments.benchmarks.measure import report
from experiments.program import Parser

FIELDS: dict[str, Callable[..., Any]] = {
    "decay": lambda x, t: -x,
    "oscillator": lambda x, t: 6 * x[..., ::-1] * jnp.asarray([1.0, -1.0]),
    "spiral": lambda x, t: x**3 @ jnp.asarray([[-0.1, 2.0], [-2.0, -0.1]]),
    "forced": lambda x, t: jnp.sin(8 * t) - 2 * x,
}


def accuracy(scheme: Any, tolerance: float, fields: Iterable[str]) -> list[dict[str, Any]]:
    """Measure the errors of interpolated and of stepped states, in float64."""
    x, depths = jnp.asarray([[2.0, 0.0], [0.5, -1.0]]), jnp.linspace(0, 2, 401)

    def states(field: Any, solve: nf.Adaptive) -> Any:
        layer = nf.NeuralODE(nf.from_function(lambda _, x, t: field(x, t)), solve, 0.0, 2.0)
        return layer.trajectory(x, depths)

    rows = []
    for name in fields:
        field = FIELDS[name]
        exact = states(field, nf.Adaptive(nf.Dopri8(), 1e-12, 1e-12, output="stepped"))
        interpolated = nf.Adaptive(scheme, tolerance, tolerance)
        stepped = nf.Adaptive(scheme, tolerance, tolerance, output="stepped")
        off, off_stepped = (
            jnp.abs(states(field, solve) - exact) for solve in (interpolated, stepped)
        )
        rows.append(
            {
                "what": f"{type(scheme).__name__}, {name}",
                "interpolated": float(jnp.max(off)),
                "stepped": float(jnp.max(off_stepped)),
                "at the end": float(jnp.max(off[-1])),
            }
        )
    return rows


def rows(fields: Iterable[str] = FIELDS) -> list[dict[str, Any]]:
    """Measure both schemes at tolerances of 1e-5."""
    schemes = (nf.Tsit5(), nf.Dopri8())
    with jax.enable_x64(True):
        return [row for scheme in schemes for row in accuracy(scheme, 1e-5, fields)]


def main(arguments: Sequence[str] | None = None) -> None:
    run = Parser(__file__, __doc__, kept="results").begin(arguments)
    title = "Errors of states at depths, tolerances of 1e-5"
    report(run, "interpolation", title, rows(["decay"] if run.options.quick else FIELDS))


if __name__ == "__main__":
    main()
