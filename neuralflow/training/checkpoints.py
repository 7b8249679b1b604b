"""Checkpoints of a training, written by orbax: atomic, asynchronous and verified.

A checkpoint holds the arrays of a training and a record of how far the training has come.
When a checkpoint is due stands in `log`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

# This number grows when the meaning of what a checkpoint holds changes.
_FORMAT = 1
_FIELDS = {"format", "digest", "run", "where", "history"}


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says which one, why and what to do."""


class Checkpoints:
    """The checkpoints in a folder: the last ones, and the one with the largest score.

    Arrays are stored as a pytree, everything else as JSON. Reading a checkpoint never executes
    code. A checkpoint appears under its final name when the checkpoint is complete. The arrays
    carry a digest, and reading the arrays checks the digest.

    Args:
        folder: The folder of the checkpoints.
        keep: The number of latest checkpoints to keep. The checkpoint with the largest score is
            kept beside them.

    Raises:
        CheckpointError: The folder cannot be written, or the score of a checkpoint in the folder is
            damaged.
    """

    def __init__(self, folder: Path, keep: int = 3):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

        logging.getLogger("absl").addFilter(_unasked)
        self._ocp, self.folder = ocp, Path(folder).absolute()
        _check_scores(self.folder)

        def score(metrics):
            return metrics["score"]

        best = keeping.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=score,
            preservation_policy=keeping.AnyPreservationPolicy([keeping.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )
        try:
            handlers: Any = {
                "arrays": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            }
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=handlers
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder} cannot hold checkpoints ({_reason(error)}); "
                "give a folder that can be written"
            ) from None

    @property
    def last(self) -> int | None:
        """The latest step that was saved, or None if no step was saved."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step with the largest score, or None if no checkpoint has a score."""
        return self._manager.best_step()

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
        record = {"format": _FORMAT, "digest": _digest(plain), **record}
        try:
            self._manager.save(
                step,
                args=args.Composite(arrays=args.StandardSave(plain), record=args.JsonSave(record)),
                metrics=None if score is None else {"score": score},
                force=True,
            )
        except (
            Exception
        ) as error:  # orbax passes on every error of its storage, also those of an earlier save
            raise self._unwritten(step, error) from None

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

    def _unwritten(self, step: int | None, error: Exception) -> CheckpointError:
        """Describe a failed write, and name the latest checkpoint that is safe."""
        what = "the checkpoint" if step is None else f"the checkpoint of step {step}"
        good = max((int(p.name) for p in self.folder.glob("*") if p.name.isdigit()), default=None)
        kept = (
            "no checkpoint was written before"
            if good is None
            else f"step {good} is safe: mend the cause and resume"
        )
        return CheckpointError(
            f"{what} could not be written to {self.folder} ({_reason(error)}); {kept}"
        )

    def read_record(self, step: int) -> dict[str, Any]:
        """Read the record of a checkpoint: how far the training has come, and its history.

        Args:
            step: The step of the checkpoint.

        Returns:
            The record, with at least the fields format, digest, run, where and history.

        Raises:
            CheckpointError: The checkpoint is damaged, another program wrote it, or a later
                version of this package wrote it.
        """
        args = self._ocp.args
        if not (self.folder / str(step) / "record").is_dir():
            raise CheckpointError(
                f"step {step} in {self.folder} was not written by neuralflow; give another folder"
            )
        try:
            record = self._manager.restore(step, args=args.Composite(record=args.JsonRestore()))[
                "record"
            ]
        except Exception as error:
            raise self._damaged(step, error) from None
        if (
            not isinstance(record, dict)
            or not set(record) >= _FIELDS
            or not isinstance(record["format"], int)
        ):
            raise CheckpointError(
                f"step {step} in {self.folder} was not written by neuralflow; give another folder"
            )
        if record["format"] > _FORMAT:
            raise CheckpointError(
                f"step {step} in {self.folder} has format {record['format']}, "
                f"this version reads up to {_FORMAT}; it was written by neuralflow "
                f"{record.get('version', 'of a later version')}: install that one"
            )
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
        record = self.read_record(step)
        want = {name: _as_data(leaf) for name, leaf in named(like).items()}
        held = self._held(step)
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
        args = self._ocp.args
        try:
            arrays = self._manager.restore(
                step, args=args.Composite(arrays=args.StandardRestore(template))
            )["arrays"]
        except Exception as error:
            raise self._damaged(step, error) from None
        digest = _digest(arrays)
        if record["digest"] and digest and digest != record["digest"]:
            raise self._damaged(step, ValueError("the arrays do not match their digest"))
        leaves = [_as_key(arrays[name], leaf) for name, leaf in named(like).items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _held(self, step: int) -> dict[str, tuple[Any, ...]]:
        """Return the shape and dtype of every array in a checkpoint, by name."""
        try:
            metadata: Any = self._manager.item_metadata(step).arrays
            return {
                name: (tuple(leaf.shape), str(np.dtype(leaf.dtype)))
                for name, leaf in metadata.items()
            }
        except Exception as error:
            raise self._damaged(step, error) from None

    def _damaged(self, step: int, error: Exception) -> CheckpointError:
        """Describe a checkpoint that cannot be read, and name the earlier one to go on from."""
        earlier = [s for s in self._manager.all_steps() if s < step]
        then = (
            f"to go on from step {max(earlier)}"
            if earlier
            else "and start anew: there is no earlier one"
        )
        return CheckpointError(
            f"step {step} in {self.folder} is damaged ({_reason(error)}); "
            f"remove {self.folder / str(step)} {then}"
        )


def _check_scores(folder: Path) -> None:
    """Refuse a folder with a damaged score, and name the checkpoint.

    orbax itself would give up the whole folder.
    """
    for path in sorted(folder.glob("*/metrics/metrics")):
        try:
            json.loads(path.read_text())
        except (OSError, ValueError):
            step = path.parent.parent
            raise CheckpointError(
                f"step {step.name} in {folder} is damaged (its score cannot be read); "
                f"remove {step} and go on without it"
            ) from None


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


def _digest(arrays: dict[str, Any]) -> str:
    """Return a digest of the names and values of arrays.

    The digest is empty if an array is spread over processes, because no process sees the whole
    array then.
    """
    if not all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in arrays.values()):
        return ""
    total = hashlib.sha256()
    for name in sorted(arrays):
        leaf = arrays[name]
        values = leaf if leaf.is_fully_addressable else leaf.addressable_data(0)
        total.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return total.hexdigest()


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


def _unasked(entry: logging.LogRecord) -> bool:
    """Drop the log entry of orbax about checkpoints without a score.

    Checkpoints in the middle of an epoch have no score.
    """
    return "tracked_metric" not in entry.getMessage()
