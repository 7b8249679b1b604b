"""Velocity fields: plain NNX modules that are called as f(x) or f(x, t).

A layer takes any module of that form. The fields exported here are the common ones.
"""

from neuralflow.fields.convolution import convolution as convolution
from neuralflow.fields.functions import (
    evaluate as evaluate,
    from_function as from_function,
    takes_context as takes_context,
    takes_time as takes_time,
)
from neuralflow.fields.networks import (
    MLP as MLP,
    Activation as Activation,
    Antisymmetric as Antisymmetric,
    ConvBlock as ConvBlock,
)
from neuralflow.fields.split import OnSphere as OnSphere, Split as Split
from neuralflow.fields.structured import (
    Coupled as Coupled,
    Energy as Energy,
    Gradient as Gradient,
    Hamiltonian as Hamiltonian,
    SecondOrder as SecondOrder,
    Separable as Separable,
)
from neuralflow.fields.transformer import Attention as Attention, FeedForward as FeedForward
