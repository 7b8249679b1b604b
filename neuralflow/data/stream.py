"""Read and decode examples while training, for sets that do not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.checks import ExtraMissing, InputError, InputTypeError
from neuralflow.data.arrays import Data, numeric, shuffled


@dataclass(frozen=True)
class Stream:
    """A source of examples that threads read ahead, in place of arrays.

    `neuralflow.training.fit` takes a stream as its data. The source has random access. The package
    grain runs the threads. The seed of the training shuffles the examples anew every epoch, so that
    two integers, epoch and step, give the position in the stream.

    Attributes:
        examples: Anything with `len` and `[i]` that gives a dict, such as `source(name, split)`.
        transform: A function from such a dict to a dict of NumPy arrays of fixed shapes. The
            default takes the numeric features.
        threads: The number of threads that read.
        ahead: The number of batches that are read ahead.

    Raises:
        InputError: `examples` is empty, `threads` does not lie between 1 and 1024, or `ahead` does
            not lie between 1 and 2^20.
        InputTypeError: `examples` is no such sequence, `transform` is no function, or `threads` or
            `ahead` is no whole number.

    Example:
        >>> import numpy as np
        >>> import neuralflow as nf
        >>> rows = [{"x": np.full(3, i), "y": np.asarray(i % 2)} for i in range(10)]
        >>> stream = nf.data.Stream(rows, transform=lambda row: {"x": row["x"] / 9, "y": row["y"]})
        >>> len(stream), stream.example(9)["x"].tolist()
        (10, [1.0, 1.0, 1.0])
    """

    examples: Any
    transform: Callable[[dict[str, Any]], Data] | None = None
    threads: int = 4
    ahead: int = 8

    def __post_init__(self):
        if isinstance(self.examples, (dict, str, type)) or not (
            hasattr(self.examples, "__len__")
            and hasattr(self.examples, "__getitem__")
            and np.shape(getattr(self.examples, "shape", (1,))) != (0,)
        ):
            raise InputTypeError(
                "examples must be a sequence, with len and [i], "
                f"got a {type(self.examples).__name__}; a dict of arrays goes to fit as it is"
            )
        if not len(self.examples):
            raise InputError("a stream needs at least one example, got an empty sequence")
        if self.transform is not None:
            checks.function("transform", self.transform, 1)
        checks.whole("threads", self.threads, most=1024)
        checks.whole("ahead", self.ahead, most=2**20)

    def __len__(self) -> int:
        """Return the number of examples.

        @public
        """
        return len(self.examples)

    def example(self, i: int) -> Data:
        """Read one example and transform it.

        Args:
            i: The number of the example, counted from zero. Negative numbers count from the end.

        Returns:
            The example, a dict of arrays without a leading axis of samples.

        Raises:
            InputError: There is no such example.
            InputTypeError: `i` is no whole number. Without a transform the example is no dict, or
                the transform returns no dict of arrays.
        """
        checks.whole("i", i, least=-len(self), most=len(self) - 1)
        return self._transformed(self.examples[i])

    def _transformed(self, row: PyTree) -> Data:
        """Return the transformed example as a dict of arrays, and refuse anything else."""
        if self.transform is None and not isinstance(row, dict):
            raise InputTypeError(
                f"an example is a dict of arrays, got a {type(row).__name__}; "
                "give transform=, a function to such a dict"
            )
        arrays = numeric(row) if self.transform is None else self.transform(row)
        if not isinstance(arrays, dict) or not all(
            hasattr(value, "dtype") for value in arrays.values()
        ):
            raise InputTypeError(
                f"transform must return a dict of NumPy arrays, got {arrays!r:.80}"
            )
        return arrays

    def batches(
        self, size: int, seed: int, epoch: int, start: int = 0, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Data]:
        """Return the batches of an epoch from a given one on.

        The last batch of an epoch is left out if it is smaller.

        Args:
            size: The number of samples in a batch.
            seed: The seed of the training.
            epoch: The number of the epoch, counted from zero.
            start: The batch to begin with, counted from zero.
            share: The pair (k, n) gives only part k of n equal parts of every batch, for process k
                of n processes. Processes are counted from zero.

        Returns:
            An iterator over batches, arrays of shape `(size / n, ...)`.

        Raises:
            InputError: The examples of a batch have different shapes, there are fewer than `size`
                examples, `seed`, `epoch` or `start` is negative, or `share` is no part of a batch.
            InputTypeError: An argument is no whole number, or `share` is no pair. Or without a
                transform an example is no dict, or the transform returns no dict of arrays.
            ExtraMissing: grain is not installed; it comes with the extra `data`.
        """
        checks.whole("size", size, most=len(self))
        checks.seed("seed", seed)
        checks.whole("epoch", epoch, least=0, most=2**31 - 1)
        checks.whole("start", start, least=0, most=2**31 - 1)
        if not isinstance(share, list | tuple) or len(share) != 2:
            raise InputTypeError(
                f"share must be a pair (k, n), for part k of n equal parts, got {share!r}"
            )
        part, parts = share
        checks.whole("n in share", parts, most=size)
        checks.whole("k in share", part, least=0, most=parts - 1)
        if size % parts:
            raise InputError(f"share must cut a batch of {size} into equal parts, got {share}")
        return self._batches(size, seed, epoch, start, share)

    def _batches(
        self, size: int, seed: int, epoch: int, start: int, share: tuple[int, int]
    ) -> Iterator[Data]:
        """Yield the batches that `batches` describes."""
        try:
            import grain
        except ImportError as error:
            raise ExtraMissing(
                f"streaming needs grain ({error}); "
                "install the extra: pip install 'neuralflow-jax[data]'"
            ) from None
        order = shuffled(len(self), seed, epoch)

        def batch(k: int) -> Data:
            """Return this process's part of batch k."""
            part = size // share[1]
            first = k * size + share[0] * part
            return self._stacked(order[first : first + part].tolist())

        steps = grain.MapDataset.range(start, len(self) // size).map(batch)
        yield from steps.to_iter_dataset(
            grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.ahead)
        )

    def _stacked(self, chosen: list[int]) -> Data:
        """Read the chosen examples and stack them into a batch.

        Sources of TFDS read several examples at once much faster than one by one.
        """
        several = getattr(self.examples, "__getitems__", None)
        rows = several(chosen) if several else [self.examples[i] for i in chosen]
        transformed = [self._transformed(row) for row in rows]
        like = {key: value.shape for key, value in transformed[0].items()}
        for i, row in zip(chosen, transformed, strict=True):
            if {key: value.shape for key, value in row.items()} != like:
                shown = {key: value.shape for key, value in row.items()}
                raise InputError(
                    f"the examples of a stream must be alike: example {i} has {shown}, "
                    f"example {chosen[0]} {like}; resize them"
                )
        return {key: np.stack([row[key] for row in transformed]) for key in transformed[0]}
