"""What a stage is, and what its cases are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Row = dict[str, Any]
Add = Callable[[Row], None]
Case = tuple[str, Callable[[Add], None]]
"""The name of a case, and a function that measures the case and adds row after row."""


class LeftOut(Exception):
    """A stage or a case cannot run here; the message says why."""


def each(measure: Callable[..., Iterable[Row]], *arguments: Any) -> Callable[[Add], None]:
    """Return the function of a case that adds all rows that `measure` returns."""

    def case(add: Add) -> None:
        for row in measure(*arguments):
            add(row)

    return case


class Stage(NamedTuple):
    """A stage of a program.

    Attributes:
        cases: The module of the program and the function that give the cases of the stage.
        share: The stage's part of the time, relative to the parts of the other stages. A stage
            without a part runs on its own only.
        least: The seconds below which the stage is not worth its start.
        what: What the stage does.
    """

    cases: str
    share: float
    least: float
    what: str
