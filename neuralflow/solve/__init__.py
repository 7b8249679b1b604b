"""Discretisations as data, the only callers of solver loops.

Both kinds walk normalised depth s in [0, 1]; depth time is t = t0 + s (t1 - t0). `base` says what a discretisation is; a memory mode
of fixed grids stands in `walk`, the exact gradient of adaptive steps in `replay`.
"""

from neuralflow.solve.adaptive import Adaptive as Adaptive, GradientMethod as GradientMethod
from neuralflow.solve.base import EVERY_STEP as EVERY_STEP, Discretisation as Discretisation
from neuralflow.solve.fixed_grid import FixedGrid as FixedGrid
from neuralflow.solve.results import (
    Solution as Solution,
    SolveError as SolveError,
    Status as Status,
)
from neuralflow.solve.walk import Memory as Memory
