"""Stochastic training as stochastic dynamics: random residual networks and their SDEs.

The kinds of noise are `StochasticDepth`, `Dropout`, `ShakeShake` and `Gaussian`. `RandomNetwork` is
a random network, and `NeuralSDE` its limit. `network_moments` and `limit_moments` are exact moments
of linear fields. `weak_errors` measures the errors of networks against their limit, by sampling,
and `neuralflow.labs.stochastic.plots` draws these errors.
"""

# `fields` holds the kinds of noise, `networks` the random networks and their limits, `moments`
# exact moments, `weak` errors by sampling.

from neuralflow.labs.stochastic import plots
from neuralflow.labs.stochastic.fields import (
    Dropout,
    Gaussian,
    Noise,
    RandomField,
    ShakeShake,
    Stepped,
    StochasticDepth,
    linear,
)
from neuralflow.labs.stochastic.moments import (
    limit_moments,
    matrices,
    network_moments,
)
from neuralflow.labs.stochastic.networks import (
    NeuralSDE,
    RandomNetwork,
    seeded,
)
from neuralflow.labs.stochastic.weak import (
    WeakErrors,
    expectation,
    weak_errors,
)

__all__ = [
    "Dropout",
    "Gaussian",
    "NeuralSDE",
    "Noise",
    "RandomField",
    "RandomNetwork",
    "ShakeShake",
    "Stepped",
    "StochasticDepth",
    "WeakErrors",
    "expectation",
    "limit_moments",
    "linear",
    "matrices",
    "network_moments",
    "plots",
    "seeded",
    "weak_errors",
]
__docformat__ = "google"
