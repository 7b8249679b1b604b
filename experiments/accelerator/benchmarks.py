"""The benchmarks of `experiments.benchmarks`, at sizes for some minutes on an accelerator.

Every benchmark runs at a first size before any runs at its second. The first sizes are so small
that launching programs takes most of the time. Every program is compiled once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

import jax

from experiments.accelerator.plan import Plan
from experiments.benchmarks import schemes
from experiments.benchmarks.workloads import fixed_grid, small_ode
from experiments.stages.stage import Case, Row, each

GRIDS = ((8, 64, 1), (64, 64, 128), (1024, 32, 1024), (16, 1024, 32))
"""Width, steps, batch."""
SOLVES = ((3.5, 1e-4, 2, 8, 1), (12.0, 1e-4, 4, 32, 256), (8.0, 1e-4, 256, 512, 1024))
"""End of the interval, tolerance, dimension, hidden units, batch."""
SCHEMES = (
    ("Euler", "LM-ResNet", "leapfrog", "RevNet"),
    ("Euler", "Heun", "RK4", "AB4"),
    ("Euler", "Tsit5", "PolyNet, 3", "Reversible Heun"),
)
DEPTHS = (64, 1024)
PASSES = ("forward", "gradient")


def cases(plan: Plan) -> Iterator[Case]:
    if plan.quick:  # A gradient computes its forward pass too.
        yield from grids([(4, 4, 1)], 3, ("gradient",))
        yield from solves([(1.0, 1e-2, 2, 4, 1)], 3, ("gradient",))
        yield from costs([("Euler", "LM-ResNet")], (4, 4, 1), 3)
        yield from memories([4], (4, 1), 3)
        return
    rounds = 20
    kinds: Iterable[Iterator[Case]] = (
        grids(GRIDS, rounds),
        solves(SOLVES, rounds),
        costs(SCHEMES, (64, 64, 128), rounds),
        memories(DEPTHS, (64, 128), rounds),
    )
    yield from filter(None, chain.from_iterable(zip_longest(*kinds)))


def grids(
    sizes: Iterable[tuple[int, int, int]], rounds: int, passes: Sequence[str] = PASSES
) -> Iterator[Case]:
    """Compare fixed grids with a hand-written scan and with `diffeqsolve`."""
    for width, depth, batch in sizes:
        for of in passes:
            case = {"of": of, "width": width, "depth": depth, "batch": batch}
            name = f"fixed grid, {of}, d={width}, N={depth}, batch {batch}"
            yield name, each(fixed_grid.WORKLOAD.here, case, rounds)


def solves(
    sizes: Iterable[tuple[float, float, int, int, int]],
    rounds: int,
    passes: Sequence[str] = PASSES,
) -> Iterator[Case]:
    """Compare adaptive solves with `diffeqsolve` and with `odeint`, all in full precision."""

    def one(case: dict[str, Any]) -> list[Row]:
        with jax.default_matmul_precision("highest"):
            return small_ode.WORKLOAD.here({**case, "count": 1}, rounds)

    for end, tolerance, dimension, hidden, batch in sizes:
        for of in passes:
            sizes_of = {"dimension": dimension, "hidden": hidden, "batch": batch}
            case = {"of": of, "end": end, "tolerance": tolerance, **sizes_of}
            yield f"adaptive, {of}, d={dimension}, batch {batch}", each(one, case)


def costs(
    groups: Iterable[tuple[str, ...]], size: tuple[int, int, int], rounds: int
) -> Iterator[Case]:
    """Compare schemes with Euler, for a size (steps, width, batch)."""

    def one(names: tuple[str, ...]) -> list[Row]:
        known = schemes.schemes(size[0])
        return schemes.costs(rounds, {name: known[name] for name in names}, *size)

    for names in groups:
        yield f"schemes over Euler, an evaluation: {', '.join(names[1:])}", each(one, names)


def memories(depths: Iterable[int], size: tuple[int, int], rounds: int) -> Iterator[Case]:
    """Compare the memory modes of a reversible scheme over depth, for a size (width, batch)."""
    for steps in depths:
        yield (
            f"memory modes over full, N={steps}",
            each(schemes.memories, rounds, "RevNet", steps, *size),
        )
