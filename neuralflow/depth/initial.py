"""How weights that vary with depth begin: matrices that mix independent draws into the values at the nodes of a basis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neuralflow.checks import InputError

Init = Callable[[np.ndarray], np.ndarray]
"""From the depths of the nodes (nodes,) to a matrix (nodes, draws) that mixes independent draws into node values."""


def independent(nodes: np.ndarray) -> np.ndarray:
    """Every node draws its own weights: an ordinary network's initialisation, not smooth in depth."""
    return np.eye(len(nodes))


def tied(nodes: np.ndarray) -> np.ndarray:
    """One draw for every depth: constant weights."""
    return np.ones((len(nodes), 1))


def smooth(length: float = 0.5) -> Init:
    """Weights drawn as a Gaussian process in depth with covariance exp(-(s - s')^2 / (2 length^2)).

    Every node keeps the variance of the module's own initialisation. `length`: correlation length, as a share of the
    depth. Our formulation of the smooth initialisation of Marion et al. (arXiv 2206.06929).
    """
    if not isinstance(length, int | float) or not length > 0:
        raise InputError(f"smooth(length) takes a positive correlation length, got {length!r}")

    def mix(nodes: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(np.exp(-((nodes[:, None] - nodes) ** 2) / (2 * length**2)))
        keep = values > 1e-10 * values[-1]
        root = vectors[:, keep] * np.sqrt(values[keep])
        return root / np.linalg.norm(root, axis=1, keepdims=True)

    return mix


def fractional(hurst: float) -> Init:
    """Weights drawn as the increments of a fractional Brownian motion in depth, each of the module's own variance.

    `hurst` in (0, 1]: at 1/2 every node draws its own, at 1 there is one draw for all, between them neighbours are alike over ever longer
    stretches, below 1/2 they alternate. Covariance (|k + 1|^2H - 2 |k|^2H + |k - 1|^2H) / 2 of nodes k apart, equally spaced (Marion,
    Fermanian, Biau & Vert, arXiv 2206.06929).
    """
    if not isinstance(hurst, int | float) or not 0 < hurst <= 1:
        raise InputError(
            f"fractional(hurst) takes a Hurst index above 0 and up to 1, got {hurst!r}"
        )

    def mix(nodes: np.ndarray) -> np.ndarray:
        if len(nodes) > 2 and np.ptp(np.diff(nodes)) > 1e-9:
            raise InputError(
                "increments of a fractional Brownian motion are those of equally spaced nodes; take nf.PiecewiseConstant(count)"
            )
        if hurst == 1:
            return tied(nodes)
        k = np.abs(np.subtract.outer(np.arange(len(nodes)), np.arange(len(nodes)))).astype(float)
        covariance = (
            (k + 1) ** (2 * hurst) - 2 * k ** (2 * hurst) + np.abs(k - 1) ** (2 * hurst)
        ) / 2
        return np.linalg.cholesky(covariance)

    return mix
