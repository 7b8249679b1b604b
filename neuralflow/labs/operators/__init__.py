"""Networks of differential operators: kernels as operators, equations as fields, and stable steps.

`to_operator` and `to_kernel` translate a convolution kernel into derivatives and back.
`DifferentialOperator`, `parabolic`, `hyperbolic` and `hamiltonian` are velocity fields that are
partial differential operators. `stability` and `stable_step` tell how long a step may be.
`neuralflow.labs.operators.plots` holds the pictures. What a scheme does to a single wave stands in
`neuralflow.schemes.analysis`.
"""

# `kernels` translates, `equations` holds the fields, `stability` finds the steps.

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
