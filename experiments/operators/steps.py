"""How much waves grow on many grids under the longest stable steps of random equations.

    python -m experiments.operators.steps

Equations on the line and in the plane, with one to three channels and random matrices as their
coefficients, in float64. For every scheme the growth at `stable_step` and one per cent above it,
over the allowed growth and less one, is the largest on periodic grids of 3 to 200 points an axis
(in the plane: of some sizes), from the symbols of the assembled kernels. A row with a limit of zero
or infinity has no growth. The seconds are those of `stable_step`. Writes steps.json.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import neuralflow as nf
from experiments.program import Parser
from neuralflow import schemes as S
from neuralflow.console import progress
from neuralflow.labs import operators

SCHEMES = {
    "Euler": nf.Euler(),
    "Heun": nf.Heun(),
    "RK4": nf.RK4(),
    "Tsit5": nf.Tsit5(),
    "AB2": S.adams_bashforth(2),
    "AB3": S.adams_bashforth(3),
}
SIZES = {1: range(3, 201), 2: (3, 4, 5, 7, 8, 16, 33, 50, 128)}
KINDS = ("any", "growth", "decay", "waves")


def equation(kind: str, channels: int, dimension: int, seed: int) -> operators.DifferentialOperator:
    """Draw an equation.

    "any" draws all matrices. The other kinds have convection with real speeds, and "decay" and
    "growth" positive diffusion, "growth" also a reaction.
    """
    rng = np.random.default_rng(seed)
    terms = operators.TERMS[dimension]
    values = rng.normal(size=(len(terms), channels, channels))
    for term, matrix in zip(terms, values, strict=True):
        if kind == "any":
            matrix *= rng.uniform(0.1, 1.0)
        elif sum(term) == 1:
            matrix += matrix.T.copy()
        elif max(term) == 2 and kind != "waves":
            matrix[:] = 0.1 * matrix @ matrix.T + 0.02 * np.eye(channels)
        elif sum(term) > 0 or kind != "growth":
            matrix[:] = 0
    return operators.DifferentialOperator(
        channels,
        channels,
        dimension=dimension,
        boundary="periodic",
        coefficients=values,
        param_dtype=jnp.float64,
    )


def excess(rates: np.ndarray, scheme: Any, length: float) -> float:
    """Return the largest growth over the allowed one, less one."""
    rise = np.clip(length * np.real(rates), 0, 1)
    grown = S.analysis.growth(scheme, length * rates) * (1 - rise)
    return float(grown[rise < 1].max(initial=0) - 1)


def measured(kind: str, channels: int, dimension: int, seed: int) -> list[dict[str, Any]]:
    """Return a row for every scheme on one equation."""
    field = equation(kind, channels, dimension, seed)
    spectra = [np.linalg.eigvals(operators.symbol(field.kernel, n)) for n in SIZES[dimension]]
    rates = np.concatenate([spectrum.ravel() for spectrum in spectra])
    rows = []
    for name, scheme in SCHEMES.items():
        start = time.perf_counter()
        limit = operators.stable_step(field, scheme)
        row: dict[str, Any] = {
            "kind": kind,
            "channels": channels,
            "dimension": dimension,
            "seed": seed,
            "scheme": name,
            "seconds": round(time.perf_counter() - start, 3),
            "limit": limit if np.isfinite(limit) else None,
        }
        if 0 < limit < np.inf:
            row["at the limit"] = excess(rates, scheme, limit)
            row["one per cent above"] = excess(rates, scheme, 1.01 * limit)
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    run = Parser(__file__, __doc__, seeds=1).begin(arguments)
    kinds, channels = (KINDS[:1], (1,)) if run.options.quick else (KINDS, (1, 2, 3))
    cases, rows = list(itertools.product(kinds, channels, SIZES, range(run.options.seeds))), []
    with jax.enable_x64(True), progress(len(cases)) as done:
        for kind, count, dimension, seed in cases:
            rows += measured(kind, count, dimension, seed)
            done(f"{kind}, {count} channels, {dimension} axes")
    bound = [row for row in rows if "at the limit" in row]
    worst = max(row["at the limit"] for row in bound)
    loose = [row for row in bound if row["one per cent above"] <= 1e-11]
    result = {
        "equations and schemes": len(rows),
        "no stable step": sum(row["limit"] == 0 for row in rows),
        "any step": sum(row["limit"] is None for row in rows),
        "largest excess at the limit": worst,
        "stable one per cent above": len(loose),
        "rows": rows,
    }
    run.write("steps", result)
    print(f"{len(bound)} limits: excess {worst:.1e}, {len(loose)} stable above them")


if __name__ == "__main__":
    main()
