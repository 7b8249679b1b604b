"""Initialisations of weights that vary with depth.

An initialisation is a function from the nodes of a basis to a matrix. The matrix mixes independent
draws of the weights of a module into the values at the nodes. A new initialisation is another
function of this kind.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neuralflow import checks
from neuralflow.checks import InputError

Init = Callable[[np.ndarray], np.ndarray]
"""An initialisation: a function from normalised depths of nodes to a matrix that mixes draws.

The depths have the shape `(nodes,)`, the matrix has the shape `(nodes, draws)`. The matrix maps
independent draws of the weights to the values at the nodes.
"""


def independent(nodes: np.ndarray) -> np.ndarray:
    """Draw independent weights at every node, as an ordinary network does.

    The weights are not smooth in depth.

    Args:
        nodes: The normalised depths of the nodes, `(nodes,)`.

    Returns:
        The identity matrix `(nodes, nodes)`.

    Raises:
        InputError: There is no node, or `nodes` has more axes than one.
        InputTypeError: `nodes` is not a sequence of numbers.
    """
    return np.eye(len(checks.row("nodes", nodes)))


def tied(nodes: np.ndarray) -> np.ndarray:
    """Use one draw of the weights at every depth, so that the weights are constant.

    Args:
        nodes: The normalised depths of the nodes, `(nodes,)`.

    Returns:
        The matrix of ones `(nodes, 1)`.

    Raises:
        InputError: There is no node, or `nodes` has more axes than one.
        InputTypeError: `nodes` is not a sequence of numbers.
    """
    return np.ones((len(checks.row("nodes", nodes)), 1))


def smooth(length: float = 0.5) -> Init:
    """Make the initialisation whose weights are a Gaussian process in depth.

    Every node keeps the variance of the module's own initialisation. The correlation of the weights
    at two normalised depths s and s' is exp(-(s - s')^2 / (2 length^2)).

    Args:
        length: The correlation length in normalised depth, positive.

    Returns:
        An initialisation for `DepthVarying(..., init=...)`.

    Raises:
        InputError: `length` is not a positive finite number.

    Example:
        >>> import numpy as np
        >>> import neuralflow as nf
        >>> mix = nf.smooth(0.5)(np.array([0.0, 0.5, 1.0]))
        >>> (mix @ mix.T).round(2)  # the correlation of every two nodes
        array([[1.  , 0.61, 0.14],
               [0.61, 1.  , 0.61],
               [0.14, 0.61, 1.  ]])

    Source:
        Our formulation of the smooth initialisation of Marion et al., arXiv 2206.06929.
    """
    if not checks.is_number(length) or not length > 0:
        raise InputError(f"smooth(length) takes a positive correlation length, got {length!r}")

    def mix(nodes: np.ndarray) -> np.ndarray:
        nodes = checks.row("nodes", nodes)
        values, vectors = np.linalg.eigh(np.exp(-((nodes[:, None] - nodes) ** 2) / (2 * length**2)))
        keep = values > 1e-10 * values[-1]
        root = vectors[:, keep] * np.sqrt(values[keep])
        return root / np.linalg.norm(root, axis=1, keepdims=True)

    return mix


def fractional(hurst: float) -> Init:
    """Make the initialisation whose weights are increments of a fractional Brownian motion.

    Every node keeps the variance of the module's own initialisation, however many nodes there are.
    The weights of node j and of node j + k have the correlation
    (|k + 1|^2H - 2 |k|^2H + |k - 1|^2H) / 2, where H is the Hurst index.

    Args:
        hurst: The Hurst index H in (0, 1]. 0.5 draws every node independently. 1 uses one draw for
            all nodes. Between 0.5 and 1, neighbours are correlated positively, the more the larger
            H is. Below 0.5, neighbours are correlated negatively.

    Returns:
        An initialisation for `DepthVarying(..., init=...)`. The matrix has one column for each
        node, and one column in all where H is 1. The nodes of the basis must be equally spaced, as
        those of `PiecewiseConstant` and `PiecewiseLinear` are.

    Raises:
        InputError: `hurst` lies outside (0, 1]. The returned initialisation raises the same error
            where nodes are not equally spaced.

    Example:
        >>> import neuralflow as nf
        >>> mix = nf.fractional(0.75)(nf.PiecewiseConstant(3).nodes)
        >>> (mix @ mix.T).round(2)  # the correlation of every two nodes
        array([[1.  , 0.41, 0.27],
               [0.41, 1.  , 0.41],
               [0.27, 0.41, 1.  ]])

    Source:
        Marion, Fermanian, Biau & Vert, arXiv 2206.06929.
    """
    if not checks.is_number(hurst) or not 0 < hurst <= 1:
        raise InputError(
            f"fractional(hurst) takes a Hurst index above 0 and up to 1, got {hurst!r}"
        )

    def mix(nodes: np.ndarray) -> np.ndarray:
        nodes = checks.row("nodes", nodes)
        if len(nodes) > 2 and np.ptp(np.diff(nodes)) > 1e-9:
            raise InputError(
                "increments of a fractional Brownian motion are those of equally spaced nodes; "
                "take nf.PiecewiseConstant(count)"
            )
        if hurst == 1:
            return tied(nodes)
        k = np.abs(np.subtract.outer(np.arange(len(nodes)), np.arange(len(nodes)))).astype(float)
        covariance = (
            (k + 1) ** (2 * hurst) - 2 * k ** (2 * hurst) + np.abs(k - 1) ** (2 * hurst)
        ) / 2
        return np.linalg.cholesky(covariance)

    return mix
