"""Deep-limit laboratory: do optimal weights of deeper networks converge to those of the ODE?

E_n is the objective of a residual network with n layers. E_infinity is the objective of the ODE.
Thorpe & van Gennip state that E_n Gamma-converges to E_infinity and that minimisers converge
(stated there). The rates are our formulation: with the control u = theta', E_n is a Runge-Kutta
discretisation of a Bolza problem. Order 1 is therefore expected of Euler, and order 2 of Heun and
midpoint (Hager, Numer. Math. 87, 2000). `expected_order` derives the order of any scheme. Order 2
is not expected of a distance that its own interpolant limits to order 1. No order is expected of a
scheme whose limit is another equation.

Problems, minima and studies are computed in float64 and need jax_enable_x64. `train`, `descend` and
`certify` compute in the precision of the model.

A `Problem` says what is minimised. `minimise` and `pontryagin` solve it in two independent ways.
`study` compares networks with their limit by their `distances`, and `falsify` breaks the theory's
assumptions one by one. `certify` and `train` look at networks that were trained without this
theory's penalty. `neuralflow.labs.deep_limit.plots` holds the pictures.

Source:
    Thorpe & van Gennip, Deep Limits of Residual Neural Networks, arXiv 1810.11741.
"""

# `problem` and `objective` define what is minimised. `minimum` and `pontryagin` solve the
# minimisation in two independent ways. `distances`, `sweep` and `falsifiers` compare networks with
# their limit. `certificate` and `trained` look at networks that were trained without this theory's
# penalty.

from neuralflow.labs.deep_limit import plots
from neuralflow.labs.deep_limit.certificate import (
    Certificate,
    certify,
)
from neuralflow.labs.deep_limit.distances import (
    DISTANCES,
    FURTHER,
    aligned,
    distances,
    expected_order,
    richardson,
    scaled_error,
)
from neuralflow.labs.deep_limit.evidence import (
    Measure,
    Regularity,
    Resolution,
)
from neuralflow.labs.deep_limit.falsifiers import (
    Panel,
    falsify,
    kinked,
)
from neuralflow.labs.deep_limit.minimum import (
    Minimum,
    adaptive_energy,
    basins,
    curvature,
    described,
    minimise,
    newton,
    random_starts,
    recovery,
    restarted,
)
from neuralflow.labs.deep_limit.objective import (
    Objective,
    continuum,
    discrete,
)
from neuralflow.labs.deep_limit.pontryagin import (
    Residuals,
    pontryagin,
    residuals,
)
from neuralflow.labs.deep_limit.problem import (
    Perceptron,
    Problem,
    Sobolev,
    affine,
    square,
    squared_error,
    thorpe_van_gennip,
)
from neuralflow.labs.deep_limit.sweep import (
    Folder,
    Kept,
    Row,
    Study,
    study,
    verdict,
)
from neuralflow.labs.deep_limit.trained import (
    PROTOCOLS,
    Scaling,
    Trained,
    descend,
    gaps,
    gaussian_pairs,
    scaling,
    train,
)
from neuralflow.statistics import (
    ASYMPTOTIC,
    fitted_order,
    interval,
)

__all__ = [
    "ASYMPTOTIC",
    "DISTANCES",
    "FURTHER",
    "PROTOCOLS",
    "Certificate",
    "Folder",
    "Kept",
    "Measure",
    "Minimum",
    "Objective",
    "Panel",
    "Perceptron",
    "Problem",
    "Regularity",
    "Residuals",
    "Resolution",
    "Row",
    "Scaling",
    "Sobolev",
    "Study",
    "Trained",
    "adaptive_energy",
    "affine",
    "aligned",
    "basins",
    "certify",
    "continuum",
    "curvature",
    "descend",
    "described",
    "discrete",
    "distances",
    "expected_order",
    "falsify",
    "fitted_order",
    "gaps",
    "gaussian_pairs",
    "interval",
    "kinked",
    "minimise",
    "newton",
    "plots",
    "pontryagin",
    "random_starts",
    "recovery",
    "residuals",
    "restarted",
    "richardson",
    "scaled_error",
    "scaling",
    "square",
    "squared_error",
    "study",
    "thorpe_van_gennip",
    "train",
    "verdict",
]
__docformat__ = "google"
