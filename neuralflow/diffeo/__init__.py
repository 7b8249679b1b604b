"""Flows as diffeomorphisms: exponentials, inverses, Jacobians, Lipschitz bounds, geodesics, and a report on a layer."""

from neuralflow.diffeo import sampled as sampled
from neuralflow.diffeo.flows import (
    Composition as Composition,
    Inverse as Inverse,
    exponential as exponential,
    inverse as inverse,
    logarithm as logarithm,
    squared as squared,
)
from neuralflow.diffeo.jacobian import (
    SlogDet as SlogDet,
    block_determinants as block_determinants,
    jacobian as jacobian,
    log_determinant as log_determinant,
)
from neuralflow.diffeo.kernels import (
    Geodesic as Geodesic,
    KernelField as KernelField,
    action as action,
    gaussian as gaussian,
    norms as norms,
    register as register,
)
from neuralflow.diffeo.lipschitz import (
    Bounded as Bounded,
    Bounds as Bounds,
    SpectralNorm as SpectralNorm,
    bounds as bounds,
    check as check,
    lipschitz as lipschitz,
    lipschitz_rule as lipschitz_rule,
    spectral_norm as spectral_norm,
)
from neuralflow.diffeo.reports import Report as Report, report as report
