"""Laboratories: what is asked of layers beyond being layers. Each stands on the core, and on no other laboratory.

`deep_limit`: do the weights of deeper and deeper networks converge? `diffeo`: is a layer a diffeomorphism? `operators`: which differential
operators are its convolutions? `paths`: a residual network as a sum over paths. `plain_net`: plain networks as flows. `stochastic`: random
residual networks and their SDEs.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Type checkers see the rooms, and no other name.
    from neuralflow.labs import (
        deep_limit as deep_limit,
        diffeo as diffeo,
        operators as operators,
        paths as paths,
        plain_net as plain_net,
        stochastic as stochastic,
    )
else:
    _ROOMS = ("deep_limit", "diffeo", "operators", "paths", "plain_net", "stochastic")

    def __getattr__(name):
        """A laboratory, imported at its first use."""
        if name in _ROOMS:
            return _import_module(f"neuralflow.labs.{name}")
        raise AttributeError(f"module 'neuralflow.labs' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_ROOMS})
