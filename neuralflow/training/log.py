"""What a training leaves behind in its folder: its history, and when a checkpoint is due. What one holds: `checkpoints`."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from neuralflow import checks, files
from neuralflow.checks import InputError
from neuralflow.training.checkpoints import CheckpointError, Checkpoints


@dataclass
class History:
    """What was measured, one row an epoch. `history["loss"]` is the array of a column, NaN where it was not measured."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def __getitem__(self, column: str) -> np.ndarray:
        if not any(column in row for row in self.rows):
            raise KeyError(
                f"there is no column {column!r}; there are {', '.join(self.columns) or 'none yet'}"
            )
        return np.asarray([row.get(column, np.nan) for row in self.rows])

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    @property
    def columns(self) -> list[str]:
        """Names of what was measured, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def write(self, folder: Path) -> None:
        """history.jsonl and history.csv in the folder."""
        files.write(folder / "history.jsonl", "".join(_json(row) + "\n" for row in self.rows))
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        files.write(folder / "history.csv", text.getvalue())


def _json(row: dict[str, float]) -> str:
    """A row as JSON, which knows no NaN."""
    return json.dumps({name: value if np.isfinite(value) else None for name, value in row.items()})


def place(folder: Any) -> Path:
    """The folder a caller named, wherever the program goes later."""
    checks.instance("folder", folder, (str, os.PathLike), "a path")
    return Path(folder).expanduser().absolute()


class State(NamedTuple):
    """All that changes while training. `sums`: the metrics of this epoch so far; `broken`: the first step of it whose
    loss or gradient was not finite, -1 for none."""

    params: Any
    rest: Any
    optimiser: Any
    sums: dict[str, Any]
    broken: Any


class Weights(NamedTuple):
    """The part of a `State` that is a model."""

    params: Any
    rest: Any


class Where(NamedTuple):
    """The position in the data: epochs done, steps done in this one, and the seconds these took."""

    epoch: int
    step: int
    seconds: float


class Log:
    """History and checkpoints of a run, on disk where there is a folder."""

    def __init__(self, folder: Any, keep: int, resume: bool, identity: dict[str, Any]):
        self.history, self.identity = History(), identity
        self.folder = None if folder is None else place(folder)
        self.store: Checkpoints | None = None
        self.lock: Any = None
        if self.folder is None:
            if resume:
                raise InputError("resume goes on from the checkpoints of a folder; give folder=...")
            return
        # Before orbax clears away what it takes for the remains of a training that was killed.
        self.lock = _alone(self.folder) if jax.process_index() == 0 else None
        try:
            self.store = Checkpoints(self.folder / "checkpoints", keep)
            if self.store.last is not None and not resume:
                raise CheckpointError(
                    f"{folder} holds a training of {self.store.last} steps already; go on with resume=True (--resume), or give another folder"
                )
        except BaseException:
            self.close()
            raise

    def start(self, state: State) -> tuple[State, Where]:
        """Where to begin: at the last checkpoint, or at the beginning."""
        if self.store is None or self.store.last is None:
            return state, Where(0, 0, 0.0)
        record = self.store.read_record(self.store.last)
        if record["run"] != self.identity:
            pairs = [
                f"{k}={record['run'].get(k)} (now {v})"
                for k, v in self.identity.items()
                if record["run"].get(k) != v
            ]
            raise CheckpointError(
                f"{self.folder} was trained with {', '.join(pairs)}; give the same, or another folder"
            )
        state = self.store.read_arrays(self.store.last, state)
        self.history.rows = record["history"]
        return state, Where(*record["where"])

    def save(self, state: State, where: Where, steps: int) -> None:
        """A checkpoint, scored where an epoch has just ended."""
        if self.store is None:
            return
        record = {
            "version": version("neuralflow-jax"),
            "run": self.identity,
            "where": list(where),
            "history": self.history.rows,
        }
        score = (
            -self._monitored(-1) if where.step == 0 and np.isfinite(self._monitored(-1)) else None
        )
        self.store.save(where.epoch * steps + where.step, state, record, score)

    def add(self, row: dict[str, float], state: State, where: Where, steps: int) -> None:
        """The end of an epoch."""
        self.history.rows.append(row)
        self.save(state, where, steps)
        if self.folder is not None and jax.process_index() == 0:
            try:
                self.history.write(self.folder)
            except OSError as error:
                raise CheckpointError(
                    f"the history could not be written to {self.folder} ({error.strerror})"
                ) from None

    def _monitored(self, k: int) -> float:
        """The monitored loss of an epoch; one that is no number is worse than any."""
        row = self.history.rows[k]
        value = row.get("validation_loss", row["loss"])
        return value if np.isfinite(value) else np.inf

    def best(self) -> int:
        """The number of epochs after which the monitored loss was least; 0 where it never was a number."""
        losses = [self._monitored(k) for k in range(len(self.history.rows))]
        return 1 + int(np.argmin(losses)) if losses and np.isfinite(min(losses)) else 0

    def is_late(self, patience: int | None) -> bool:
        """Whether the monitored loss has not fallen for that many epochs."""
        return patience is not None and len(self.history.rows) - self.best() >= patience

    def abandon(self) -> None:
        """Lets go of a store that waits for processes that are gone."""
        self.store = None

    def close(self) -> None:
        """Returns when everything is on disk."""
        try:
            if self.store is not None:
                self.store.close()
        finally:
            if self.lock is not None:
                self.lock.close()


def _alone(folder: Path) -> Any:
    """A lock on the folder that ends with this process, however that ends; none where files cannot be locked."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / ".lock").open("w")
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise CheckpointError(
            f"another process is training in {folder}; wait for its end, or give another folder"
        ) from None
    except OSError:
        pass  # a file system without locks
    return held


def existing(folder: Path) -> Checkpoints:
    """The checkpoints of a training; CheckpointError where there is none."""
    if not (folder / "checkpoints").is_dir():
        raise CheckpointError(f"{folder} holds no checkpoints; train first: fit(..., folder=...)")
    return Checkpoints(folder / "checkpoints")
