"""Data sets that are generated."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from neuralflow import data

GENERATED = (data.moons, data.circles, data.spirals, data.annuli, data.gaussians, data.checkerboard)


@pytest.mark.parametrize("make", GENERATED)
@settings(deadline=None, max_examples=20)
@given(count=strategies.integers(8, 300), seed=strategies.integers(0, 2**32 - 2))
def test_generated_sets_are_even_seeded_and_float32(make, count, seed):
    arrays = make(count, seed=seed)
    assert (
        arrays["x"].shape == (count, 2)
        and arrays["x"].dtype == np.float32
        and arrays["y"].dtype == np.int32
    )
    sizes = np.bincount(arrays["y"])
    assert sizes.max() - sizes.min() <= 1
    again, other = make(count, seed=seed), make(count, seed=seed + 1)
    assert (arrays["x"] == again["x"]).all() and (arrays["y"] == again["y"]).all()
    assert (arrays["x"] != other["x"]).any()


def test_generated_sets_lie_where_they_should():
    inside = data.annuli(2000)
    radius = np.linalg.norm(inside["x"], axis=1)
    assert (radius[inside["y"] == 1] <= 0.5 + 1e-6).all()
    assert ((radius[inside["y"] == 0] >= 1 - 1e-6) & (radius[inside["y"] == 0] <= 1.5 + 1e-6)).all()
    board = data.checkerboard(2000, squares=4)
    colour = np.floor((board["x"] + 1) * 2).astype(int).sum(axis=1) % 2
    assert (colour == board["y"]).all()
    arms = data.spirals(500, noise=0.0, arms=3)
    radius = np.linalg.norm(arms["x"], axis=1)
    angle = np.arctan2(arms["x"][:, 1], arms["x"][:, 0]) - 2 * np.pi * (radius + arms["y"] / 3)
    assert np.abs(np.exp(1j * angle) - 1).max() < 1e-5
