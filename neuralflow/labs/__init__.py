"""Laboratories: questions about layers, each studied in a package of its own.

A laboratory stands on the core and imports no other laboratory.

- `neuralflow.labs.deep_limit`: Do the weights of deeper and deeper networks converge?
- `neuralflow.labs.diffeo`: Is a layer a diffeomorphism?
- `neuralflow.labs.operators`: Which differential operators are the convolutions of a layer?
- `neuralflow.labs.paths`: A residual network as a sum over paths.
- `neuralflow.labs.plain_net`: Plain networks as flows.
- `neuralflow.labs.stochastic`: Random residual networks and their SDEs.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Type checkers see the rooms, and no other name.
    from neuralflow.labs import deep_limit, diffeo, operators, paths, plain_net, stochastic
else:

    def __getattr__(name):
        """Import a laboratory at its first use."""
        if name in __all__:
            return _import_module(f"neuralflow.labs.{name}")
        raise AttributeError(f"module 'neuralflow.labs' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "deep_limit",
    "diffeo",
    "operators",
    "paths",
    "plain_net",
    "stochastic",
]
__docformat__ = "google"
