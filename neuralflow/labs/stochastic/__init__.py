"""Stochastic training as stochastic dynamics: random residual networks and their SDEs.

`fields` holds the kinds of noise, `networks` the random networks and their limits (SDEs), `moments`
exact moments of linear fields, and `weak` the errors of networks against their limit, by sampling.
`plots` draws these errors.
"""

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
