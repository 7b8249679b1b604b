"""Depth: bases, plans of fixed grids, weights that vary with depth, and their initialisations.

Everything here is written in normalised depth s in [0, 1]. A layer owns the interval of depth time
that [0, 1] stands for.
"""

from neuralflow.depth.basis import (
    Basis,
    CubicSpline,
    Legendre,
    PiecewiseConstant,
    PiecewiseLinear,
    Side,
)
from neuralflow.depth.flattened import (
    FlatField,
    depth_bases,
    field_at,
    field_in_step,
)
from neuralflow.depth.initial import (
    Init,
    fractional,
    independent,
    smooth,
    tied,
)
from neuralflow.depth.masks import decayed
from neuralflow.depth.varying import DepthVarying, raw

__all__ = [
    "Basis",
    "CubicSpline",
    "DepthVarying",
    "FlatField",
    "Init",
    "Legendre",
    "PiecewiseConstant",
    "PiecewiseLinear",
    "Side",
    "decayed",
    "depth_bases",
    "field_at",
    "field_in_step",
    "fractional",
    "independent",
    "raw",
    "smooth",
    "tied",
]
__docformat__ = "google"
