"""How far a network is from its limit, in the function spaces of the field, and at which order the distance falls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import basis as depth_basis
from neuralflow.depth.basis import PiecewiseLinear
from neuralflow.labs.deep_limit.minimum import Minimum
from neuralflow.schemes import Euler

DISTANCES = {
    "energy": "energy gap |E_n - E|",
    "prediction": "predictions, root mean square",
    "sup": "weights at the nodes, sup",
    "centred": "weights of layers at the cells' centres, sup",
    "sup constant": "weights, sup of the piecewise-constant extension",
    "sup linear": "weights, sup of the piecewise-linear extension",
    "l2 constant": "weights, L2 of the piecewise-constant extension",
    "l2": "weights, L2 of the piecewise-linear extension",
    "tl2": "weights, TL2",
    "h1": "weights, H1 seminorm of the piecewise-linear extension",
}
"""What `distances` measures, and in which words. TL2: with the coupling that carries each cell to its left node, which
is optimal in depth alone; its part in time is 1/(sqrt(3) n) whatever the weights (our formulation of the topology of
Thorpe & van Gennip, arXiv 1810.11741)."""

# Limited to order one by the interpolant, or by where a layer is thought to stand, whatever the scheme.
_FIRST_ORDER = ("centred", "sup constant", "l2 constant", "tl2", "h1")


def distances(minimum: Minimum, limit: Minimum) -> dict[str, float]:
    """How far a minimiser on piecewise-linear weights is from the limit on any basis: see `DISTANCES`."""
    basis = minimum.basis
    if not isinstance(basis, PiecewiseLinear):
        raise InputTypeError(
            f"distances are those of nodal weights on PiecewiseLinear, got {basis}"
        )
    nodes, widths = basis.nodes, np.diff(basis.nodes)
    inside, weights = np.polynomial.legendre.leggauss(6)
    depth = nodes[:-1, None] + widths[:, None] * (inside + 1) / 2
    weight = (widths[:, None] * weights / 2).ravel()
    # The Gauss points of a cell lie inside it, so no knot is met from the wrong side.
    points = depth.ravel()
    target, target_slope = limit.at(points), limit.flat(depth_basis.derivative(limit.basis, points))
    values = minimum.flat(np.eye(basis.size))
    line = minimum.at(points)
    held = np.repeat(values[:-1], len(inside), axis=0)
    slope = np.repeat(np.diff(values, axis=0) / widths[:, None], len(inside), axis=0)
    shift = points - np.repeat(nodes[:-1], len(inside))

    def norm(error: np.ndarray) -> float:
        return float(np.sqrt(weight @ (error**2).sum(axis=1)))

    def sup(error: np.ndarray) -> float:
        return float(np.abs(error).max())

    at_nodes = limit.at(nodes)
    edges = values[:-1] - limit.at(
        nodes[1:]
    )  # the far end of a cell, where a piecewise-constant extension is worst
    return {
        "energy": abs(minimum.energy - limit.energy),
        "prediction": float(np.sqrt(np.mean((minimum.prediction - limit.prediction) ** 2))),
        "sup": sup((values - at_nodes)[:-1]),
        "centred": sup(values[:-1] - limit.at(nodes[:-1] + widths / 2)),
        "sup constant": max(sup(held - target), sup(edges), sup((values - at_nodes)[:-1])),
        "sup linear": max(sup(line - target), sup(values - at_nodes)),
        "l2 constant": norm(held - target),
        "l2": norm(line - target),
        "tl2": float(np.hypot(np.sqrt(weight @ shift**2), norm(held - target))),
        "h1": norm(slope - target_slope),
    }


def expected_order(scheme: object, distance: str) -> int:
    """The order expected of a distance (Hager, Numer. Math. 87, 2000, for the nodal ones; our reading for the others)."""
    return 1 if isinstance(scheme, Euler) or distance in _FIRST_ORDER else 2


def richardson(
    coarse: Minimum, fine: Minimum, order: int = 1
) -> Float[np.ndarray, "nodes parameters"]:
    """Weights extrapolated from depths n and 2n: (2^p theta_2n - theta_n) / (2^p - 1) at the nodes of the coarser."""
    if fine.basis.count != 2 * coarse.basis.count:
        raise InputError(
            f"extrapolation takes depths n and 2n, got {coarse.basis.count} and {fine.basis.count}"
        )
    nodes = coarse.basis.nodes
    return (2**order * fine.at(nodes) - coarse.at(nodes)) / (2**order - 1)


def scaled_error(
    minimum: Minimum, limit: Minimum, order: int = 1
) -> Float[np.ndarray, "nodes parameters"]:
    """n^p (theta_n - theta) at the nodes i/n, i < n: curves that fall on one where the order is p."""
    nodes = minimum.basis.nodes[:-1]
    return minimum.basis.count**order * (minimum.at(nodes) - limit.at(nodes))


def aligned(
    minimum: Minimum, reference: Minimum, hidden: Mapping[str, int], *, odd: bool = False
) -> Minimum:
    """The same network with its hidden units in the order, and with the signs, nearest to a reference.

    `hidden`: for every weight that knows the hidden units, by dotted name, which of its axes counts them (the basis'
    axis apart), such as {"hidden.kernel": 1, "hidden.bias": 0, "out.kernel": 0}. `odd`: the activation is odd, so that
    units may change sign too. One order for all depths; the distance is L2 over depth.
    """
    from scipy.optimize import linear_sum_assignment

    mass = np.linalg.cholesky(depth_basis.mass(reference.basis)).T
    onto = mass @ depth_basis.projection(minimum.basis, reference.basis)

    def units(m: Minimum, matrix: np.ndarray) -> np.ndarray:
        parts = [
            np.moveaxis(np.tensordot(matrix, m.theta[name], axes=1), 1 + axis, 0)
            for name, axis in hidden.items()
        ]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    ours, theirs = units(minimum, onto), units(reference, mass)
    product = ours @ theirs.T
    # |a - s b|^2 = |a|^2 + |b|^2 - 2 s a.b: the norms do not depend on the pairing, so maximise the products.
    rows, columns = linear_sum_assignment(-np.abs(product) if odd else -product)
    order = rows[np.argsort(columns)]
    signs = np.sign(product[order, np.sort(columns)]) if odd else np.ones(len(order))
    signs[signs == 0] = 1.0
    theta = dict(minimum.theta)
    for name, axis in hidden.items():
        shape = [1] * theta[name].ndim
        shape[1 + axis] = -1
        theta[name] = np.take(theta[name], order, axis=1 + axis) * signs.reshape(shape)
    return replace(minimum, theta=theta)
