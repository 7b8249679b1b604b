"""What a training leaves behind in its folder: its history and its checkpoints.

The history, the position of a training and the best epoch stand here. This module also decides
when a checkpoint has a score. What a checkpoint holds and how it is written stands in
`checkpoints`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from neuralflow import checks, files
from neuralflow.checks import InputError
from neuralflow.training.checkpoints import CheckpointError, Checkpoints, Writer, refuse_links


@dataclass
class History:
    """What was measured in a training, one row an epoch.

    `history["loss"]` is the array of a column, with NaN in the epochs without this measurement.
    Iterating over a history gives the names of its columns.

    Attributes:
        rows: One dict an epoch, from the name of a measurement to its value.
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    def __getitem__(self, column: str) -> np.ndarray:
        """Return a column as an array `(epochs,)`; raise KeyError for an unknown name.

        @public
        """
        if not any(column in row for row in self.rows):
            raise KeyError(
                f"there is no column {column!r}; there are {', '.join(self.columns) or 'none yet'}"
            )
        return np.asarray([row.get(column, np.nan) for row in self.rows])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns.

        @public
        """
        return iter(self.columns)

    @property
    def columns(self) -> list[str]:
        """The names of what was measured, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def write(self, folder: Path) -> None:
        """Write history.jsonl and history.csv.

        Args:
            folder: The folder of the two files.
        """
        files.write(folder / "history.jsonl", "".join(_json(row) + "\n" for row in self.rows))
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        files.write(folder / "history.csv", text.getvalue())


def _json(row: dict[str, float]) -> str:
    """Return a row as JSON, with null for numbers that are not finite."""
    return json.dumps({name: value if np.isfinite(value) else None for name, value in row.items()})


def place(folder: str | Path) -> Path:
    """Return the absolute path of a folder, which stays right if the working directory changes.

    Args:
        folder: The path as text or as a path object; a leading ~ is the home directory.

    Raises:
        InputTypeError: `folder` is no path.
    """
    checks.path("folder", folder)
    return Path(folder).expanduser().absolute()


class State(NamedTuple):
    """Everything that changes while training.

    Attributes:
        params: The parameters of the model (nnx.Param).
        rest: The other variables of the model.
        optimiser: The state of the optimiser.
        sums: The metrics of this epoch, added up over its steps so far.
        broken: The first step of this epoch with a loss, gradient or weights that were not finite,
            counted from zero; -1 if there is no such step.
    """

    params: Any
    rest: Any
    optimiser: Any
    sums: dict[str, Any]
    broken: Any


class Weights(NamedTuple):
    """The part of a `State` that belongs to the model.

    Attributes:
        params: The parameters of the model (nnx.Param).
        rest: The other variables of the model.
    """

    params: Any
    rest: Any


class Where(NamedTuple):
    """The position of a training in its data.

    Attributes:
        epoch: The number of finished epochs.
        step: The number of steps done in the present epoch.
        seconds: The seconds that the steps of the present epoch took so far.
    """

    epoch: int
    step: int
    seconds: float


class Log:
    """The history and the checkpoints of a run, on disk if there is a folder.

    A lock on the folder keeps a second process from training in it.

    Args:
        folder: The folder for history and checkpoints, or None to write nothing.
        keep: The number of latest checkpoints to keep.
        resume: Whether to go on from the last checkpoint in the folder.
        identity: The settings that a resumed training must share with the earlier one, by name.

    Raises:
        InputError: `resume` is given without a folder.
        InputTypeError: `folder` is no path.
        CheckpointError: The folder holds a training and `resume` is False, the folder cannot be
            used, or another process is training in it.
    """

    def __init__(
        self, folder: str | Path | None, keep: int, resume: bool, identity: dict[str, Any]
    ):
        self.history, self.identity = History(), identity
        self.before = 0
        self.folder = None if folder is None else place(folder)
        self.store: Checkpoints | None = None
        self.writer: Writer | None = None
        self.lock: Any = None
        self.saved = -1
        if self.folder is None:
            if resume:
                raise InputError("resume goes on from the checkpoints of a folder; give folder=...")
            return
        for name in (".lock", "history.jsonl", "history.csv"):
            refuse_links(self.folder / name, self.folder)
        # The lock comes first: orbax clears away what looks like the remains of a killed training.
        self.lock = _alone(self.folder) if jax.process_index() == 0 else None
        try:
            self.store = Checkpoints(self.folder / "checkpoints")
            if self.store.last is not None and not resume:
                raise CheckpointError(
                    f"{folder} holds a training of {self.store.last} steps already; "
                    "go on with resume=True (--resume), or give another folder"
                )
            self.writer = Writer(self.store, keep)
        except BaseException:
            self.close()
            raise

    def start(self, state: State, rows: list[dict[str, float]]) -> tuple[State, Where]:
        """Return where to begin: at the last checkpoint, or at the given state.

        A checkpoint also sets the history.

        Args:
            state: The state before the first step.
            rows: The rows of the history of an earlier training, whose epochs count as done.

        Returns:
            The state to begin with and its position in the data.

        Raises:
            CheckpointError: The checkpoint has other settings, does not fit `state`, or is damaged.
        """
        self.history.rows, self.before = rows, len(rows)
        if self.store is None or self.store.last is None:
            return state, Where(self.before, 0, 0.0)
        record = self.store.read_record(self.store.last)
        if record["run"] != self.identity:
            pairs = [
                f"{k}={was} (now {now})"
                + (", the arrays of data and of validation" if k == "data" else "")
                for k, was, now in differences(record["run"], self.identity)
            ]
            raise CheckpointError(
                f"{self.folder} was trained with {', '.join(pairs)}; "
                "give the same, or another folder"
            )
        state = self.store.read_arrays(self.store.last, state)
        self.history.rows = record["history"]
        return state, Where(*record["where"])

    def save(self, state: State, where: Where, steps: int) -> None:
        """Write a checkpoint, if there is a folder.

        A checkpoint at the end of an epoch has a score, the negative of the monitored loss. A
        monitored loss that is not finite gives no score.

        Args:
            state: The state to save.
            where: The position of the training in its data.
            steps: The number of steps in an epoch.

        Raises:
            CheckpointError: A checkpoint cannot be written.
        """
        step = where.epoch * steps + where.step
        if self.writer is None or step == self.saved:
            return
        if self.lock is not None and not Path(self.lock.name).exists():
            raise CheckpointError(
                f"the folder {self.folder} was removed while the training ran, and its "
                "checkpoints are gone with it; train again, in a folder that stays"
            )
        record = {
            "version": version("neuralflow-jax"),
            "run": self.identity,
            "where": list(where),
            "history": self.history.rows,
        }
        score = -self._monitored(-1) if where.step == 0 else -np.inf
        self.writer.save(step, state, record, score if np.isfinite(score) else None)
        self.saved = step

    def add(self, row: dict[str, float], state: State, where: Where, steps: int) -> None:
        """Record the end of an epoch: add a row, save a checkpoint, write the history.

        Args:
            row: What was measured in the epoch, by name.
            state: The state at the end of the epoch.
            where: The position of the training in its data.
            steps: The number of steps in an epoch.

        Raises:
            CheckpointError: A checkpoint or the history cannot be written.
        """
        self.history.rows.append(row)
        self.save(state, where, steps)
        if self.folder is not None and jax.process_index() == 0:
            try:
                self.history.write(self.folder)
            except files.WriteError as error:
                raise CheckpointError(str(error)) from None

    def _monitored(self, k: int) -> float:
        """Return the monitored loss of epoch k: the validation loss, or the loss without one.

        A loss that is not finite counts as infinite.
        """
        row = self.history.rows[k]
        value = row.get("validation_loss", row["loss"])
        return value if np.isfinite(value) else np.inf

    def best(self) -> int:
        """Return the number of epochs after which the monitored loss was least.

        The number is 0 if the monitored loss never was finite. The epochs of an earlier training
        do not take part.
        """
        losses = [self._monitored(k) for k in range(self.before, len(self.history.rows))]
        finite = bool(losses) and np.isfinite(min(losses))
        return self.before + 1 + int(np.argmin(losses)) if finite else 0

    def is_late(self, patience: int | None) -> bool:
        """Return whether the monitored loss has not reached a new minimum for too long.

        Args:
            patience: The number of epochs without a new minimum to wait for. None waits for ever.
        """
        last = max(self.best(), self.before)
        return patience is not None and len(self.history.rows) - last >= patience

    def abandon(self) -> None:
        """Drop the checkpoints without waiting, because other processes are gone."""
        self.store = self.writer = None

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            CheckpointError: A checkpoint could not be written.
        """
        if self.writer is not None:
            self.writer.wait()

    def close(self) -> None:
        """Wait until everything is on disk, and release the folder.

        Raises:
            CheckpointError: A checkpoint could not be written.
        """
        try:
            if self.writer is not None:
                self.writer.close()
        finally:
            if self.lock is not None:
                self.lock.close()


def _alone(folder: Path) -> Any:
    """Lock the folder, and refuse a folder in which another process trains."""
    try:
        return files.lock(folder)
    except BlockingIOError:
        raise CheckpointError(
            f"another process is training in {folder}; wait for its end, or give another folder"
        ) from None


def differences(was: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what differs between two tables: the name, the old value and the new value.

    Entries of tables inside are compared one by one. None stands for what is missing.

    Args:
        was: The old table.
        now: The new table.
    """
    pairs = []
    for name in {**was, **now}:
        old, new = was.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            pairs += differences(old, new)
        elif old != new:
            pairs.append((name, old, new))
    return pairs


def existing(folder: Path) -> Checkpoints:
    """Open the checkpoints of a finished, interrupted or running training, to read.

    Args:
        folder: The folder that was given to `fit`.

    Raises:
        CheckpointError: The folder holds no checkpoints, or a link leads out of the folder.
    """
    if not (folder / "checkpoints").is_dir():
        raise CheckpointError(f"{folder} holds no checkpoints; train first: fit(..., folder=...)")
    return Checkpoints(folder / "checkpoints")
