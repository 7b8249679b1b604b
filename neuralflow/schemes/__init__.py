"""Discretisations as diffrax solvers: diffrax's own, and those that diffrax lacks.

Most of the latter are networks with a name, such as LM-ResNet, PolyNet, FractalNet and RevNet.
`neuralflow.schemes.analysis` tells the order and the stability of a scheme.
"""

from diffrax import (
    Bosh3,
    Dopri5,
    Dopri8,
    Euler,
    Heun,
    ImplicitEuler,
    Kvaerno3,
    Midpoint,
    Ralston,
    Tsit5,
)

from neuralflow.schemes import analysis
from neuralflow.schemes.composed import (
    ConsistentFractalNet,
    FixedPointEuler,
    FractalExpansion,
    FractalNet,
    PolyNet,
)
from neuralflow.schemes.multistep import (
    ConsistentLM,
    LinearMultistep,
    LMResNet,
    TwoStep,
    adams_bashforth,
    leapfrog,
    momentum,
)
from neuralflow.schemes.network import PerStep
from neuralflow.schemes.reversible import Reversible, RevNet
from neuralflow.schemes.runge_kutta import (
    RK4,
    ImplicitTrapezoid,
    ThreeEighths,
)
from neuralflow.schemes.splitting import LieTrotter, Strang

__all__ = [
    "RK4",
    "Bosh3",
    "ConsistentFractalNet",
    "ConsistentLM",
    "Dopri5",
    "Dopri8",
    "Euler",
    "FixedPointEuler",
    "FractalExpansion",
    "FractalNet",
    "Heun",
    "ImplicitEuler",
    "ImplicitTrapezoid",
    "Kvaerno3",
    "LMResNet",
    "LieTrotter",
    "LinearMultistep",
    "Midpoint",
    "PerStep",
    "PolyNet",
    "Ralston",
    "RevNet",
    "Reversible",
    "Strang",
    "ThreeEighths",
    "Tsit5",
    "TwoStep",
    "adams_bashforth",
    "analysis",
    "leapfrog",
    "momentum",
]
__docformat__ = "google"
