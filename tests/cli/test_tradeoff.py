"""Which cheaper networks the command `evaluate --tradeoff` compares."""

from typing import Any

import pytest
from flax import nnx

import neuralflow as nf
from neuralflow.cli.common import SCHEMES
from neuralflow.cli.tradeoff import candidates

COSTS = {"Euler": 1, "Midpoint": 2, "RK4": 4}


@pytest.mark.parametrize(
    ("cells", "scheme", "most", "counts"),
    [
        (8, "euler", 8, {8, 4, 2, 1}),
        (15, "midpoint", 30, {15, 5, 1}),
        (7, "rk4", 28, {7, 1}),
        (1, "tsit5", 6, {1}),
    ],
)
def test_candidates_cost_no_more_and_can_carry_the_network(cells, scheme, most, counts):
    def make(rngs):
        return nnx.Linear(1, 1, rngs=rngs)

    field = nf.DepthVarying(make, nf.PiecewiseConstant(cells), rngs=nnx.Rngs(0))
    layer: Any = nf.NeuralODE(field, nf.FixedGrid(SCHEMES[scheme](), steps=cells))
    chosen = candidates(cells, scheme)
    assert len({str(candidate) for candidate in chosen}) == len(chosen)
    fixed: list[Any] = [
        candidate for candidate in chosen if isinstance(candidate.solve, nf.FixedGrid)
    ]
    assert {candidate.solve.steps for candidate in fixed} == counts
    for candidate in fixed:
        assert candidate.solve.steps * COSTS[type(candidate.solve.scheme).__name__] <= most
    own = nf.FixedGrid(SCHEMES[scheme](), steps=cells)
    for candidate in chosen:
        new = candidate.applied_to(layer)
        assert (str(new.discretisation), new.field.basis) != (str(own), field.basis)
