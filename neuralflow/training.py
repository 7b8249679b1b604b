"""One training loop: compiled on the device, checkpointed, resumed bit for bit, on one device or many."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

import neuralflow
from neuralflow import checks, report
from neuralflow.checkpoints import CheckpointError, Checkpoints
from neuralflow.data import Data, Stream
from neuralflow.data.arrays import shuffled
from neuralflow.layers import NeuralODE, tally

Batch = dict[str, Any]
Loss = Callable[[Any, Batch], Any]
"""loss(model, batch): a scalar, the mean over the batch, or (scalar, dict of further scalars)."""


class TrainingError(RuntimeError):
    """A training that cannot go on; the message says when, why and what is left."""


@dataclass
class History:
    """What was measured, one row an epoch. `history["loss"]` is the array of a column, NaN where it was not measured."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def __getitem__(self, column: str) -> np.ndarray:
        if not any(column in row for row in self.rows):
            raise KeyError(f"there is no column {column!r}; there are {', '.join(self.columns) or 'none yet'}")
        return np.asarray([row.get(column, np.nan) for row in self.rows])

    @property
    def columns(self) -> list[str]:
        """Names of what was measured, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def write(self, folder: Path) -> None:
        """history.jsonl and history.csv in the folder."""
        report.write(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        report.write(folder / "history.csv", text.getvalue())


class Fitted(NamedTuple):
    """`history`; `best`: the number of epochs after which the monitored loss was least; `stopped`: "epochs" or "patience"."""

    history: History
    best: int
    stopped: str


def fit(
    model: nnx.Module,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    data: Data | Stream,
    *,
    epochs: int,
    batch: int = 128,
    validation: Data | None = None,
    patience: int | None = None,
    augment: Callable[[Batch, Array], Batch] | None = None,
    accumulate: int = 1,
    seed: int = 0,
    mesh: Mesh | None = None,
    folder: Any = None,
    save_every: int | None = None,
    keep: int = 3,
    resume: bool = False,
    progress: bool = True,
) -> Fitted:
    """Trains the parameters (nnx.Param) of a model in place; other variables (batch statistics, random streams) follow.

    `loss(model, batch)`: a scalar mean over the batch, or (scalar, dict of scalars to record). `optimiser`: from optax,
    with its schedules, counted in steps. `data`: a dict of arrays with one leading axis, which is kept on the device
    and shuffled every epoch, or a `Stream`. A last batch that is not full is left out of its epoch. `validation` is
    evaluated whole after every epoch; `patience`: epochs without a lower validation loss before training stops.
    `augment(batch, key)` runs on the device. `accumulate`: batches to a step of the optimiser. Computing in bfloat16
    is the affair of the model's own `dtype`; parameters and moments keep theirs.

    `mesh`: batches are spread over its first axis and weights kept on every device, but for those that the caller has
    placed on the mesh already. Under `jax.distributed` every process calls `fit` with the same arguments.

    `folder`: history and checkpoints are written there at the end of every epoch and every `save_every` steps: the last
    `keep` and the best. `resume`: goes on from the last one, if there is one, to the same bits as if it had never
    stopped. The model ends with its last weights; `restore(folder, model, best=True)` brings back the best.

    Raises ValueError for arguments that cannot be, TrainingError where loss or gradients stop being finite (the model
    keeps its last good weights, the folder its checkpoints), CheckpointError for folders that cannot be used.
    """
    _check_counts(epochs=epochs, batch=batch, accumulate=accumulate, patience=patience, save_every=save_every, keep=keep)
    if patience is not None and validation is None:
        raise ValueError("patience waits for the validation loss to fall; give validation data, or leave patience out")
    if accumulate > 1:
        optimiser = optax.MultiSteps(optimiser, accumulate).gradient_transformation()
    run = _Run(model, loss, optimiser, data, batch, validation, augment, seed, mesh)
    log = _Log(folder, keep, resume, run.identity | {"accumulate": accumulate})
    state, where = log.start(run.start())
    with _display(epochs, run.steps, progress and jax.process_index() == 0) as display:
        try:
            while where.epoch < epochs and not log.is_late(patience):
                epoch, waiting = where.epoch, run.source.waited
                began, skipped = time.perf_counter() - where.seconds, where.step
                for advanced, step in run.epoch(state, epoch, skipped, save_every):
                    _check_finite(advanced, epoch, log)
                    state = advanced
                    display.step(epoch, step)
                    where = _Where(epoch, step, time.perf_counter() - began)
                    if step < run.steps and save_every and step % save_every == 0:
                        log.save(state, where, run.steps)
                row = {"epoch": epoch + 1, **run.means(state), **run.evaluate(state), "seconds": where.seconds}
                row["samples_per_second"] = run.steps * batch / where.seconds
                if isinstance(data, Stream):
                    row["waiting"] = (run.source.waited - waiting) / where.seconds
                state, where = run.reset(state), _Where(epoch + 1, 0, 0.0)
                log.add(row, state, where, run.steps)
                display.row(row, epochs)
        finally:
            run.finish(state)
            log.close()
    return Fitted(log.history, log.best(), "patience" if where.epoch < epochs else "epochs")


def evaluate(model: nnx.Module, loss: Loss, data: Data, *, batch: int = 512) -> dict[str, float]:
    """Means of the loss and its other scalars over all samples, with the model in evaluation mode and unchanged."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return _Evaluation(graphdef, loss, data, batch, _placed(data, None))(params, rest)


def restore(folder: Any, model: nnx.Module, *, best: bool = False) -> int:
    """Sets a model to its last checkpoint in a folder of `fit`, or to the best; returns the number of steps it had.

    Raises CheckpointError where there is none, where it is damaged, and where it is of another model.
    """
    store = _existing(Path(folder))
    step = store.best if best else store.last
    if step is None:
        raise CheckpointError(f"{folder} holds no {'scored ' if best else ''}checkpoint; train first: fit(..., folder=...)")
    _, params, rest = nnx.split(model, nnx.Param, ...)
    found = store.read_arrays(step, _Weights(params, rest))
    nnx.update(model, found.params, found.rest)
    store.close()
    return step


class _State(NamedTuple):
    """All that changes while training. `sums`: the metrics of this epoch so far; `broken`: the first step of it whose
    loss or gradient was not finite, -1 for none."""

    params: Any
    rest: Any
    optimiser: Any
    sums: dict[str, Any]
    broken: Any


class _Weights(NamedTuple):
    """The part of a `_State` that is a model."""

    params: Any
    rest: Any


class _Where(NamedTuple):
    """The position in the data: epochs done, steps done in this one, and the seconds these took."""

    epoch: int
    step: int
    seconds: float


class _Run:
    """What does not change while training: compiled functions and the data they read."""

    def __init__(
        self,
        model: nnx.Module,
        loss: Loss,
        optimiser: optax.GradientTransformation,
        data: Data | Stream,
        batch: int,
        validation: Data | None,
        augment: Any,
        seed: int,
        mesh: Mesh | None,
    ):
        _check_batch(len(data) if isinstance(data, Stream) else _samples(data), batch, mesh)
        if mesh is not None:
            # The compiler spreads the work: axes whose shardings are part of the types would ask the model for them.
            mesh = Mesh(mesh.devices, mesh.axis_names)
        self.model, self.loss, self.augment, self.seed, self.mesh = model, loss, augment, seed, mesh
        self.optimiser = optax.with_extra_args_support(optimiser)
        self.source: Any = (
            _Streamed(data, batch, seed, mesh) if isinstance(data, Stream) else _Resident(data, batch, seed, mesh)
        )
        self.steps: int = self.source.steps
        trained = nnx.merge(*nnx.split(model), copy=True)
        trained.train()
        self.graphdef, self.params, self.rest = nnx.split(trained, nnx.Param, ...)
        if not jax.tree.leaves(self.params):
            raise ValueError(f"{type(model).__name__} has no parameters (nnx.Param) to train")
        self.counts = any(isinstance(node, NeuralODE) for _, node in nnx.iter_graph(model))
        self.advance = jax.jit(self._advance)
        self.evaluation = None
        if validation is not None:
            placed = _placed(validation, mesh)
            self.evaluation = _Evaluation(self.graphdef, loss, validation, batch, placed)
        self.identity = {"seed": seed, "batch": batch, "samples": self.source.samples}

    def start(self) -> _State:
        """The state before the first step, on the mesh where there is one."""
        put = lambda leaf: _put(leaf, self.mesh, _spec(leaf, self.mesh))
        params, rest = jax.tree.map(put, (self.params, self.rest))
        state = _State(params, rest, jax.jit(self.optimiser.init)(params), {}, np.asarray(-1))
        shapes = jax.eval_shape(lambda s, b: self._step(s, b, jax.random.key(0))[1], state, self.source.example())
        self.names = _in_order(shapes)
        sums = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
        return jax.tree.map(put, state._replace(sums=sums))

    def reset(self, state: _State) -> _State:
        """The same state before a new epoch."""
        zeros = {name: _put(np.zeros(total.shape, total.dtype), self.mesh) for name, total in state.sums.items()}
        return state._replace(sums=zeros, broken=_put(np.asarray(-1), self.mesh))

    def epoch(self, state: _State, epoch: int, first: int, save_every: int | None) -> Iterator[tuple[_State, int]]:
        """Walks through an epoch from a step on; yields states about twice a second and wherever one is to be saved."""
        key = jax.random.fold_in(jax.random.key(self.seed), epoch)
        pace = 1
        for read, start, limit in self.source.chunks(epoch, first):
            while start < limit:
                stop = min(limit, start + pace, *([(start // save_every + 1) * save_every] if save_every else []))
                began = time.perf_counter()
                state = jax.block_until_ready(self.advance(state, read, key, start, stop))
                each = (time.perf_counter() - began) / (stop - start)
                pace = max(1, min(2 * pace, int(0.5 / each)))
                start = stop
                yield state, start

    def means(self, state: _State) -> dict[str, float]:
        """The metrics of the epoch."""
        return {name: float(state.sums[name]) / self.steps for name in self.names}

    def evaluate(self, state: _State) -> dict[str, float]:
        """The metrics of the validation data, if there are any."""
        if self.evaluation is None:
            return {}
        found = self.evaluation(state.params, state.rest)
        return {f"validation_{name}": value for name, value in found.items()}

    def finish(self, state: _State) -> None:
        """Hands the weights to the caller's model."""
        nnx.update(self.model, state.params, state.rest)

    def _advance(self, state: _State, read: Any, key: Array, start: Array, stop: Array) -> _State:
        """Steps `start` to `stop` of an epoch, in one call whatever their number."""

        def body(i: Array, state: _State) -> _State:
            moved, metrics = self._step(state, self.source.batch(read, i), jax.random.fold_in(key, i))
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            broken = jnp.where((state.broken < 0) & ~finite, i, state.broken)
            return moved._replace(sums=jax.tree.map(jnp.add, state.sums, metrics), broken=broken)

        return lax.fori_loop(start, stop, body, state)

    def _step(self, state: _State, batch: Batch, key: Array) -> tuple[_State, dict[str, Array]]:
        if self.augment is not None:
            batch = self.augment(batch, key)
        objective = lambda params: _measured(self.graphdef, self.loss, params, state.rest, batch, self.counts)
        (value, (metrics, rest)), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        _check_structure(state.rest, rest)
        updates, optimiser = self.optimiser.update(gradients, state.optimiser, state.params, value=value)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, **metrics, "gradient_norm": optax.tree.norm(gradients)}
        return _State(params, rest, optimiser, state.sums, state.broken), metrics


def _measured(graphdef: Any, loss: Loss, params: Any, rest: Any, batch: Batch, counts: bool) -> Any:
    """The loss, and beside it its other scalars, the work of the solves and the model's other variables."""
    model = nnx.merge(graphdef, params, rest, copy=True)
    with tally() as work:
        found = loss(model, batch)
    value, metrics = found if isinstance(found, tuple) else (found, {})
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(
            f"the loss must be one real number, got shape {jnp.shape(value)} of {jnp.result_type(value)}; take the mean"
        )
    metrics = {name: jnp.asarray(metric, value.dtype) for name, metric in metrics.items()}
    if counts:
        metrics |= {name: total.get_value().astype(value.dtype) for name, total in work.items()}
    return value, (metrics, nnx.split(model, nnx.Param, ...)[2])


class _Evaluation:
    """The means of a loss over a data set, compiled once."""

    def __init__(self, graphdef: Any, loss: Loss, data: Data, batch: int, placed: Any):
        self.graphdef, self.loss, self.placed = graphdef, loss, placed
        self.samples = _samples(data)
        self.batch = min(batch, self.samples)
        self.mean = jax.jit(self._mean, static_argnums=(3, 4))

    def __call__(self, params: Any, rest: Any) -> dict[str, float]:
        whole, part = divmod(self.samples, self.batch)
        found = self.mean(params, rest, self.placed, whole, 0)
        total = {name: float(value) * whole * self.batch for name, value in found.items()}
        if part:
            found = self.mean(params, rest, self.placed, 0, part)
            total = {name: total[name] + float(value) * part for name, value in found.items()}
        return {name: total[name] / self.samples for name in _in_order(total)}

    def _mean(self, params: Any, rest: Any, data: Any, whole: int, part: int) -> dict[str, Array]:
        """Over the first `whole` batches, or over the last `part` samples."""
        model = nnx.merge(self.graphdef, params, rest, copy=True)
        model.eval()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def one(batch: Batch) -> dict[str, Array]:
            value, (metrics, _) = _measured(graphdef, self.loss, params, rest, batch, False)
            return {"loss": value, **metrics}

        if part:
            return one(jax.tree.map(lambda a: a[-part:], data))
        rows = jax.tree.map(lambda a: a[: whole * self.batch].reshape(whole, self.batch, *a.shape[1:]), data)
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), lax.map(one, rows))


def _in_order(names: Iterable[str]) -> list[str]:
    """The loss first, the others by name."""
    return sorted(names, key=lambda name: (name != "loss", name))


class _Resident:
    """Arrays that stay on the device; an epoch is a permutation of their rows."""

    waited = 0.0

    def __init__(self, data: Data, batch: int, seed: int, mesh: Mesh | None):
        self.arrays, self.seed, self.mesh = _placed(data, mesh), seed, mesh
        self.size, self.samples = batch, _samples(data)
        self.steps = self.samples // batch

    def example(self) -> Batch:
        """The shape of a batch."""
        return {name: jax.ShapeDtypeStruct((self.size, *a.shape[1:]), a.dtype) for name, a in self.arrays.items()}

    def chunks(self, epoch: int, first: int) -> Iterator[tuple[Any, int, int]]:
        """What `batch` reads, and the steps it serves."""
        order = shuffled(self.samples, self.seed, epoch)[: self.steps * self.size]
        rows = _put(order.reshape(self.steps, self.size).astype(np.int32), self.mesh, PartitionSpec(None, _axis(self.mesh)))
        yield (self.arrays, rows), first, self.steps

    def batch(self, read: Any, i: Array) -> Batch:
        """Batch i of the epoch."""
        arrays, rows = read
        return _spread(jax.tree.map(lambda a: a[rows[i]], arrays), self.mesh)


class _Streamed:
    """Batches that are read while the device computes, a few to a call."""

    ahead = 8

    def __init__(self, data: Stream, batch: int, seed: int, mesh: Mesh | None):
        self.stream, self.seed, self.mesh, self.size = data, seed, mesh, batch
        self.samples, self.waited = len(data), 0.0
        self.steps = self.samples // batch
        self.row = data.example(0)

    def example(self) -> Batch:
        """The shape of a batch."""
        return {name: jax.ShapeDtypeStruct((self.size, *a.shape), a.dtype) for name, a in self.row.items()}

    def chunks(self, epoch: int, first: int) -> Iterator[tuple[Any, int, int]]:
        """What `batch` reads, and the steps it serves; always of one size, so that it is compiled once."""
        share = (jax.process_index(), jax.process_count()) if self.mesh is not None else (0, 1)
        batches = iter(self.stream.batches(self.size, self.seed, epoch, first, share))
        for start in range(first, self.steps, self.ahead):
            began = time.perf_counter()
            found = [next(batches) for _ in range(min(self.ahead, self.steps - start))]
            self.waited += time.perf_counter() - began
            found += [found[-1]] * (self.ahead - len(found))
            read = jax.tree.map(lambda *rows: self._put(np.stack(rows)), *found)
            yield (read, start), start, min(start + self.ahead, self.steps)

    def _put(self, rows: np.ndarray) -> Array:
        if self.mesh is None:
            return jnp.asarray(rows)
        sharding = NamedSharding(self.mesh, PartitionSpec(None, _axis(self.mesh)))
        return jax.make_array_from_process_local_data(sharding, rows)

    def batch(self, read: Any, i: Array) -> Batch:
        """Batch i of the epoch."""
        arrays, start = read
        return _spread(jax.tree.map(lambda a: a[i - start], arrays), self.mesh)


def _axis(mesh: Mesh | None) -> str | None:
    return None if mesh is None else mesh.axis_names[0]


def _put(leaf: Any, mesh: Mesh | None, spec: PartitionSpec | None = None) -> Array:
    if mesh is None:
        return jnp.asarray(leaf)
    return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec() if spec is None else spec))


def _spec(leaf: Any, mesh: Mesh | None) -> PartitionSpec | None:
    """How the caller has spread an array over the devices of the mesh, or None."""
    sharding = getattr(leaf, "sharding", None)
    if mesh is None or not isinstance(sharding, NamedSharding) or sharding.mesh.axis_names != mesh.axis_names:
        return None
    return sharding.spec


def _placed(data: Data, mesh: Mesh | None) -> Batch:
    return {name: _put(np.asarray(values), mesh) for name, values in data.items()}


def _spread(batch: Batch, mesh: Mesh | None) -> Batch:
    """The rows of a batch over the first axis of the mesh."""
    if mesh is None:
        return batch
    return lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(_axis(mesh))))


class _Log:
    """History and checkpoints of a run, on disk where there is a folder."""

    def __init__(self, folder: Any, keep: int, resume: bool, identity: dict[str, Any]):
        self.history, self.identity = History(), identity
        self.folder = None if folder is None else Path(folder)
        self.store = None
        if self.folder is None:
            if resume:
                raise ValueError("resume goes on from the checkpoints of a folder; give folder=...")
            return
        self.store = Checkpoints(self.folder / "checkpoints", keep)
        if self.store.last is not None and not resume:
            raise CheckpointError(
                f"{folder} holds a training of {self.store.last} steps already; go on with resume=True (--resume), or give another folder"
            )

    def start(self, state: _State) -> tuple[_State, _Where]:
        """Where to begin: at the last checkpoint, or at the beginning."""
        if self.store is None or self.store.last is None:
            return state, _Where(0, 0, 0.0)
        record = self.store.read_record(self.store.last)
        if record["run"] != self.identity:
            pairs = [f"{k}={record['run'].get(k)} (now {v})" for k, v in self.identity.items() if record["run"].get(k) != v]
            raise CheckpointError(f"{self.folder} was trained with {', '.join(pairs)}; give the same, or another folder")
        state = self.store.read_arrays(self.store.last, state)
        self.history.rows = record["history"]
        return state, _Where(*record["where"])

    def save(self, state: _State, where: _Where, steps: int) -> None:
        """A checkpoint, scored where an epoch has just ended."""
        if self.store is None:
            return
        record = {"version": neuralflow.__version__, "run": self.identity, "where": list(where), "history": self.history.rows}
        score = -self._monitored(-1) if where.step == 0 else None
        self.store.save(where.epoch * steps + where.step, state, record, score)

    def add(self, row: dict[str, float], state: _State, where: _Where, steps: int) -> None:
        """The end of an epoch."""
        self.history.rows.append(row)
        self.save(state, where, steps)
        if self.folder is not None and jax.process_index() == 0:
            try:
                self.history.write(self.folder)
            except OSError as error:
                raise CheckpointError(f"the history could not be written to {self.folder} ({error.strerror})") from None

    def _monitored(self, k: int) -> float:
        row = self.history.rows[k]
        return row.get("validation_loss", row["loss"])

    def best(self) -> int:
        """The number of epochs after which the monitored loss was least."""
        return 1 + int(np.argmin([self._monitored(k) for k in range(len(self.history.rows))])) if self.history.rows else 0

    def is_late(self, patience: int | None) -> bool:
        """Whether the monitored loss has not fallen for that many epochs."""
        return patience is not None and len(self.history.rows) - self.best() >= patience

    def close(self) -> None:
        """Returns when everything is on disk."""
        if self.store is not None:
            self.store.close()


def _existing(folder: Path) -> Checkpoints:
    if not (folder / "checkpoints").is_dir():
        raise CheckpointError(f"{folder} holds no checkpoints; train first: fit(..., folder=...)")
    return Checkpoints(folder / "checkpoints")


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None:
            checks.whole(name, count)


def _samples(data: Any) -> int:
    """The common length of a data set's arrays; ValueError for what is none."""
    if not isinstance(data, dict) or not data:
        raise ValueError(f"data is a dict of arrays, or a Stream, got {type(data).__name__}")
    lengths = {}
    for name, values in data.items():
        kind = np.dtype(values.dtype).kind if hasattr(values, "dtype") else "O"
        if kind not in "biufc" and not jnp.issubdtype(values.dtype, jnp.inexact):
            raise ValueError(
                f"data[{name!r}] must be an array of numbers, got {getattr(values, 'dtype', type(values).__name__)}"
            )
        if not np.ndim(values):
            raise ValueError(f"data[{name!r}] must have a leading axis of samples, got one number")
        lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the arrays of data must have one length, got {lengths}")
    return next(iter(lengths.values()))


def _check_batch(samples: int, batch: int, mesh: Mesh | None) -> None:
    if batch > samples:
        raise ValueError(f"batch={batch} is more than the {samples} samples there are; give batch={samples} or less")
    devices = 1 if mesh is None else mesh.shape[mesh.axis_names[0]]
    if batch % devices:
        raise ValueError(f"batch={batch} cannot be spread over {devices} devices; give a multiple of {devices}")


def _check_structure(before: Any, after: Any) -> None:
    shapes = lambda tree: jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)
    if jax.tree.structure(before) != jax.tree.structure(after) or shapes(before) != shapes(after):
        raise ValueError(
            "a call of the loss changed which variables the model has, or their shapes; create them before training"
        )


def _check_finite(state: _State, epoch: int, log: _Log) -> None:
    broken = int(state.broken)
    if broken >= 0:
        saved = "" if log.store is None or log.store.last is None else f"; the checkpoint of step {log.store.last} is good"
        raise TrainingError(
            f"loss or gradient stopped being finite in epoch {epoch + 1}, step {broken + 1}{saved}: lower the learning rate, "
            "clip gradients (optax.clip_by_global_norm), or let the solve take more steps"
        )


class _Display(NamedTuple):
    step: Callable[[int, int], None]
    row: Callable[[dict[str, float], int], None]


@contextmanager
def _display(epochs: int, steps: int, shown: bool) -> Iterator[_Display]:
    """A bar over the steps of an epoch in a terminal, and a line an epoch everywhere."""
    nothing = lambda *_: None
    if not shown:
        yield _Display(nothing, nothing)
        return
    console = report.console()
    if not console.is_terminal:
        yield _Display(nothing, lambda row, epochs: print(_line(row, epochs), flush=True))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=steps)
        yield _Display(
            lambda epoch, step: bar.update(task, completed=step, description=f"epoch {epoch + 1}/{epochs}"),
            lambda row, epochs: bar.console.print(_line(row, epochs), highlight=False),
        )


def _line(row: dict[str, float], epochs: int) -> str:
    hidden = ("epoch", "seconds", "samples_per_second", "rejected", "accepted", "validation_gradient_norm")
    shown = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in row.items() if name not in hidden]
    return f"epoch {int(row['epoch'])}/{epochs}: {', '.join(shown)}; {row['samples_per_second']:.0f} samples/s"
