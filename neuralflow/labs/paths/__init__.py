"""Residual networks as sums over paths, and the path integral of their equation.

`discrete` holds the sums over the paths of a network, and `integral` the path integral of its
equation. `plots` draws the paths of a gradient.
"""

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
