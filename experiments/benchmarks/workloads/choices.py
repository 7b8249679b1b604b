"""What neuralflow's own choices cost: schemes, memory, stochastic depth, `fit`, transformers.

Each case is a script of its own as well, whose docstring says what is compared with what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from experiments.benchmarks import interpolation, schemes, skipped, training, transformers
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case, Row, each


def cases(plan: Plan) -> Iterator[Case]:
    if plan.quick:
        yield "schemes", each(schemes.costs, 2, {"Euler": schemes.schemes(4)["Euler"]}, 4, 4, 1)
        return
    yield "schemes, an evaluation against Euler's", each(schemes.costs, 15, schemes.schemes(64))
    for name in schemes.REVERSIBLE:
        for depth in schemes.DEPTHS:
            yield f"{name}, depth {depth}", each(schemes.memories, 15, name, depth)
    for case in skipped.CASES:
        network = f"{case[1]}-{case[0]}, p_L = {case[3]}"
        yield f"stochastic depth, {network}", each(_row(skipped.compare), *case, 7)
    for case in training.CASES:
        name = f"fit against a loop by hand, {case[0]}, batch {case[2]}"
        yield name, each(_row(training.compare), *case, 15)
    for case in transformers.CASES:
        name = f"a transformer against a scan by hand, width {case[0]}"
        yield name, each(transformers.compare, case, 30)
    yield "errors of states between steps", each(interpolation.rows)


def _row(compare: Callable[..., Row]) -> Callable[..., list[Row]]:
    """Return the function of a single row as one of several."""
    return lambda *arguments: [compare(*arguments)]
