"""Velocity fields: plain NNX modules that are called as f(x) or f(x, t).

A layer takes any module of that form. The fields exported here are the common ones.
"""

from neuralflow.fields.convolution import convolution
from neuralflow.fields.functions import (
    evaluate,
    from_function,
    takes_context,
    takes_time,
)
from neuralflow.fields.networks import (
    MLP,
    Activation,
    Antisymmetric,
    ConvBlock,
)
from neuralflow.fields.split import OnSphere, Split
from neuralflow.fields.structured import (
    Coupled,
    Energy,
    Gradient,
    Hamiltonian,
    SecondOrder,
    Separable,
)
from neuralflow.fields.transformer import Attention, FeedForward

__all__ = [
    "MLP",
    "Activation",
    "Antisymmetric",
    "Attention",
    "ConvBlock",
    "Coupled",
    "Energy",
    "FeedForward",
    "Gradient",
    "Hamiltonian",
    "OnSphere",
    "SecondOrder",
    "Separable",
    "Split",
    "convolution",
    "evaluate",
    "from_function",
    "takes_context",
    "takes_time",
]
__docformat__ = "google"
