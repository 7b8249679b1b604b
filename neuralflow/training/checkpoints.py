"""Checkpoints of a training: arrays and a record of where it stands, by orbax; atomic, asynchronous, verified."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Raised when what a checkpoint holds changes its meaning.
_FORMAT = 1
_FIELDS = {"format", "digest", "run", "where", "history"}


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message says which, why and what to do."""


class Checkpoints:
    """The checkpoints in a folder: the last `keep`, and the one with the largest `score`.

    Arrays travel as a pytree, everything else as JSON; nothing that is read executes code. A checkpoint appears under
    its final name when it is complete; its arrays carry a digest that is checked when they are read.
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
                f"{folder} cannot hold checkpoints ({_reason(error)}); give a folder that can be written"
            ) from None

    @property
    def last(self) -> int | None:
        """The latest step that was saved."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step with the largest score, or None where none was scored."""
        return self._manager.best_step()

    def save(
        self, step: int, arrays: Any, record: dict[str, Any], score: float | None = None
    ) -> None:
        """Starts to write; returns once the arrays are copied. Raises CheckpointError, here or at the next call."""
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
        ) as error:  # orbax hands on whatever its storage raises, from an earlier save too
            raise self._unwritten(step, error) from None

    def wait(self) -> None:
        """Returns when everything is written; CheckpointError where it could not be."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._unwritten(None, error) from None

    def close(self) -> None:
        """Waits and lets go of the folder."""
        self.wait()
        self._manager.close()

    def _unwritten(self, step: int | None, error: Exception) -> CheckpointError:
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
        """Where the training stood."""
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
                f"step {step} in {self.folder} has format {record['format']}, this version reads up to {_FORMAT}; "
                f"it was written by neuralflow {record.get('version', 'of a later version')}: install that one"
            )
        return record

    def read_arrays(self, step: int, like: Any) -> Any:
        """The fields of `like`, a named tuple, in its structure and shardings; CheckpointError where they do not fit."""
        record = self.read_record(step)
        want = {name: _as_data(leaf) for name, leaf in named(like).items()}
        held = self._held(step)
        here = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in want.items()}
        asked = tuple(f".{name}" for name in like._fields)
        theirs = {name: spec for name, spec in held.items() if name.startswith(asked)}
        if here != theirs:
            raise CheckpointError(
                f"step {step} in {self.folder} is of another model, loss or optimiser: {_difference(theirs, here)}; "
                "build what was trained, or give another folder"
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
        """Names, shapes and dtypes of what a checkpoint holds."""
        try:
            metadata: Any = self._manager.item_metadata(step).arrays
            return {
                name: (tuple(leaf.shape), str(np.dtype(leaf.dtype)))
                for name, leaf in metadata.items()
            }
        except Exception as error:
            raise self._damaged(step, error) from None

    def _damaged(self, step: int, error: Exception) -> CheckpointError:
        earlier = [s for s in self._manager.all_steps() if s < step]
        then = (
            f"to go on from step {max(earlier)}"
            if earlier
            else "and start anew: there is no earlier one"
        )
        return CheckpointError(
            f"step {step} in {self.folder} is damaged ({_reason(error)}); remove {self.folder / str(step)} {then}"
        )


def _check_scores(folder: Path) -> None:
    """Names the checkpoint whose score is damaged; orbax itself would give the whole folder up."""
    for path in sorted(folder.glob("*/metrics/metrics")):
        try:
            json.loads(path.read_text())
        except (OSError, ValueError):
            step = path.parent.parent
            raise CheckpointError(
                f"step {step.name} in {folder} is damaged (its score cannot be read); remove {step} and go on without it"
            ) from None


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_data(leaf: Any) -> Any:
    """Random keys as their words: keys cannot be stored."""
    return jax.random.key_data(leaf) if _is_key(leaf) else jnp.asarray(leaf)


def _as_key(data: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(like)) if _is_key(like) else data


def _digest(arrays: dict[str, Any]) -> str:
    """A digest of names and values; empty where an array is spread over processes, none of which sees it whole."""
    if not all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in arrays.values()):
        return ""
    total = hashlib.sha256()
    for name in sorted(arrays):
        leaf = arrays[name]
        values = leaf if leaf.is_fully_addressable else leaf.addressable_data(0)
        total.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return total.hexdigest()


def _difference(held: dict[str, Any], here: dict[str, Any]) -> str:
    def show(spec):
        return f"{spec[1]}{list(spec[0])}"

    for name in {**here, **held}:
        if held.get(name) != here.get(name):
            there = show(held[name]) if name in held else "nothing"
            now = show(here[name]) if name in here else "nothing"
            return f"it holds {there} at {name}, here there is {now}"
    return "the same arrays"


def _reason(error: Exception) -> str:
    """The first line of an error, or the errno's words."""
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
    """Drops orbax's remark on checkpoints in the middle of an epoch, which have no score."""
    return "tracked_metric" not in entry.getMessage()
