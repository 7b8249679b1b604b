"""Layers and plain residual branches: conversion both ways, and the import of trained branches.

`residual` converts without a change of values. `importing` brings the branches of an ordinary
ResNet to a basis of depth: which hidden units they have stands in `units`, how units are put in
order along depth in `alignment`, how weights are fitted to states in `states`. `norms` removes
batch statistics.
"""

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
