"""Examples that are read and decoded while training, for sets that do not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.data.arrays import Data, numeric, shuffled


@dataclass(frozen=True)
class Stream:
    """A random-access source of examples, read ahead by threads (grain); give it to `fit` in place of arrays.

    `examples`: anything with `len` and `[i]` that gives a dict, such as `source(name, split)`. `transform`: from such
    a dict to a dict of arrays of fixed shapes, in NumPy (default: the numeric features). Shuffled anew every epoch by
    the seed of the training, so the position in it is two integers.
    """

    examples: Any
    transform: Callable[[dict[str, Any]], Data] | None = None
    threads: int = 4
    ahead: int = 8

    def __post_init__(self):
        if isinstance(self.examples, (dict, str)) or not (
            hasattr(self.examples, "__len__") and hasattr(self.examples, "__getitem__")
        ):
            raise InputTypeError(
                f"a stream reads a sequence of examples, with len and [i], got a {type(self.examples).__name__}; "
                "a dict of arrays goes to fit as it is"
            )
        if not len(self.examples):
            raise InputError("a stream needs at least one example, got an empty sequence")
        if self.transform is not None:
            checks.function("transform", self.transform)
        checks.whole("threads", self.threads)
        checks.whole("ahead", self.ahead)

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, i: int) -> Data:
        """One example, transformed."""
        return self._transformed(self.examples[i])

    def _transformed(self, row: Any) -> Data:
        if self.transform is None and not isinstance(row, dict):
            raise InputTypeError(
                f"an example is a dict of arrays, got a {type(row).__name__}; give transform=, a function to such a dict"
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
        """The batches of an epoch from the given one on; the last, smaller one is left out.

        `share` (k, n): only the k-th of n equal parts of every batch, for the k-th of n processes.
        """
        try:
            import grain
        except ImportError as error:
            raise ImportError(
                f"streaming needs grain ({error}); install the extra: pip install 'neuralflow-jax[data]'"
            ) from None
        order = shuffled(len(self), seed, epoch)

        def batch(k: int) -> Data:
            part = size // share[1]
            first = k * size + share[0] * part
            return self._stacked(order[first : first + part].tolist())

        steps = grain.MapDataset.range(start, len(self) // size).map(batch)
        yield from steps.to_iter_dataset(
            grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.ahead)
        )

    def _stacked(self, chosen: list[int]) -> Data:
        """The examples of a batch; sources of TFDS read several at once much faster than one by one."""
        several = getattr(self.examples, "__getitems__", None)
        rows = several(chosen) if several else [self.examples[i] for i in chosen]
        transformed = [self._transformed(row) for row in rows]
        like = {key: value.shape for key, value in transformed[0].items()}
        for i, row in zip(chosen, transformed, strict=True):
            if {key: value.shape for key, value in row.items()} != like:
                shown = {key: value.shape for key, value in row.items()}
                raise InputError(
                    f"the examples of a stream must be alike: example {i} has {shown}, example {chosen[0]} {like}; resize them"
                )
        return {key: np.stack([row[key] for row in transformed]) for key in transformed[0]}
