"""Laboratories: what is asked of layers beyond being layers. Each stands on the core, and on no other laboratory.

`deep_limit`: do the weights of deeper and deeper networks converge? `diffeo`: is a layer a diffeomorphism? `operators`: which differential
operators are its convolutions? `paths`: a residual network as a sum over paths. `plain_net`: plain networks as flows. `stochastic`: random
residual networks and their SDEs.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

_ROOMS = ("deep_limit", "diffeo", "operators", "paths", "plain_net", "stochastic")


def __getattr__(name: str) -> _Any:
    """A laboratory, imported at its first use."""
    if name in _ROOMS:
        return _import_module(f"neuralflow.labs.{name}")
    raise AttributeError(f"module 'neuralflow.labs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
