"""Where batches come from, and where they lie: arrays on the device or a stream, on one device or a mesh."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from neuralflow.checks import InputError
from neuralflow.data import Data, Stream
from neuralflow.data.arrays import shuffled

Batch = dict[str, Any]


class Resident:
    """Arrays that stay on the device; an epoch is a permutation of their rows."""

    waited = 0.0

    def __init__(self, data: Data, batch: int, seed: int, mesh: Mesh | None):
        self.arrays, self.seed, self.mesh = placed(data, mesh), seed, mesh
        self.size, self.samples = batch, count_samples(data)
        self.steps = self.samples // batch

    def example(self) -> Batch:
        """The shape of a batch."""
        return {
            name: jax.ShapeDtypeStruct((self.size, *a.shape[1:]), a.dtype)
            for name, a in self.arrays.items()
        }

    def chunks(self, epoch: int, first: int) -> Iterator[tuple[Any, int, int]]:
        """What `batch` reads, and the steps it serves."""
        order = shuffled(self.samples, self.seed, epoch)[: self.steps * self.size]
        rows = put(
            order.reshape(self.steps, self.size).astype(np.int32),
            self.mesh,
            PartitionSpec(None, _axis(self.mesh)),
        )
        yield (self.arrays, rows), first, self.steps

    def batch(self, read: Any, i: Array) -> Batch:
        """Batch i of the epoch."""
        arrays, rows = read
        return spread(jax.tree.map(lambda a: a[rows[i]], arrays), self.mesh)


class Streamed:
    """Batches that are read while the device computes, a few to a call."""

    ahead = 8

    def __init__(self, data: Stream, batch: int, seed: int, mesh: Mesh | None):
        self.stream, self.seed, self.mesh, self.size = data, seed, mesh, batch
        self.samples, self.waited = len(data), 0.0
        self.steps = self.samples // batch
        self.row = data.example(0)

    def example(self) -> Batch:
        """The shape of a batch."""
        return {
            name: jax.ShapeDtypeStruct((self.size, *a.shape), a.dtype)
            for name, a in self.row.items()
        }

    def chunks(self, epoch: int, first: int) -> Iterator[tuple[Any, int, int]]:
        """What `batch` reads, and the steps it serves; always of one size, so that it is compiled once."""
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
        if self.mesh is None:
            return jnp.asarray(rows)
        sharding = NamedSharding(self.mesh, PartitionSpec(None, _axis(self.mesh)))
        return jax.make_array_from_process_local_data(sharding, rows)

    def batch(self, read: Any, i: Array) -> Batch:
        """Batch i of the epoch."""
        arrays, start = read
        return spread(jax.tree.map(lambda a: a[i - start], arrays), self.mesh)


def count_devices(mesh: Mesh | None) -> int:
    """The number of devices that a batch is spread over."""
    return 1 if mesh is None else mesh.shape[mesh.axis_names[0]]


def _axis(mesh: Mesh | None) -> str | None:
    return None if mesh is None else mesh.axis_names[0]


def put(leaf: Any, mesh: Mesh | None, spec: PartitionSpec | None = None) -> Array:
    """The array on the device, or on the mesh: whole on every device, or spread as `spec` says."""
    if mesh is None:
        return jnp.asarray(leaf)
    return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec() if spec is None else spec))


def spec_of(leaf: Any, mesh: Mesh | None) -> PartitionSpec | None:
    """How the caller has spread an array over the devices of the mesh, or None."""
    sharding = getattr(leaf, "sharding", None)
    if (
        mesh is None
        or not isinstance(sharding, NamedSharding)
        or sharding.mesh.axis_names != mesh.axis_names
    ):
        return None
    return sharding.spec


def placed(data: Data, mesh: Mesh | None) -> Batch:
    """A data set, whole on every device."""
    return {name: put(np.asarray(values), mesh) for name, values in data.items()}


def spread(batch: Batch, mesh: Mesh | None) -> Batch:
    """The rows of a batch over the first axis of the mesh."""
    if mesh is None:
        return batch
    return lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(_axis(mesh))))


def count_samples(data: Any, name: str = "data") -> int:
    """The common length of a data set's arrays; ValueError for what is none."""
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
                f"{name}[{key!r}] must be an array of numbers, got {shown}; make one with np.asarray"
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
    """ValueError for a batch that the samples or the devices do not allow."""
    if batch > samples:
        raise InputError(
            f"batch={batch} is more than the {samples} samples there are; give batch={samples} or less"
        )
    devices = count_devices(mesh)
    if batch % devices:
        raise InputError(
            f"batch={batch} cannot be spread over {devices} devices; give a multiple of {devices}"
        )
