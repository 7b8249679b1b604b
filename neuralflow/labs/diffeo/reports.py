"""How far a layer is a diffeomorphism: one report on its samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.labs.diffeo.flows import inverse
from neuralflow.labs.diffeo.jacobian import jacobian
from neuralflow.labs.diffeo.kernels import norms
from neuralflow.labs.diffeo.lipschitz import bounds
from neuralflow.layers import NeuralODE
from neuralflow.solve import SolveError
from neuralflow.transport import block_determinants, flat, samples

# Depths at which an adaptive layer is looked at.
_DEPTHS = 33


@dataclass(frozen=True)
class Report:
    """What `report` has measured on `samples` points of `dimension` coordinates.

    `inverse_error`: largest |inverse(layer(x)) - x|, by `nf.labs.diffeo.inverse` (None: it was not found). `reverse_error`: the same by
    integrating backward. `least_determinant`: the least det D of the layer. `folded`: the share of samples where its sign, or
    that of a block on their way, is not 1. `stretch`, `squeeze`: the largest and least singular value of D, so the layer's and its inverse's
    Lipschitz constants are at least `stretch` and 1 / `squeeze`. `expansion`, `contraction`: the bounds from the weights, and
    `residual` the largest bound of a block's residual part (None: not known for this layer, and `reason` says why; an adaptive
    layer has no blocks). `path_length`: mean length of the samples' paths.
    `speeds`: the norm of the velocity along depth, in the mean over samples, or that of the kernel's space where the field
    has one; `variation`: its spread, (largest - least) / mean, which is zero along a geodesic.
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
        """(largest - least) / mean of the speeds."""
        mean = float(np.mean(self.speeds))
        return float(np.ptp(self.speeds)) / mean if mean else 0.0

    @property
    def certified(self) -> bool:
        """Whether the weights themselves say that the layer is a diffeomorphism, everywhere."""
        return self.residual < 1 if self.residual is not None else self.contraction is not None

    def sentence(self) -> str:
        """The verdict in words."""
        if self.folded:
            return f"It folds: at {self.folded:.2%} of {self.samples} samples a Jacobian's determinant is not positive."
        if self.certified and self.residual is None:
            return "The flow of these weights is a diffeomorphism everywhere; the solve follows it to its tolerances."
        if self.certified:
            return "It is a diffeomorphism everywhere: every block is x + g(x) with Lip(g) < 1."
        return f"It folds at none of {self.samples} samples; elsewhere nothing is known, for its weights have no bound below one."

    def rows(self) -> list[tuple[str, str, str]]:
        """What, the number measured on the samples, and the bound that holds everywhere."""

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
        """Everything as plain data."""
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


def report(layer: NeuralODE, x: Any) -> Report:
    """How far a layer is a diffeomorphism, on samples x (batch, ...) and by its weights. Print it, or read its numbers.

    Looks at all coordinates of every sample: (batch, d, d) numbers a step on a fixed grid. TypeError for schemes that carry
    more than the state from step to step, and for x without an axis of samples.
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
        reason = "The samples contradict the bounds: a rule taught to nf.labs.diffeo.lipschitz_rule is wrong."
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


def _speeds(layer: NeuralODE, x: Any) -> tuple[float, tuple[float, ...]]:
    """The mean length of the samples' paths, and the norm of the velocity in every step, or in equal parts of the interval."""
    start, stop = map(float, layer.ends)
    if layer.discretisation.planned:
        depths, times = None, np.abs(layer.plan.lengths)
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
    """The largest residual, expansion and contraction that the weights allow, or why they are not known."""
    try:
        residual, expansion, contraction = bounds(layer)
    except TypeError as error:
        return (None, None, None), str(error)
    return (
        float(residual.max()) if residual.size else None,
        float(expansion),
        float(contraction),
    ), ""
