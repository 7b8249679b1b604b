"""Discretisations as data: the only callers of solver loops.

There are two kinds, `FixedGrid` and `Adaptive`, and `Discretisation` says what they share. Both
walk normalised depth s in [0, 1]. Depth time is t = t0 + s (t1 - t0), where t0 and t1 are the ends
of the layer's interval.
"""

# `base` says what a discretisation is. The memory modes of fixed grids stand in `walk`. The exact
# gradient of adaptive steps stands in `replay`. One step of a scheme, for both kinds, stands in
# `system`.

from neuralflow.solve.adaptive import Adaptive, GradientMethod
from neuralflow.solve.base import EVERY_STEP, Discretisation
from neuralflow.solve.fixed_grid import FixedGrid
from neuralflow.solve.results import (
    Solution,
    SolveError,
    Status,
)
from neuralflow.solve.walk import Memory

__all__ = [
    "EVERY_STEP",
    "Adaptive",
    "Discretisation",
    "FixedGrid",
    "GradientMethod",
    "Memory",
    "Solution",
    "SolveError",
    "Status",
]
__docformat__ = "google"
