"""`neuralflow evaluate --tradeoff`: cheaper ways to run a trained network, side by side."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from neuralflow import files
from neuralflow.checks import InputError
from neuralflow.cli.common import SCHEMES
from neuralflow.console import screen

_STAGES = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4, "tsit5": 6, "dopri5": 6}
_FIXED = ("euler", "midpoint", "rk4")
_TOLERANCES = (1e-2, 1e-3, 1e-4)


def run(model: Any, test: dict[str, Any], scheme: str, out: Path) -> int:
    """Compare ways to run a classifier, print the table, and write tradeoff.json and tradeoff.png.

    Args:
        model: The classifier as it was trained.
        test: The inputs x `(samples, ...)` and the labels y `(samples,)`.
        scheme: The name of the scheme with which the classifier was trained.
        out: The folder for the results.

    Returns:
        The exit status 0.

    Raises:
        InputError: A solve of the classifier as it was trained failed, or an output is not finite.
        WriteError: A result cannot be written.
    """
    from neuralflow import inference
    from neuralflow.solve import SolveError

    chosen = candidates(model.flow.field.basis.count, scheme)
    try:
        table = inference.tradeoff(model, test, chosen)
    except SolveError as error:
        raise InputError(f"the network as it was trained cannot be compared: {error}") from error
    screen().print(str(table), highlight=False, markup=False)
    files.write(out / "tradeoff.json", files.as_json(table.record()))
    picture = inference.plots.choices(table)
    files.write(out / "tradeoff.png", lambda path: picture.savefig(path, format="png", dpi=160))
    print(f"Table and picture are in {out}.")
    return 0


def candidates(cells: int, scheme: str) -> list[Any]:
    """Return cheaper ways to run a network with weights of its own in every cell of depth.

    Fixed steps go down from the number of cells to one. Their weights are projected on as many
    cells, constant or linear. A candidate with more evaluations than the network is left out.
    Adaptive steps have continuous weights on an eighth of the cells. Adaptive steps on the weights
    as trained, whatever they cost, tell what the steps alone change.

    Args:
        cells: The number of cells of the weights, and of fixed steps of the network.
        scheme: The name of the scheme of the network.
    """
    from neuralflow.depth import PiecewiseConstant, PiecewiseLinear
    from neuralflow.inference import Candidate
    from neuralflow.solve import Adaptive, FixedGrid

    most = _STAGES[scheme] * cells
    chosen = [
        Candidate(FixedGrid(SCHEMES[name](), steps=steps), basis(steps))
        for name, steps in itertools.product(_FIXED, _counts(cells))
        for basis in (PiecewiseConstant, PiecewiseLinear)
        if _STAGES[name] * steps <= most
        and (name, steps, basis) != (scheme, cells, PiecewiseConstant)
    ]
    few = PiecewiseLinear(max(1, cells // 8))
    adaptive = [Adaptive(SCHEMES["tsit5"](), each, each) for each in _TOLERANCES]
    return chosen + [Candidate(solve, few) for solve in adaptive] + [Candidate(adaptive[-1])]


def _counts(cells: int) -> list[int]:
    """Return a number and its divisors, each the next one divided by its smallest factor."""
    counts = [cells]
    while counts[-1] > 1:
        least = next(k for k in range(2, counts[-1] + 1) if counts[-1] % k == 0)
        counts.append(counts[-1] // least)
    return counts
