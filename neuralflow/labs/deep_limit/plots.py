"""Pictures of deep limits, of certificates, and of networks that were trained at many depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from diffrax import AbstractSolver

from neuralflow import checks, plots
from neuralflow.checks import InputError
from neuralflow.depth.basis import evaluation
from neuralflow.labs.deep_limit.certificate import Certificate
from neuralflow.labs.deep_limit.distances import expected_order, scaled_error
from neuralflow.labs.deep_limit.sweep import Study, check_schemes
from neuralflow.labs.deep_limit.trained import Trained, gaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__docformat__ = "google"


_LEAST = 1e-4  # Smaller numbers of a certificate are drawn here.

_TITLES = {
    "energy": r"energy gap $|E_n - E_\infty|$",
    "sup": "weights, nodal sup",
    "l2": r"weights, $L^2$ (piecewise linear)",
    "tl2": r"weights, $TL^2$",
    "h1": r"weights, $H^1$ seminorm",
}


def convergence(study: Study, parameter: str = "K") -> Figure:
    """Plot five distances to the limit against depth, and weights over their limit.

    The legends show the fitted orders. The last panel shows one entry of a parameter, for growing
    networks and for the limit.

    Args:
        study: The study.
        parameter: The dotted name of the parameter in the last panel.

    Raises:
        InputError: The study has no rows, or `parameter` is no name of a parameter.
        InputTypeError: `study` is no `neuralflow.labs.deep_limit.Study`.
    """
    _check_study(study)
    checks.choice("parameter", parameter, tuple(study.limit.theta))
    picture, axes = plots.figure(2, 3)
    panels = axes.ravel()
    orders = study.orders()
    for axis, distance in zip(panels, _TITLES, strict=False):
        for k, name in enumerate(orders):
            depth = [row.depth for row in study.of(name)]
            order = orders[name][distance]
            label = name if order is None else f"{name}, order {order:.2f}"
            plots.depth_line(
                axis, k, depth, [row.distances[distance] for row in study.of(name)], label
            )
        plots.depth_axis(
            axis, _TITLES[distance], [row.depth for row in study.of(next(iter(orders)))]
        )
    _growing(panels[-1], study, parameter)
    return picture


def further(study: Study, schemes: Mapping[str, AbstractSolver]) -> Figure:
    """Plot further evidence of convergence in six panels.

    Three panels show the recovery sequence, the convergence at fixed weights, and the residuals of
    Pontryagin's equations. One panel shows Richardson's extrapolation. The last two panels show the
    scaled errors n^p (theta_n - theta) of the first two schemes. The scaled errors fall on one
    curve where the order of convergence is the expected order p.

    A scheme whose limit is another equation has no expected order. Its errors are not extrapolated,
    and they are shown without a factor.

    Args:
        study: The study.
        schemes: The schemes by name, as `study` received them.

    Raises:
        InputError: The study has no rows, or a scheme of the study is missing, or
            `neuralflow.labs.deep_limit.expected_order` refuses it.
        InputTypeError: `study` is no `neuralflow.labs.deep_limit.Study`, `schemes` is no mapping
            from names to schemes, or `neuralflow.labs.deep_limit.expected_order` refuses a scheme.
    """
    _check_study(study)
    check_schemes(schemes, study.schemes)
    picture, axes = plots.figure(2, 3)
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
            plots.depth_line(axis, k, [row.depth for row in study.of(name)], errors, label)
        plots.depth_axis(axis, title, [row.depth for row in study.of(next(iter(orders)))])
    for k, name in enumerate(orders):
        order = expected_order(schemes[name], "sup")
        pairs = [] if order is None else study.extrapolated(name, order)
        if pairs:
            n, plain, better = np.asarray(pairs).T
            plots.depth_line(panels[3], k, 2 * n, plain, name)
            plots.depth_line(panels[3], k, 2 * n, better, "_dashed", linestyle="--")
            plots.depth_axis(
                panels[3], "Richardson: nodal sup, dashed: extrapolated", 2 * n.astype(int)
            )
    for axis, name in zip(panels[4:], list(orders)[:2], strict=False):
        order = expected_order(schemes[name], "sup") or 0
        minima = [m for (scheme, _), m in study.weights.items() if scheme == name][-4:]
        curves = [
            scaled_error(m, study.limit) * float(m.basis.count) ** (order - 1) for m in minima
        ]
        entry = int(np.ptp(curves[-1], axis=0).argmax())
        for k, (m, curve) in enumerate(zip(minima, curves, strict=True)):
            shade = 0.25 + 0.75 * (k + 1) / len(minima)
            n = m.basis.count
            axis.plot(
                m.basis.nodes[:-1],
                curve[:, entry],
                color=plots.COLOURS[0],
                alpha=shade,
                linewidth=1.2,
                label=f"{n} layers",
            )
        power = ("", "n", "n^2")[order]
        axis.set_title(rf"${power}(\theta_n - \theta^*)$, {name}", fontsize=10)
        axis.set_xlabel("depth t")
        axis.legend(fontsize=8, frameon=False)
    return picture


def certificates(networks: Mapping[str, Certificate]) -> Figure:
    """Plot the certificates of networks side by side.

    The first panel shows the numbers that decide, each over its bound, with two standard errors on
    both sides: what lies left of the line passes. The second panel shows the change of the velocity
    from step to step of every NeuralODE, relative to the size of the velocity. Dotted lines mark
    knots. Numbers below 1e-4 are drawn at 1e-4.

    Args:
        networks: The certificates, by the name of the network.

    Raises:
        InputTypeError: `networks` is no mapping from names to certificates, or is empty.
    """
    checks.named("networks", networks, Certificate, "{'net': certify(model, x)}")
    picture, (decisive, changes) = plots.figure(1, 2, height=3.9)
    names = list(next(iter(networks.values())).measures)
    for k, (name, certificate) in enumerate(networks.items()):
        colour, mark = plots.COLOURS[k % 5], plots.MARKS[k % 5]
        measures = [certificate.measures[what] for what in names]
        shift = 0.6 * ((k + 0.5) / len(networks) - 0.5)
        decisive.errorbar(
            [max(m.value / m.bound, _LEAST) for m in measures],
            np.arange(len(names)) + shift,
            xerr=[2 * m.error / m.bound for m in measures],
            color=colour,
            marker=mark,
            markersize=4,
            linestyle="none",
            elinewidth=1.0,
            label=f"{name}: {certificate.verdict}",
        )
        for layer in certificate.regularity.values():
            changes.semilogy(
                layer.depths,
                np.maximum(layer.changes, _LEAST),
                color=colour,
                marker=mark,
                markersize=3,
                linewidth=0.9,
            )
            for knot in layer.knots:
                changes.axvline(knot, color=colour, linestyle=":", linewidth=1.0)
    decisive.axvline(1, color="black", linewidth=1.0)
    decisive.set_xscale("log")
    decisive.set_yticks(np.arange(len(names)), names)
    decisive.set_ylim(len(names) - 0.5, -0.5)
    decisive.set_title("measured / bound", fontsize=10)
    changes.set_title("change of the velocity from step to step", fontsize=10)
    changes.set_xlabel("normalised depth")
    plots.legend_below(picture, decisive, columns=2)
    return picture


def trained(series: Mapping[str, Sequence[Trained]]) -> Figure:
    """Plot networks that were trained at several depths, with one panel for each protocol.

    The panels show the distances to the deepest network, and the largest increments between layers.

    Args:
        series: The networks of each protocol by its name, the deepest network last.

    Raises:
        InputError: A protocol has fewer than two networks, or its networks do not fit together.
        InputTypeError: `series` is no mapping from names to lists of
            `neuralflow.labs.deep_limit.Trained`, or is empty.
    """
    checks.named("series", series, list | tuple, "{'GELU': list(descend((4, 8)))}")
    for name, networks in series.items():
        for network in networks:
            checks.instance(f"each of series[{name!r}]", network, Trained, "a Trained")
        if len(networks) < 2:
            raise InputError(
                f"series[{name!r}] must hold two networks at least, got {len(networks)}"
            )
    picture, axes = plots.figure(1, len(series), height=3.6)
    for axis, (name, networks) in zip(axes, series.items(), strict=True):
        *shallow, reference = networks
        depths = np.asarray([network.depth for network in shallow])
        measured = [gaps(network, reference) for network in shallow]
        names = [what for what in measured[0] if what != "loss"]
        for k, what in enumerate(names):
            plots.depth_line(
                axis,
                k,
                depths,
                [gap[what].mean() for gap in measured],
                f"{what}, to {reference.depth} layers",
            )
        rises = [
            max(network.increment(weight).mean() for weight in network.weights)
            for network in networks
        ]
        plots.depth_line(
            axis,
            len(names),
            [network.depth for network in networks],
            rises,
            "largest increment",
            "--",
        )
        axis.loglog(
            depths, rises[0] * depths[0] / depths, color="0.6", linewidth=0.8, label="1 / n"
        )
        plots.depth_axis(axis, name, depths)
    return picture


def _check_study(study: Any) -> None:
    """Refuse anything but a study with rows."""
    checks.instance("study", study, Study, "a Study such as study(...) yields")
    if not study.rows:
        raise InputError("the study must have one row at least; take the next of study(...)")


def _growing(axis: Any, study: Study, parameter: str) -> None:
    """Plot one entry of the weights of ever deeper networks over the entry of the limit."""
    fine = np.linspace(0, 1, 400)
    limit = evaluation(study.limit.basis, fine) @ _flat(study.limit.theta[parameter])
    entry = int(np.ptp(limit, axis=0).argmax())
    name = study.rows[0].scheme
    minima = [m for (scheme, _), m in study.weights.items() if scheme == name][:4]
    for k, minimum in enumerate(minima):
        nodes = minimum.basis.nodes
        values = _flat(minimum.theta[parameter])[:, entry]
        shade = 0.25 + 0.6 * k / max(1, len(minima) - 1)
        axis.step(
            nodes,
            values,
            where="post",
            color=plots.COLOURS[0],
            alpha=shade,
            linewidth=1.1,
            label=f"{len(nodes) - 1} layers",
        )
    axis.plot(fine, limit[:, entry], color="black", linewidth=1.4, linestyle="--", label="limit")
    axis.set_title(f"one entry of {parameter}(t), {name}", fontsize=10)
    axis.set_xlabel("depth t")
    axis.legend(fontsize=8, frameon=False)


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)
