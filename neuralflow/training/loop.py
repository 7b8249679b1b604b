"""The loop: compiled on the device, checkpointed, resumed bit for bit, on one device or many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.data import Data, Stream
from neuralflow.layers import NeuralODE
from neuralflow.training.batches import (
    Batch,
    Resident,
    Streamed,
    check_batch,
    count_samples,
    put,
    spec_of,
)
from neuralflow.training.checkpoints import CheckpointError, named
from neuralflow.training.display import display
from neuralflow.training.evaluation import Evaluation, Loss, in_order, measured
from neuralflow.training.log import History, Log, State, Weights, Where, existing, place


class TrainingError(RuntimeError):
    """A training that cannot go on; the message says when, why and what is left."""


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

    `epochs` counts those of earlier calls too. Loss, data, augmentation and the optimiser's own numbers are the
    caller's to keep: a resumed training checks seed, batch, number of samples and the structure of its state.

    The history has, by epoch: the means over its steps of `loss`, of what the loss returned beside it and of
    `gradient_norm`; of layers in the model `evaluations`, `accepted` and `rejected` steps of a pass; `validation_...`;
    `seconds` and `samples_per_second` of the steps, without evaluation and saving; `waiting`, the share of them that
    a stream was waited for.

    Raises ValueError or TypeError for arguments that cannot be, before any work is done; TrainingError where loss,
    gradients or weights stop being finite (the model keeps its last good weights, the folder its checkpoints);
    CheckpointError for folders that cannot be used.
    """
    for name, count in {
        "epochs": epochs,
        "batch": batch,
        "accumulate": accumulate,
        "keep": keep,
    }.items():
        checks.whole(name, count)
    for name, count in {"patience": patience, "save_every": save_every}.items():
        if count is not None:
            checks.whole(name, count)
    checks.whole("seed", seed, least=0)
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    checks.function("loss", loss)
    checks.instance(
        "optimiser",
        optimiser,
        optax.GradientTransformation,
        "an optax transformation such as optax.adam(1e-3)",
    )
    if mesh is not None:
        checks.instance(
            "mesh",
            mesh,
            (Mesh, AbstractMesh),
            "a device mesh such as jax.make_mesh((8,), ('data',))",
        )
    if augment is not None:
        checks.function("augment", augment)
    if patience is not None and validation is None:
        raise InputError(
            "patience waits for the validation loss to fall; give validation data, or leave patience out"
        )
    if accumulate > 1:
        optimiser = optax.MultiSteps(optimiser, int(accumulate)).gradient_transformation()
    run = Run(model, loss, optimiser, data, int(batch), validation, augment, int(seed), mesh)
    with closing(Log(folder, keep, resume, run.identity | {"accumulate": int(accumulate)})) as log:
        state, where = start = log.start(run.start())
        try:
            with display(epochs, run.steps, progress and jax.process_index() == 0) as shown:
                for reached in _walk(run, log, shown, *start, epochs, patience, save_every):
                    state, where = reached
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() > 1:
                log.abandon()
                raise TrainingError(
                    f"the processes of this training lost each other ({str(error).splitlines()[0][:160]}); "
                    "stop all that are left and start them again with resume=True (--resume)"
                ) from None
            raise
        finally:
            run.finish(state)
    return Fitted(log.history, log.best(), "patience" if where.epoch < epochs else "epochs")


def _walk(
    run: Run,
    log: Log,
    shown: Any,
    state: State,
    where: Where,
    epochs: int,
    patience: int | None,
    save_every: int | None,
) -> Iterator[tuple[State, Where]]:
    """Trains, records and saves; yields every state that is known to be good."""
    while where.epoch < epochs and not log.is_late(patience):
        epoch, waiting = where.epoch, run.source.waited
        began = time.perf_counter() - where.seconds
        for advanced, step in run.epoch(state, epoch, where.step, save_every):
            _check_finite(advanced, epoch, log)
            state, where = advanced, Where(epoch, step, time.perf_counter() - began)
            yield state, where
            shown.step(epoch, step)
            if step < run.steps and save_every and step % save_every == 0:
                log.save(state, where, run.steps)
        row = {
            "epoch": epoch + 1,
            **run.means(state),
            **run.evaluate(state),
            "seconds": where.seconds,
        }
        row["samples_per_second"] = run.steps * run.batch / where.seconds
        if isinstance(run.source, Streamed):
            row["waiting"] = (run.source.waited - waiting) / where.seconds
        state, where = run.reset(state), Where(epoch + 1, 0, 0.0)
        log.add(row, state, where, run.steps)
        shown.row(row, epochs)
        yield state, where


def restore(folder: Any, model: nnx.Module, *, best: bool = False) -> int:
    """Sets a model to its last checkpoint in a folder of `fit`, or to the best; returns the number of steps it had.

    Raises CheckpointError where there is none, where it is damaged, and where it is of another model.
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    store = existing(place(folder))
    step = store.best if best else store.last
    if step is None:
        raise CheckpointError(
            f"{folder} holds no {'scored ' if best else ''}checkpoint; train first: fit(..., folder=...)"
        )
    _, params, rest = nnx.split(model, nnx.Param, ...)
    weights = store.read_arrays(step, Weights(params, rest))
    nnx.update(model, weights.params, weights.rest)
    store.close()
    return step


class Run:
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
        check_batch(len(data) if isinstance(data, Stream) else count_samples(data), batch, mesh)
        if mesh is not None:
            # The compiler spreads the work: axes whose shardings are part of the types would ask the model for them.
            mesh = Mesh(mesh.devices, mesh.axis_names)
        self.model, self.loss, self.augment, self.seed, self.mesh, self.batch = (
            model,
            loss,
            augment,
            seed,
            mesh,
            batch,
        )
        self.optimiser = optax.with_extra_args_support(optimiser)
        self.source: Any = (
            Streamed(data, batch, seed, mesh)
            if isinstance(data, Stream)
            else Resident(data, batch, seed, mesh)
        )
        self.steps: int = self.source.steps
        trained = nnx.merge(*nnx.split(model), copy=True)
        trained.train()
        self.graphdef, self.params, self.rest = nnx.split(trained, nnx.Param, ...)
        if not jax.tree.leaves(self.params):
            raise InputError(f"{type(model).__name__} has no parameters (nnx.Param) to train")
        if not all(
            jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(self.params)
        ):
            raise InputError(
                f"{type(model).__name__} has parameters (nnx.Param) that are whole numbers; hold them as nnx.Variable"
            )
        self.counts = any(isinstance(node, NeuralODE) for _, node in nnx.iter_graph(model))
        self.pace = 1
        self.evaluation = None
        if validation is not None:
            self.evaluation = Evaluation(self.graphdef, loss, validation, batch, mesh, "validation")
        self.identity = {"seed": seed, "batch": batch, "samples": self.source.samples}

    def start(self) -> State:
        """The state before the first step, on the mesh where there is one."""

        def onto(leaf):
            return put(leaf, self.mesh, spec_of(leaf, self.mesh))

        params, rest = jax.tree.map(onto, (self.params, self.rest))
        state = State(params, rest, jax.jit(self.optimiser.init)(params), {}, np.asarray(-1))

        def one(state, batch):
            return self._step(state, batch, jax.random.key(0))[1]

        program, shapes = jax.make_jaxpr(one, return_shape=True)(state, self.source.example())
        # XLA for CPUs computes convolutions in a loop with a kernel that is several times slower than the one outside.
        looped = jax.default_backend() != "cpu" or "conv_general_dilated" not in str(program)
        self.advance = jax.jit(self._advance) if looped else self._one_by_one(jax.jit(self._tick))
        self.names = in_order(shapes)
        if self.evaluation is not None:
            self.evaluation.check(params, rest)
        sums = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
        state = jax.tree.map(onto, state._replace(sums=sums))
        self.zeros = {"sums": state.sums, "broken": state.broken}
        return state

    def reset(self, state: State) -> State:
        """The same state before a new epoch."""
        return state._replace(**self.zeros)

    def epoch(
        self, state: State, epoch: int, first: int, save_every: int | None
    ) -> Iterator[tuple[State, int]]:
        """Walks through an epoch from a step on; yields states about twice a second and wherever one is to be saved."""
        for read, start, limit in self.source.chunks(epoch, first):
            while start < limit:
                stop = min(
                    limit,
                    start + self.pace,
                    *([(start // save_every + 1) * save_every] if save_every else []),
                )
                began = time.perf_counter()
                state = jax.block_until_ready(self.advance(state, read, epoch, start, stop))
                each = (time.perf_counter() - began) / (stop - start)
                self.pace = max(1, min(2 * self.pace, int(0.5 / each)))
                start = stop
                yield state, start

    def means(self, state: State) -> dict[str, float]:
        """The metrics of the epoch."""
        sums = jax.device_get(state.sums)
        return {name: float(sums[name]) / self.steps for name in self.names}

    def evaluate(self, state: State) -> dict[str, float]:
        """The metrics of the validation data, if there are any."""
        if self.evaluation is None:
            return {}
        metrics = self.evaluation(state.params, state.rest)
        return {f"validation_{name}": value for name, value in metrics.items()}

    def finish(self, state: State) -> None:
        """Hands the weights to the caller's model."""
        nnx.update(self.model, state.params, state.rest)

    def _advance(self, state: State, read: Any, epoch: Array, start: Array, stop: Array) -> State:
        """Steps `start` to `stop` of an epoch, in one call whatever their number."""
        return lax.fori_loop(start, stop, lambda i, state: self._tick(state, read, epoch, i), state)

    def _one_by_one(
        self, tick: Callable[[State, Any, int, int], State]
    ) -> Callable[[State, Any, int, int, int], State]:
        """The same steps as calls of their own."""

        def advance(state: State, read: Any, epoch: int, start: int, stop: int) -> State:
            for i in range(start, stop):
                state = tick(state, read, epoch, i)
                if self.mesh is not None:
                    # Many calls in flight may leave the simulated devices of one host waiting for each other.
                    jax.block_until_ready(state)
            return state

        return advance

    def _tick(self, state: State, read: Any, epoch: Array, i: Array) -> State:
        """Step i of an epoch, its metrics added to the sums."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), epoch), i)
        moved, metrics = self._step(state, self.source.batch(read, i), key)
        numbers = (metrics["loss"], metrics["gradient_norm"], *jax.tree.leaves(moved.params))
        finite = jnp.stack([jnp.all(jnp.isfinite(number)) for number in numbers]).all()
        broken = jnp.where((state.broken < 0) & ~finite, i, state.broken)
        return moved._replace(sums=jax.tree.map(jnp.add, state.sums, metrics), broken=broken)

    def _step(self, state: State, batch: Batch, key: Array) -> tuple[State, dict[str, Array]]:
        if self.augment is not None:
            batch = self.augment(batch, key)
            if not isinstance(batch, dict):
                raise InputTypeError(
                    f"augment(batch, key) must return a batch, a dict of arrays, got a {type(batch).__name__}"
                )

        def objective(params):
            return measured(self.graphdef, self.loss, params, state.rest, batch, self.counts)

        (value, (metrics, rest)), gradients = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        _check_structure(state.rest, rest)
        known = {"value": value, "grad": gradients, "value_fn": lambda params: objective(params)[0]}
        updates, optimiser = self.optimiser.update(
            gradients, state.optimiser, state.params, **known
        )
        params = optax.apply_updates(state.params, updates)
        widened = jax.tree.map(
            lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), gradients
        )
        metrics = {**metrics, "gradient_norm": optax.tree.norm(widened)}
        return State(params, rest, optimiser, state.sums, state.broken), metrics


def _check_structure(before: Any, after: Any) -> None:
    def shapes(tree):
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)

    if jax.tree.structure(before) != jax.tree.structure(after) or shapes(before) != shapes(after):
        changed = [
            name
            for name in {**named(before), **named(after)}
            if named(before).get(name) is None or named(after).get(name) is None
        ]
        which = f" ({', '.join(changed[:3])})" if changed else ""
        raise InputError(
            f"a call of the loss changed which variables the model has, or their shapes{which}; create them before training"
        )


def _check_finite(state: State, epoch: int, log: Log) -> None:
    broken = int(state.broken)
    if broken >= 0:
        saved = (
            ""
            if log.store is None or log.store.last is None
            else f"; the checkpoint of step {log.store.last} is good"
        )
        first = (
            "look for NaN and for labels out of range in the data, "
            if epoch == 0 and broken == 0
            else ""
        )
        raise TrainingError(
            f"loss, gradient or weights stopped being finite in epoch {epoch + 1}, step {broken + 1}{saved}: {first}lower the "
            "learning rate, clip gradients (optax.clip_by_global_norm), or let the solve take more steps"
        )
