"""A picture of the paths by which a gradient comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neuralflow import checks, plots
from neuralflow.checks import InputError, InputTypeError
from neuralflow.labs.paths.discrete import Branches, adjoints, gradients, length_shares

__docformat__ = "google"


def gradient_paths(networks: Mapping[str, tuple[Branches, Any]], axes: Any = None) -> Any:
    """Draw by which paths the gradient comes, and how the gradient passes through depth.

    The left picture shows the share of each length of path in the gradient. Its dotted line shows
    the share of each length in the number of all paths. The right picture shows the norm of
    dLoss/du_k, added up over samples and divided by its value at the output. Its dashed lines
    belong to the same branches without their skips.

    Args:
        networks: The networks by name. Each value is a pair: the branches, and the gradient of the
            loss at the output. All networks have the same depth.
        axes: Two matplotlib axes to draw into. By default, the function makes a new figure.

    Returns:
        The new figure, or None where `axes` is given.

    Raises:
        InputError: The networks have different depths, or a gradient is zero or does not fit its
            network.
        InputTypeError: `networks` is no mapping from names to pairs of branches and an array, or is
            empty.
        InputTypeError: `axes` are not two axes of matplotlib.
    """
    from scipy.stats import binom

    checks.named("networks", networks, tuple, "{'net': (branches, cotangent)}")
    if not all(len(pair) == 2 and isinstance(pair[0], Branches) for pair in networks.values()):
        raise InputTypeError(
            "networks must be pairs by name, such as {'net': (branches, cotangent)}, got other "
            "values"
        )
    depths = {branches.depth for branches, _ in networks.values()}
    if len(depths) != 1:
        raise InputError(
            f"networks in one picture must have one depth, got depths {sorted(depths)}; draw one "
            "picture for each"
        )
    depth, picture = depths.pop(), None
    if axes is None:
        picture, axes = plots.figure(1, 2, width=9.6, height=3.4)
    elif np.size(axes) != 2 or not all(hasattr(axis, "semilogy") for axis in np.ravel(axes)):
        raise InputTypeError("axes must be two axes of matplotlib, such as plots.figure(1, 2)[1]")
    lengths, through = np.ravel(axes)
    ends = []
    for k, (name, (branches, cotangent)) in enumerate(networks.items()):
        colour = plots.COLOURS[k % 5]
        shares = np.asarray(length_shares(gradients(branches, cotangent)))
        ends.append(int(np.flatnonzero(shares > 2e-3).max(initial=0)))
        lengths.plot(
            shares, color=colour, marker=plots.MARKS[k % 5], markersize=3, linewidth=1.1, label=name
        )
        for skip, style in ((True, "-"), (False, "--")):
            sizes = np.linalg.norm(np.asarray(adjoints(branches, cotangent, skip), float), axis=-1)
            sizes = sizes.reshape(len(sizes), -1).sum(axis=1)
            shown = np.where(sizes > 1e-40 * sizes[-1], sizes / sizes[-1], np.nan)
            through.semilogy(
                np.linspace(0, 1, len(sizes)), shown, color=colour, linestyle=style, linewidth=1.2
            )
    number = binom.pmf(range(depth + 1), depth, 0.5)
    lengths.plot(number, color="0.5", linestyle=":", linewidth=1.2, label="of all paths")
    lengths.set_xlim(
        -0.5, max(4, min(depth, max(*ends, int(np.flatnonzero(number > 2e-3).max())))) + 0.5
    )
    lengths.set_xlabel("residual branches on the path")
    lengths.set_title(f"share of the gradient, depth {depth}", fontsize=10)
    through.set_xlabel("place in depth, k / N")
    through.set_title(
        r"$\|\partial L / \partial u_k\|$ over that at the output; dashed: no skips", fontsize=10
    )
    lengths.legend(fontsize=8, frameon=False)
    return picture
