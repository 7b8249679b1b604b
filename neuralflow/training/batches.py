"""Where batches come from, and where batches lie.

Batches come from arrays on the device (`Resident`) or from a stream (`Streamed`). Batches lie on
one device or on a mesh of devices. The checks of data, batch size and number of devices stand here
too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from neuralflow.checks import InputError
from neuralflow.data import Data, Stream
from neuralflow.data.arrays import shuffled

Batch = dict[str, Any]
"""Arrays by name; the first axis of every array counts the samples of the batch."""


class Resident:
    """A data set whose arrays stay on the device; an epoch is a permutation of the rows.

    Args:
        data: The data set, arrays of shape `(samples, ...)`.
        batch: The number of samples in a batch.
        seed: The seed of the permutations.
        mesh: The mesh that holds the arrays, whole on every device, or None for one device.

    Attributes:
        steps: The number of full batches in an epoch.
        waited: The seconds that the device has waited for data, here always zero.
    """

    waited = 0.0

    def __init__(self, data: Data, batch: int, seed: int, mesh: Mesh | None):
        self.arrays, self.seed, self.mesh = placed(data, mesh), seed, mesh
        self.size, self.samples = batch, count_samples(data)
        self.steps = self.samples // batch

    def example(self) -> Batch:
        """Return the shapes and dtypes of a batch, with values of its whole numbers."""
        return example(self.arrays, self.size)

    def chunks(self, epoch: int, first: int) -> Iterator[tuple[Any, int, int]]:
        """Yield what `batch` reads, and the steps for which `batch` can read it.

        An epoch has one chunk here: all arrays with the order of their rows.

        Args:
            epoch: The number of the epoch, counted from zero.
            first: The first step of the epoch to serve, counted from zero.

        Returns:
            An iterator over triples: the argument `read` of `batch`, the first step that it
            serves, and the step after the last one that it serves.
        """
        order = shuffled(self.samples, self.seed, epoch)[: self.steps * self.size]
        rows = put(
            order.reshape(self.steps, self.size).astype(np.int32),
            self.mesh,
            PartitionSpec(None, _axis(self.mesh)),
        )
        yield (self.arrays, rows), first, self.steps

    def batch(self, read: Any, i: Array) -> Batch:
        """Select batch i of the epoch inside a compiled step.

        Args:
            read: A chunk from `chunks`.
            i: The step of the epoch, counted from zero.

        Returns:
            The batch, with its rows spread over the mesh if there is a mesh.
        """
        arrays, rows = read
        return spread(jax.tree.map(lambda a: a[rows[i]], arrays), self.mesh)


class Streamed:
    """A stream whose batches are read while the device computes.

    One chunk holds `ahead` batches, so that one compiled call makes several steps.

    Args:
        data: The stream of examples.
        batch: The number of samples in a batch.
        seed: The seed of the order of the examples.
        mesh: The mesh over which the rows of a batch are spread, or None for one device.

    Attributes:
        ahead: The number of batches in a chunk.
        steps: The number of full batches in an epoch.
        waited: The seconds that the training has waited for the stream so far.
    """

    ahead = 8

    def __init__(self, data: Stream, batch: int, seed: int, mesh: Mesh | None):
        self.stream, self.seed, self.mesh, self.size = data, seed, mesh, batch
        self.samples, self.waited = len(data), 0.0
        self.steps = self.samples // batch
        self.row = data.example(0)

    def example(self) -> Batch:
        """Return the shapes and dtypes of a batch, without values."""
        return {
            name: jax.ShapeDtypeStruct((self.size, *a.shape), a.dtype)
            for name, a in self.row.items()
        }

    def chunks(self, epoch: int, first: int) -> Iterator[tuple[Any, int, int]]:
        """Yield what `batch` reads, and the steps for which `batch` can read it.

        Every chunk has the same size, so that the step is compiled once. Copies of the last batch
        fill the last chunk of an epoch. On a mesh, each process reads only its part of every batch.

        Args:
            epoch: The number of the epoch, counted from zero.
            first: The first step of the epoch to serve, counted from zero.

        Returns:
            An iterator over triples: the argument `read` of `batch`, the first step that it
            serves, and the step after the last one that it serves.
        """
        share = (jax.process_index(), jax.process_count()) if self.mesh is not None else (0, 1)
        batches = iter(self.stream.batches(self.size, self.seed, epoch, first, share))
        for start in range(first, self.steps, self.ahead):
            began = time.perf_counter()
            chunk = [next(batches) for _ in range(min(self.ahead, self.steps - start))]
            self.waited += time.perf_counter() - began
            chunk += [chunk[-1]] * (self.ahead - len(chunk))
            read = jax.tree.map(lambda *rows: self._put(np.stack(rows)), *chunk)
            yield (read, start), start, min(start + self.ahead, self.steps)

    def _put(self, rows: np.ndarray) -> Array:
        """Put stacked batches `(ahead, rows, ...)` on the device, or their rows on the mesh."""
        if self.mesh is None:
            return jnp.asarray(rows)
        sharding = NamedSharding(self.mesh, PartitionSpec(None, _axis(self.mesh)))
        return jax.make_array_from_process_local_data(sharding, rows)

    def batch(self, read: Any, i: Array) -> Batch:
        """Select batch i of the epoch inside a compiled step.

        Args:
            read: A chunk from `chunks`.
            i: The step of the epoch, counted from zero.

        Returns:
            The batch, with its rows spread over the mesh if there is a mesh.
        """
        arrays, start = read
        return spread(jax.tree.map(lambda a: a[i - start], arrays), self.mesh)


def example(arrays: Batch, size: int) -> Batch:
    """Return a batch to trace a loss on: shapes and dtypes, with values of whole numbers.

    The rows with the smallest and the largest whole number come first, so that a loss can refuse
    labels out of range while the loss is traced.

    Args:
        arrays: The data set, arrays of shape `(samples, ...)`.
        size: The number of samples in the batch, at most the number of samples there are.
    """
    batch: Batch = {}
    for name, values in arrays.items():
        batch[name] = jax.ShapeDtypeStruct((size, *values.shape[1:]), values.dtype)
        if jnp.issubdtype(values.dtype, jnp.integer) and values.size:
            held = np.asarray(values)
            flat = held.reshape(len(held), -1)
            ends = [int(flat.min(axis=1).argmin()), int(flat.max(axis=1).argmax())]
            ends = ends if flat[ends[0]].min() < 0 else ends[::-1]
            rows = [*ends, *range(size)][:size]
            batch[name] = jnp.asarray(held[rows])
    return batch


def traced(function: Callable[..., Any], *arguments: PyTree, batch: Batch) -> tuple[Any, Any]:
    """Trace a function on a batch of `example`, where known values stay known.

    Args:
        function: A function of the arguments and of a batch.
        *arguments: The first arguments, arrays or shapes.
        batch: The batch.

    Returns:
        The program, and the shapes and dtypes of what the function returns.
    """
    known = {name: leaf for name, leaf in batch.items() if isinstance(leaf, Array)}
    rest = {name: leaf for name, leaf in batch.items() if name not in known}

    def with_known(rest: Batch, *arguments: PyTree) -> Any:
        return function(*arguments, {name: {**rest, **known}[name] for name in batch})

    return jax.make_jaxpr(with_known, return_shape=True)(rest, *arguments)


def count_devices(mesh: Mesh | None) -> int:
    """Return the number of devices over which a batch is spread.

    Args:
        mesh: The mesh, or None for one device. Batches are spread over the first axis of the mesh.
    """
    return 1 if mesh is None else mesh.shape[mesh.axis_names[0]]


def _axis(mesh: Mesh | None) -> str | None:
    """Return the name of the first axis of the mesh, or None without a mesh."""
    return None if mesh is None else mesh.axis_names[0]


def put(leaf: PyTree, mesh: Mesh | None, spec: PartitionSpec | None = None) -> Array:
    """Put an array on the device or on the mesh.

    Args:
        leaf: The array.
        mesh: The mesh, or None for the default device.
        spec: How the array is spread over the mesh. None keeps the array whole on every device.

    Returns:
        The array as a JAX array.
    """
    if mesh is None:
        return jnp.asarray(leaf)
    return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec() if spec is None else spec))


def spec_of(leaf: PyTree, mesh: Mesh | None) -> PartitionSpec | None:
    """Return how the caller has spread an array over the devices of the mesh.

    Args:
        leaf: The array.
        mesh: The mesh, or None.

    Returns:
        The partition of the array. None if there is no mesh, or if the array does not lie on a mesh
        with the same axis names.
    """
    sharding = getattr(leaf, "sharding", None)
    if (
        mesh is None
        or not isinstance(sharding, NamedSharding)
        or sharding.mesh.axis_names != mesh.axis_names
    ):
        return None
    return sharding.spec


def placed(data: Data, mesh: Mesh | None) -> Batch:
    """Put a data set on the device, or whole on every device of the mesh.

    Args:
        data: The data set, a dict of arrays.
        mesh: The mesh, or None for the default device.

    Returns:
        The same dict with JAX arrays.
    """
    return {name: put(np.asarray(values), mesh) for name, values in data.items()}


def spread(batch: Batch, mesh: Mesh | None) -> Batch:
    """Spread the rows of a batch over the first axis of the mesh.

    Args:
        batch: The batch, arrays with one leading axis.
        mesh: The mesh, or None. Without a mesh the batch is returned as it is.

    Returns:
        The batch with a sharding constraint on every array.
    """
    if mesh is None:
        return batch
    return lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(_axis(mesh))))


def count_samples(data: Any, name: str = "data") -> int:
    """Return the number of samples in a data set, the common length of its arrays.

    Args:
        data: The data set, a dict of arrays `(samples, ...)` by name.
        name: The name of the data set in messages.

    Raises:
        InputError: `data` is no dict of arrays of numbers, the arrays have different lengths, or
            there are no samples.
    """
    if not isinstance(data, dict):
        also = (
            ", or a Stream"
            if name == "data"
            else "; read a stream's examples with nf.data.load or stack them"
        )
        raise InputError(f"{name} is a dict of arrays{also}, got a {type(data).__name__}")
    if not data or not all(isinstance(key, str) for key in data):
        raise InputError(
            f"{name} is a dict of arrays by name, such as x and y, got the keys {list(data)}"
        )
    lengths = {}
    for key, values in data.items():
        if not hasattr(values, "dtype") or not (
            np.dtype(values.dtype).kind in "biufc" or jnp.issubdtype(values.dtype, jnp.inexact)
        ):
            shown = getattr(values, "dtype", f"a {type(values).__name__}")
            raise InputError(
                f"{name}[{key!r}] must be an array of numbers, got {shown}; "
                "make one with np.asarray"
            )
        if not np.ndim(values):
            raise InputError(f"{name}[{key!r}] must have a leading axis of samples, got one number")
        lengths[key] = len(values)
    if len(set(lengths.values())) > 1:
        raise InputError(f"the arrays of {name} must have one length, got {lengths}")
    if not next(iter(lengths.values())):
        raise InputError(f"{name} holds no samples; its arrays have length 0")
    return next(iter(lengths.values()))


def check_batch(samples: int, batch: int, mesh: Mesh | None) -> None:
    """Refuse a batch size that the samples or the devices do not allow.

    Args:
        samples: The number of samples in the data set.
        batch: The number of samples in a batch.
        mesh: The mesh over which a batch is spread, or None for one device.

    Raises:
        InputError: `batch` is larger than `samples`, or `batch` is no multiple of the number of
            devices.
    """
    if batch > samples:
        raise InputError(
            f"batch={batch} is more than the {samples} samples there are; "
            f"give batch={samples} or less"
        )
    devices = count_devices(mesh)
    if batch % devices:
        raise InputError(
            f"batch={batch} cannot be spread over {devices} devices; give a multiple of {devices}"
        )
