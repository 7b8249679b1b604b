"""The error of a compressed network, split into basis, discretisation and fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.inference.measured import Program


@dataclass(frozen=True, eq=False)
class ErrorSplit:
    """The distance between the outputs of two networks, as a sum of parts.

    A part is the difference of the outputs of two consecutive networks. The parts add up to the
    difference between the last network and the original one. Norms are root mean squares over
    samples, relative to the norm of the original outputs. Norms do not add up: a fit usually takes
    back what the basis and the discretisation have moved. Shares do.

    Attributes:
        original: The outputs of the original network, `(samples, ...)`.
        parts: The parts by name, each `(samples, ...)`, in the order "basis", "discretisation",
            "fit". A part without a network of its own is left out.
    """

    original: np.ndarray
    parts: Mapping[str, np.ndarray]

    @property
    def total(self) -> np.ndarray:
        """The difference between the outputs of the last network and the original ones."""
        return np.asarray(sum(self.parts.values()))

    @property
    def distance(self) -> float:
        """The norm of the whole difference."""
        return self._norm(self.total)

    @property
    def sizes(self) -> dict[str, float]:
        """The norms of the parts by name."""
        return {name: self._norm(part) for name, part in self.parts.items()}

    @property
    def distances(self) -> dict[str, float]:
        """The distance from the original network after each part, by the name of the part."""
        sums = np.cumsum(list(self.parts.values()), axis=0)
        return {name: self._norm(off) for name, off in zip(self.parts, sums, strict=True)}

    @property
    def shares(self) -> dict[str, float]:
        """The shares of the parts in the whole difference, by name, which add up to one.

        A share is the inner product of a part and the whole difference, over the square of the norm
        of the whole difference. The share of a part that takes something back is negative. All
        shares are zero where there is no difference.
        """
        total = self.total
        square = float((total**2).sum()) or np.inf
        return {name: float((part * total).sum()) / square for name, part in self.parts.items()}

    def sentence(self) -> str:
        """Return the distance in a sentence, and how far each part moves the outputs in another."""
        off = self.distances
        told = [f"the {name} moves them by {size:.2%}" for name, size in self.sizes.items()]
        told = [
            f"{text} and leaves them {off[n]:.2%} off" for text, n in zip(told, off, strict=True)
        ]
        first, rest = told[0], told[1:]
        return f"The outputs are {self.distance:.2%} off. {'; '.join([first.capitalize(), *rest])}."

    def __str__(self) -> str:
        lines = [f"{'part':16}{'size':>10}{'share':>10}{'off so far':>12}"]
        for name, size in self.sizes.items():
            share, off = self.shares[name], self.distances[name]
            lines.append(f"{name:16}{size:>10.2%}{share:>+10.2f}{off:>12.2%}")
        told = "Shares are inner products with the whole difference, and add up to one."
        return "\n".join([*lines, self.sentence(), told])

    def record(self) -> dict[str, Any]:
        """Return the sizes, shares and distances as plain data."""
        return {
            "sentence": self.sentence(),
            "samples": len(self.original),
            "distance": self.distance,
            "sizes": self.sizes,
            "shares": self.shares,
            "distances": self.distances,
        }

    def _norm(self, difference: np.ndarray) -> float:
        return float(np.linalg.norm(difference) / np.linalg.norm(self.original))


def error_split(
    model: nnx.Module,
    x: Array | np.ndarray,
    *,
    basis: nnx.Module | None = None,
    discretisation: nnx.Module | None = None,
    fit: nnx.Module | None = None,
    batch: int = 512,
) -> ErrorSplit:
    """Split the error of a compressed or exchanged network into basis, discretisation and fit.

    The networks lead in steps from the original one to the compressed one, and each step changes
    one thing. A step that was not taken is left out. The sizes of the parts depend on this order of
    steps. All networks are in evaluation mode.

    `Candidate(basis=...).applied_to(model)` is the network for `basis`, and
    `Candidate(solve, basis).applied_to(model)` the one for `discretisation`. Of an import by
    `neuralflow.fit_branches`, the model is `from_branches(branches)`, and a fit with `steps=0` is
    the network for `basis`.

    Args:
        model: The original network, from inputs `(batch, ...)` to outputs `(batch, ...)`.
        x: Inputs `(samples, ...)`.
        basis: The network with its weights projected on another basis, and the old discretisation.
        discretisation: The network with the same projected weights, and the new discretisation.
        fit: The network with fitted or trained weights on the new discretisation.
        batch: The number of samples that are evaluated at a time.

    Returns:
        The parts, with their norms and shares.

    Raises:
        InputError: No network is given beside the original one, the outputs of two networks have
            different shapes, or outputs are not finite. Or all original outputs are zero.
        InputError: `x` holds no samples, a network cannot be evaluated on `x`, or `batch` is less
            than 1.
        InputTypeError: An argument is of the wrong kind.
        SolveError: A solve of a network failed.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2))
        >>> other = layer.with_solve(nf.FixedGrid(nf.Euler(), steps=1))
        >>> split = nf.inference.error_split(layer, jnp.ones((4, 2)), discretisation=other)
        >>> round(split.distance, 2), round(1 - 2 / 1.5**2, 2)
        (0.11, 0.11)
    """
    networks = {"basis": basis, "discretisation": discretisation, "fit": fit}
    taken = {name: network for name, network in networks.items() if network is not None}
    for name, network in {"model": model, **taken}.items():
        checks.instance(name, network, nnx.Module, "an nnx.Module")
    if not taken:
        raise InputError(
            "one of basis, discretisation and fit must be the network to compare with model"
        )
    checks.array("x", x, "samples", *["numbers"] * (getattr(x, "ndim", 1) - 1), kind=jnp.number)
    checks.whole("batch", batch)
    inputs = np.asarray(x)
    before = original = _outputs("model", model, inputs, int(batch))
    parts = {}
    if not original.any():
        raise InputError(
            "the outputs of model are all zero, so that no distance is relative to them"
        )
    for name, network in taken.items():
        after = _outputs(name, network, inputs, int(batch))
        if after.shape != before.shape:
            raise InputError(
                f"the outputs of {name} must have the shape of those of model, {before.shape}, got "
                f"{after.shape}"
            )
        parts[name], before = after - before, after
    return ErrorSplit(original, parts)


def _outputs(name: str, network: nnx.Module, x: np.ndarray, batch: int) -> np.ndarray:
    """Return the outputs of a network in float64. A refusal says which network it was."""
    try:
        return Program(network, x, min(batch, len(x))).outputs()[0].astype(float)
    except InputError as error:
        raise type(error)(f"{name} cannot be compared: {error}") from error
