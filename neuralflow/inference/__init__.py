"""Choose how to run a trained network, and see where the error of a cheaper one comes from.

A `Candidate` is what a network can be run with in place of its own: another discretisation, another
basis of its weights. `tradeoff` compares candidates by what they cost and what they give.
`error_split` splits the error of a compressed network into parts. `neuralflow.inference.plots`
draws the comparison.
"""

# `candidates` applies a candidate to a network, `measured` compiles networks for batches of one
# size, `table` compares, `errors` splits.

from neuralflow.inference import plots
from neuralflow.inference.candidates import Candidate
from neuralflow.inference.errors import ErrorSplit, error_split
from neuralflow.inference.table import (
    Choice,
    Tradeoff,
    tradeoff,
)

__all__ = [
    "Candidate",
    "Choice",
    "ErrorSplit",
    "Tradeoff",
    "error_split",
    "plots",
    "tradeoff",
]
__docformat__ = "google"
