"""Weight matrices as rotation, stretching and rotation, each of which a flow can follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import schur

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.labs.plain_net.reading import Dense


def rotation_logarithm(rotation: np.ndarray) -> np.ndarray:
    """Return the real skew matrix A with exp(A) equal to a proper rotation.

    The angles of A lie in (-pi, pi]. The logarithm comes from the real Schur form, where the
    eigenvalues -1 are paired as rotations by pi. A general matrix logarithm is complex there.

    Args:
        rotation: A proper rotation (d, d): an orthogonal matrix of determinant 1.

    Returns:
        The logarithm A (d, d).

    Raises:
        InputTypeError: `rotation` does not consist of real numbers.
        InputError: `rotation` is not a square orthogonal matrix.
        InputError: `rotation` is a reflection, which has no real logarithm.
    """
    rotation = checks.known_numbers("rotation", rotation, "d", "d")
    if len(set(rotation.shape)) > 1 or not np.allclose(
        rotation @ rotation.T, np.eye(len(rotation)), rtol=0, atol=1e-8
    ):
        raise InputError(
            f"a rotation is a square orthogonal matrix, got shape {rotation.shape} with columns "
            "that are not orthonormal"
        )
    form, basis = schur(rotation, output="real")[:2]
    generator = np.zeros_like(form)
    turned: list[int] = []
    i = 0
    while i < len(form):
        if i + 1 < len(form) and form[i + 1, i] != 0:
            _turn(
                generator,
                i,
                i + 1,
                np.arctan2(form[i + 1, i] - form[i, i + 1], form[i, i] + form[i + 1, i + 1]),
            )
            i += 2
            continue
        if form[i, i] < 0:
            turned.append(i)
        i += 1
    if len(turned) % 2:
        raise InputError(
            "this orthogonal matrix is a reflection (determinant -1), and no flow of rotations "
            "reaches it; flip an axis"
        )
    for a, b in zip(turned[::2], turned[1::2], strict=True):
        _turn(generator, a, b, np.pi)
    return basis @ generator @ basis.T


def _turn(generator: np.ndarray, i: int, j: int, angle: float) -> None:
    generator[j, i], generator[i, j] = angle, -angle


@dataclass(frozen=True, eq=False)
class Decomposition:
    """W = exp(left) diag(scale) exp(right) in d dimensions, and what was done to reach this form.

    Attributes:
        right: The skew generator (d, d) of the first rotation.
        scale: The singular values (d,).
        left: The skew generator (d, d) of the second rotation.
        rank: The rank of W.
        flipped: Which singular vectors were flipped to make both factors proper rotations:
            "nothing", "null vectors" or "a matched pair".
        angles: The largest angles of the right and of the left rotation, in radians.
        added: The number of dimensions beyond the layer's own larger width.
    """

    right: np.ndarray
    scale: np.ndarray
    left: np.ndarray
    rank: int
    flipped: str
    angles: tuple[float, float]
    added: int


def dimension(layers: Sequence[Dense]) -> int:
    """Return the least dimension in which every layer is a flow.

    This dimension is the largest width. One more dimension is needed where a square layer of the
    largest width has a determinant below zero.

    Args:
        layers: The dense layers of a plain network, as `read` returns them.

    Raises:
        InputTypeError: `layers` is not a sequence of dense layers, or is empty.
        InputError: A weight is not a matrix of finite numbers.
    """
    known = isinstance(layers, Sequence) and all(isinstance(layer, Dense) for layer in layers)
    if not known or not layers:
        raise InputTypeError(
            "layers must be the dense layers of a plain net, at least one, got "
            f"{type(layers).__name__}; read(model) returns them"
        )
    weights = [
        checks.known_numbers(f"the weight of layers[{k}]", layer.weight, "out", "in")
        for k, layer in enumerate(layers)
    ]
    most = max(max(weight.shape) for weight in weights)
    square = [weight for weight in weights if weight.shape == (most, most)]
    return most + any(
        _rank(np.linalg.svd(w, compute_uv=False)) == most and np.linalg.slogdet(w)[0] < 0
        for w in square
    )


def _rank(scale: np.ndarray) -> int:
    return int((scale > len(scale) * np.finfo(float).eps * scale.max(initial=0)).sum())


def decompose(weight: np.ndarray, size: int) -> Decomposition:
    """Decompose a weight into rotation, stretching and rotation.

    The weight is padded with zeros to a square matrix. Singular vectors are flipped where a factor
    would be a reflection. A flip in the null space changes nothing, and a flip of a matched pair
    leaves the product as it is.

    Args:
        weight: The weight (out, in).
        size: The dimension d of the square matrix.

    Returns:
        The decomposition in `size` dimensions.

    Raises:
        InputTypeError: `weight` does not consist of real numbers, or `size` is not a whole number.
        InputError: `weight` is not a matrix of finite numbers.
        InputError: `size` is less than a width of the weight, or above 8192.
        InputError: The weight has full rank and a determinant below zero, so that one dimension
            more is needed.
    """
    weight = checks.known_numbers("weight", weight, "out", "in")
    checks.whole("size", size, most=8192)
    out, inputs = weight.shape
    if size < max(out, inputs):
        raise InputError(
            f"a weight {weight.shape} does not fit into {size} dimensions; give a size of at least "
            f"{max(out, inputs)}"
        )
    padded = np.zeros((size, size))
    padded[:out, :inputs] = weight
    u, scale, vt = np.linalg.svd(padded)
    rank = _rank(scale)
    scale = np.where(np.arange(size) < rank, scale, 0.0)
    mirrored = np.linalg.det(u) < 0, np.linalg.det(vt) < 0
    flipped = "nothing"
    if rank < size:
        flipped = "null vectors" if any(mirrored) else flipped
        u[:, -1] *= -1 if mirrored[0] else 1
        vt[-1] *= -1 if mirrored[1] else 1
    elif all(mirrored):
        flipped = "a matched pair"
        u[:, -1], vt[-1] = -u[:, -1], -vt[-1]
    elif any(mirrored):
        raise InputError(
            f"a weight of full rank with determinant below zero is no flow in {size} dimensions; "
            f"give {size + 1}"
        )
    right, left = rotation_logarithm(vt), rotation_logarithm(u)
    angles = float(np.linalg.norm(right, 2)), float(np.linalg.norm(left, 2))
    return Decomposition(right, scale, left, rank, flipped, angles, size - max(out, inputs))
