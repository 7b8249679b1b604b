"""Pictures: arrays in, matplotlib axes out. Needs the extra `experiments`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from neuralflow import basis as depth_basis, checks, operators, paths, stochastic
from neuralflow.deep_limit import Certificate, Study, Trained, expected_order, gaps, scaled_error
from neuralflow.diffeo import jacobian
from neuralflow.layers import NeuralODE
from neuralflow.plain_net import MOTIONS, Embedded
from neuralflow.schemes import analysis
from neuralflow.transport import Transport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "energy": r"energy gap $|E_n - E_\infty|$",
    "sup": "weights, nodal sup",
    "l2": r"weights, $L^2$ (piecewise linear)",
    "tl2": r"weights, $TL^2$",
    "h1": r"weights, $H^1$ seminorm",
}
_COLOURS = ("#20639b", "#d1495b", "#2e8b57", "#8d6a9f", "#c98b2b")
_MARKS = ("o", "s", "^", "D", "v")


def figure(rows: int, columns: int, width: float = 11.0, height: float = 6.4) -> tuple[Figure, np.ndarray]:
    """A figure without a window, with light axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib; install the extra: pip install 'neuralflow-jax[experiments]'") from error
    made = Figure(figsize=(width, height), layout="constrained")
    axes = np.atleast_1d(made.subplots(rows, columns))
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, which="major", linewidth=0.4, alpha=0.5)
    return made, axes


def deep_limit(study: Study, parameter: str = "K") -> Figure:
    """Five distances against depth, with fitted orders, and weights of growing networks over their limit."""
    made, axes = figure(2, 3)
    panels = axes.ravel()
    orders = study.orders()
    for axis, distance in zip(panels, _TITLES, strict=False):
        for k, name in enumerate(orders):
            depth = [row.depth for row in study.of(name)]
            order = orders[name][distance]
            label = name if order is None else f"{name}, order {order:.2f}"
            _line(axis, k, depth, [row.distances[distance] for row in study.of(name)], label)
        _depths(axis, _TITLES[distance], [row.depth for row in study.of(next(iter(orders)))])
    _growing(panels[-1], study, parameter)
    return made


def further(study: Study, schemes: Mapping[str, Any]) -> Figure:
    """Recovery sequence, convergence at fixed weights, Pontryagin's residuals, Richardson's extrapolation, and the
    errors of the first scheme's weights times n^p, which fall on one curve."""
    made, axes = figure(2, 3)
    panels = axes.ravel()
    orders = study.orders()
    titles = {
        "recovery": r"recovery $|E_n(\theta^*) - E_\infty|$",
        "forward": r"predictions with the weights $\theta^*$",
        "residual": "residual of Pontryagin's equations",
    }
    for axis, (what, title) in zip(panels, titles.items(), strict=False):
        for k, name in enumerate(orders):
            errors = [getattr(row, what) for row in study.of(name)]
            order = orders[name][what]
            label = name if order is None else f"{name}, order {order:.2f}"
            _line(axis, k, [row.depth for row in study.of(name)], errors, label)
        _depths(axis, title, [row.depth for row in study.of(next(iter(orders)))])
    for k, name in enumerate(orders):
        pairs = study.extrapolated(name, expected_order(schemes[name], "sup"))
        if pairs:
            n, plain, better = np.asarray(pairs).T
            _line(panels[3], k, 2 * n, plain, name)
            _line(panels[3], k, 2 * n, better, f"{name}, extrapolated", linestyle="--")
            _depths(panels[3], "Richardson: nodal sup, plain and extrapolated", 2 * n.astype(int))
    for axis, name in zip(panels[4:], list(orders)[:2], strict=False):
        order = expected_order(schemes[name], "sup")
        minima = [m for (scheme, _), m in study.weights.items() if scheme == name][-4:]
        curves = [scaled_error(m, study.limit, order) for m in minima]
        entry = int(np.ptp(curves[-1], axis=0).argmax())
        for k, (m, curve) in enumerate(zip(minima, curves, strict=True)):
            shade = 0.25 + 0.75 * (k + 1) / len(minima)
            n = m.basis.count
            axis.plot(m.basis.nodes[:-1], curve[:, entry], color=_COLOURS[0], alpha=shade, linewidth=1.2, label=f"{n} layers")
        power = "" if order == 1 else f"^{order}"
        axis.set_title(rf"$n{power}(\theta_n - \theta^*)$, {name}", fontsize=10)
        axis.set_xlabel("depth t")
        axis.legend(fontsize=8, frameon=False)
    return made


def certificates(found: Mapping[str, Certificate]) -> Figure:
    """Networks' certificates side by side: outputs and gradients as the steps are cut, and weights against their distance
    in depth, whose slopes are the Hoelder exponents."""
    made, (steps, slopes, weights) = figure(1, 3, height=3.9)
    for k, (name, certificate) in enumerate(found.items()):
        if certificate.halving:
            _line(steps, k, (2, 4, 8), certificate.halving, name)
        errors = certificate.gradients.get("Euler", certificate.gradients["as trained"])
        _line(slopes, k, list(errors), list(errors.values()), name)
        for smoothness in certificate.smoothness.values():
            spans = smoothness.spans
            if spans:
                _line(weights, k, list(spans), list(spans.values()), name)
                note = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 8, "color": _COLOURS[k % 5]}
                weights.annotate(f"H = {abs(smoothness.hoelder or 0):.2f}", (min(spans), spans[min(spans)]), **note)
    steps.set_title("change of the outputs", fontsize=10)
    slopes.set_title("error of the gradient, Euler", fontsize=10)
    weights.set_title(r"$|\theta(s + r) - \theta(s)|$, relative", fontsize=10)
    for axis, ticks in ((steps, (2, 4, 8)), (slopes, (1, 2, 4))):
        axis.set_xlabel("steps cut in")
        axis.set_xticks(ticks, [str(k) for k in ticks])
        axis.xaxis.minorticks_off()
    weights.set_xlabel("distance in depth r")
    marks = sorted({r for c in found.values() for s in c.smoothness.values() for r in s.spans})
    if marks:
        weights.set_xticks((marks[0], marks[-1]), [f"{r:.3g}" for r in (marks[0], marks[-1])])
        weights.xaxis.minorticks_off()
    made.legend(*slopes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return made


def trained(series: Mapping[str, Sequence[Trained]]) -> Figure:
    """Networks that were trained at several depths, one panel a protocol: distances to the deepest, largest increments."""
    made, axes = figure(1, len(series), height=3.6)
    for axis, (name, networks) in zip(axes, series.items(), strict=True):
        *shallow, reference = networks
        depths = np.asarray([network.depth for network in shallow])
        measured = [gaps(network, reference) for network in shallow]
        names = [what for what in measured[0] if what != "loss"]
        for k, what in enumerate(names):
            _line(axis, k, depths, [gap[what].mean() for gap in measured], f"{what}, to {reference.depth} layers")
        rises = [max(network.increment(weight).mean() for weight in network.weights) for network in networks]
        _line(axis, len(names), [network.depth for network in networks], rises, "largest increment", "--")
        axis.loglog(depths, rises[0] * depths[0] / depths, color="0.6", linewidth=0.8, label="1 / n")
        _depths(axis, name, depths)
    return made


def stability(schemes: Mapping[str, Any], columns: int = 4) -> Figure:
    """The stability regions of schemes in the plane of z = h g, for u' = g u: where no step makes what it carries grow."""
    if not isinstance(schemes, Mapping) or not schemes:
        raise ValueError(f"schemes are given by name, at least one: {{'Euler': nf.Euler()}}, got {schemes!r}")
    checks.whole("columns", columns)
    rows = -(-len(schemes) // columns)
    made, axes = figure(rows, columns, width=2.9 * columns, height=2.9 * rows)
    for axis, (name, scheme) in zip(axes.ravel(), schemes.items(), strict=False):
        x, y, growth = analysis.region(scheme)
        stable = growth <= 1 + 1e-9
        axis.axhline(0, color="0.4", linewidth=0.5)
        axis.axvline(0, color="0.4", linewidth=0.5)
        if stable[:, x < 0].mean() > 0.01:
            axis.contourf(x, y, stable, levels=(0.5, 1.5), colors=[_COLOURS[0]], alpha=0.35)
            axis.contour(x, y, growth, levels=(1.0,), colors=[_COLOURS[0]], linewidths=1.0)
        # Some regions are no more than a piece of the imaginary axis.
        swings = np.where(analysis.growth(scheme, 1j * y) <= 1 + 1e-9, y, np.nan)
        axis.plot(np.zeros_like(y), swings, color=_COLOURS[0], linewidth=2.5)
        axis.set(aspect="equal", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        limit = analysis.stability_limit(scheme)
        decay = "any decay" if np.isinf(limit) else "hardly any decay" if limit < 1e-2 else f"decay to {limit:.3g}"
        axis.set_title(f"{name}: {decay}", fontsize=10)
    for axis in axes.ravel()[len(schemes) :]:
        axis.set_visible(False)
    made.supxlabel("Re z", fontsize=10)
    made.supylabel("Im z", fontsize=10)
    return made


def coefficients(series: Mapping[str, Sequence[float]], name: str = "k") -> Figure:
    """Learned coefficients, row by row, one line each: the k of an LM-ResNet's stages, say."""
    made, (axis,) = figure(1, 1, width=5.6, height=3.4)
    for k, (label, values) in enumerate(series.items()):
        places = np.arange(1, len(values) + 1)
        axis.plot(places, values, color=_COLOURS[k % 5], marker=_MARKS[k % 5], markersize=4, linewidth=1.2, label=label)
    axis.axhline(0, color="0.4", linewidth=0.5)
    axis.set_xlabel("row")
    axis.set_ylabel(name)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8, frameon=False)
    return made


def transported(u: Transport, x: np.ndarray, y: np.ndarray, depths: Sequence[float], size: int = 61) -> Figure:
    """u(., t) of one number in the plane at some depths, on a grid around points x (n, 2), with their classes y (n,), which
    are carried along: at depth t they stand where the flow has taken them."""
    starts = np.asarray(depths, float)
    columns = -(-len(starts) // (1 if len(starts) < 5 else 2))
    made, axes = figure(-(-len(starts) // columns), columns, width=2.6 * columns, height=2.6 * -(-len(starts) // columns))
    paths = np.asarray(u.layer.trajectory(jnp.asarray(x), jnp.asarray(starts)))
    low, high = paths.min((0, 1)), paths.max((0, 1))
    edge = 0.15 * (high - low)
    lines = [np.linspace(a, b, size) for a, b in zip(low - edge, high + edge, strict=True)]
    grid = np.stack(np.meshgrid(*lines), axis=-1)
    for axis, t, here in zip(axes.ravel(), starts, paths, strict=False):
        values = np.asarray(u(jnp.asarray(grid.reshape(-1, 2), x.dtype), float(t))).reshape(size, size)
        bound = np.abs(values).max()
        axis.contourf(*lines, values, levels=np.linspace(-bound, bound, 25), cmap="RdBu_r", alpha=0.75)
        axis.contour(*lines, values, levels=[0.0], colors="black", linewidths=1.0)
        _points(axis, here, y)
        axis.set_title(f"t = {t:.3g}", fontsize=10)
        axis.grid(False)
    for axis in axes.ravel()[len(starts) :]:
        axis.set_visible(False)
    return made


def characteristics(layer: NeuralODE, x: np.ndarray, y: np.ndarray, steps: int = 60) -> Figure:
    """The paths of points x (n, 2) with classes y (n,) through a layer: in the plane, and their first coordinate over depth."""
    depths = np.linspace(float(layer.t0), float(layer.t1), steps)
    paths = np.asarray(layer.trajectory(jnp.asarray(x), jnp.asarray(depths)))
    made, (plane, along) = figure(1, 2, width=9.5, height=4.2)
    for k, label in enumerate(np.unique(y)):
        here, style = paths[:, y == label], {"color": _COLOURS[k % 5], "linewidth": 0.6, "alpha": 0.5}
        plane.plot(here[..., 0], here[..., 1], **style)
        along.plot(depths, here[..., 0], **style)
    _points(plane, paths[-1], y)
    plane.set_title("characteristics, and where they end", fontsize=10)
    along.set(xlabel="depth t", title="first coordinate")
    along.title.set_fontsize(10)
    return made


def densities(found: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], limits: tuple[float, float]) -> Figure:
    """Points, the density fitted to them and its samples, a row a set: name -> (points (n, 2), density (size, size), samples
    (m, 2)). The density's square grid lies between `limits`, its rows at equal second coordinate."""
    made, axes = figure(len(found), 3, width=9.6, height=3.2 * len(found))
    for row, (name, (points, density, samples)) in zip(axes.reshape(-1, 3), found.items(), strict=True):
        for axis, drawn in ((row[0], points), (row[2], samples)):
            axis.scatter(*drawn.T, s=1.5, color=_COLOURS[0], alpha=0.5, linewidths=0)
        row[1].imshow(density, origin="lower", extent=limits * 2, cmap="viridis")
        for axis, title in zip(row, (name, "density", "samples"), strict=True):
            axis.set_title(title, fontsize=10)
            axis.set(aspect="equal", xlim=limits, ylim=limits)
            axis.grid(False)
    return made


def motions(flow: Embedded, x: np.ndarray, layer: int = 0, colours: np.ndarray | None = None) -> Figure:
    """A plain layer as a flow, in a strip: points x (n, inputs) before it, and after its rotation, stretching, rotation, shift
    and activation. The first two dimensions are shown; `colours` (n,) tell the points apart."""
    count = len(MOTIONS)
    depths = np.arange(layer * count, layer * count + count + 1.0)
    frames = np.asarray(flow.layer.trajectory(flow.embed(jnp.asarray(x)), jnp.asarray(depths)))[..., :2]
    made, axes = figure(1, len(depths), width=2.3 * len(depths), height=2.6)
    reach = 1.05 * np.abs(frames).max()
    for axis, here, name in zip(axes, frames, ("before", *MOTIONS), strict=True):
        axis.scatter(*here.T, s=5, c=np.arctan2(x[:, 1], x[:, 0]) if colours is None else colours, cmap="hsv", linewidths=0)
        axis.axhline(0, color="0.6", linewidth=0.5)
        axis.axvline(0, color="0.6", linewidth=0.5)
        axis.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
        axis.set_title(name, fontsize=10)
        axis.grid(False)
    return made


def deformed_grid(
    map: Any,
    low: Any,
    high: Any,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    *,
    lines: int = 25,
    axis: Any = None,
) -> Any:
    """A square grid over the box from `low` to `high` (2,) in the plane as a map (batch, 2) -> (batch, 2) leaves it, filled where
    the map folds: where its determinant is not positive. Points x (n, 2), with classes y (n,) or of one kind, go along.
    Returns the figure, or None where it is drawn into `axis`."""
    checks.function("map", map)
    checks.whole("lines", lines, least=2)
    made = None
    if axis is None:
        made, (axis,) = figure(1, 1, width=4.6, height=4.6)
    each, count = 6, 6 * (lines - 1) + 1
    ends = zip(np.broadcast_to(low, 2), np.broadcast_to(high, 2), strict=True)
    box: Any = [np.linspace(a, b, count) for a, b in ends]
    points = jnp.asarray(np.stack(np.meshgrid(*box, indexing="ij"), axis=-1).reshape(-1, 2), jnp.result_type(float))
    places = np.asarray(map(points))
    if places.shape != points.shape or not np.isfinite(places).all():
        raise ValueError(f"a map of the plane takes (batch, 2) to finite points (batch, 2), got shape {places.shape}")
    places = places.reshape(count, count, 2)
    for k in range(0, count, each):
        for line in (places[k], places[:, k]):
            axis.plot(*line.T, color="0.55", linewidth=0.6, zorder=1)
    folded = np.linalg.det(np.asarray(jacobian(map, points))).reshape(count, count) <= 0
    corners = np.stack([places[:-1, :-1], places[1:, :-1], places[1:, 1:], places[:-1, 1:]], axis=-2)
    folds = corners[folded[:-1, :-1] & folded[1:, 1:]]
    if len(folds):
        from matplotlib.collections import PolyCollection

        axis.add_collection(PolyCollection(list(folds), facecolor=_COLOURS[1], edgecolor=_COLOURS[1], linewidth=0.2, zorder=2))
    if x is not None:
        moved = np.asarray(map(jnp.asarray(x)))
        _points(axis, moved, np.zeros(len(moved)) if y is None else np.asarray(y))
    axis.spines[:].set_visible(False)
    axis.set(aspect="equal", xticks=[], yticks=[])
    return made


def operator(kernel: np.ndarray, spacing: float = 1.0) -> Figure:
    """A convolution kernel (k,) or (k, k) and the differential operator it is: its entries, and its coefficients by derivative."""
    found = np.asarray(operators.to_operator(kernel, spacing))
    made, axes = figure(1, 2, width=7.2, height=3.2)
    offsets = lambda size, variable: [str(i - size // 2) for i in range(size)]
    powers = lambda size, variable: ["1", rf"$\partial_{variable}$", *(rf"$\partial_{variable}^{p}$" for p in range(2, size))][
        :size
    ]
    drawn = (np.asarray(kernel, float), "kernel", offsets), (found, operators.formula(found), powers)
    for axis, (numbers, title, names) in zip(axes.ravel(), drawn, strict=True):
        rows = np.atleast_2d(numbers)
        bound = np.abs(rows).max() or 1.0
        axis.imshow(rows, cmap="RdBu_r", vmin=-bound, vmax=bound)
        for (i, j), number in np.ndenumerate(rows):
            colour = "white" if abs(number) > 0.6 * bound else "black"
            axis.text(j, i, f"{number:.3g}", ha="center", va="center", fontsize=9, color=colour)
        axis.set_xticks(range(rows.shape[1]), names(rows.shape[1], "x"))
        axis.set_yticks(*((range(len(rows)), names(len(rows), "y")) if numbers.ndim == 2 else ([],)))
        axis.set_title(title, fontsize=10)
        axis.grid(False)
    return made


def shares(found: Mapping[str, Mapping[str, operators.Shares]]) -> Figure:
    """Reaction, convection, diffusion and higher derivatives of a network's convolutions in their order, one panel a network:
    name -> (place -> shares)."""
    if not found or not all(isinstance(s, operators.Shares) for layers in found.values() for s in layers.values()):
        raise ValueError("shares are given by network and place: {'net': {place: nf.operators.shares(coefficients)}}")
    made, axes = figure(1, len(found), width=4.8 * len(found), height=3.4)
    for axis, (name, layers) in zip(axes.ravel(), found.items(), strict=True):
        parts = np.asarray(list(layers.values()))
        bottom = np.zeros(len(parts))
        for k, kind in enumerate(operators.Shares._fields):
            axis.bar(np.arange(1, len(parts) + 1), parts[:, k], bottom=bottom, color=_COLOURS[k], width=0.9, label=kind)
            bottom += parts[:, k]
        axis.set(xlabel="convolution", ylim=(0, 1), title=name)
        axis.title.set_fontsize(10)
        axis.xaxis.get_major_locator().set_params(integer=True)
    made.legend(*axes.ravel()[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return made


def gradient_paths(networks: Mapping[str, tuple[paths.Branches, Any]], axes: Any = None) -> Any:
    """By which paths the gradient comes, and how it passes through depth: name -> (branches, gradient of the loss at the output).

    Left the share of each length of path, dotted the share of the paths themselves; right the norm of dLoss/du_k over that at
    the output, added up over samples, dashed that of the same branches without their skips. Networks of one depth; into two
    axes, or a new figure.
    """
    depths = {branches.depth for branches, _ in networks.values()}
    if len(depths) != 1:
        raise ValueError(f"one picture is that of networks of one depth, by name; got depths {sorted(depths)}")
    depth, made = depths.pop(), None
    if axes is None:
        made, axes = figure(1, 2, width=9.6, height=3.4)
    lengths, through = np.ravel(axes)
    ends = []
    for k, (name, (branches, cotangent)) in enumerate(networks.items()):
        colour = _COLOURS[k % 5]
        shares = np.asarray(paths.length_shares(paths.gradients(branches, cotangent)))
        ends.append(int(np.flatnonzero(shares > 2e-3).max(initial=0)))
        lengths.plot(shares, color=colour, marker=_MARKS[k % 5], markersize=3, linewidth=1.1, label=name)
        for skip, style in ((True, "-"), (False, "--")):
            sizes = np.linalg.norm(np.asarray(paths.adjoints(branches, cotangent, skip), float), axis=-1)
            sizes = sizes.reshape(len(sizes), -1).sum(axis=1)
            shown = np.where(sizes > 1e-40 * sizes[-1], sizes / sizes[-1], np.nan)
            through.semilogy(np.linspace(0, 1, len(sizes)), shown, color=colour, linestyle=style, linewidth=1.2)
    number = np.asarray([c / 2**depth for c in paths.counts(depth)])
    lengths.plot(number, color="0.5", linestyle=":", linewidth=1.2, label="of all paths")
    lengths.set_xlim(-0.5, max(4, min(depth, max(*ends, int(np.flatnonzero(number > 2e-3).max())))) + 0.5)
    lengths.set_xlabel("residual branches on the path")
    lengths.set_title(f"share of the gradient, depth {depth}", fontsize=10)
    through.set_xlabel("place in depth, k / N")
    through.set_title(r"$\|\partial L / \partial u_k\|$ over that at the output; dashed: no skips", fontsize=10)
    lengths.legend(fontsize=8, frameon=False)
    return made


def weak_errors(found: Mapping[str, stochastic.WeakErrors]) -> Figure:
    """Errors of random networks against their limit by the number of blocks, with intervals of 95%, on logarithmic axes: name -> errors."""
    if not found or not all(isinstance(errors, stochastic.WeakErrors) for errors in found.values()):
        raise ValueError("errors are given by name: {'p = 0.5': nf.stochastic.weak_errors(...)}")
    made, (axis,) = figure(1, 1, width=5.6, height=3.8)
    for k, (name, errors) in enumerate(found.items()):
        mean, margin = np.abs(errors.errors.mean), 1.96 * np.asarray(errors.errors.error)
        low = np.minimum(margin, 0.9 * mean)  # an interval that holds zero has no lower end here
        label = f"{name}: order {errors.order:.2f} ± {(errors.interval[1] - errors.interval[0]) / 2:.2f}"
        axis.errorbar(
            errors.steps, mean, (low, margin), color=_COLOURS[k % 5], marker=_MARKS[k % 5], markersize=4,
            linewidth=1.2, capsize=2, label=label,
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="blocks", ylabel="|E F(network) - E F(limit)|")
    counts = sorted({n for errors in found.values() for n in errors.steps})
    axis.set_xticks(counts, [str(n) for n in counts])
    axis.minorticks_off()
    axis.legend(fontsize=8, frameon=False)
    return made


def _points(axis: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Points in the plane in the colours of their classes."""
    for k, label in enumerate(np.unique(y)):
        axis.scatter(*x[y == label].T, s=7, color=_COLOURS[k % 5], edgecolors="white", linewidths=0.3, zorder=3)


def _line(axis: Any, k: int, depth: Any, error: Any, label: str, linestyle: str = "-") -> None:
    """One series over depth, in the k-th colour."""
    style = {"color": _COLOURS[k % 5], "marker": _MARKS[k % 5], "markersize": 4, "linewidth": 1.2}
    axis.loglog(depth, error, linestyle=linestyle, label=label, **style)


def _depths(axis: Any, title: str, depth: Any) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("depth n (layers)")
    axis.set_xticks(depth, [str(n) for n in depth], minor=False)
    axis.minorticks_off()
    axis.legend(fontsize=8, frameon=False)


def _growing(axis: Any, study: Study, parameter: str) -> None:
    """One entry of the weights of ever deeper networks, over the limit's."""
    fine = np.linspace(0, 1, 400)
    limit = depth_basis.evaluation(study.limit.basis, fine) @ _flat(study.limit.theta[parameter])
    entry = int(np.ptp(limit, axis=0).argmax())
    name = study.rows[0].scheme
    minima = [m for (scheme, _), m in study.weights.items() if scheme == name][:4]
    for k, minimum in enumerate(minima):
        nodes = minimum.basis.nodes
        values = _flat(minimum.theta[parameter])[:, entry]
        shade = 0.25 + 0.6 * k / max(1, len(minima) - 1)
        axis.step(nodes, values, where="post", color=_COLOURS[0], alpha=shade, linewidth=1.1, label=f"{len(nodes) - 1} layers")
    axis.plot(fine, limit[:, entry], color="black", linewidth=1.4, linestyle="--", label="limit")
    axis.set_title(f"one entry of {parameter}(t), {name}", fontsize=10)
    axis.set_xlabel("depth t")
    axis.legend(fontsize=8, frameon=False)


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)
