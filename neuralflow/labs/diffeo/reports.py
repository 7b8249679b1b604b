"""How far a layer is a diffeomorphism: one report on its samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.labs.diffeo.flows import inverse
from neuralflow.labs.diffeo.jacobian import jacobian
from neuralflow.labs.diffeo.kernels import norms
from neuralflow.labs.diffeo.lipschitz import bounds
from neuralflow.layers import NeuralODE
from neuralflow.solve import SolveError
from neuralflow.transport import block_determinants, flat, samples

# The number of depths at which the report looks at an adaptive layer.
_DEPTHS = 33


@dataclass(frozen=True)
class Report:
    """What `report` measures on samples, and what the weights guarantee everywhere.

    D stands for the Jacobian matrix of the layer at a sample.

    Attributes:
        samples: The number of samples.
        dimension: The number d of coordinates of each sample.
        inverse_error: The largest |inverse(layer(x)) - x| over all coordinates, by
            `neuralflow.labs.diffeo.inverse`. None if the inverse was not found.
        reverse_error: The largest error of the same kind, by integrating backward with
            `layer.reverse()`.
        least_determinant: The least det D over the samples.
        folded: The share of the samples at which the layer folds. A sample counts if det D is not
            positive, or if the determinant of a block on the path of the sample is not positive.
        stretch: The largest singular value of D over the samples. The Lipschitz constant of the
            layer is at least `stretch`.
        squeeze: The least singular value of D over the samples. The Lipschitz constant of the
            inverse is at least 1 / `squeeze`.
        residual: The largest bound of the residual part of a block, from the weights. None if the
            bound is not known, or if the layer is adaptive and has no blocks.
        expansion: The upper bound of the stretch, from the weights. None if not known.
        contraction: The lower bound of the squeeze, from the weights. None if not known.
        reason: Why the bounds are not known, or an empty string.
        path_length: The mean length of the paths of the samples.
        speeds: The norm of the velocity along depth, one number for each step. An adaptive layer
            has one number for each of 32 equal parts of the interval. On a fixed grid, a
            `KernelField` and a `neuralflow.DepthVarying` of a `KernelField` have the norm of their
            kernel space. Every other field has the root mean square over the samples of path length
            per depth time.
    """

    samples: int
    dimension: int
    inverse_error: float | None
    reverse_error: float
    least_determinant: float
    folded: float
    stretch: float
    squeeze: float
    residual: float | None
    expansion: float | None
    contraction: float | None
    reason: str
    path_length: float
    speeds: tuple[float, ...] = field(repr=False)

    @property
    def variation(self) -> float:
        """The spread of the speeds, (largest - least) / mean.

        The spread is zero along a geodesic.
        """
        mean = float(np.mean(self.speeds))
        return float(np.ptp(self.speeds)) / mean if mean else 0.0

    @property
    def certified(self) -> bool:
        """Whether the weights guarantee that the layer is a diffeomorphism everywhere."""
        return self.residual < 1 if self.residual is not None else self.contraction is not None

    def sentence(self) -> str:
        """Return the verdict in words."""
        if self.folded:
            return (
                f"It folds: at {self.folded:.2%} of {self.samples} samples a Jacobian's "
                "determinant is not positive."
            )
        if self.certified and self.residual is None:
            return (
                "The flow of these weights is a diffeomorphism everywhere; the solve follows it to "
                "its tolerances."
            )
        if self.certified:
            return "It is a diffeomorphism everywhere: every block is x + g(x) with Lip(g) < 1."
        return (
            f"It folds at none of {self.samples} samples; elsewhere nothing is known, for its "
            "weights have no bound below one."
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the rows of the printed table.

        Returns:
            One tuple for each row: what is measured, the number on the samples, and the bound that
            holds everywhere.
        """

        def known(value):
            return "unknown" if value is None else f"{value:.3g}"

        error = "not found" if self.inverse_error is None else f"{self.inverse_error:.2e}"
        return [
            ("error of the inverse", error, "-"),
            ("error of walking back", f"{self.reverse_error:.2e}", "-"),
            (
                "least det D",
                f"{self.least_determinant:.3g}",
                "> 0" if self.certified else "unknown",
            ),
            ("folded share", f"{self.folded:.2%}", "0" if self.certified else "unknown"),
            ("largest stretch", f"{self.stretch:.3g}", known(self.expansion)),
            ("least stretch", f"{self.squeeze:.3g}", known(self.contraction)),
            (
                "largest Lip(block - Id)",
                "-",
                "no blocks" if self.certified and self.residual is None else known(self.residual),
            ),
            ("mean path length", f"{self.path_length:.3g}", "-"),
            ("spread of the speed", f"{self.variation:.2%}", "-"),
        ]

    def record(self) -> dict[str, Any]:
        """Return all numbers as plain data, with `variation` and `certified`."""
        return {
            **vars(self),
            "speeds": list(self.speeds),
            "variation": self.variation,
            "certified": self.certified,
        }

    def __str__(self) -> str:
        cells = [("", "on samples", "everywhere"), *self.rows()]
        widths = [max(len(row[k]) for row in cells) for k in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in cells]
        return "\n".join([*lines, self.sentence(), *([self.reason] if self.reason else [])])


def report(layer: NeuralODE, x: PyTree) -> Report:
    """Measure to what extent a layer is a diffeomorphism, on samples and by its weights.

    The samples show determinants, stretches and inverses. The weights give bounds that hold
    everywhere, from the Lipschitz constants of the parts of the field. Print the report, or read
    its numbers.

    The function computes the Jacobian matrices of every sample, with d the number of coordinates of
    one sample. On a fixed grid the function holds `(steps, batch, d, d)` numbers at once.

    Args:
        layer: The layer, on a fixed grid or adaptive.
        x: The samples `(batch, ...)`, an array or a pytree of arrays.

    Returns:
        The report. A layer folds at a sample where the determinant of the Jacobian of the layer or
        of one of its steps is not positive. If the samples contradict the bounds from the weights,
        a rule that a user taught to `lipschitz_rule` is wrong. The bounds are then left out, and
        `reason` says so.

    Raises:
        InputTypeError: The scheme carries more than the state from step to step.
        InputTypeError: `x` has no axis of samples.
        InputTypeError: The call is inside a transformation.
        InputError: `x` holds no samples.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from neuralflow.labs import diffeo
        >>> field = nf.from_function(lambda rate, x: rate * x**2, jnp.array(-1.0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=1))
        >>> print(diffeo.report(layer, jnp.array([[0.25], [1.0]])).sentence())
        It folds: at 50.00% of 2 samples a Jacobian's determinant is not positive.
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    x = samples(x)
    leaves = [*jax.tree.leaves(x), *jax.tree.leaves(nnx.state(layer))]
    if any(isinstance(leaf, core.Tracer) for leaf in leaves):
        raise InputTypeError("report() looks at numbers; call it outside of transformations")
    if not jax.tree.leaves(x)[0].size:
        raise InputError(f"a report needs samples, got x of shape {jax.tree.map(jnp.shape, x)}")
    blocks = block_determinants(layer, x) if layer.discretisation.planned else None
    y = layer(x)

    def apart(other):
        """Return the largest distance of any coordinate from the samples."""
        return max(
            float(jnp.abs(a - b).max())
            for a, b in zip(*map(jax.tree.leaves, (other, x)), strict=True)
        )

    try:
        inverse_error = apart(inverse(layer)(y))
    except SolveError:
        inverse_error = None
    slopes = jacobian(layer, x)
    sign, log = jnp.linalg.slogdet(slopes)
    folded = sign <= 0
    if blocks is not None:
        folded |= (blocks.sign <= 0).any(axis=0)
    stretches = jnp.linalg.svd(slopes, compute_uv=False)
    known, reason = _known(layer)
    if known[1] is not None and (
        stretches.max() > known[1] * (1 + 1e-5) or (known[2] and bool(folded.any()))
    ):
        known = (None, None, None)
        reason = (
            "The samples contradict the bounds: a rule taught to nf.labs.diffeo.lipschitz_rule is "
            "wrong."
        )
    path_length, speeds = _speeds(layer, x)
    return Report(
        len(slopes),
        slopes.shape[2],
        inverse_error,
        apart(layer.reverse()(y)),
        float(jnp.min(sign * jnp.exp(log))),
        float(jnp.mean(folded)),
        float(stretches.max()),
        float(stretches.min()),
        *known,
        reason,
        path_length,
        speeds,
    )


def _speeds(layer: NeuralODE, x: PyTree) -> tuple[float, tuple[float, ...]]:
    """Return the mean length of the samples' paths, and the norm of the velocity along depth.

    The norm stands for every step of a fixed grid, or for equal parts of the interval.
    """
    start, stop = map(float, layer.ends)
    if layer.discretisation.planned:
        depths, times = None, np.abs(layer.plan().lengths)
    else:
        depths, times = (
            jnp.linspace(*((stop, start) if layer.backward else (start, stop)), _DEPTHS),
            np.ones(_DEPTHS - 1),
        )
    times = times / times.sum() * abs(stop - start)
    paths = jax.vmap(lambda state: flat(state)[0])(layer.trajectory(x, depths))
    lengths = jnp.linalg.norm(jnp.diff(paths, axis=0), axis=2)
    try:
        speeds = norms(layer)
    except TypeError:
        speeds = jnp.sqrt(jnp.mean(lengths**2, axis=1)) / times
    return float(jnp.mean(jnp.sum(lengths, axis=0))), tuple(float(s) for s in speeds)


def _known(layer: NeuralODE) -> tuple[tuple[float | None, float | None, float | None], str]:
    """Return the largest residual, expansion and contraction that the weights allow.

    If the bounds are not known, the numbers are None, and the string says why.
    """
    try:
        residual, expansion, contraction = bounds(layer)
    except TypeError as error:
        return (None, None, None), str(error)
    return (
        float(residual.max()) if residual.size else None,
        float(expansion),
        float(contraction),
    ), ""
