"""Boundary-value problems by scipy's collocation: compiled functions at ever other numbers of points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def by_columns(function: Callable[..., Any], *columns: np.ndarray) -> np.ndarray:
    """A compiled function of rows at columns (..., m), as `scipy.integrate.solve_bvp` hands them over; points are the last axis.

    m is padded to a power of two with the last column, so that few shapes are compiled.
    """
    count = columns[0].shape[-1]
    room = 1 << (count - 1).bit_length()
    rows = [
        np.moveaxis(np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, room - count)], mode="edge"), -1, 0)
        for a in columns
    ]
    return np.moveaxis(np.asarray(function(*rows))[:count], 0, -1)
