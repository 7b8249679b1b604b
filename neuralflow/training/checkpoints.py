"""Checkpoints of a training, written by orbax: atomic, asynchronous and verified.

A checkpoint holds the arrays of a training and a record of how far the training has come.
`Checkpoints` reads them, `Writer` writes them. When a checkpoint is due stands in `log`.
"""

from __future__ import annotations

import inspect
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from neuralflow import files

# This number grows when the meaning of what a checkpoint holds changes.
_FORMAT = 2
_FIELDS = {"format", "step", "score", "arrays", "run", "where", "history"}
_OLD = "old"  # the folder of checkpoints that are on their way out
_PAUSE, _TRIES = 0.1, 20  # seconds between reads that a trainer spoils, and how many of them

T = TypeVar("T")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says which one, why and what to do."""


class Checkpoints:
    """The checkpoints in a folder, to read: nothing in the folder changes.

    Another process may train in the folder meanwhile. Reading a checkpoint never executes code. One
    digest covers the whole record of a checkpoint: its position, history and score, the settings of
    the training, and the digests of its arrays. Reading checks the digests.

    Args:
        folder: The folder of the checkpoints.

    Raises:
        CheckpointError: The folder, or a checkpoint in it, is a link that leads elsewhere.
    """

    def __init__(self, folder: Path):
        self._ocp, self.folder = _orbax(), Path(folder).absolute()
        refuse_links(self.folder, self.folder.parent)
        self.steps()

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, in order.

        Raises:
            CheckpointError: A checkpoint is a link that leads out of the folder.
        """
        found = [path for path in self.folder.glob("*") if path.name.isdigit()]
        for path in found:
            refuse_links(path, self.folder)
        return sorted(int(path.name) for path in found)

    @property
    def last(self) -> int | None:
        """The latest step that was saved, or None if no step was saved."""
        return max(self.steps(), default=None)

    @property
    def best(self) -> int | None:
        """The step with the largest score, or None if no checkpoint has a score.

        Raises:
            CheckpointError: A checkpoint is damaged.
        """
        scores = {step: self.read_record(step)["score"] for step in self.steps()}
        scored = {step: score for step, score in scores.items() if score is not None}
        return max(scored, key=lambda step: (scored[step], step), default=None)

    def newest(self, best: bool, read: Callable[[int], T]) -> tuple[int | None, T | None]:
        """Read the last or the best checkpoint, while a trainer may replace checkpoints.

        Args:
            best: Whether to take the checkpoint with the largest score instead of the last one.
            read: A function of the step that reads the checkpoint.

        Returns:
            The step, and what `read` has returned; a pair of None if there is no such checkpoint.

        Raises:
            CheckpointError: The checkpoint is damaged, or `read` refuses the checkpoint.
        """
        for left in reversed(range(_TRIES)):
            here = set(self.steps())
            try:
                step = self.best if best else self.last
                return (None, None) if step is None else (step, read(step))
            except CheckpointError:
                time.sleep(_PAUSE)
                if not left or here <= set(self.steps()):
                    raise  # no trainer has cleared a checkpoint away
        raise AssertionError("the last try returns or raises")

    def read_record(self, step: int) -> dict[str, Any]:
        """Read the record of a checkpoint: how far the training has come, and its history.

        Args:
            step: The step of the checkpoint.

        Returns:
            The record, with at least the fields format, step, score, arrays, run, where and
            history.

        Raises:
            CheckpointError: The checkpoint is damaged, another program wrote it, or another
                version of this package wrote it.
        """
        foreign = CheckpointError(
            f"step {step} in {self.folder} was not written by neuralflow; give another folder"
        )
        if not (self.folder / str(step) / "record").is_dir():
            raise foreign
        args = self._ocp.args.JsonRestore()
        held = self._read(step, "record", self._ocp.JsonCheckpointHandler(), args)
        if not isinstance(held, dict) or not {"format", "digest"} <= set(held):
            raise foreign
        if held["format"] != _FORMAT and isinstance(held["format"], int):
            raise CheckpointError(
                f"step {step} in {self.folder} has format {held['format']}, "
                f"this version reads format {_FORMAT}; it was written by neuralflow "
                f"{held.get('version', 'of another version')}: install that one"
            )
        if not set(held) >= _FIELDS:
            raise foreign
        try:
            record = files.unseal(held)
        except ValueError:
            raise self._damaged(
                step, ValueError("record and arrays do not match their digest")
            ) from None
        if record["step"] != step:
            raise self._damaged(step, ValueError(f"it is a copy of step {record['step']}"))
        return record

    def read_arrays(self, step: int, like: PyTree) -> Any:
        """Read the arrays of a checkpoint.

        Args:
            step: The step of the checkpoint.
            like: A named tuple of pytrees with the names, shapes, dtypes and shardings to read. A
                checkpoint may hold further fields.

        Returns:
            The arrays, in the structure and the shardings of `like`.

        Raises:
            CheckpointError: The arrays do not fit `like`, or the checkpoint is damaged.
        """
        digests = self.read_record(step)["arrays"]
        want = {name: _as_data(leaf) for name, leaf in named(like).items()}
        held = {name: (tuple(of["shape"]), of["dtype"]) for name, of in digests.items()}
        here = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in want.items()}
        asked = tuple(f".{name}" for name in like._fields)
        theirs = {name: spec for name, spec in held.items() if name.startswith(asked)}
        if here != theirs:
            raise CheckpointError(
                f"step {step} in {self.folder} is of another model, loss or optimiser: "
                f"{_difference(theirs, here)}; build what was trained, or give another folder"
            )
        alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def sharding(name):
            return want[name].sharding if name in want else alone

        template = {
            name: jax.ShapeDtypeStruct(*spec, sharding=sharding(name))
            for name, spec in held.items()
        }
        args = self._ocp.args.StandardRestore(template)
        arrays = self._read(step, "arrays", self._ocp.StandardCheckpointHandler(), args)
        if not all(_agrees(arrays[name], of["pieces"]) for name, of in digests.items()):
            raise self._damaged(step, ValueError("the arrays do not match their digest"))
        leaves = [_as_key(arrays[name], leaf) for name, leaf in named(like).items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _read(self, step: int, item: str, handler: Any, args: Any) -> Any:
        """Read one item of a checkpoint through orbax; a failure is a damaged checkpoint."""
        reader = self._ocp.Checkpointer(handler)
        try:
            with _without_echoes():
                return reader.restore(self.folder / str(step) / item, args=args)
        except Exception as error:
            raise self._damaged(step, error) from None
        finally:
            reader.close()

    def check_scores(self) -> None:
        """Refuse a folder with a score that is not the one of its record.

        orbax keeps the best checkpoint by these scores, and gives up the whole folder if one of
        them cannot be read.

        Raises:
            CheckpointError: A score or a record is damaged.
        """
        for step in self.steps():
            path = self.folder / str(step) / "metrics" / "metrics"
            try:
                held = json.loads(path.read_text())["score"] if path.exists() else None
            except (OSError, ValueError, KeyError, TypeError):
                held = "damaged"
            if (self.folder / str(step) / "record").is_dir() and held == "damaged":
                raise self._damaged(step, ValueError("its score cannot be read"))
            if held != self.read_record(step)["score"]:
                raise self._damaged(step, ValueError("its score is not that of its record"))

    def _damaged(self, step: int, error: Exception) -> CheckpointError:
        """Describe a checkpoint that cannot be read, and name the earlier one to go on from."""
        earlier = [s for s in self.steps() if s < step]
        then = (
            f"to go on from step {max(earlier)}"
            if earlier
            else "and start anew: there is no earlier one"
        )
        return CheckpointError(
            f"step {step} in {self.folder} is damaged ({_reason(error)}); "
            f"remove {self.folder / str(step)} {then}"
        )


class Writer:
    """Writes checkpoints into a folder: keeps the last ones, and the one with the largest score.

    Arrays are stored as a pytree, everything else as JSON. A checkpoint appears under its final
    name when the checkpoint is complete.

    Args:
        kept: The checkpoints that are in the folder already.
        keep: The number of latest checkpoints to keep. The checkpoint with the largest score is
            kept beside them.

    Raises:
        CheckpointError: The folder cannot be written, or the score of a checkpoint in the folder is
            damaged.
    """

    def __init__(self, kept: Checkpoints, keep: int):
        from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

        ocp, self._kept = _orbax(), kept
        self._ocp = ocp
        refuse_links(kept.folder / _OLD, kept.folder)
        self._clear()
        kept.check_scores()

        def score(metrics):
            return metrics["score"]

        best = keeping.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=score,
            preservation_policy=keeping.AnyPreservationPolicy([keeping.LatestN(keep), best]),
            cleanup_tmp_directories=True,
            todelete_subdir=_OLD,
        )
        handlers: Any = {
            "arrays": ocp.StandardCheckpointHandler(),
            "record": ocp.JsonCheckpointHandler(),
        }
        try:
            self._manager = ocp.CheckpointManager(
                kept.folder, options=options, item_handlers=handlers
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{kept.folder.parent} cannot hold checkpoints ({_reason(error)}); "
                "give a folder that can be written"
            ) from None

    def save(
        self, step: int, arrays: PyTree, record: dict[str, Any], score: float | None = None
    ) -> None:
        """Start to write a checkpoint, and return once the arrays are copied.

        Args:
            step: The number of training steps so far, which names the checkpoint.
            arrays: A pytree of arrays.
            record: Plain data to store as JSON.
            score: The score of the checkpoint, larger for better. None gives no score.

        Raises:
            CheckpointError: The checkpoint cannot be written. A failure in the background is raised
                at the next call.
        """
        args, plain = self._ocp.args, {name: _as_data(leaf) for name, leaf in named(arrays).items()}
        own = {"format": _FORMAT, "step": step, "score": score, "arrays": _digests(plain)}
        sealed = files.seal({**own, **record})
        try:
            self._manager.save(
                step,
                args=args.Composite(arrays=args.StandardSave(plain), record=args.JsonSave(sealed)),
                metrics=None if score is None else {"score": score},
                force=True,
            )
        except (
            Exception
        ) as error:  # orbax passes on every error of its storage, also those of an earlier save
            raise self._unwritten(step, error) from None
        self._clear()

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            CheckpointError: A checkpoint could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._unwritten(None, error) from None

    def close(self) -> None:
        """Wait until everything is written, and release the folder.

        Raises:
            CheckpointError: A checkpoint could not be written.
        """
        try:
            self.wait()
        finally:
            # Threads of orbax that wait for the end would outlive a failure, and warn.
            with suppress(Exception):
                self._manager.close()
            self._clear()

    def _clear(self) -> None:
        """Delete the old checkpoints that orbax has put aside.

        orbax puts a checkpoint aside in one operation. Deleting it takes longer, and a process that
        is killed meanwhile leaves a part.
        """
        if jax.process_index() == 0:
            for path in (self._kept.folder / _OLD).glob("*"):
                shutil.rmtree(path, ignore_errors=True)

    def _unwritten(self, step: int | None, error: Exception) -> CheckpointError:
        """Describe a failed write, and name the latest checkpoint that is safe."""
        what = "the checkpoint" if step is None else f"the checkpoint of step {step}"
        good = self._kept.last
        kept = (
            "no checkpoint was written before"
            if good is None
            else f"step {good} is safe: mend the cause and resume"
        )
        return CheckpointError(
            f"{what} could not be written to {self._kept.folder} ({_reason(error)}); {kept}"
        )


def is_echo(raised: Any) -> bool:
    """Tell whether an error that Python cannot raise comes from an asynchronous read or write.

    Args:
        raised: The argument of `sys.unraisablehook`.
    """
    closed = str(raised.exc_value) == "Event loop is closed"
    return closed or inspect.iscoroutine(raised.object)


@contextmanager
def _without_echoes() -> Iterator[None]:
    """Silence what the other reads of a checkpoint say where one of them has failed.

    The error itself is raised, and told in one sentence.
    """
    before = sys.unraisablehook
    sys.unraisablehook = lambda raised: None if is_echo(raised) else before(raised)
    try:
        yield
    finally:
        sys.unraisablehook = before


def _orbax() -> Any:
    """Return orbax, without what its threads log: `Writer` raises the same errors in one sentence.

    orbax logs through absl.
    """
    import orbax.checkpoint

    logging.getLogger("absl").addFilter(_not_of_orbax)
    return orbax.checkpoint


def refuse_links(path: Path, folder: Path) -> None:
    """Refuse a link that leads out of a folder: what lies there belongs to somebody else.

    Args:
        path: The path of a file or a folder, which may be missing.
        folder: The folder in which the path must lie.

    Raises:
        CheckpointError: The path is a link to a place outside the folder.
    """
    if path.is_symlink() and not files.inside(path, folder):
        raise CheckpointError(
            f"{path} is a link out of its folder, and is not followed; remove the link, "
            "or give another folder"
        )


def named(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a pytree by their paths.

    Args:
        tree: Any pytree.

    Returns:
        A dict from the path of a leaf, as text, to the leaf.
    """
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _is_key(leaf: PyTree) -> bool:
    """Return whether a leaf is an array of random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_data(leaf: PyTree) -> Any:
    """Return a leaf as an array that can be stored: random keys become their whole numbers."""
    return jax.random.key_data(leaf) if _is_key(leaf) else jnp.asarray(leaf)


def _as_key(data: Any, like: PyTree) -> Any:
    """Return stored data as random keys if `like` holds random keys."""
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(like)) if _is_key(like) else data


Piece = tuple[tuple[int, int], ...]
"""A part of an array: its first index and the index behind its last one, along every axis."""


def _digests(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return shape, dtype and the digests of the pieces of every array, by name.

    An array that a process sees whole is one piece. An array that is spread over processes has one
    piece for each of its shards: the process with the first device of a shard computes its digest,
    and all processes exchange the digests.
    """
    owners = [(name, *item) for name, leaf in arrays.items() for item in _owners(leaf).items()]
    mine = {
        (name, piece): files.digest(values)
        for name, leaf in arrays.items()
        for piece, values in _mine(leaf)
    }
    marks = [mine.get((name, piece), "0" * 64) for name, piece, _ in owners]
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        rows = np.frombuffer("".join(marks).encode(), np.uint8).reshape(-1, 64)
        every = np.asarray(multihost_utils.process_allgather(rows)).reshape(-1, *rows.shape)
        marks = [every[owner, i].tobytes().decode() for i, (*_, owner) in enumerate(owners)]
    record: dict[str, Any] = {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "pieces": []}
        for name, leaf in arrays.items()
    }
    for (name, piece, _), mark in zip(owners, marks, strict=True):
        record[name]["pieces"].append([list(map(list, piece)), mark])
    return record


def _owners(leaf: Any) -> dict[Piece, int]:
    """Return the pieces of an array, with the process that has the first device of each."""
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return {tuple((0, size) for size in leaf.shape): 0}
    owners: dict[Piece, int] = {}
    places = leaf.sharding.devices_indices_map(leaf.shape)
    for device in sorted(places, key=lambda device: device.id):
        owners.setdefault(_piece(places[device], leaf.shape), device.process_index)
    return owners


def _mine(leaf: Any) -> list[tuple[Piece, Any]]:
    """Return the pieces of an array that this process computes digests of, with their values."""
    if leaf.is_fully_addressable:
        return [(piece, leaf) for piece in _owners(leaf)]
    if leaf.is_fully_replicated:
        return [(piece, leaf.addressable_data(0)) for piece in _owners(leaf)]
    mine = {piece for piece, process in _owners(leaf).items() if process == jax.process_index()}
    held = {_piece(shard.index, leaf.shape): shard.data for shard in leaf.addressable_shards}
    return [(piece, held[piece]) for piece in held if piece in mine]


def _piece(index: tuple[slice, ...], shape: tuple[int, ...]) -> Piece:
    """Return where a shard begins and ends along every axis."""
    spans = [part.indices(size) for part, size in zip(index, shape, strict=True)]
    return tuple((start, stop) for start, stop, _ in spans)


def _agrees(leaf: Any, pieces: list[Any]) -> bool:
    """Return whether what this process sees of an array has the digests that were stored."""
    stored = {tuple(map(tuple, piece)): mark for piece, mark in pieces}
    if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        if set(stored) == set(_owners(leaf)):
            return all(files.digest(values) == stored[piece] for piece, values in _mine(leaf))
        from jax.experimental import multihost_utils

        # The shards are others than those that were stored: they are put together again.
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    elif not leaf.is_fully_addressable:
        leaf = leaf.addressable_data(0)
    whole = np.asarray(leaf)
    covered = sum(int(np.prod([b - a for a, b in piece])) for piece in stored)
    return covered == whole.size and all(
        files.digest(whole[tuple(slice(a, b) for a, b in piece)]) == mark
        for piece, mark in stored.items()
    )


def _difference(held: dict[str, Any], here: dict[str, Any]) -> str:
    """Describe the first array that differs between a checkpoint and the present model."""

    def show(spec):
        return f"{spec[1]}{list(spec[0])}"

    for name in {**here, **held}:
        if held.get(name) != here.get(name):
            there = show(held[name]) if name in held else "nothing"
            now = show(here[name]) if name in here else "nothing"
            return f"it holds {there} at {name}, here there is {now}"
    return "the same arrays"


def _reason(error: Exception) -> str:
    """Return the cause of an error as short text: a known system message, or its own words."""
    text = getattr(error, "strerror", None) or str(error)
    for known in (
        "No space left on device",
        "Disk quota exceeded",
        "Permission denied",
        "Read-only file system",
    ):
        if known in str(error):
            return known
    return " ".join(text.split())[:160] or type(error).__name__


def _not_of_orbax(entry: logging.LogRecord) -> bool:
    """Return whether a log entry comes from elsewhere than orbax."""
    return "orbax" not in Path(entry.pathname).parts
