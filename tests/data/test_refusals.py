"""What data sets refuse."""

import jax
import numpy as np
import pytest
from support.wrong import wrong

from neuralflow import data


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: data.Stream({"x": np.ones(3)}), "a dict of arrays goes to fit as it is"),
        (lambda: data.Stream(x for x in ()), "with len and .i., got a generator"),
        (lambda: data.Stream([(1, 2)]).example(0), "an example is a dict of arrays, got a tuple"),
        (
            lambda: data.Stream([{"x": 1}], transform=wrong(lambda row: None)).example(0),
            "transform must return a dict",
        ),
        (
            lambda: list(data.Stream([{"x": np.ones(k)} for k in (1, 2)]).batches(2, 0, 0)),
            "must be alike: example",
        ),
        (
            lambda: data.augment_images()({"x": np.ones((2, 3))}, jax.random.key(0)),
            r"got x \(2, 3\)",
        ),
        (lambda: data.load("mnist", wrong(["train", "test"])), "split must be one TFDS split"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()
