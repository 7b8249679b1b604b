"""Grids and their plans: the cell of every step, and where in it the step lies."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from neuralflow.depth import grid as G
from neuralflow.depth.basis import CubicSpline, Legendre, PiecewiseConstant, PiecewiseLinear


def test_uniform_plans_are_right_for_every_number_of_steps_to_1024():
    for steps in range(1, 1025):
        grid = G.uniform(steps)
        assert np.allclose(grid.shares.sum(), 1, atol=1e-13)
        for cells in {1, steps, *(c for c in (2, 3, 7) if steps % c == 0)}:
            where = G.locate_steps(grid, cells)
            k = np.arange(steps)
            per_cell = steps // cells
            assert (where.cell == k // per_cell).all()
            exact = [Fraction(int(j), per_cell) for j in k % per_cell]
            assert where.enter.tolist() == [float(f) for f in exact]
            assert where.leave.tolist() == [float(f + Fraction(1, per_cell)) for f in exact]


def test_given_times_equal_to_a_uniform_grid_give_the_same_plan_for_every_number_to_1024():
    for steps in range(1, 1025):
        same = G.locate_steps(G.uneven(np.arange(steps + 1) / steps), steps)
        assert (same.cell == np.arange(steps)).all()
        assert (same.enter == 0).all() and (same.leave == 1).all()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.data())
@settings(max_examples=100, deadline=None)
def test_uneven_steps_in_uneven_cells(lengths, data):
    edges = np.concatenate([[0], np.cumsum(lengths)])
    times = edges / edges[-1]
    inner = sorted(data.draw(st.sets(st.integers(1, len(lengths) - 1)))) if len(lengths) > 1 else []
    knots = tuple(times[[0, *inner, len(lengths)]].tolist())
    where = G.locate_steps(G.uneven(times), knots)
    expected = np.searchsorted([*inner, len(lengths)], np.arange(len(lengths)), "right")
    assert (where.cell == expected).all()
    low, width = np.asarray(knots)[expected], np.diff(knots)[expected]
    assert np.allclose(low + where.enter * width, times[:-1], atol=1e-12)
    assert np.allclose(low + where.leave * width, times[1:], atol=1e-12)
    assert (where.enter[np.isin(np.arange(len(lengths)), [0, *inner])] == 0).all()


def test_a_step_across_a_knot_is_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"step 1 of 3 crosses a knot .* use a multiple of 2 steps"
    ):
        G.locate_steps(G.uniform(3), 2)
    with pytest.raises(ValueError, match="let the times contain every knot"):
        G.locate_steps(G.uneven([0, 0.3, 1]), 2)


def test_plan_finds_jumps_and_blocks():
    plan = G.plan(G.uniform(12), [PiecewiseConstant(4), PiecewiseLinear(2), Legendre(3)])
    assert plan.block == 3
    assert np.flatnonzero(plan.jumps).tolist() == [3, 6, 9]
    back = plan.reversed()
    assert back.places[0].cell.tolist() == plan.places[0].cell[::-1].tolist()
    assert np.flatnonzero(back.jumps).tolist() == [3, 6, 9]
    assert np.flatnonzero(back.smoothness < np.inf).tolist() == [3, 6, 9]
    assert (back.starts == plan.starts[::-1] + 1).all() and (back.lengths == -1).all()
    assert (back.places[2].enter == plan.places[2].leave[::-1]).all()
    assert G.plan(G.uneven([0, 0.2, 0.5, 0.6, 0.7, 1]), [PiecewiseConstant(2)]).block == 1


def test_the_least_smooth_basis_decides_at_a_knot_of_several():
    bases = [PiecewiseLinear(4), PiecewiseConstant((0, 1 / 3, 0.5, 1)), CubicSpline(6)]
    plan = G.plan(G.uniform(12), bases)
    knots = {2: 2, 3: 0, 4: -1, 6: -1, 8: 2, 9: 0, 10: 2}
    assert plan.smoothness.tolist() == [knots.get(k, np.inf) for k in range(12)]
    back = {12 - k: smoothness for k, smoothness in knots.items()}
    assert plan.reversed().smoothness.tolist() == [back.get(k, np.inf) for k in range(12)]
    for smoothness, runs in ((-1, [12]), (0, [4, 2, 6]), (1, [3, 1, 2, 3, 3])):
        assert plan.runs(smoothness).tolist() == runs
    assert plan.reversed().runs(0).tolist() == [6, 2, 4]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: G.uniform(0), "at least 1"),
        (lambda: G.uniform(-3), "at least 1"),
        (lambda: G.uniform(2.0), "whole number"),
        (lambda: G.uneven([0, 0.6, 0.5, 1]), "strictly increasing"),
        (lambda: G.uneven([0, np.nan, 1]), "strictly increasing"),
        (lambda: G.uneven([0, 1, 2]), "from 0 to 1"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()
