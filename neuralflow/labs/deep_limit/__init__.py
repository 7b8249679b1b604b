"""The deep-limit laboratory: do the optimal parameters of deeper and deeper networks converge to those of the ODE?

Thorpe & van Gennip, Deep Limits of Residual Neural Networks, arXiv 1810.11741: E_n Gamma-converges to E_infinity and
minimisers converge (stated there). The rates are our formulation: with u = theta' as the control, E_n is a Runge-Kutta
discretisation of a Bolza problem, so order 1 is expected of Euler and order 2 of Heun and midpoint (Hager, Numer. Math.
87, 2000), where the distance itself is not limited by the interpolant.

Problems, minima and studies are float64 and ask for jax_enable_x64; `train`, `descend` and `certify` compute in the
precision of the model.
"""

from neuralflow.labs.deep_limit import plots as plots
from neuralflow.labs.deep_limit.certificate import (
    Certificate as Certificate,
    Smoothness as Smoothness,
    certify as certify,
    smoothness as smoothness,
)
from neuralflow.labs.deep_limit.distances import (
    DISTANCES as DISTANCES,
    aligned as aligned,
    distances as distances,
    expected_order as expected_order,
    richardson as richardson,
    scaled_error as scaled_error,
)
from neuralflow.labs.deep_limit.falsifiers import (
    Panel as Panel,
    falsify as falsify,
    kinked as kinked,
)
from neuralflow.labs.deep_limit.minimum import (
    Minimum as Minimum,
    adaptive_energy as adaptive_energy,
    basins as basins,
    curvature as curvature,
    described as described,
    minimise as minimise,
    newton as newton,
    random_starts as random_starts,
    recovery as recovery,
    restarted as restarted,
)
from neuralflow.labs.deep_limit.objective import (
    Objective as Objective,
    continuum as continuum,
    discrete as discrete,
)
from neuralflow.labs.deep_limit.pontryagin import (
    Residuals as Residuals,
    pontryagin as pontryagin,
    residuals as residuals,
)
from neuralflow.labs.deep_limit.problem import (
    Perceptron as Perceptron,
    Problem as Problem,
    Sobolev as Sobolev,
    affine as affine,
    square as square,
    squared_error as squared_error,
    thorpe_van_gennip as thorpe_van_gennip,
)
from neuralflow.labs.deep_limit.sweep import (
    Folder as Folder,
    Kept as Kept,
    Row as Row,
    Study as Study,
    study as study,
    verdict as verdict,
)
from neuralflow.labs.deep_limit.trained import (
    PROTOCOLS as PROTOCOLS,
    Scaling as Scaling,
    Trained as Trained,
    descend as descend,
    gaps as gaps,
    gaussian_pairs as gaussian_pairs,
    scaling as scaling,
    train as train,
)
from neuralflow.statistics import (
    ASYMPTOTIC as ASYMPTOTIC,
    fitted_order as fitted_order,
    interval as interval,
)
