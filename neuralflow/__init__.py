"""neuralflow: Flax modules as velocity fields, walked by fixed grids or by adaptive solves.

A fixed grid makes a velocity field a ResNet. With the same weights, an adaptive solve computes the
limit of the ResNet for infinitely many steps.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from neuralflow import branches as branches, depth as depth, fields as fields, schemes as schemes
from neuralflow.branches import (
    FitReport as FitReport,
    HiddenUnits as HiddenUnits,
    fit_branches as fit_branches,
    from_branches as from_branches,
    frozen as frozen,
    to_branches as to_branches,
)
from neuralflow.depth import (
    CubicSpline as CubicSpline,
    DepthVarying as DepthVarying,
    Legendre as Legendre,
    PiecewiseConstant as PiecewiseConstant,
    PiecewiseLinear as PiecewiseLinear,
    fractional as fractional,
    independent as independent,
    smooth as smooth,
    tied as tied,
)
from neuralflow.fields import from_function as from_function
from neuralflow.gradients import (
    GradientReport as GradientReport,
    check_gradient as check_gradient,
)
from neuralflow.layers import NeuralODE as NeuralODE
from neuralflow.refinement import projected as projected, refined as refined
from neuralflow.schemes import (
    RK4 as RK4,
    Bosh3 as Bosh3,
    Dopri5 as Dopri5,
    Dopri8 as Dopri8,
    Euler as Euler,
    Heun as Heun,
    ImplicitEuler as ImplicitEuler,
    Kvaerno3 as Kvaerno3,
    Midpoint as Midpoint,
    Ralston as Ralston,
    ThreeEighths as ThreeEighths,
    Tsit5 as Tsit5,
)
from neuralflow.solve import (
    Adaptive as Adaptive,
    FixedGrid as FixedGrid,
    Solution as Solution,
    SolveError as SolveError,
    Status as Status,
)
from neuralflow.solve.tally import tally as tally

if TYPE_CHECKING:
    # Type checkers see the rooms, and no other name.
    from neuralflow import (
        data as data,
        inference as inference,
        labs as labs,
        models as models,
        plots as plots,
        regularisers as regularisers,
        statistics as statistics,
        sweeps as sweeps,
        training as training,
        transport as transport,
    )
else:
    _ROOMS = (
        "data",
        "inference",
        "labs",
        "models",
        "plots",
        "regularisers",
        "statistics",
        "sweeps",
        "training",
        "transport",
    )

    def __getattr__(name):
        """Import a room at its first use, because most programs do not need it."""
        if name in _ROOMS:
            return _import_module(f"neuralflow.{name}")
        import neuralflow.labs as labs

        hint = f"; it is nf.labs.{name}" if name in dir(labs) else ""
        raise AttributeError(f"module 'neuralflow' has no attribute {name!r}{hint}")

    def __dir__():
        return sorted({*globals(), *_ROOMS})


__version__ = _version("neuralflow-jax")
