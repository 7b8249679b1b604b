"""Models in evaluation mode, compiled for batches of one size, and run over data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.refinement import evaluated
from neuralflow.solve import SolveError
from neuralflow.solve.tally import tally


class Program:
    """A model in evaluation mode, compiled for the inputs of one batch.

    Args:
        model: The model, from inputs `(batch, ...)` to outputs `(batch, ...)`.
        x: All inputs `(samples, ...)`, on the host.
        batch: The number of samples in a batch, at most the number of samples.

    Raises:
        InputError: The model cannot be evaluated on its inputs, or its outputs have no leading axis
            of samples.
        InputTypeError: The outputs of the model are not one array of real numbers.
    """

    def __init__(self, model: nnx.Module, x: np.ndarray, batch: int):
        graphdef, self._state = nnx.split(model)
        self._model, self._x, self._batch = model, x, batch

        def run(state: Any, x: Array) -> tuple[Array, Any]:
            with tally() as work:
                outputs = evaluated(nnx.merge(graphdef, state), x)
            checks.array("model(x)", outputs, "...", kind=jnp.floating)
            if outputs.shape[:1] != (batch,):
                raise InputError(
                    f"model(x) must have a first axis of {batch} samples, as x has, got shape "
                    f"{outputs.shape}"
                )
            wide = jnp.promote_types(outputs.dtype, jnp.float32)
            return outputs.astype(wide), work.evaluations

        self._compiled = jax.jit(run).lower(self._state, self.inputs(0)).compile()

    @property
    def starts(self) -> list[int]:
        """The first samples of the batches. The last two batches overlap to be full ones."""
        last = len(self._x) - self._batch
        return [*range(0, last, self._batch), last]

    def inputs(self, start: int) -> Array:
        """Return the inputs of a batch.

        Args:
            start: The first sample of the batch.
        """
        return jnp.asarray(self._x[start : start + self._batch])

    def __call__(self, inputs: Array) -> tuple[Array, Array]:
        """Return the outputs of a batch, and the evaluations of velocity fields.

        Args:
            inputs: The inputs of the batch.
        """
        return self._compiled(self._state, inputs)

    @property
    def memory(self) -> int | None:
        """The bytes that the compiled model needs beside its weights, inputs and outputs.

        None where the compiler does not tell.
        """
        analysis = self._compiled.memory_analysis()
        return None if analysis is None else int(analysis.temp_size_in_bytes)

    def outputs(self) -> tuple[np.ndarray, float]:
        """Return the outputs of all samples, and the evaluations in a batch on average.

        Raises:
            InputError: An output is not finite.
            SolveError: A solve failed.
        """
        collected, counts = np.empty(()), []
        for start in self.starts:
            inputs = self.inputs(start)
            rows, evaluations = map(np.asarray, self(inputs))
            if not np.isfinite(rows).all():
                raise self._failure(inputs, rows)
            if not start:
                collected = np.empty((len(self._x), *rows.shape[1:]), rows.dtype)
            collected[start : start + self._batch] = rows
            counts.append(float(evaluations))
        return collected, float(np.mean(counts))

    def _failure(self, inputs: Array, outputs: np.ndarray) -> Exception:
        """Return the error of a batch whose outputs are not finite.

        A solve that fails says why outside of a trace.
        """
        try:
            evaluated(self._model, inputs)
        except SolveError as error:
            return error
        bad = int((~np.isfinite(outputs)).reshape(len(outputs), -1).any(axis=1).sum())
        return InputError(
            f"the outputs of {bad} of {len(outputs)} samples are not finite; look at the inputs, "
            "or take more steps"
        )
