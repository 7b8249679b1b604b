"""Flows as diffeomorphisms: exponentials, inverses, Jacobians, Lipschitz bounds and geodesics.

`report` measures how far a layer is a diffeomorphism. The module `flows` holds maps and their
inverses. The module `jacobian` holds derivatives of maps. The module `lipschitz` holds bounds that
follow from the weights. The module `kernels` holds Gaussian kernel fields and geodesics. The module
`reports` holds the report on a layer. The module `sampled` holds maps on a regular grid. The module
`plots` holds the picture. The determinants of a layer's blocks live in the core, in
`neuralflow/transport.py`.
"""

from neuralflow.labs.diffeo import plots as plots, sampled as sampled
from neuralflow.labs.diffeo.flows import (
    Composition as Composition,
    Inverse as Inverse,
    exponential as exponential,
    inverse as inverse,
    logarithm as logarithm,
    squared as squared,
)
from neuralflow.labs.diffeo.jacobian import jacobian as jacobian, log_determinant as log_determinant
from neuralflow.labs.diffeo.kernels import (
    Geodesic as Geodesic,
    KernelField as KernelField,
    action as action,
    gaussian as gaussian,
    norms as norms,
    register as register,
)
from neuralflow.labs.diffeo.lipschitz import (
    Bounded as Bounded,
    Bounds as Bounds,
    SpectralNorm as SpectralNorm,
    bounds as bounds,
    check as check,
    lipschitz as lipschitz,
    lipschitz_rule as lipschitz_rule,
    spectral_norm as spectral_norm,
)
from neuralflow.labs.diffeo.reports import Report as Report, report as report
from neuralflow.transport import SlogDet as SlogDet, block_determinants as block_determinants
