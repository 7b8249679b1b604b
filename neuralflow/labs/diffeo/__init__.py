"""Flows as diffeomorphisms: exponentials, inverses, Jacobians, Lipschitz bounds and geodesics.

`report` measures how far a layer is a diffeomorphism. `exponential`, `inverse`, `logarithm` and
`squared` are maps and their inverses. `jacobian` and `log_determinant` are derivatives of maps.
`lipschitz`, `bounds` and `check` follow from the weights. `KernelField` and `register` are for
Gaussian kernels and geodesics. `neuralflow.labs.diffeo.sampled` holds maps on a regular grid, and
`neuralflow.labs.diffeo.plots` the picture.
"""

# `flows` holds maps and their inverses, `jacobian` derivatives of maps, `lipschitz` bounds,
# `kernels` Gaussian kernels and geodesics, `reports` the report on a layer. The determinants of a
# layer's blocks live in the core, in `neuralflow/transport.py`.

from neuralflow.labs.diffeo import plots, sampled
from neuralflow.labs.diffeo.flows import (
    Composition,
    Inverse,
    exponential,
    inverse,
    logarithm,
    squared,
)
from neuralflow.labs.diffeo.jacobian import jacobian, log_determinant
from neuralflow.labs.diffeo.kernels import (
    Geodesic,
    KernelField,
    action,
    gaussian,
    norms,
    register,
)
from neuralflow.labs.diffeo.lipschitz import (
    Bounded,
    Bounds,
    SpectralNorm,
    bounds,
    check,
    lipschitz,
    lipschitz_rule,
    spectral_norm,
)
from neuralflow.labs.diffeo.reports import Report, report
from neuralflow.transport import SlogDet, block_determinants

__all__ = [
    "Bounded",
    "Bounds",
    "Composition",
    "Geodesic",
    "Inverse",
    "KernelField",
    "Report",
    "SlogDet",
    "SpectralNorm",
    "action",
    "block_determinants",
    "bounds",
    "check",
    "exponential",
    "gaussian",
    "inverse",
    "jacobian",
    "lipschitz",
    "lipschitz_rule",
    "log_determinant",
    "logarithm",
    "norms",
    "plots",
    "register",
    "report",
    "sampled",
    "spectral_norm",
    "squared",
]
__docformat__ = "google"
