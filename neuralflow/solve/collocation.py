"""A helper for boundary-value problems that scipy solves by collocation.

scipy's solver calls a function at a number of points that changes from call to call. The helper
here keeps JAX from compiling the function for each of these numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def by_columns(function: Callable[..., Any], *columns: np.ndarray) -> np.ndarray:
    """Evaluate a compiled function of rows on columns.

    `scipy.integrate.solve_bvp` hands columns over: the m points lie along the last axis. The
    compiled function takes the points along the first axis. This helper pads m to a power of two
    with copies of the last point, so that JAX compiles few shapes.

    Args:
        function: The compiled function. Each argument has shape `(points, ...)`, and so has the
            value.
        *columns: The arguments, each of shape `(..., m)`.

    Returns:
        The values of the function at the m points, shape `(..., m)`.
    """
    count = columns[0].shape[-1]
    room = 1 << (count - 1).bit_length()
    rows = [
        np.moveaxis(np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, room - count)], mode="edge"), -1, 0)
        for a in columns
    ]
    return np.moveaxis(np.asarray(function(*rows))[:count], 0, -1)
