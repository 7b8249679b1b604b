"""Depth: bases, plans of fixed grids, weights that vary with depth, and their initialisations.

Everything here is written in normalised depth s in [0, 1]. A layer owns the interval of depth time
that [0, 1] stands for.
"""

from neuralflow.depth.basis import (
    Basis as Basis,
    CubicSpline as CubicSpline,
    Legendre as Legendre,
    PiecewiseConstant as PiecewiseConstant,
    PiecewiseLinear as PiecewiseLinear,
    Side as Side,
)
from neuralflow.depth.flattened import (
    FlatField as FlatField,
    depth_bases as depth_bases,
    field_at as field_at,
    field_in_step as field_in_step,
)
from neuralflow.depth.initial import (
    Init as Init,
    fractional as fractional,
    independent as independent,
    smooth as smooth,
    tied as tied,
)
from neuralflow.depth.masks import decayed as decayed
from neuralflow.depth.varying import DepthVarying as DepthVarying, raw as raw
