"""neuralflow: Flax modules as velocity fields, walked by fixed grids or by adaptive solves.

A velocity field f(x, t) is a Flax module. A discretisation is data. A layer is the two together. A
fixed grid makes a velocity field a ResNet. With the same weights, an adaptive solve computes the
limit of the ResNet for infinitely many steps.

    import neuralflow as nf

    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=16))
    limit = layer.with_solve(nf.Adaptive(nf.Tsit5(), rtol=1e-6, atol=1e-6))

**The layer** is `NeuralODE`, and `FixedGrid` and `Adaptive` are its discretisations. `Solution` and
`Status` tell how a solve ended. `check_gradient` compares the gradient of a layer with an exact
one, and `tally` counts evaluations.

**Weights along depth**: `DepthVarying` makes the weights of any module vary with depth, on one of
four bases. The initialisations are `independent`, `tied`, `smooth` and `fractional`. `refined` and
`projected` bring whole models to other steps and other bases. `from_branches`, `to_branches` and
`fit_branches` exchange residual branches with ordinary ResNets.

The rooms, which are imported with the package or at their first use:

- `neuralflow.fields`: velocity fields: dense, convolutional, attention, Hamiltonian, sums
- `neuralflow.depth`: bases, weights that vary with depth, and their initialisations
- `neuralflow.schemes`: schemes, and their theory in `neuralflow.schemes.analysis`
- `neuralflow.solve`: what the two discretisations share
- `neuralflow.branches`: layers from plain residual branches, and back
- `neuralflow.transport`: what a flow carries: values, densities, integrals; normalising flows
- `neuralflow.regularisers`: penalties on weights along depth, and on the motion of a flow
- `neuralflow.statistics`: means, intervals and observed orders
- `neuralflow.models`: small classifiers, and entries appended before a flow
- `neuralflow.data`: data sets: generated, digits, files, TFDS
- `neuralflow.training`: one function that trains any module, and its checkpoints
- `neuralflow.sweeps`: one function over many configurations
- `neuralflow.inference`: what a trained network costs and gives under other discretisations
- `neuralflow.plots`: pictures of schemes, flows and densities
- `neuralflow.labs`: laboratories, each for one question about layers
- `neuralflow.checks`: the errors that refuse bad input
- `neuralflow.cli`: the command line
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from neuralflow import branches, checks, depth, fields, schemes, solve
from neuralflow.branches import (
    FitReport,
    HiddenUnits,
    fit_branches,
    from_branches,
    frozen,
    to_branches,
)
from neuralflow.depth import (
    CubicSpline,
    DepthVarying,
    Legendre,
    PiecewiseConstant,
    PiecewiseLinear,
    fractional,
    independent,
    smooth,
    tied,
)
from neuralflow.fields import from_function
from neuralflow.gradients import (
    GradientReport,
    check_gradient,
)
from neuralflow.layers import NeuralODE
from neuralflow.refinement import projected, refined
from neuralflow.schemes import (
    RK4,
    Bosh3,
    Dopri5,
    Dopri8,
    Euler,
    Heun,
    ImplicitEuler,
    Kvaerno3,
    Midpoint,
    Ralston,
    ThreeEighths,
    Tsit5,
)
from neuralflow.solve import (
    Adaptive,
    FixedGrid,
    Solution,
    SolveError,
    Status,
)
from neuralflow.solve.tally import tally

if TYPE_CHECKING:
    # Type checkers see the rooms, and no other name.
    from neuralflow import (
        cli,
        data,
        inference,
        labs,
        models,
        plots,
        regularisers,
        statistics,
        sweeps,
        training,
        transport,
    )
else:

    def __getattr__(name):
        """Import a room at its first use, because most programs do not need it."""
        if name in __all__:
            return _import_module(f"neuralflow.{name}")
        from neuralflow import labs

        hint = f"; it is nf.labs.{name}" if name in dir(labs) else ""
        raise AttributeError(f"module 'neuralflow' has no attribute {name!r}{hint}")

    def __dir__():
        return sorted({*globals(), *__all__})


# The order of the reference.
__all__ = [  # noqa: RUF022
    "NeuralODE",
    "FixedGrid",
    "Adaptive",
    "Solution",
    "Status",
    "SolveError",
    "DepthVarying",
    "PiecewiseConstant",
    "PiecewiseLinear",
    "CubicSpline",
    "Legendre",
    "independent",
    "tied",
    "smooth",
    "fractional",
    "from_function",
    "from_branches",
    "to_branches",
    "fit_branches",
    "FitReport",
    "HiddenUnits",
    "frozen",
    "refined",
    "projected",
    "check_gradient",
    "GradientReport",
    "tally",
    "Euler",
    "Heun",
    "Midpoint",
    "Ralston",
    "Bosh3",
    "RK4",
    "ThreeEighths",
    "Tsit5",
    "Dopri5",
    "Dopri8",
    "ImplicitEuler",
    "Kvaerno3",
    "fields",
    "depth",
    "schemes",
    "solve",
    "branches",
    "transport",
    "regularisers",
    "statistics",
    "models",
    "data",
    "training",
    "sweeps",
    "inference",
    "plots",
    "labs",
    "checks",
    "cli",
]
__docformat__ = "google"
__version__ = _version("neuralflow-jax")
