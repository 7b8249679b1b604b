"""A picture of a plain layer as a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from neuralflow import checks, plots
from neuralflow.checks import InputTypeError
from neuralflow.depth import DepthVarying
from neuralflow.labs.plain_net.embedding import Embedded
from neuralflow.labs.plain_net.flows import MOTIONS, Motion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__docformat__ = "google"


def motions(
    flow: Embedded, x: np.ndarray, layer: int = 0, colours: np.ndarray | None = None
) -> Figure:
    """Plot a plain layer as a flow, in a strip of pictures.

    The strip shows points before the layer, and after its rotation, stretching, rotation, shift and
    activation. Each picture shows the first two dimensions.

    Args:
        flow: A flow of `neuralflow.labs.plain_net.as_flow`.
        x: The points (n, inputs) that enter the network.
        layer: The number of the layer.
        colours: Numbers (n,) that tell the points apart by colour. The default is the angle of each
            point.

    Returns:
        The figure.

    Raises:
        InputTypeError: `flow` is not a flow of `neuralflow.labs.plain_net.as_flow`, `x` or
            `colours` does not consist of real numbers, or `layer` is not a whole number.
        InputError: `x` is not `(n, inputs)`, `colours` is not `(n,)`, or there is no such layer.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    checks.instance("flow", flow, Embedded, "a flow of nf.labs.plain_net.as_flow")
    field = flow.layer.field
    if not isinstance(field, DepthVarying) or not isinstance(field.stack, Motion):
        raise InputTypeError("flow must be a flow of as_flow, got one of another function")
    x = checks.known_numbers("x", x, "n", flow.inputs)
    checks.whole("layer", layer, least=0, most=len(flow.report) - 1)
    if colours is not None:
        colours = checks.known_numbers("colours", colours, len(x))
    count = len(MOTIONS)
    depths = np.arange(layer * count, layer * count + count + 1.0)
    frames = np.asarray(flow.layer.trajectory(flow.embed(jnp.asarray(x)), jnp.asarray(depths)))[
        ..., :2
    ]
    picture, axes = plots.figure(1, len(depths), width=2.3 * len(depths), height=2.6)
    reach = 1.05 * np.abs(frames).max()
    for axis, here, name in zip(axes, frames, ("before", *MOTIONS), strict=True):
        axis.scatter(
            *here.T,
            s=5,
            c=np.arctan2(x[:, 1], x[:, 0]) if colours is None else colours,
            cmap="hsv",
            linewidths=0,
        )
        axis.axhline(0, color="0.6", linewidth=0.5)
        axis.axvline(0, color="0.6", linewidth=0.5)
        axis.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
        axis.set_title(name, fontsize=10)
        axis.grid(False)
    return picture
