"""Draw pictures: arrays in, matplotlib figures out.

This module holds the frame of every picture, and the pictures of the core. Each laboratory has its
own pictures in its module `plots`. Pictures need the extra `cli`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from diffrax import AbstractSolver

from neuralflow import checks
from neuralflow.annotations import Reals
from neuralflow.checks import ExtraMissing, InputError, InputTypeError
from neuralflow.layers import NeuralODE
from neuralflow.schemes import analysis
from neuralflow.transport import Transport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__docformat__ = "google"


COLOURS = ("#20639b", "#d1495b", "#2e8b57", "#8d6a9f", "#c98b2b")
"""The colours of series and classes, in turn."""

MARKS = ("o", "s", "^", "D", "v")
"""The markers of series, in turn."""


_PANELS = 1000
"""The largest number of panels of a figure. Matplotlib needs seconds for so many."""


def figure(
    rows: int, columns: int, width: float = 11.0, height: float = 6.4
) -> tuple[Figure, np.ndarray]:
    """Create a figure without a window, with light axes.

    Args:
        rows: The number of rows of panels.
        columns: The number of columns of panels.
        width: The width of the figure in inches.
        height: The height of the figure in inches.

    Returns:
        The figure, and the array of its axes. The array is `(rows, columns)`, or one-dimensional
        for a single row or column.

    Raises:
        InputError: There are no panels or more than 1000, or `width` or `height` is not positive
            and finite.
        InputTypeError: `rows` or `columns` is no whole number, or `width` or `height` is no number.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    checks.whole("rows", rows, most=_PANELS)
    checks.whole("columns", columns, most=_PANELS // int(rows))
    for name, inches in (("width", width), ("height", height)):
        checks.number(name, inches, above=0)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExtraMissing(
            "pictures need matplotlib; install the extra: pip install 'neuralflow-jax[cli]'"
        ) from error
    picture = Figure(figsize=(width, height), layout="constrained")
    axes = np.atleast_1d(picture.subplots(rows, columns))
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, which="major", linewidth=0.4, alpha=0.5)
    return picture, axes


def legend_below(picture: Figure, axis: Axes, columns: int = 4) -> None:
    """Put one legend for all panels of a picture below them.

    Args:
        picture: The picture, such as `figure` makes it.
        axis: The panel whose labels stand in the legend.
        columns: The number of columns of the legend.

    Raises:
        InputError: `columns` is less than one or more than 1000.
        InputTypeError: `picture` is no figure, `axis` no panel, or `columns` no whole number.
    """
    from matplotlib.figure import Figure

    _check_axis(axis)
    checks.instance("picture", picture, Figure, "a figure of matplotlib")
    checks.whole("columns", columns, most=_PANELS)
    picture.legend(
        *axis.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
    )


def stability(schemes: Mapping[str, AbstractSolver], columns: int = 4) -> Figure:
    """Draw the stability regions of schemes in the plane of z = h g, for u' = g u.

    A step of length h is stable at z if it does not make grow what the scheme carries from step to
    step. The title of a panel tells the largest h g at which steps on the decay u' = -g u are
    stable.

    Args:
        schemes: The schemes by name, such as {"Euler": nf.Euler()}.
        columns: The number of panels in a row.

    Returns:
        The figure, one panel for each scheme.

    Raises:
        InputError: There are more than 1000 panels, `columns` is less than 1, or
            `neuralflow.schemes.analysis.region` refuses a scheme.
        InputTypeError: `schemes` is no dict with at least one scheme, `columns` is no whole number,
            or `neuralflow.schemes.analysis.region` refuses a scheme.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    _check_named("schemes", schemes, "{'Euler': nf.Euler()}")
    for scheme in schemes.values():
        checks.instance("each of schemes", scheme, AbstractSolver, "a scheme such as nf.Euler()")
    checks.whole("columns", columns, most=_PANELS)
    rows = -(-len(schemes) // columns)
    picture, axes = figure(rows, columns, width=2.9 * columns, height=2.9 * rows)
    for axis, (name, scheme) in zip(axes.ravel(), schemes.items(), strict=False):
        x, y, growth = analysis.region(scheme)
        stable = growth <= 1 + 1e-9
        axis.axhline(0, color="0.4", linewidth=0.5)
        axis.axvline(0, color="0.4", linewidth=0.5)
        if stable[:, x < 0].mean() > 0.01:
            axis.contourf(x, y, stable, levels=(0.5, 1.5), colors=[COLOURS[0]], alpha=0.35)
            axis.contour(x, y, growth, levels=(1.0,), colors=[COLOURS[0]], linewidths=1.0)
        # The regions of some schemes are only a piece of the imaginary axis.
        swings = np.where(analysis.growth(scheme, 1j * y) <= 1 + 1e-9, y, np.nan)
        axis.plot(np.zeros_like(y), swings, color=COLOURS[0], linewidth=2.5)
        axis.set(aspect="equal", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        limit = analysis.stability_limit(scheme)
        decay = (
            "any decay"
            if np.isinf(limit)
            else "hardly any decay"
            if limit < 1e-2
            else f"decay to {limit:.3g}"
        )
        axis.set_title(f"{name}: {decay}", fontsize=10)
    for axis in axes.ravel()[len(schemes) :]:
        axis.set_visible(False)
    picture.supxlabel("Re z", fontsize=10)
    picture.supylabel("Im z", fontsize=10)
    return picture


def coefficients(series: Mapping[str, Sequence[float]], name: str = "k") -> Figure:
    """Draw learned coefficients, such as the k of the rows of an LM-ResNet, one line a series.

    Args:
        series: The coefficients by the name of a series, such as a stage of the network. The
            values of a series are drawn in order over the rows 1, 2, ...
        name: The name of the coefficient, shown on the vertical axis.

    Returns:
        The figure.

    Raises:
        InputError: A coefficient is infinite.
        InputTypeError: `series` is no dict with at least one series, a series is no row of numbers,
            or `name` is no text.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    _check_named("series", series, "{'stage 1': [-0.1, -0.2]}")
    checks.instance("name", name, str, "a text")
    rows = {label: _row("each of series", values) for label, values in series.items()}
    picture, (axis,) = figure(1, 1, width=5.6, height=3.4)
    for k, (label, values) in enumerate(rows.items()):
        places = np.arange(1, len(values) + 1)
        axis.plot(
            places,
            values,
            color=COLOURS[k % 5],
            marker=MARKS[k % 5],
            markersize=4,
            linewidth=1.2,
            label=label,
        )
    axis.axhline(0, color="0.4", linewidth=0.5)
    axis.set_xlabel("row")
    axis.set_ylabel(name)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8, frameon=False)
    return picture


def transported(
    u: Transport, x: np.ndarray, y: np.ndarray, depths: Sequence[float], size: int = 61
) -> Figure:
    """Draw a transported function u(., t) in the plane at some depths, with points carried along.

    At depth t, every point stands where the flow has taken it from its start.

    Args:
        u: The transported function, with one number as value.
        x: The points at the start of the flow, `(n, 2)`. The grid lies around their paths.
        y: The classes of the points, `(n,)`.
        depths: The depth times of the panels, in the order in which the flow reaches them.
        size: The number of grid points along a side, from 2 to 4096.

    Returns:
        The figure, one panel for each depth.

    Raises:
        InputError: `depths` lie outside the interval of the layer, in the wrong order, or are more
            than 1000. Or `x` and `y` are no points in the plane with one class each, `u` has more
            than one number as value, or `size` lies outside of 2 to 4096.
        InputTypeError: `u` is no `neuralflow.transport.Transport`, or another argument has the
            wrong type.
        SolveError: A solve of the layer fails.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    checks.instance("u", u, Transport, "a Transport")
    x, y = _classed(x, y)
    starts = checks.known_numbers("depths", depths, "n")
    if len(starts) > _PANELS:
        raise InputError(f"depths must be at most {_PANELS}, one a panel, got {len(starts)}")
    checks.whole("size", size, least=2, most=4096)
    columns = -(-len(starts) // (1 if len(starts) < 5 else 2))
    picture, axes = figure(
        -(-len(starts) // columns),
        columns,
        width=2.6 * columns,
        height=2.6 * -(-len(starts) // columns),
    )
    paths = np.asarray(u.layer.trajectory(jnp.asarray(x), jnp.asarray(starts)))
    low, high = paths.min((0, 1)), paths.max((0, 1))
    edge = 0.15 * (high - low)
    lines = [np.linspace(a, b, size) for a, b in zip(low - edge, high + edge, strict=True)]
    grid = np.stack(np.meshgrid(*lines), axis=-1)
    for axis, t, here in zip(axes.ravel(), starts, paths, strict=False):
        values = u(jnp.asarray(grid.reshape(-1, 2), x.dtype), float(t))
        if np.shape(values) != (size**2,):
            raise InputError(
                f"u must have one number as value, ({size**2},) at {size**2} points, got "
                f"{np.shape(values)}"
            )
        values = np.asarray(values).reshape(size, size)
        bound = np.abs(values).max()
        axis.contourf(
            *lines, values, levels=np.linspace(-bound, bound, 25), cmap="RdBu_r", alpha=0.75
        )
        axis.contour(*lines, values, levels=[0.0], colors="black", linewidths=1.0)
        points_in_plane(axis, here, y)
        axis.set_title(f"t = {t:.3g}", fontsize=10)
        axis.grid(False)
    for axis in axes.ravel()[len(starts) :]:
        axis.set_visible(False)
    return picture


def characteristics(layer: NeuralODE, x: np.ndarray, y: np.ndarray, steps: int = 60) -> Figure:
    """Draw the paths of points through a layer.

    The left panel shows the paths in the plane. The right panel shows the first coordinate over
    depth.

    Args:
        layer: The layer.
        x: The points at the start of the flow, `(n, 2)`.
        y: The classes of the points, `(n,)`.
        steps: The number of depths at which a path is drawn, both ends included.

    Returns:
        The figure.

    Raises:
        InputError: `x` and `y` are no points in the plane with one class each, or `steps` is less
            than 2 or greater than 2^16.
        InputTypeError: `layer` is no `neuralflow.NeuralODE`, or another argument has the wrong
            type.
        SolveError: The solve of the layer fails.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    x, y = _classed(x, y)
    checks.whole("steps", steps, least=2, most=2**16)
    depths = np.linspace(float(layer.t0), float(layer.t1), steps)
    paths = np.asarray(layer.trajectory(jnp.asarray(x), jnp.asarray(depths)))
    picture, (plane, along) = figure(1, 2, width=9.5, height=4.2)
    for k, label in enumerate(np.unique(y)):
        here, style = (
            paths[:, y == label],
            {"color": COLOURS[k % 5], "linewidth": 0.6, "alpha": 0.5},
        )
        plane.plot(here[..., 0], here[..., 1], **style)
        along.plot(depths, here[..., 0], **style)
    points_in_plane(plane, paths[-1], y)
    plane.set_title("characteristics, and where they end", fontsize=10)
    along.set(xlabel="depth t", title="first coordinate")
    along.title.set_fontsize(10)
    return picture


def densities(
    sets: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], limits: tuple[float, float]
) -> Figure:
    """Draw points in the plane, the density fitted to them and samples of it, one row a set.

    Args:
        sets: A triple for each set, by name: the points `(n, 2)`, the density `(size, size)` and
            the samples `(m, 2)`. The density lies on a square grid between `limits`; a row of the
            array has one second coordinate.
        limits: The lower and upper limit of both coordinates.

    Returns:
        The figure.

    Raises:
        InputError: An array of a set has another shape or is not finite, there are more than 333
            sets, or `limits` do not run from one finite number to a greater one.
        InputTypeError: `sets` is no dict with at least one set, a set is no triple of arrays of
            numbers, or `limits` is no pair.
        ExtraMissing: matplotlib is not installed; it comes with the extra `cli`.
    """
    _check_named("sets", sets, "{'moons': (points, density, samples)}")
    for each in sets.values():
        if not isinstance(each, list | tuple) or len(each) != 3:
            raise InputTypeError(
                f"each of sets must be (points, density, samples), got a {type(each).__name__}"
            )
    sets = {
        name: (
            checks.known_numbers("points in sets", points, "n", 2),
            checks.known_numbers("density in sets", density, "size", len(np.atleast_1d(density))),
            checks.known_numbers("samples in sets", samples, "m", 2),
        )
        for name, (points, density, samples) in sets.items()
    }
    low, high = checks.known_numbers("limits", limits, 2)
    limits = float(low), float(high)
    checks.forward("limits: a range", *limits)
    picture, axes = figure(len(sets), 3, width=9.6, height=3.2 * len(sets))
    for row, (name, (points, density, samples)) in zip(
        axes.reshape(-1, 3), sets.items(), strict=True
    ):
        for axis, drawn in ((row[0], points), (row[2], samples)):
            axis.scatter(*drawn.T, s=1.5, color=COLOURS[0], alpha=0.5, linewidths=0)
        row[1].imshow(density, origin="lower", extent=limits * 2, cmap="viridis")
        for axis, title in zip(row, (name, "density", "samples"), strict=True):
            axis.set_title(title, fontsize=10)
            axis.set(aspect="equal", xlim=limits, ylim=limits)
            axis.grid(False)
    return picture


def points_in_plane(axis: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Draw points in the plane in the colours of their classes.

    Args:
        axis: The axes to draw on.
        x: The points, `(n, 2)`.
        y: The classes of the points, `(n,)`.

    Raises:
        InputError: `x` and `y` are no points in the plane with one class each.
        InputTypeError: `axis` is no axes of matplotlib, `x` holds no numbers, or `y` neither
            numbers nor words.
    """
    _check_axis(axis)
    x, y = _classed(x, y)
    for k, label in enumerate(np.unique(y)):
        axis.scatter(
            *x[y == label].T,
            s=7,
            color=COLOURS[k % 5],
            edgecolors="white",
            linewidths=0.3,
            zorder=3,
        )


def depth_line(
    axis: Axes, k: int, depth: Reals, error: Any, label: str, linestyle: str = "-"
) -> None:
    """Draw one series over depth, with logarithmic axes.

    Args:
        axis: The axes to draw on.
        k: The number of the series, which chooses colour and marker.
        depth: The numbers of layers, `(m,)`.
        error: The values, `(m,)`.
        label: The name of the series in the legend.
        linestyle: The line style of matplotlib.

    Raises:
        InputError: A depth is not positive and finite, a value is infinite, there are not as many
            values as depths, or matplotlib has no such line style.
        InputTypeError: An argument has the wrong type.
    """
    _check_axis(axis)
    checks.whole("k", k, least=0)
    depth = _places(depth)
    error = _row("error", error)
    if len(error) != len(depth):
        raise InputError(
            f"error must have one value for each depth, got {len(error)} values at {len(depth)}"
        )
    checks.instance("label", label, str, "a text")
    checks.choice("linestyle", linestyle, ("-", "--", "-.", ":", "None", " ", ""))
    style = {"color": COLOURS[k % 5], "marker": MARKS[k % 5], "markersize": 4, "linewidth": 1.2}
    axis.loglog(depth, error, linestyle=linestyle, label=label, **style)


def depth_axis(axis: Axes, title: str, depth: Reals) -> None:
    """Set title, legend and ticks of a panel over numbers of layers.

    Args:
        axis: The axes of the panel.
        title: The title.
        depth: The numbers of layers at which ticks stand, `(m,)`.

    Raises:
        InputError: A depth is not positive and finite.
        InputTypeError: An argument has the wrong type.
    """
    _check_axis(axis)
    checks.instance("title", title, str, "a text")
    ticks = _places(depth)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("depth n (layers)")
    axis.set_xticks(ticks, [str(n) for n in depth], minor=False)
    axis.minorticks_off()
    axis.legend(fontsize=8, frameon=False)


def _check_named(name: str, value: Any, example: str) -> None:
    """Refuse anything but a dict with texts for names, and at least one entry."""
    if (
        not isinstance(value, Mapping)
        or not value
        or not all(isinstance(key, str) for key in value)
    ):
        raise InputTypeError(
            f"{name} must be given by name, at least one, such as {example}, got a "
            f"{type(value).__name__}"
        )


def _check_axis(axis: Any) -> None:
    """Refuse anything but axes of matplotlib."""
    from matplotlib.axes import Axes

    checks.instance("axis", axis, Axes, "axes of matplotlib")


def _row(name: str, values: Any) -> np.ndarray:
    """Return numbers in a row, of which some may be NaN, and refuse anything else."""
    row = checks.known_numbers(name, values, "n", finite=False)
    if np.isinf(row).any():
        raise InputError(f"{name} must be finite, or NaN for a gap, got infinite numbers")
    return row


def _places(depth: Any) -> np.ndarray:
    """Return depths on a logarithmic axis, and refuse anything else."""
    places = checks.known_numbers("depth", depth, "m")
    if (places <= 0).any():
        raise InputError(f"depth must be positive on a logarithmic axis, got {places.min():g}")
    return places


def _classed(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return points in the plane and their classes as arrays, and refuse anything else."""
    points = checks.known_numbers("x", x, "n", 2)
    dtype = getattr(x, "dtype", float)
    kept = points if np.issubdtype(dtype, np.integer) else points.astype(dtype)
    return kept, checks.labels("y", y, len(points))
