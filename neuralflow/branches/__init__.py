"""Layers and plain residual branches: conversion both ways, and the import of trained branches.

`residual` converts without a change of values. `importing` brings the branches of an ordinary
ResNet to a basis of depth: which hidden units they have stands in `units`, how units are put in
order along depth in `alignment`, how weights are fitted to states in `states`. `norms` removes
batch statistics.
"""

from neuralflow.branches.importing import FitReport as FitReport, fit_branches as fit_branches
from neuralflow.branches.norms import Affine as Affine, frozen as frozen
from neuralflow.branches.residual import (
    from_branches as from_branches,
    to_branches as to_branches,
)
from neuralflow.branches.units import HiddenUnits as HiddenUnits, hidden_units as hidden_units
