"""Compiled functions that are called on ever other numbers of columns."""

import jax
import numpy as np

from neuralflow.solve.collocation import by_columns


def test_compiled_functions_serve_ever_other_numbers_of_columns():
    shapes = []

    @jax.jit
    def motion(t, rows):
        shapes.append(rows.shape)
        return rows * t[:, None]

    for count in (3, 4, 5, 7, 8):
        t, columns = np.arange(count) + 1.0, np.arange(2.0 * count).reshape(2, count)
        np.testing.assert_allclose(by_columns(motion, t, columns), columns * t, rtol=1e-15)
    assert shapes == [(4, 2), (8, 2)]
