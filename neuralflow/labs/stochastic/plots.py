"""A picture of weak errors by depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from neuralflow import plots
from neuralflow.checks import InputTypeError
from neuralflow.labs.stochastic.weak import WeakErrors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__docformat__ = "google"


def weak_errors(networks: Mapping[str, WeakErrors]) -> Figure:
    """Draw the errors of random networks against their limit by the number of blocks.

    Both axes are logarithmic. Every error has its interval of 95%, which covers the sampling error.
    The slope in the legend has its interval at these numbers of blocks; see
    `neuralflow.labs.stochastic.WeakErrors.interval`.

    Args:
        networks: The errors by name, as `neuralflow.labs.stochastic.weak_errors` returns them.

    Returns:
        The figure.

    Raises:
        InputTypeError: `networks` is not a dictionary with at least one
            `neuralflow.labs.stochastic.WeakErrors` and nothing else.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    named = isinstance(networks, Mapping) and networks
    if not named or not all(isinstance(errors, WeakErrors) for errors in networks.values()):
        raise InputTypeError(
            "networks must be errors by name, {'p = 0.5': nf.labs.stochastic.weak_errors(...)}, "
            f"got {type(networks).__name__}"
        )
    picture, (axis,) = plots.figure(1, 1, width=5.6, height=3.8)
    for k, (name, errors) in enumerate(networks.items()):
        mean, margin = np.abs(errors.errors.mean), 1.96 * np.asarray(errors.errors.error)
        low = np.minimum(margin, 0.9 * mean)  # an interval with zero has no lower end
        label = (
            f"{name}: slope {errors.order:.2f} ± "
            f"{(errors.interval[1] - errors.interval[0]) / 2:.2f}"
        )
        axis.errorbar(
            errors.steps,
            mean,
            (low, margin),
            color=plots.COLOURS[k % 5],
            marker=plots.MARKS[k % 5],
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=label,
        )
    axis.set(xscale="log", yscale="log", xlabel="blocks", ylabel="|E F(network) - E F(limit)|")
    counts = sorted({n for errors in networks.values() for n in errors.steps})
    axis.set_xticks(counts, [str(n) for n in counts])
    axis.minorticks_off()
    axis.legend(fontsize=8, frameon=False)
    return picture
