"""Networks of differential operators: kernels as operators, equations as fields, and stable steps.

The module `kernels` translates a convolution kernel into derivatives and back. The module
`equations` holds velocity fields that are partial differential operators. The module `stability`
tells how long a step may be. The module `plots` holds the pictures. What a scheme does to a single
wave stands in the core, in `neuralflow/schemes/analysis.py`.
"""

from neuralflow.labs.operators import plots
from neuralflow.labs.operators.equations import (
    TERMS,
    ConvolutionEnergy,
    DifferentialOperator,
    KineticEnergy,
    block,
    hamiltonian,
    hyperbolic,
    log_cosh,
    parabolic,
    read,
)
from neuralflow.labs.operators.kernels import (
    Shares,
    formula,
    shares,
    stencil,
    symbol,
    to_kernel,
    to_operator,
)
from neuralflow.labs.operators.stability import (
    Stability,
    check,
    spectrum,
    stability,
    stable_step,
)

__all__ = [
    "TERMS",
    "ConvolutionEnergy",
    "DifferentialOperator",
    "KineticEnergy",
    "Shares",
    "Stability",
    "block",
    "check",
    "formula",
    "hamiltonian",
    "hyperbolic",
    "log_cosh",
    "parabolic",
    "plots",
    "read",
    "shares",
    "spectrum",
    "stability",
    "stable_step",
    "stencil",
    "symbol",
    "to_kernel",
    "to_operator",
]
__docformat__ = "google"
