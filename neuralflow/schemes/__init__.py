"""Discretisations as diffrax solvers: diffrax's own, and those that diffrax lacks.

Most of the latter are networks with a name, such as LM-ResNet, PolyNet, FractalNet and RevNet.
`analysis` tells the order and the stability of a scheme.
"""

from diffrax import (
    Bosh3 as Bosh3,
    Dopri5 as Dopri5,
    Dopri8 as Dopri8,
    Euler as Euler,
    Heun as Heun,
    ImplicitEuler as ImplicitEuler,
    Kvaerno3 as Kvaerno3,
    Midpoint as Midpoint,
    Ralston as Ralston,
    Tsit5 as Tsit5,
)

from neuralflow.schemes import analysis as analysis
from neuralflow.schemes.composed import (
    ConsistentFractalNet as ConsistentFractalNet,
    FixedPointEuler as FixedPointEuler,
    FractalExpansion as FractalExpansion,
    FractalNet as FractalNet,
    PolyNet as PolyNet,
)
from neuralflow.schemes.multistep import (
    ConsistentLM as ConsistentLM,
    LinearMultistep as LinearMultistep,
    LMResNet as LMResNet,
    adams_bashforth as adams_bashforth,
    leapfrog as leapfrog,
    momentum as momentum,
)
from neuralflow.schemes.network import PerStep as PerStep
from neuralflow.schemes.reversible import Reversible as Reversible, RevNet as RevNet
from neuralflow.schemes.runge_kutta import (
    RK4 as RK4,
    ImplicitTrapezoid as ImplicitTrapezoid,
    ThreeEighths as ThreeEighths,
)
from neuralflow.schemes.splitting import LieTrotter as LieTrotter, Strang as Strang
