"""The loss of a model on a batch, and its mean over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array

from neuralflow.data import Data
from neuralflow.layers import tally
from neuralflow.training.batches import Batch, count_devices, count_samples, placed, spread

Loss = Callable[[Any, Batch], Any]
"""loss(model, batch): a scalar, the mean over the batch, or (scalar, dict of further scalars)."""


def evaluate(model: nnx.Module, loss: Loss, data: Data, *, batch: int = 512) -> dict[str, float]:
    """Means of the loss and its other scalars over all samples, with the model in evaluation mode and unchanged."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return Evaluation(graphdef, loss, data, batch, None)(params, rest)


def measured(graphdef: Any, loss: Loss, params: Any, rest: Any, batch: Batch, counts: bool) -> Any:
    """The loss, and beside it its other scalars, the work of the solves and the model's other variables."""
    model = nnx.merge(graphdef, params, rest, copy=True)
    with tally() as work:
        found = loss(model, batch)
    value, metrics = found if isinstance(found, tuple) else (found, {})
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(
            f"the loss must be one real number, got shape {jnp.shape(value)} of {jnp.result_type(value)}; take the mean"
        )
    metrics = {name: jnp.asarray(metric, value.dtype) for name, metric in metrics.items()}
    if counts:
        metrics |= {name: total.get_value().astype(value.dtype) for name, total in work.items()}
    return value, (metrics, nnx.split(model, nnx.Param, ...)[2])


class Evaluation:
    """The means of a loss over a data set, compiled once."""

    def __init__(self, graphdef: Any, loss: Loss, data: Data, batch: int, mesh: Mesh | None):
        self.graphdef, self.loss, self.mesh = graphdef, loss, mesh
        self.samples, self.data = count_samples(data), placed(data, mesh)
        size, devices = min(batch, self.samples), count_devices(mesh)
        self.batch = size // devices * devices or size
        self.mean = jax.jit(self._mean, static_argnums=(3, 4))

    def __call__(self, params: Any, rest: Any) -> dict[str, float]:
        whole, part = divmod(self.samples, self.batch)
        found = self.mean(params, rest, self.data, whole, 0)
        total = {name: float(value) * whole * self.batch for name, value in found.items()}
        if part:
            found = self.mean(params, rest, self.data, 0, part)
            total = {name: total[name] + float(value) * part for name, value in found.items()}
        return {name: total[name] / self.samples for name in in_order(total)}

    def _mean(self, params: Any, rest: Any, data: Any, whole: int, part: int) -> dict[str, Array]:
        """Over the first `whole` batches, or over the last `part` samples."""
        model = nnx.merge(self.graphdef, params, rest, copy=True)
        model.eval()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def one(batch: Batch) -> dict[str, Array]:
            if next(iter(batch.values())).shape[0] % count_devices(self.mesh) == 0:
                batch = spread(batch, self.mesh)
            value, (metrics, _) = measured(graphdef, self.loss, params, rest, batch, False)
            return {"loss": value, **metrics}

        if part:
            return one(jax.tree.map(lambda a: a[-part:], data))
        rows = jax.tree.map(lambda a: a[: whole * self.batch].reshape(whole, self.batch, *a.shape[1:]), data)
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), lax.map(one, rows))


def in_order(names: Iterable[str]) -> list[str]:
    """The loss first, the others by name."""
    return sorted(names, key=lambda name: (name != "loss", name))
