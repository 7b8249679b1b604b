"""Pictures of convolutions as differential operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from neuralflow import checks, plots
from neuralflow.labs.operators.kernels import Shares, formula, to_operator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__docformat__ = "google"


def operator(kernel: ArrayLike, spacing: Any = 1.0) -> Figure:
    """Draw a convolution kernel beside the differential operator that the kernel stands for.

    The left panel shows the entries of the kernel. The right panel shows the coefficients by
    derivative.

    Args:
        kernel: The kernel, `(k,)` or `(k, k)`.
        spacing: The distance of neighbouring points, one number or one for each axis.

    Returns:
        The figure.

    Raises:
        InputError: `kernel` has channels, or a size that is even or above 15.
        InputTypeError: `kernel` does not hold real numbers.
    """
    coefficients = np.asarray(to_operator(kernel, spacing))
    picture, axes = plots.figure(1, 2, width=7.2, height=3.2)

    def offsets(size, variable):
        return [str(i - size // 2) for i in range(size)]

    def powers(size, variable):
        return [
            "1",
            rf"$\partial_{variable}$",
            *(rf"$\partial_{variable}^{p}$" for p in range(2, size)),
        ][:size]

    drawn = (
        (np.asarray(kernel, float), "kernel", offsets),
        (coefficients, formula(coefficients), powers),
    )
    for axis, (numbers, title, names) in zip(axes.ravel(), drawn, strict=True):
        rows = np.atleast_2d(numbers)
        bound = np.abs(rows).max() or 1.0
        axis.imshow(rows, cmap="RdBu_r", vmin=-bound, vmax=bound)
        for (i, j), number in np.ndenumerate(rows):
            colour = "white" if abs(number) > 0.6 * bound else "black"
            axis.text(j, i, f"{number:.3g}", ha="center", va="center", fontsize=9, color=colour)
        axis.set_xticks(range(rows.shape[1]), names(rows.shape[1], "x"))
        axis.set_yticks(
            *((range(len(rows)), names(len(rows), "y")) if numbers.ndim == 2 else ([],))
        )
        axis.set_title(title, fontsize=10)
        axis.grid(False)
    return picture


def shares(networks: Mapping[str, Mapping[str, Shares]]) -> Figure:
    """Draw the shares of reaction, convection, diffusion and higher derivatives in networks.

    Each network has one panel, with one bar for each of its convolutions, in their order.

    Args:
        networks: For each network's name a mapping from the place of a convolution to its
            `neuralflow.labs.operators.Shares`.

    Returns:
        The figure.

    Raises:
        InputTypeError: `networks` or one of its values is no mapping, is empty, or holds anything
            but a `neuralflow.labs.operators.Shares`.
    """
    checks.named("networks", networks, Mapping, "{'net': {place: shares(coefficients)}}")
    for name, layers in networks.items():
        checks.named(f"networks[{name!r}]", layers, Shares, "{place: shares(coefficients)}")
    picture, axes = plots.figure(1, len(networks), width=4.8 * len(networks), height=3.4)
    for axis, (name, layers) in zip(axes.ravel(), networks.items(), strict=True):
        parts = np.asarray(list(layers.values()))
        bottom = np.zeros(len(parts))
        for k, kind in enumerate(Shares._fields):
            axis.bar(
                np.arange(1, len(parts) + 1),
                parts[:, k],
                bottom=bottom,
                color=plots.COLOURS[k],
                width=0.9,
                label=kind,
            )
            bottom += parts[:, k]
        axis.set(xlabel="convolution", ylim=(0, 1), title=name)
        axis.title.set_fontsize(10)
        axis.xaxis.get_major_locator().set_params(integer=True)
    plots.legend_below(picture, axes.ravel()[0])
    return picture
