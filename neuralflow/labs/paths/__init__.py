"""Residual networks as sums over paths, and the path integral of their equation.

`Branches` is a residual network whose paths are summed: `amplitudes`, `contributions` and
`gradients` sort them by length. `Equation` is its limit, with the path integrals `composed`,
`spectral` and `feynman_kac`. `neuralflow.labs.paths.plots` draws the paths of a gradient.
"""

# `discrete` holds the sums over the paths of a network, `integral` the path integral of its
# equation.

from neuralflow.labs.paths import plots
from neuralflow.labs.paths.discrete import (
    Branches,
    Sampled,
    adjoints,
    amplitudes,
    contributions,
    counts,
    gradients,
    length_shares,
    linearised,
    sample,
    subpaths,
)
from neuralflow.labs.paths.integral import (
    Classical,
    Equation,
    classical,
    composed,
    feynman_kac,
    spectral,
)
from neuralflow.statistics import Estimate, estimate

__all__ = [
    "Branches",
    "Classical",
    "Equation",
    "Estimate",
    "Sampled",
    "adjoints",
    "amplitudes",
    "classical",
    "composed",
    "contributions",
    "counts",
    "estimate",
    "feynman_kac",
    "gradients",
    "length_shares",
    "linearised",
    "plots",
    "sample",
    "spectral",
    "subpaths",
]
__docformat__ = "google"
