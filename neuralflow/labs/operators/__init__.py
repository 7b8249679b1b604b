"""Networks of differential operators: kernels as operators, equations as fields, and stable steps.

The module `kernels` translates a convolution kernel into derivatives and back. The module
`equations` holds velocity fields that are partial differential operators. The module `stability`
tells how long a step may be. The module `plots` holds the pictures. What a scheme does to a single
wave stands in the core, in `neuralflow/schemes/analysis.py`.
"""

from neuralflow.labs.operators import plots as plots
from neuralflow.labs.operators.equations import (
    TERMS as TERMS,
    ConvolutionEnergy as ConvolutionEnergy,
    DifferentialOperator as DifferentialOperator,
    KineticEnergy as KineticEnergy,
    block as block,
    hamiltonian as hamiltonian,
    hyperbolic as hyperbolic,
    log_cosh as log_cosh,
    parabolic as parabolic,
    read as read,
)
from neuralflow.labs.operators.kernels import (
    Shares as Shares,
    formula as formula,
    shares as shares,
    stencil as stencil,
    symbol as symbol,
    to_kernel as to_kernel,
    to_operator as to_operator,
)
from neuralflow.labs.operators.stability import (
    Stability as Stability,
    check as check,
    spectrum as spectrum,
    stability as stability,
    stable_step as stable_step,
)
