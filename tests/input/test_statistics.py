"""Statistics refuse what is no row of numbers."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from support.calls import COUNT, POSITIVE, Call, refuse, without

from neuralflow import statistics

ROW = {
    "none": None,
    "text": "123",
    "number": 1.0,
    "object": object(),
    "empty": [],
    "words": ["a", "b", "c"],
    "ragged": [[1.0], [1.0, 2.0]],
    "array of words": np.array(["a", "b", "c"]),
    "generator": (x for x in (1.0, 2.0, 3.0)),
    "dict": {"a": 1.0},
    "complex": [1j, 2j, 3j],
    "nothing inside": [None, None, None],
}
FINITE = {
    **ROW,
    "table": np.ones((3, 2)),
    "nan": [1.0, np.nan, 2.0],
    "infinite": [1.0, np.inf, 2.0],
}
NUMBERS_OF_STEPS = {
    **ROW,
    "zero": [0, 64],
    "negative": [-32, 64],
    "nan": [np.nan, 64],
    "three": [16, 32, 64],
    "half": [1.5, 2.0],
    "true": [True, False],
}

CALLS = {
    "estimate": Call(
        statistics.estimate,
        lambda: {"values": np.arange(3.0)},
        {"values": {**ROW, "one": np.ones(1), "scalar": np.ones(())}},
    ),
    "fitted_order": Call(
        statistics.fitted_order,
        lambda: {"depths": [32, 64], "errors": [1.0, 0.5]},
        {
            "depths": NUMBERS_OF_STEPS,
            "errors": {**ROW, "three": [1.0] * 3, "negative": [1.0, -1.0], "infinite": [1, np.inf]},
            "least": {**without(COUNT, "zero"), "huge": np.inf},
            "reference": without(COUNT, "none"),
        },
    ),
    "weighed_order": Call(
        statistics.weighed_order,
        lambda: {"steps": [1, 2], "values": np.array([[1.0, 0.5], [1.1, 0.6]])},
        {
            "steps": {**NUMBERS_OF_STEPS, "equal": [2, 2]},
            "values": {
                **ROW,
                "row": np.ones(2),
                "one sample": np.ones((1, 2)),
                "wide": np.ones((2, 3)),
                "nan": np.full((2, 2), np.nan),
                "infinite": np.full((2, 2), np.inf),
            },
        },
        {"steps": r"\bsteps\b|values must have shape"},
    ),
    "interval": Call(
        statistics.interval,
        lambda: {"values": [1.0, 1.1, 0.9]},
        {
            "values": FINITE,
            "level": {**POSITIVE, "one": 1.0, "true": True, "percent": 95},
        },
    ),
    "over_seeds": Call(statistics.over_seeds, lambda: {"values": [1.0, 2.0]}, {"values": FINITE}),
}

test_wrong, test_good = refuse(CALLS)


def test_what_is_right_is_taken():
    # Signatures do not name all that is right, such as numbers of NumPy.
    loose: Any = statistics
    assert loose.estimate([1, 2, 3]).mean == 2
    assert loose.estimate(np.array([True, False])).mean == 0.5
    assert loose.fitted_order(range(32, 34), (1.0, np.nan)) is None
    assert loose.fitted_order(np.array([32, 64]), jnp.array([1.0, 0.5]), least=0) is not None
    order, _ = loose.weighed_order(np.array([1, 2]), [[1.0, 0.5], [1.0, 0.5]])
    assert np.isclose(order, 1.0)
    assert loose.over_seeds(jnp.array([2.0, 2.0]))["mean"] == 2
    assert np.isclose(loose.interval((1, 4), np.float32(0.5)), (1.0, 4.0)).all()
