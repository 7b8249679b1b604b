"""Residual networks as sums over paths, and the path integral of their equation.

`discrete` holds the sums over the paths of a network, and `integral` the path integral of its
equation. `plots` draws the paths of a gradient.
"""

from neuralflow.labs.paths import plots as plots
from neuralflow.labs.paths.discrete import (
    Branches as Branches,
    Sampled as Sampled,
    adjoints as adjoints,
    amplitudes as amplitudes,
    contributions as contributions,
    counts as counts,
    gradients as gradients,
    length_shares as length_shares,
    linearised as linearised,
    sample as sample,
    subpaths as subpaths,
)
from neuralflow.labs.paths.integral import (
    Classical as Classical,
    Equation as Equation,
    classical as classical,
    composed as composed,
    feynman_kac as feynman_kac,
    spectral as spectral,
)
from neuralflow.statistics import Estimate as Estimate, estimate as estimate
