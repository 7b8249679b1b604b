"""Compile times, run times and working memory of jitted functions, measured side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.program import Run


@dataclass(frozen=True)
class Measured:
    """The measurements of one function.

    `compile` holds the seconds to trace and compile, `memory` the bytes of temporary memory, and
    `runs` the seconds of each run.
    """

    compile: float
    memory: int
    runs: np.ndarray


def compiled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float, int]:
    """Compile a function, and measure the compilation.

    Returns the compiled function, the seconds to trace and compile, and the bytes of temporary
    memory.
    """
    jax.clear_caches()
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return program, seconds, int(memory.temp_size_in_bytes) if memory is not None else 0


def compiled_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, and keep the program where JAX's caches are emptied."""
    program: list[Any] = []

    def call(*arguments: Any) -> Any:
        if not program:
            program.append(jax.jit(function).lower(*arguments).compile())
        return program[0](*arguments)

    return call


def side_by_side(
    functions: dict[str, Callable[..., Any]],
    arguments: dict[str, tuple[Any, ...]],
    rounds: int,
    compiles: int = 1,
) -> dict[str, Measured]:
    """Measure the functions one after the other in every round, in an order drawn anew.

    All functions therefore see the same state of the machine. In a fixed order, a function that
    follows one of little memory was seen to be a tenth faster.
    """
    builds = {
        name: [compiled(f, arguments[name]) for _ in range(compiles)]
        for name, f in functions.items()
    }
    programs = {name: build[-1][0] for name, build in builds.items()}
    for name, program in programs.items():
        jax.block_until_ready(program(*arguments[name]))
    runs: dict[str, list[float]] = {name: [] for name in functions}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(list(programs)):
            start = time.perf_counter()
            jax.block_until_ready(programs[name](*arguments[name]))
            runs[name].append(time.perf_counter() - start)
    return {
        name: Measured(
            float(np.median([b[1] for b in builds[name]])),
            builds[name][-1][2],
            np.asarray(runs[name]),
        )
        for name in functions
    }


def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the gradient of a scalar of the output with respect to parameters and input."""
    return jax.grad(lambda params, x: jnp.sum(function(params, x) ** 2), argnums=(0, 1))


def ratio(runs: np.ndarray, against: np.ndarray) -> dict[str, float]:
    """Return the median of the round-by-round ratios, with their quartiles."""
    low, middle, high = np.percentile(runs / against, [25, 50, 75])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table, with the columns of the first row."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(cell(value) for value in row.values()))
    Console(width=None if Console().is_terminal else 140).print(table)


def report(run: Run, name: str, title: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows of a run as a table, and write them under a name."""
    show(title, rows)
    run.write(name, {"title": title, "rows": rows})


def cell(value: Any) -> str:
    """Return the text of a cell."""
    if isinstance(value, dict):
        return f"{value['median']:.2f} ({value['low']:.2f}-{value['high']:.2f})"
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
