"""Distances of a network to its limit in function spaces of depth, and the order of their decay.

A new distance is an entry of `DISTANCES` and of the result of `distances`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from diffrax import AbstractSolver
from jaxtyping import Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import basis as depth_basis
from neuralflow.depth.basis import PiecewiseLinear
from neuralflow.labs.deep_limit.minimum import Minimum, check_minimum
from neuralflow.schemes.analysis import derived_order

__all__ = [
    "DISTANCES",
    "FURTHER",
    "aligned",
    "distances",
    "expected_order",
    "richardson",
    "scaled_error",
]
__docformat__ = "google"

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
"""The names of the distances that `distances` measures, each with a description in words.

"tl2" uses the coupling that carries each cell to its left node. This coupling is optimal in depth
alone. The part of "tl2" that comes from the shift in depth is 1/(sqrt(3) n) on n cells, whatever
the weights. "tl2" is our formulation of the topology of Thorpe & van Gennip, arXiv 1810.11741.
"""

FURTHER = ("recovery", "forward", "residual")
"""What a study tells of a network beside the distances."""

# The interpolant, or the place in depth that a layer is assigned, limits these distances to order
# one under every scheme.
_FIRST_ORDER = ("centred", "sup constant", "l2 constant", "tl2", "h1")


def _check_pair(**minima: Minimum) -> None:
    """Refuse anything but two minima with weights of the same names and shapes."""
    for name, minimum in minima.items():
        check_minimum(name, minimum)
    one, two = ({k: np.shape(v)[1:] for k, v in m.theta.items()} for m in minima.values())
    if list(one.items()) != list(two.items()):
        raise InputError(f"{' and '.join(minima)} must have the same weights, got {one} and {two}")


def distances(minimum: Minimum, limit: Minimum) -> dict[str, float]:
    """Measure how far a minimiser at finite depth is from the limit.

    "sup", "centred" and "sup constant" compare layers, so that the last node is left out. "centred"
    compares the weights of each layer with the limit at the centre of the layer's cell.

    Args:
        minimum: The minimiser, with nodal weights on `neuralflow.PiecewiseLinear`.
        limit: The minimiser of the limit, with weights on any basis.

    Returns:
        The distances, by the names of `DISTANCES`.

    Raises:
        InputError: `limit` has other weights or predictions than `minimum`.
        InputTypeError: The weights of `minimum` are not on `neuralflow.PiecewiseLinear`, or an
            argument is no `neuralflow.labs.deep_limit.Minimum`.
    """
    _check_pair(minimum=minimum, limit=limit)
    if np.shape(minimum.prediction) != np.shape(limit.prediction):
        raise InputError(
            "minimum and limit must have predictions of one shape, got "
            f"{np.shape(minimum.prediction)} and {np.shape(limit.prediction)}"
        )
    basis = minimum.basis
    if not isinstance(basis, PiecewiseLinear):
        raise InputTypeError(
            f"distances are those of nodal weights on PiecewiseLinear, got {basis}"
        )
    nodes, widths = basis.nodes, np.diff(basis.nodes)
    inside, weights = np.polynomial.legendre.leggauss(6)
    depth = nodes[:-1, None] + widths[:, None] * (inside + 1) / 2
    weight = (widths[:, None] * weights / 2).ravel()
    # Gauss points lie inside their cells, so that no knot is evaluated from the wrong side.
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
    # A piecewise-constant extension is worst at the far end of a cell.
    edges = values[:-1] - limit.at(nodes[1:])
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


def expected_order(scheme: AbstractSolver, distance: str) -> int | None:
    """Return the order in 1/n at which a distance is expected to fall with n layers.

    The weights are piecewise linear, so that no order above 2 is expected. The order of the scheme
    is `neuralflow.schemes.analysis.derived_order`.

    Args:
        scheme: The scheme of the networks, with coefficients that do not change from step to step.
        distance: A name of `DISTANCES` or `FURTHER`.

    Returns:
        The order of the scheme, 1 or 2. But 1 for every distance that its own interpolant limits to
        order 1. None where the limit of the scheme is another equation than x' = f: no distance is
        then expected to fall. Such a scheme may follow x' = f where f(0) = 0, as
        `neuralflow.schemes.PolyNet` does.

    Raises:
        InputError: `distance` is no such name, the coefficients of the scheme change from step to
            step, or the scheme goes on from a state before.
        InputTypeError: `scheme` is no scheme, or its steps cannot be taken or differentiated.

    Example:
        >>> import neuralflow as nf
        >>> order = nf.labs.deep_limit.expected_order
        >>> order(nf.ImplicitEuler(), "sup"), order(nf.Heun(), "sup"), order(nf.Heun(), "h1")
        (1, 2, 1)
        >>> order(nf.schemes.LMResNet(-0.3), "sup") is None
        True

    Source:
        Hager, Numer. Math. 87, 2000, for the nodal distances; our reading for the others.
    """
    checks.instance("scheme", scheme, AbstractSolver, "a scheme such as nf.Euler()")
    checks.choice("distance", distance, (*DISTANCES, *FURTHER))
    order = derived_order(scheme)
    if order == 0:
        return None
    return 1 if distance in _FIRST_ORDER else order


def richardson(
    coarse: Minimum, fine: Minimum, order: int = 1
) -> Float[np.ndarray, "nodes parameters"]:
    """Extrapolate weights from the depths n and 2n.

    The extrapolation is (2^p theta_2n - theta_n) / (2^p - 1).

    Args:
        coarse: The minimiser at depth n, with nodal weights.
        fine: The minimiser at depth 2n.
        order: The order p at which the weights converge.

    Returns:
        The extrapolated weights (nodes, parameters) at the nodes of `coarse`.

    Raises:
        InputError: The depth of `fine` is not twice the depth of `coarse`, their weights differ in
            names or shapes, or `order` is below 1 or above 16.
        InputTypeError: An argument is of another kind.
    """
    _check_pair(coarse=coarse, fine=fine)
    checks.whole("order", order, most=16)
    if fine.basis.count != 2 * coarse.basis.count:
        raise InputError(
            f"coarse and fine must have depths n and 2n, got {coarse.basis.count} and "
            f"{fine.basis.count}"
        )
    nodes = coarse.basis.nodes
    return (2**order * fine.at(nodes) - coarse.at(nodes)) / (2**order - 1)


def scaled_error(
    minimum: Minimum, limit: Minimum, order: int = 1
) -> Float[np.ndarray, "nodes parameters"]:
    """Return n^p (theta_n - theta) at the nodes i/n, i < n.

    Where the order of convergence is p, these curves fall on one curve for all depths n.

    Args:
        minimum: The minimiser theta_n at depth n, with nodal weights.
        limit: The minimiser theta of the limit.
        order: The order p.

    Returns:
        The scaled errors (n, parameters). The last node is left out.

    Raises:
        InputError: The weights differ in names or shapes, or `order` is below 1 or above 16.
        InputTypeError: An argument is of another kind.
    """
    _check_pair(minimum=minimum, limit=limit)
    checks.whole("order", order, most=16)
    nodes = minimum.basis.nodes[:-1]
    return minimum.basis.count**order * (minimum.at(nodes) - limit.at(nodes))


def aligned(
    minimum: Minimum, reference: Minimum, hidden: Mapping[str, int], *, odd: bool = False
) -> Minimum:
    """Return the same network with its hidden units in the order and signs nearest to a reference.

    One order holds for all depths. Nearest means in L2 over depth.

    Args:
        minimum: The network whose hidden units are reordered.
        reference: The network that sets the order.
        hidden: For every weight that knows the hidden units, by dotted name, the axis that counts
            these units. The axis of the basis is not counted. An example is {"hidden.kernel": 1,
            "hidden.bias": 0, "out.kernel": 0}.
        odd: Whether the activation is odd, so that hidden units may also change their sign.

    Returns:
        `minimum` with other weights that describe the same network.

    Raises:
        InputError: `hidden` is empty or names no weight or axis of both networks, or the networks
            have different weights.
        InputTypeError: An argument is of another kind.
    """
    _check_pair(minimum=minimum, reference=reference)
    checks.flag("odd", odd)
    checks.named("hidden", hidden, int | np.integer, '{"hidden.kernel": 1}')
    counts = set()
    for name, axis in hidden.items():
        checks.choice("a name in hidden", name, tuple(minimum.theta))
        shape = np.shape(minimum.theta[name])[1:]
        checks.whole(f"hidden[{name!r}]", axis, least=0, most=len(shape) - 1)
        counts.add(shape[axis])
    if len(counts) > 1:
        raise InputError(f"hidden must name axes of one length, got lengths {sorted(counts)}")
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
    # |a - s b|^2 = |a|^2 + |b|^2 - 2 s a.b: the norms do not depend on the pairing. The nearest
    # pairing therefore maximises the products.
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
