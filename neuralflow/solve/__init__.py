"""Discretisations as data, the only callers of solver loops.

Both kinds walk normalised depth s in [0, 1]; depth time is t = t0 + s (t1 - t0).
"""

from neuralflow.solve.adaptive import Adaptive as Adaptive
from neuralflow.solve.fixed_grid import FixedGrid as FixedGrid
from neuralflow.solve.system import Solution as Solution, SolveError as SolveError, Status as Status
