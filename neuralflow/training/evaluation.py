"""Evaluate a loss: on one batch, or as its mean over a data set.

The checks of what a loss returns stand here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.data import Data
from neuralflow.solve.tally import tally
from neuralflow.training.batches import (
    Batch,
    count_devices,
    count_samples,
    example,
    placed,
    spread,
    traced,
)

Loss = Callable[[Any, Batch], Any]
"""A function `loss(model, batch)` that returns the mean over the batch as a scalar.

The function may also return the pair of this scalar and a dict of further scalars to record.
"""


def evaluate(model: nnx.Module, loss: Loss, data: Data, *, batch: int = 512) -> dict[str, float]:
    """Return the means of a loss and of its other scalars over all samples of a data set.

    The model is in evaluation mode while the loss is computed. The model itself does not change.

    Args:
        model: Any NNX module.
        loss: A function `loss(model, batch)` that returns the mean over the batch as a scalar. The
            function may also return the pair of this scalar and a dict of further scalars.
        data: A dict of arrays `(samples, ...)` by name, with one leading axis.
        batch: The number of samples to evaluate at a time. The last samples count too, also where
            they do not fill a batch.

    Returns:
        A dict of the mean loss, under the name `loss`, and the means of the further scalars.

    Raises:
        InputError: `data` is no data set of numbers, or `loss` does not return real scalars.
        InputTypeError: An argument, or what `loss` returns, has the wrong type.
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    checks.function("loss", loss, 2)
    checks.whole("batch", batch)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    evaluation = Evaluation(graphdef, loss, data, batch, None)
    evaluation.check(params, rest)
    return evaluation(params, rest)


def measured(
    graphdef: Any, loss: Loss, params: PyTree, rest: PyTree, batch: Batch, counts: bool
) -> Any:
    """Compute the loss on a batch, with its metrics and the new state of the model.

    Args:
        graphdef: The structure of the model, from `nnx.split`.
        loss: A function `loss(model, batch)`.
        params: The parameters of the model (nnx.Param).
        rest: The other variables of the model, such as batch statistics and random streams.
        batch: The batch.
        counts: Whether the metrics include the work of the solves: `evaluations`, `accepted` and
            `rejected`, added up over the layers of the model.

    Returns:
        The pair of the loss and a pair: the dict of all metrics, the loss included, and the other
        variables of the model after the call. Metrics have at least float32.

    Raises:
        InputError: The loss returns something else than real scalars, or uses a reserved name.
        InputTypeError: What the loss returns has the wrong type.
    """
    model = nnx.merge(graphdef, params, rest, copy=True)
    with tally() as work:
        try:
            output = loss(model, batch)
        except Exception as error:
            error.add_note(f"while the loss was traced on the batch {_shapes(batch)}")
            raise
    value, metrics = _loss_and_metrics(output)
    # Sums over an epoch need more digits than half precision holds.
    wide = jnp.promote_types(value.dtype, jnp.float32)
    metrics = {name: metric.astype(wide) for name, metric in metrics.items()}
    if counts:
        metrics |= {name: total.astype(wide) for name, total in vars(work).items()}
    return value, ({"loss": value.astype(wide), **metrics}, nnx.split(model, nnx.Param, ...)[2])


def _shapes(batch: Any) -> str:
    """Return names, dtypes and shapes of the arrays of a batch as text."""
    return ", ".join(f"{name} {jnp.result_type(a)}{list(np.shape(a))}" for name, a in batch.items())


_OWN = (
    "loss",
    "gradient_norm",
    "evaluations",
    "accepted",
    "rejected",
    "epoch",
    "seconds",
    "samples_per_second",
    "waiting",
)
"""Names that the history uses itself, so that a loss cannot give them to its further scalars."""


def _loss_and_metrics(output: Any) -> tuple[Array, dict[str, Array]]:
    """Check what a loss returned, and return the scalar and the dict of further scalars."""
    value, metrics = output if isinstance(output, tuple) and len(output) == 2 else (output, {})
    if isinstance(value, tuple) or not isinstance(metrics, dict):
        raise InputTypeError(
            "the loss must return a number, or a number and a dict of further numbers; "
            "return loss, {'accuracy': ...}"
        )
    for name, metric in {"loss": value, **metrics}.items():
        if (
            not isinstance(metric, (int, float, np.ndarray, np.generic, Array))
            or np.shape(metric) != ()
        ):
            shown = (
                f"shape {np.shape(metric)}" if hasattr(metric, "shape") else type(metric).__name__
            )
            what = "the loss" if name == "loss" else f"the metric {name!r}"
            raise InputError(f"{what} must be one real number, got {shown}; take the mean")
    taken = [
        name
        for name in metrics
        if name in _OWN or not isinstance(name, str) or name.startswith("validation_")
    ]
    if taken:
        raise InputError(
            f"the metric {taken[0]!r} has a name that the history uses itself; give it another"
        )
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise InputError(
            f"the loss must be a real number that has a gradient, got {jnp.result_type(value)}"
        )
    return jnp.asarray(value), {name: jnp.asarray(metric) for name, metric in metrics.items()}


class Evaluation:
    """The means of a loss over a data set, compiled once and called for any weights.

    Args:
        graphdef: The structure of the model, from `nnx.split`.
        loss: A function `loss(model, batch)`.
        data: The data set, a dict of arrays `(samples, ...)` by name.
        batch: The number of samples to evaluate at a time. The number is lowered to the number of
            samples, and rounded down to a multiple of the number of devices where possible.
        mesh: The mesh over which a batch is spread, or None for one device.
        name: The name of the data set in messages.

    Raises:
        InputError: `data` is no data set of numbers.
    """

    def __init__(
        self,
        graphdef: Any,
        loss: Loss,
        data: Data,
        batch: int,
        mesh: Mesh | None,
        name: str = "data",
    ):
        self.graphdef, self.loss, self.mesh = graphdef, loss, mesh
        self.samples, self.data = count_samples(data, name), placed(data, mesh)
        size, devices = min(int(batch), self.samples), count_devices(mesh)
        self.batch = size // devices * devices or size
        self.mean = jax.jit(self._mean, static_argnums=(3, 4))

    def check(self, params: PyTree, rest: PyTree) -> None:
        """Trace the loss on the data, to find what does not fit before any work is done.

        Args:
            params: The parameters of the model.
            rest: The other variables of the model.

        Raises:
            InputError: The loss returns something else than real scalars, or uses a reserved name.
            InputTypeError: What the loss returns has the wrong type.
        """
        traced(
            lambda params, rest, batch: self._metrics_of(params, rest)(batch),
            params,
            rest,
            batch=example(self.data, self.batch),
        )

    def __call__(self, params: PyTree, rest: PyTree) -> dict[str, float]:
        """Return the means of the loss and of its other scalars over all samples.

        Args:
            params: The parameters of the model.
            rest: The other variables of the model.
        """
        whole, part = divmod(self.samples, self.batch)
        means = self.mean(params, rest, self.data, whole, 0)
        total = {name: float(value) * whole * self.batch for name, value in means.items()}
        if part:
            means = self.mean(params, rest, self.data, 0, part)
            total = {name: total[name] + float(value) * part for name, value in means.items()}
        return {name: total[name] / self.samples for name in in_order(total)}

    def _mean(
        self, params: PyTree, rest: PyTree, data: Any, whole: int, part: int
    ) -> dict[str, Array]:
        """Return the means over the first `whole` batches, or over the last `part` samples.

        `part` is zero for the first case.
        """
        one = self._metrics_of(params, rest)
        if part:
            return one(jax.tree.map(lambda a: a[-part:], data))
        rows = jax.tree.map(
            lambda a: a[: whole * self.batch].reshape(whole, self.batch, *a.shape[1:]), data
        )
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), lax.map(one, rows))

    def _metrics_of(self, params: PyTree, rest: PyTree) -> Callable[[Batch], dict[str, Array]]:
        """Return the function from a batch to its metrics; the model is in evaluation mode."""
        model = nnx.merge(self.graphdef, params, rest, copy=True)
        model.eval()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def one(batch: Batch) -> dict[str, Array]:
            if next(iter(batch.values())).shape[0] % count_devices(self.mesh) == 0:
                batch = spread(batch, self.mesh)
            return measured(graphdef, self.loss, params, rest, batch, False)[1][0]

        return one


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names of metrics: the loss first, the others by name.

    Args:
        names: The names.
    """
    return sorted(names, key=lambda name: (name != "loss", name))
