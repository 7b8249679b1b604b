"""A picture of a map of the plane, and where it folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from neuralflow import checks, plots
from neuralflow.annotations import Real, Reals
from neuralflow.labs.diffeo import sampled
from neuralflow.labs.diffeo.jacobian import jacobian

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__docformat__ = "google"


def deformed_grid(
    mapping: Callable[[Array], Array],
    low: Real | Reals,
    high: Real | Reals,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    *,
    lines: int = 25,
    axis: Axes | None = None,
) -> Figure | None:
    """Draw how a map of the plane deforms a square grid, and where the map folds.

    The function fills the places where the determinant of the map is not positive.

    Args:
        mapping: The map from points `(batch, 2)` to points `(batch, 2)`.
        low: The lower corner of the box of the grid, `(2,)` or one number.
        high: The upper corner of the box of the grid, `(2,)` or one number.
        x: Points `(n, 2)` that the map moves along. None draws no points.
        y: The classes of the points, `(n,)`. None draws all points as one class.
        lines: The number of grid lines in each direction.
        axis: The matplotlib axis to draw into. None makes a new figure.

    Returns:
        The new figure, or None if the picture is drawn into `axis`.

    Raises:
        InputError: `mapping` does not give finite points `(batch, 2)`, or `lines` is below two or
            above 500.
        InputError: `low` does not lie below `high`, or `y` has not one class for each point of `x`.
        InputTypeError: `mapping` is not a function of one argument, `x` is not an array of points,
            `low` or `high` is not a number, or `lines` is not a whole number.
        InputTypeError: `axis` is not a matplotlib axis.
    """
    checks.function("map", mapping, 1)
    checks.whole("lines", lines, least=2, most=500)
    corners = sampled.box(low, high, 2)
    if x is not None:
        checks.array("x", x, "n", 2)
    if y is not None:
        y = checks.labels("y", y, 0 if x is None else len(x))
    picture = None
    if axis is not None:
        from matplotlib.axes import Axes

        checks.instance("axis", axis, Axes, "the axes of a figure, such as figure.add_subplot()")
    else:
        picture, panels = plots.figure(1, 1, width=4.6, height=4.6)
        axis = cast("Axes", panels[0])
    each, count = 6, 6 * (lines - 1) + 1
    box = [np.linspace(a, b, count) for a, b in zip(*corners, strict=True)]
    points = jnp.asarray(
        np.stack(np.meshgrid(*box, indexing="ij"), axis=-1).reshape(-1, 2), jnp.result_type(float)
    )
    places = checks.known_numbers("what the map gives", mapping(points), *points.shape)
    places = places.reshape(count, count, 2)
    for k in range(0, count, each):
        for line in (places[k], places[:, k]):
            axis.plot(*line.T, color="0.55", linewidth=0.6, zorder=1)
    folded = np.linalg.det(np.asarray(jacobian(mapping, points))).reshape(count, count) <= 0
    corners = np.stack(
        [places[:-1, :-1], places[1:, :-1], places[1:, 1:], places[:-1, 1:]], axis=-2
    )
    folds = corners[folded[:-1, :-1] & folded[1:, 1:]]
    if len(folds):
        from matplotlib.collections import PolyCollection

        axis.add_collection(
            PolyCollection(
                list(folds),
                facecolor=plots.COLOURS[1],
                edgecolor=plots.COLOURS[1],
                linewidth=0.2,
                zorder=2,
            )
        )
    if x is not None:
        moved = np.asarray(mapping(jnp.asarray(x)))
        plots.points_in_plane(axis, moved, np.zeros(len(moved)) if y is None else y)
    axis.spines[:].set_visible(False)
    axis.set(aspect="equal", xticks=[], yticks=[])
    return picture
