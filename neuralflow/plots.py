"""Pictures: arrays in, matplotlib axes out. Needs the extra `experiments`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neuralflow import basis as depth_basis
from neuralflow.deep_limit import DISTANCES, Study

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
    for axis, distance in zip(panels, DISTANCES, strict=False):
        for k, name in enumerate(orders):
            rows = [row for row in study.rows if row.scheme == name]
            depth = np.asarray([row.depth for row in rows])
            error = np.asarray([row.distances[distance] for row in rows])
            order = orders[name][distance]
            label = name if order is None else f"{name}, order {order:.2f}"
            axis.loglog(depth, error, color=_COLOURS[k % 5], marker=_MARKS[k % 5], markersize=4, linewidth=1.2, label=label)
        axis.set_title(_TITLES[distance], fontsize=10)
        axis.set_xlabel("depth n (layers)")
        axis.set_xticks(depth, [str(n) for n in depth], minor=False)
        axis.minorticks_off()
        axis.legend(fontsize=8, frameon=False)
    _growing(panels[-1], study, parameter)
    return made


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
