"""The training loop: `fit` trains a model, `restore` brings its weights back.

The loop is compiled on the device, saves checkpoints and resumes from them bit for bit, on one
device or many. `Run` holds the compiled step. Where batches come from stands in `batches`, what is
written to disk in `log` and `checkpoints`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array

from neuralflow import checks, files
from neuralflow.annotations import Real
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
    traced,
)
from neuralflow.training.checkpoints import CheckpointError, named
from neuralflow.training.display import display
from neuralflow.training.evaluation import Evaluation, Loss, in_order, measured
from neuralflow.training.interrupts import HeldBack
from neuralflow.training.log import (
    History,
    Log,
    State,
    Weights,
    Where,
    differences,
    existing,
    place,
)


class TrainingError(RuntimeError):
    """A training cannot go on; the message says when, why and what is left."""


class Fitted(NamedTuple):
    """The result of `fit`.

    Attributes:
        history: What was measured, one row an epoch.
        best: The number of epochs after which the monitored loss was least. The monitored loss is
            the validation loss, or the training loss without validation data. The number is 0 if
            the monitored loss never was finite.
        stopped: Why the training stopped: "epochs" if all epochs are done, "patience" if the
            validation loss did not fall any more.
        optimiser: The state of the optimiser after the last step.
    """

    history: History
    best: int
    stopped: str
    optimiser: Any


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
    folder: str | Path | None = None,
    save_every: int | None = None,
    keep: int = 3,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: bool | str = True,
    after: Fitted | None = None,
) -> Fitted:
    """Train the parameters of a model in place, with checkpoints, on one device or many.

    The optimiser changes the parameters (nnx.Param). The other variables of the model, such as
    batch statistics and random streams, follow the calls of the loss. The loss sees a copy of the
    model in training mode, and in evaluation mode for `validation`. The mode of the model itself
    stays as it is. The model ends with its last
    weights; `restore(folder, model, best=True)` brings back the best ones.

    To compute in bfloat16, set the `dtype` of the model itself. Parameters and the moments of the
    optimiser keep their own dtype.

    Under `jax.distributed`, every process calls `fit` with the same arguments.

    A resumed training reaches the same bits as a training that never stopped. `fit` checks that
    `seed`, `batch`, `accumulate`, `settings`, the contents of the arrays and the structure of the
    state are the same; of a `neuralflow.data.Stream` it checks the number of examples. The caller
    must give the same loss, augmentation and optimiser again, and the same examples of a
    `neuralflow.data.Stream`.

    A first SIGINT (Ctrl-C) or SIGTERM waits until the step that is under way is done. With a
    `folder`, the state after this step is saved. Then the signal takes its course. A second signal
    does not wait. This holds for trainings of one process, in the main thread.

    The history has these columns, one row an epoch:

    - `epoch`: the number of finished epochs.
    - `loss`, `gradient_norm` and the scalars of the loss: means over the steps of the epoch.
    - `evaluations`, `accepted`, `rejected`: evaluations of the field, accepted steps and rejected
      steps in one pass, added up over the `neuralflow.NeuralODE` layers of the model, as means over
      the steps of the epoch. These columns exist for a model with `neuralflow.NeuralODE` layers.
    - `validation_loss` and `validation_...`: means of the loss and of its scalars over the
      validation data.
    - `seconds`: the time of the steps of the epoch. The evaluation and the checkpoint at the end of
      the epoch do not count; checkpoints within the epoch do.
    - `samples_per_second`: the number of samples divided by `seconds`.
    - `waiting`: the share of `seconds` in which the training waited for a `neuralflow.data.Stream`.

    Args:
        model: The model, any NNX module with parameters.
        loss: A function `loss(model, batch)` that returns the mean over the batch as a scalar. The
            function may also return the pair of this scalar and a dict of further scalars to
            record.
        optimiser: An optax transformation. Its schedules count steps of the optimiser.
        data: A dict of arrays `(samples, ...)` by name, or a `neuralflow.data.Stream`. `fit` moves
            arrays to the device once, through the host. The samples are shuffled anew every epoch.
        epochs: The number of epochs in all. A resumed training counts the epochs of earlier calls.
        batch: The number of samples in a batch. A last batch that is not full is left out of its
            epoch.
        validation: A dict of arrays. The loss is evaluated on all its samples after every epoch.
        patience: The number of epochs without a lower validation loss after which the training
            stops. None never stops early.
        augment: A function `augment(batch, key)` that returns a changed batch, with a random key.
            The function runs on the device.
        accumulate: The number of batches for one step of the optimiser, which takes the mean of
            their gradients. The history and `save_every` count batches.
        seed: The seed of the order of the samples and of the keys for `augment`.
        mesh: A device mesh. Batches are spread over its first axis. Weights are kept whole on every
            device, except those that the caller has placed on the mesh already.
        folder: The folder for the history and the checkpoints, written at the end of every epoch.
            None writes nothing.
        save_every: The number of steps between further checkpoints within an epoch. None writes
            none.
        keep: The number of latest checkpoints to keep. The best one is kept beside them.
        resume: Whether to go on from the last checkpoint in `folder`, if there is one.
        settings: What else identifies the training, such as its hyperparameters: plain data by
            name, which JSON can hold. The checkpoints keep the settings.
        progress: Whether to show a bar in a terminal, and one line an epoch. A text is shown in
            front of each of them.
        after: The result of an earlier training that this one goes on from, of the same number of
            steps an epoch. The state of its optimiser is where the optimiser begins, so that
            schedules go on. Its epochs count as done: they stand in the history, and `epochs`
            includes them. The best epoch is one of the new ones. None begins anew.

    Returns:
        The history, the best epoch, why the training stopped, and the state of the optimiser.

    Raises:
        InputError: An argument has a wrong value. Arguments are checked before any work is done.
        InputTypeError: An argument has a wrong type.
        TrainingError: Loss, gradients or weights stop being finite, or the processes of one
            training lose each other. The model keeps its last good weights, and the folder keeps
            its checkpoints.
        CheckpointError: The folder cannot be used, or its checkpoint belongs to another training.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> import neuralflow as nf
        >>> model, loss = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nf.models.classification
        >>> options = {"epochs": 1, "batch": 4, "progress": False}
        >>> fitted = nf.training.fit(model, loss, optax.sgd(0.1), nf.data.moons(8), **options)
        >>> fitted.stopped, fitted.history["loss"].shape
        ('epochs', (1,))
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
    checks.seed("seed", seed)
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    checks.function("loss", loss, 2)
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
        checks.function("augment", augment, 2)
    if settings is not None:
        checks.plain("settings", settings)
    if patience is not None and validation is None:
        raise InputError(
            "patience waits for the validation loss to fall; "
            "give validation data, or leave patience out"
        )
    rows = _rows_before(after, epochs)
    if accumulate > 1:
        optimiser = optax.MultiSteps(optimiser, int(accumulate)).gradient_transformation()
    run = Run(model, loss, optimiser, data, int(batch), validation, augment, int(seed), mesh)
    identity = run.identity | {"accumulate": int(accumulate), "settings": dict(settings or {})}
    if after is not None:
        identity["after"] = len(rows)
    if folder is not None:
        identity["data"] = run.digest()
    alone = jax.process_count() == 1
    with closing(Log(folder, keep, resume, identity)) as log:
        initial = run.start(None if after is None else after.optimiser)
        state, where = start = log.start(initial, rows)
        try:
            with (
                display(epochs, run.steps, jax.process_index() == 0 and progress) as shown,
                HeldBack(alone) as signals,
            ):
                for reached in _walk(run, log, shown, *start, epochs, patience, save_every):
                    state, where = reached
                    if signals.pending and where.step < run.steps:
                        log.save(state, where, run.steps)
                        log.wait()
                        signals.deliver()
        except jax.errors.JaxRuntimeError as error:
            if not alone:
                log.abandon()
                raise TrainingError(
                    "the processes of this training lost each other "
                    f"({str(error).splitlines()[0][:160]}); "
                    "stop all that are left and start them again with resume=True (--resume)"
                ) from None
            raise
        finally:
            run.finish(state)
    stopped = "patience" if where.epoch < epochs else "epochs"
    return Fitted(log.history, log.best(), stopped, state.optimiser)


def _rows_before(after: Fitted | None, epochs: int) -> list[dict[str, float]]:
    """Return the rows of the history of an earlier training, which must leave epochs to do."""
    if after is None:
        return []
    checks.instance("after", after, Fitted, "what an earlier fit has returned")
    rows = list(after.history.rows)
    if epochs <= len(rows):
        raise InputError(
            f"epochs counts the {len(rows)} epochs of after too, and must be more, got {epochs}"
        )
    return rows


def _walk(
    run: "Run",
    log: Log,
    shown: Any,
    state: State,
    where: Where,
    epochs: int,
    patience: int | None,
    save_every: int | None,
) -> Iterator[tuple[State, Where]]:
    """Train, record and save; yield every state that is known to be good, with its position."""
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


def restore(folder: str | Path, model: nnx.Module, *, best: bool = False) -> int:
    """Set a model to the last or the best checkpoint in a folder of `fit`.

    Nothing in the folder changes. Another process may train in the folder meanwhile.

    Args:
        folder: The folder that was given to `fit`.
        model: A model of the same structure as the trained one. Its weights and other variables are
            replaced.
        best: Whether to take the checkpoint with the least monitored loss. The default takes the
            last one.

    Returns:
        The number of training steps behind the checkpoint.

    Raises:
        InputTypeError: `folder` is no path, or `model` is no nnx.Module.
        CheckpointError: There is no such checkpoint, the checkpoint is damaged, or it belongs to
            another model.
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    store = existing(place(folder))
    _, params, rest = nnx.split(model, nnx.Param, ...)
    step, weights = store.newest(best, lambda step: store.read_arrays(step, Weights(params, rest)))
    if step is None or weights is None:
        raise CheckpointError(
            f"{folder} holds no {'scored ' if best else ''}checkpoint; "
            "train first: fit(..., folder=...)"
        )
    nnx.update(model, weights.params, weights.rest)
    return step


class Run:
    """What does not change while training: the compiled functions and the data that they read.

    `fit` describes the arguments.

    Args:
        model: The model.
        loss: The loss.
        optimiser: The optax transformation, which accumulates batches itself where it must.
        data: A dict of arrays, or a stream.
        batch: The number of samples in a batch.
        validation: A dict of arrays, or None.
        augment: A function `augment(batch, key)`, or None.
        seed: The seed of the order of the samples and of the keys for `augment`.
        mesh: A device mesh, or None for one device.

    Raises:
        InputError: The data is no data set of numbers, the batch size is wrong, or the model has no
            parameters that can be trained.
    """

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
            # The compiler spreads the work. A mesh with explicit axes would make shardings a part
            # of the types, and the model would have to give them.
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
                f"{type(model).__name__} has parameters (nnx.Param) that are whole numbers; "
                "hold them as nnx.Variable"
            )
        self.counts = any(isinstance(node, NeuralODE) for _, node in nnx.iter_graph(model))
        self.pace = 1
        self.evaluation = None
        if validation is not None:
            self.evaluation = Evaluation(self.graphdef, loss, validation, batch, mesh, "validation")
        self.identity = {"seed": seed, "batch": batch, "samples": self.source.samples}
        self.held = [data, validation]

    def start(self, optimiser: Any = None) -> State:
        """Return the state before the first step, and check the loss on the shapes of a batch.

        The state lies on the mesh if there is a mesh. This method also chooses how the steps are
        compiled.

        Args:
            optimiser: The state of the optimiser to begin with, or None for its initial state.

        Raises:
            InputError: The state of the optimiser is that of another optimiser or model.
            InputError: The loss or the augmentation returns something unfit, or the loss changes
                the structure of the model.
            InputTypeError: What the loss or the augmentation returns has the wrong type.
        """

        def onto(leaf):
            return put(leaf, self.mesh, spec_of(leaf, self.mesh))

        params, rest = jax.tree.map(onto, (self.params, self.rest))
        # Some optimisers keep weights. Copies of them may be overwritten, see `_compiled`.
        initial = jax.jit(lambda params: jax.tree.map(jnp.copy, self.optimiser.init(params)))
        if optimiser is None:
            optimiser = initial(params)
        else:
            _check_optimiser(optimiser, initial(params))
            optimiser = jax.tree.map(lambda leaf: jnp.copy(onto(leaf)), optimiser)
        state = State(params, rest, optimiser, {}, np.asarray(-1))

        def one(state, batch):
            return self._step(state, batch, jax.random.key(0))[1]

        program, shapes = traced(one, state, batch=self.source.example())
        # On CPUs, XLA computes a convolution inside a loop with a kernel that is several times
        # slower than its kernel outside of loops.
        looped = jax.default_backend() != "cpu" or "conv_general_dilated" not in str(program)
        self.advance = (
            _compiled(self._advance) if looped else self._one_by_one(_compiled(self._tick))
        )
        self.names = in_order(shapes)
        if self.evaluation is not None:
            self.evaluation.check(params, rest)
        sums = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
        state = jax.tree.map(onto, state._replace(sums=sums))
        self.zeros = {"sums": state.sums, "broken": state.broken}
        return state

    def digest(self) -> str:
        """Return a digest of the arrays of the data and of the validation data.

        The examples of a stream do not count.
        """
        sets = [held for held in self.held if isinstance(held, dict)]
        return files.digest(*(part for held in sets for pair in held.items() for part in pair))

    def reset(self, state: State) -> State:
        """Return the same state with the sums of an epoch set back to zero.

        Args:
            state: The state at the end of an epoch.
        """
        return state._replace(**self.zeros)

    def epoch(
        self, state: State, epoch: int, first: int, save_every: int | None
    ) -> Iterator[tuple[State, int]]:
        """Walk through an epoch from a given step on.

        Args:
            state: The state before the step `first`.
            epoch: The number of the epoch, counted from zero.
            first: The step to begin with, counted from zero.
            save_every: The number of steps between checkpoints, or None.

        Returns:
            An iterator over pairs of a state and the number of steps done in the epoch. A pair
            comes about twice a second, and at every step that is to be saved.
        """
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
        """Return the metrics of the epoch, means over its steps.

        Args:
            state: The state at the end of the epoch.
        """
        sums = jax.device_get(state.sums)
        return {name: float(sums[name]) / self.steps for name in self.names}

    def evaluate(self, state: State) -> dict[str, float]:
        """Return the metrics of the validation data, or an empty dict without validation data.

        Args:
            state: The state whose weights are evaluated.
        """
        if self.evaluation is None:
            return {}
        metrics = self.evaluation(state.params, state.rest)
        return {f"validation_{name}": value for name, value in metrics.items()}

    def finish(self, state: State) -> None:
        """Write the weights and the other variables of a state into the model of the caller.

        Args:
            state: The state.
        """
        nnx.update(self.model, state.params, state.rest)

    def _advance(self, state: State, read: Any, epoch: Array, start: Array, stop: Array) -> State:
        """Make the steps from `start` up to `stop` of an epoch in one compiled call.

        The number of steps is no part of the compiled program.
        """
        return lax.fori_loop(start, stop, lambda i, state: self._tick(state, read, epoch, i), state)

    def _one_by_one(
        self, tick: Callable[[State, Any, int, int], State]
    ) -> Callable[[State, Any, int, int, int], State]:
        """Return a function like `_advance` that makes every step in a call of its own."""

        def advance(state: State, read: Any, epoch: int, start: int, stop: int) -> State:
            for i in range(start, stop):
                state = tick(state, read, epoch, i)
                if self.mesh is not None:
                    # With many calls in flight, the simulated devices of one host may be left
                    # waiting for each other.
                    jax.block_until_ready(state)
            return state

        return advance

    def _tick(self, state: State, read: Any, epoch: Array, i: Array) -> State:
        """Make step i of an epoch, and add its metrics to the sums."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), epoch), i)
        moved, metrics = self._step(state, self.source.batch(read, i), key)
        numbers = (metrics["loss"], metrics["gradient_norm"], *jax.tree.leaves(moved.params))
        finite = jnp.stack([jnp.all(jnp.isfinite(number)) for number in numbers]).all()
        broken = jnp.where((state.broken < 0) & ~finite, i, state.broken)
        return moved._replace(sums=jax.tree.map(jnp.add, state.sums, metrics), broken=broken)

    def _step(self, state: State, batch: Batch, key: Array) -> tuple[State, dict[str, Array]]:
        """Make one step on a batch: augment, differentiate, update; return state and metrics."""
        if self.augment is not None:
            batch = self.augment(batch, key)
            if not isinstance(batch, dict):
                raise InputTypeError(
                    "augment(batch, key) must return a batch, a dict of arrays, "
                    f"got a {type(batch).__name__}"
                )

        def objective(params):
            return measured(self.graphdef, self.loss, params, state.rest, batch, self.counts)

        (value, (metrics, rest)), gradients = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        _check_structure(state.rest, rest)
        # The gradient of JAX in a complex number is the conjugate of the steepest ascent.
        gradients = jax.tree.map(jnp.conj, gradients)
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


def _compiled(step: Callable[..., State]) -> Callable[..., State]:
    """Compile a function `step(state, ...)`, which may overwrite the optimiser's part of the state.

    The weights of the state before are kept: they are the last good ones if the step fails.
    """

    @partial(jax.jit, donate_argnums=0)
    def donated(optimiser: Any, others: State, *arguments: Any) -> State:
        return step(others._replace(optimiser=optimiser), *arguments)

    def compiled(state: State, *arguments: Any) -> State:
        return donated(state.optimiser, state._replace(optimiser=None), *arguments)

    return compiled


def _check_optimiser(given: Any, wanted: Any) -> None:
    """Refuse the state of another optimiser, or of a model of other shapes."""

    def specs(tree: Any) -> dict[str, str]:
        leaves = named(jax.eval_shape(lambda: tree))
        return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}

    changed = differences(specs(given), specs(wanted))
    if changed or jax.tree.structure(given) != jax.tree.structure(wanted):
        which = "".join(
            f": it holds {was or 'nothing'} at {name}, this one {now or 'nothing'}"
            for name, was, now in changed[:1]
        )
        raise InputError(
            f"after holds the state of another optimiser or model{which}; give the same optimiser, "
            "and take refined_moments(...) where the model was refined"
        )


def _check_structure(before: Real, after: Any) -> None:
    """Refuse a loss that changes which variables the model has, or their shapes and dtypes."""

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
            f"a call of the loss changed which variables the model has, or their shapes{which}; "
            "create them before training"
        )


def _check_finite(state: State, epoch: int, log: Log) -> None:
    """Raise a TrainingError if a step of this epoch was not finite."""
    broken = int(state.broken)
    if broken >= 0:
        log.wait()
        saved = (
            ""
            if log.store is None or log.store.last is None
            else f"; the checkpoint of step {log.store.last} is good"
        )
        first = (
            "look for NaN and for labels out of range in the data, "
            if epoch == 0  # Later epochs see no new samples.
            else ""
        )
        raise TrainingError(
            f"loss, gradient or weights stopped being finite in epoch {epoch + 1}, "
            f"step {broken + 1}{saved}: {first}lower the learning rate, clip gradients "
            "(optax.clip_by_global_norm), or let the solve take more steps"
        )
