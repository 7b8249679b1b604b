"""Layers and plain residual branches: conversion both ways, and the import of trained branches.

`from_branches` and `to_branches` convert without a change of values. `fit_branches` brings the
branches of an ordinary ResNet to a basis of depth: it puts hidden units in order along depth, and
fits weights to states. `hidden_units` tells which hidden units a branch has, and `HiddenUnits`
names those of a module of your own. `frozen` removes batch statistics.
"""

# `residual` converts, and `importing` fits: `units` finds hidden units, `alignment` puts them in
# order along depth, `states` fits weights to states. `norms` removes batch statistics.

from neuralflow.branches.importing import FitReport, fit_branches
from neuralflow.branches.norms import Affine, frozen
from neuralflow.branches.residual import (
    from_branches,
    to_branches,
)
from neuralflow.branches.units import HiddenUnits, hidden_units

__all__ = [
    "Affine",
    "FitReport",
    "HiddenUnits",
    "fit_branches",
    "from_branches",
    "frozen",
    "hidden_units",
    "to_branches",
]
__docformat__ = "google"
