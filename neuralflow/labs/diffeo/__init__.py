"""Flows as diffeomorphisms: exponentials, inverses, Jacobians, Lipschitz bounds and geodesics.

`report` measures how far a layer is a diffeomorphism. The module `flows` holds maps and their
inverses. The module `jacobian` holds derivatives of maps. The module `lipschitz` holds bounds that
follow from the weights. The module `kernels` holds Gaussian kernel fields and geodesics. The module
`reports` holds the report on a layer. The module `sampled` holds maps on a regular grid. The module
`plots` holds the picture. The determinants of a layer's blocks live in the core, in
`neuralflow/transport.py`.
"""

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
