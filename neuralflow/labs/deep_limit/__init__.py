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

`problem` and `objective` define what is minimised. `minimum` and `pontryagin` solve the
minimisation in two independent ways. `distances`, `sweep` and `falsifiers` compare networks with
their limit. `certificate` and `trained` look at networks that were trained without this theory's
penalty.

Source:
    Thorpe & van Gennip, Deep Limits of Residual Neural Networks, arXiv 1810.11741.
"""

from neuralflow.labs.deep_limit import plots as plots
from neuralflow.labs.deep_limit.certificate import (
    Certificate as Certificate,
    certify as certify,
)
from neuralflow.labs.deep_limit.distances import (
    DISTANCES as DISTANCES,
    aligned as aligned,
    distances as distances,
    expected_order as expected_order,
    richardson as richardson,
    scaled_error as scaled_error,
)
from neuralflow.labs.deep_limit.evidence import (
    Measure as Measure,
    Regularity as Regularity,
    Resolution as Resolution,
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
