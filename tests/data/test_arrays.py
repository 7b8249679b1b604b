"""The digits as arrays."""

import numpy as np

from neuralflow import data


def test_digits_are_split_once_for_all():
    train, test = data.digits("train"), data.digits("test")
    assert train["x"].shape == (1437, 8, 8, 1) and test["x"].shape == (360, 8, 8, 1)
    assert (
        train["x"].min() == 0
        and train["x"].max() == 1
        and set(np.unique(test["y"])) == set(range(10))
    )


def test_digits_are_whitened_and_the_same_everywhere():
    pair = data.digits_pair()
    assert pair["x"].shape == (357, 4) and pair["y"].sum() == 174
    assert np.allclose(pair["x"].mean(0), 0, atol=1e-12) and np.allclose(
        np.cov(pair["x"].T, bias=True), np.eye(4), atol=1e-10
    )
