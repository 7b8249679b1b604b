"""Stochastic training as stochastic dynamics: random residual networks, their SDEs, and how fast one comes to the other."""

from neuralflow.labs.stochastic import plots as plots
from neuralflow.labs.stochastic.fields import (
    Dropout as Dropout,
    Gaussian as Gaussian,
    Noise as Noise,
    RandomField as RandomField,
    ShakeShake as ShakeShake,
    Stepped as Stepped,
    StochasticDepth as StochasticDepth,
    linear as linear,
)
from neuralflow.labs.stochastic.moments import (
    limit_moments as limit_moments,
    matrices as matrices,
    network_moments as network_moments,
)
from neuralflow.labs.stochastic.networks import (
    NeuralSDE as NeuralSDE,
    RandomNetwork as RandomNetwork,
    seeded as seeded,
)
from neuralflow.labs.stochastic.weak import (
    WeakErrors as WeakErrors,
    expectation as expectation,
    weak_errors as weak_errors,
)
