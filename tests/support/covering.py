"""Tables of choices in which every two levels of different factors meet."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence

Cell = dict[str, str]
"""One level for each factor, by the name of the factor."""


def pairs(levels: Mapping[str, Sequence[str]]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Return every two levels of different factors, each with the name of its factor."""
    return [
        ((one, a), (other, b))
        for one, other in itertools.combinations(levels, 2)
        for a, b in itertools.product(levels[one], levels[other])
    ]


def covering(
    levels: Mapping[str, Sequence[str]],
    works: Callable[[Cell], bool],
    cost: Callable[[Cell], float],
    draws: int = 600,
) -> list[Cell]:
    """Return cells in which every two levels of different factors meet.

    Two levels meet in a cell that works, if one of the drawn cells with both levels works. Each
    cell is the one of several drawn cells in which the most levels meet for the first time at the
    least cost. The draws are the same in every run.
    """
    source, met, cells = random.Random(0), set(), []

    def draw(pair):
        # Only random() is promised to stay the same from one version of Python to the next.
        free = {name: values[int(source.random() * len(values))] for name, values in levels.items()}
        return free | dict(pair)

    def meetings(cell):
        return set(itertools.combinations(cell.items(), 2))

    for allowed in (works, lambda cell: True):
        for pair in pairs(levels):
            drawn = [] if pair in met else [draw(pair) for _ in range(draws)]
            fit = [cell for cell in drawn if allowed(cell)]
            if fit:
                cells.append(max(fit, key=lambda cell: len(meetings(cell) - met) / cost(cell)))
                met |= meetings(cells[-1])
    return cells
