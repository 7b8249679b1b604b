"""Pictures: arrays in, matplotlib axes out. Needs the extra `experiments`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neuralflow import basis as depth_basis
from neuralflow.deep_limit import Study, expected_order, scaled_error

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
