"""Multi-level training: train a shallow model, refine it, and train on.

`multilevel` is a chain of calls of `fit`, one a level. `refined_moments` carries the state of the
optimiser from one level to the next. The refinement of a model itself stands in `refinement`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.data import Data, Stream
from neuralflow.depth import raw
from neuralflow.depth.basis import mass, refinement
from neuralflow.refinement import Rows, refined, rows_of, spread_rows
from neuralflow.training.checkpoints import CheckpointError, Checkpoints
from neuralflow.training.evaluation import Loss
from neuralflow.training.log import place
from neuralflow.training.loop import Fitted, fit

ModelT = TypeVar("ModelT", bound=nnx.Module)

_FIRST = ("mu", "trace", "acc_grads")
_KNOWN = (*_FIRST, "nu", "nu_max", "sum_of_squares")
"""The names by which states of optax hold sums of gradients, and then sums of their squares."""


def multilevel(
    model: ModelT,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    data: Data | Stream,
    *,
    epochs: Sequence[int] = (4, 4, 4, 4),
    factor: int | Sequence[int] = 2,
    folder: str | Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> tuple[ModelT, Fitted]:
    """Train a shallow model, and refine it between levels until the model is deep.

    Every level is a training by `fit`. Between two levels, `neuralflow.refined` cuts the cells and
    the fixed steps of the model, and `refined_moments` carries the state of the optimiser over. The
    counts of the optimiser go on, so one learning-rate schedule spans all levels. The order of the
    samples goes on as well. An epoch costs about as much as its level has steps, so early levels
    are cheap. Every level compiles anew.

    A model whose steps are not small changes its outputs where it is refined. `refined(model,
    factor, x)` tells by how much.

    With a `folder`, the last level is in the folder itself, with the history of all levels, and
    `restore(folder, deep_model)` reads it. The levels before are in its subfolders `level-1`,
    `level-2` and so on. A training that was killed at any point and resumed reaches the same bits.

    Args:
        model: The model of the first level. It is trained in place, and ends with the weights of
            the first level.
        loss: A function `loss(model, batch)`, as for `fit`.
        optimiser: An optax transformation whose state `refined_moments` knows, such as
            `optax.adam(1e-3)`. Its schedules count the steps of all levels.
        data: A dict of arrays, or a `neuralflow.data.Stream`, as for `fit`.
        epochs: The number of epochs of every level.
        factor: The number of parts into which every refinement cuts cells and steps, at least 2. Or
            one number for each refinement.
        folder: The folder for history and checkpoints. None writes nothing.
        resume: Whether to go on from the last checkpoint in `folder`, if there is one. Epochs and
            factors must be the same then.
        settings: What else identifies the training, as for `fit`.
        progress: Whether to show the progress, with the number of the level.
        **options: Further arguments of `fit`, but `patience` and `after`: `batch`, `validation`,
            `augment`, `accumulate`, `seed`, `mesh`, `save_every` and `keep`.

    Returns:
        The model of the last level, and what `fit` returns for it. The history has the epochs of
        all levels. The best epoch is one of the last level.

    Raises:
        InputError: An argument has a wrong value, as for `fit` and `neuralflow.refined`. Or the
            number of factors is not that of the refinements, or the state of the optimiser is not
            known.
        InputTypeError: An argument has a wrong type.
        TrainingError: The training cannot go on, as for `fit`.
        CheckpointError: The folder cannot be used, or its checkpoints belong to another training.

    Example:
        >>> import neuralflow as nf
        >>> import optax
        >>> from flax import nnx
        >>> grid = nf.FixedGrid(nf.Euler(), steps=2)
        >>> model = nf.models.PointClassifier(2, 2, grid, width=4, cells=2, rngs=nnx.Rngs(0))
        >>> loss, points = nf.models.classification, nf.data.moons(64)
        >>> deep, fitted = nf.training.multilevel(
        ...     model, loss, optax.adam(1e-2), points, epochs=(1, 1), batch=32, progress=False
        ... )
        >>> deep.flow.discretisation, fitted.history["evaluations"].tolist()
        (FixedGrid(Euler(), steps=4), [2.0, 4.0])
    """
    epochs = checks.wholes("epochs", epochs)
    factors = _factors(factor, len(epochs))
    if taken := {"patience", "after"} & set(options):
        raise InputError(
            f"multilevel trains every level for its number of epochs, got {min(taken)}; leave it "
            "out, or call fit for every level"
        )
    checks.flag("progress", progress)
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    checks.instance("optimiser", optimiser, optax.GradientTransformation, "an optax transformation")
    if factors:  # What no later level could do is refused before any work is done.
        refined(model, math.prod(factors))
        refined_moments(
            optimiser.init(nnx.state(model, nnx.Param)), model, refined(model, factors[0])
        )
    folders = _folders(folder, len(epochs), resume)
    fixed = {"multilevel": {"epochs": list(epochs), "factors": list(factors)}}
    fitted: Fitted | None = None
    for level, last in enumerate(itertools.accumulate(epochs)):
        if fitted is not None:
            finer = refined(model, factors[level - 1])
            moments = refined_moments(fitted.optimiser, model, finer)
            model, fitted = finer, fitted._replace(optimiser=moments)
        fitted = fit(
            model,
            loss,
            optimiser,
            data,
            epochs=last,
            folder=folders[level],
            resume=resume,
            settings={**(settings or {}), **fixed},
            progress=f"level {level + 1}/{len(epochs)}" if progress else False,
            after=fitted,
            **options,
        )
    assert fitted is not None  # There is one level at least.
    return model, fitted


def _factors(factor: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """Return the factor of every refinement between levels."""
    if not isinstance(factor, Sequence | np.ndarray) or isinstance(factor, str):
        checks.whole("factor", factor, least=2)
        return (int(factor),) * (levels - 1)
    if not len(factor) and levels == 1:
        return ()
    factors = checks.wholes("factor", factor, least=2)
    if len(factors) != levels - 1:
        raise InputError(
            f"factor must have an entry for each of the {levels - 1} refinements between the "
            f"{levels} levels of epochs, got {len(factors)}"
        )
    return factors


def _folders(folder: str | Path | None, levels: int, resume: bool) -> list[Path | None]:
    """Return the folder of every level, and refuse what is no multi-level training to go on from.

    Level by level, a refusal would come after the work of the levels before.
    """
    if folder is None:
        return [None] * levels
    whole = place(folder)
    folders = [*(whole / f"level-{k}" for k in range(1, levels)), whole]
    held = [(at / "checkpoints").is_dir() and bool(_steps(at)) for at in folders]
    if any(held) and not resume:
        raise CheckpointError(
            f"{folder} holds a training already; go on with resume=True (--resume), or give "
            "another folder"
        )
    if held != sorted(held, reverse=True):
        raise CheckpointError(
            f"{folder} holds checkpoints of a later level, and none of level "
            f"{held.index(False) + 1}; put them back, or give another folder"
        )
    return list(folders)


def _steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in the folder of a level."""
    return Checkpoints(folder / "checkpoints").steps()


class _Transfer(NamedTuple):
    """The maps of steps and of moments of one array from coarser to finer coefficients."""

    step: np.ndarray
    first: np.ndarray
    second: np.ndarray


def refined_moments(state: PyTree, old: nnx.Module, new: nnx.Module) -> Any:
    """Carry the state of an optimiser over to the parameters of a refined model.

    A gradient is a functional of the weights as functions of depth. On coefficients of a finer
    basis, the functional that has its density in the coarser space has the gradient M' R M^-1 g.
    Here g is the gradient on the old coefficients, R the matrix of the refinement, and M and M' are
    the mass matrices of the old and of the new basis. Moving means of gradients change in the same
    way: they are halved and repeated where constant cells are cut in two.

    Second moments are squares of such a density v. They become L'^2 |R| L^-2 v, with the lumped
    masses L in place of M: quarters where constant cells are cut in two. So they stay positive, and
    Adam's steps stay what they were. A coefficient without parents, such as the factor of a new
    Legendre polynomial, takes the first moment zero and the second moment of its nearest neighbour.

    Means of steps, in place of gradients, are carried as the weights are. A trace behind second
    moments is such a mean: the momentum of `optax.rmsprop`, for example.

    Moments of parameters that do not vary with depth, counts, schedules and hyperparameters stay as
    they are.

    Args:
        state: The state of an optax transformation for the parameters of `old`, such as
            `Fitted.optimiser`. Its moments are those of gradients: behind a transformation that
            changes gradients over depth, such as `neuralflow.regularisers.sobolev`, they are not.
            Some states look like those of others, and are better begun anew: `optax.adamax` keeps
            the largest gradients under the name nu, `optax.contrib.adopt` a mean of steps under the
            name mu, and `optax.lars` a trace of steps.
        old: The model before the refinement.
        new: The model that `neuralflow.refined` has returned, or another one on bases that contain
            the old ones.

    Returns:
        The state for the parameters of `new`.

    Raises:
        InputError: The state holds arrays over depth whose meaning is not known. The known names
            are mu, trace and acc_grads for first moments, nu, nu_max and sum_of_squares for second
            moments. Or the parameters of `new` have other names, or a basis does not contain the
            old one.
        InputTypeError: `old` or `new` is not an `nnx.Module`.

    Source:
        Our formulation: the dual map of the embedding of function spaces.
    """
    for name, each in {"old": old, "new": new}.items():
        checks.instance(name, each, nnx.Module, "an nnx.Module")
    transfers = _transfers(old, new)
    shapes = {path: np.shape(raw(leaf)) for path, leaf in _parameters(old)}
    # The first part of the state, by parameter, that divides gradients by their second moments.
    divided: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def moved(path: tuple[Any, ...], leaf: Any) -> Any:
        holder, field, owner = _place(path, shapes)
        whole = not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        if whole or (owner not in transfers and (owner in shapes or not np.ndim(leaf))):
            return leaf
        if owner not in transfers or np.shape(leaf) != shapes[owner] or field not in _KNOWN:
            raise InputError(
                f"state holds {jax.tree_util.keystr(path)} of shape {np.shape(leaf)}, and what "
                "becomes of it on finer depth is not known; take an optimiser of first and second "
                "moments such as optax.adam, or begin a new state with its init"
            )
        transfer = transfers[owner]
        if field not in _FIRST:
            divided.setdefault(owner, holder)
            matrix = transfer.second
        elif field != "acc_grads" and divided.get(owner, holder) != holder:
            matrix = transfer.step
        else:
            matrix = transfer.first
        return spread_rows(matrix, leaf)

    return jax.tree_util.tree_map_with_path(moved, state)


def _place(
    path: tuple[Any, ...], names: Container[Any]
) -> tuple[tuple[Any, ...], str, tuple[Any, ...]]:
    """Return the part of an optimiser's state that holds an array, the field, and the parameter.

    The parameter is the longest end of the path that is the name of one, and empty without one.
    """
    keys = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", None))) for key in path]
    keys = keys[:-1] if keys[-1:] == ["value"] else keys  # A variable of NNX holds an array.
    ends = (k for k in range(1, len(keys)) if tuple(keys[k:]) in names)
    start = next(ends, len(keys))
    field = str(keys[start - 1]) if start else ""
    return tuple(keys[: max(0, start - 1)]), field, tuple(keys[start:])


def _parameters(model: nnx.Module) -> list[tuple[tuple[Any, ...], Any]]:
    """Return the parameters of a model with their paths."""
    return list(nnx.to_flat_state(nnx.state(model, nnx.Param)))


def _transfers(old: nnx.Module, new: nnx.Module) -> dict[tuple[Any, ...], _Transfer]:
    """Return the maps of the moments of every parameter that varies with depth."""
    before, after = rows_of(old), rows_of(new)
    names = [path for path, _ in _parameters(old)]
    if names != [path for path, _ in _parameters(new)] or set(before) != set(after):
        raise InputError(
            f"new must have the parameters of old, got a {type(new).__name__} and a "
            f"{type(old).__name__} with others; give what refined(old, ...) has returned"
        )
    pairs = {path: (before[path], after[path]) for path in names if path in before}
    made = {pair: _transfer(*pair) for pair in set(pairs.values())}
    return {path: made[pair] for path, pair in pairs.items()}


def _transfer(old: Rows, new: Rows) -> _Transfer:
    """Return the maps of moments between the coefficients of two bases."""
    embedding = new.part(refinement(old.basis, new.basis), old)
    coarse, fine = old.part(mass(old.basis), old), new.part(mass(new.basis), new)
    first = fine @ embedding @ np.linalg.inv(coarse)
    children = np.flatnonzero(embedding.any(axis=1))
    nearest = np.abs(children[:, None] - np.arange(len(embedding))).argmin(axis=0)
    lumps = [np.abs(matrix).sum(axis=1) for matrix in (fine, coarse)]
    second = lumps[0][:, None] ** 2 * np.abs(embedding[children[nearest]]) / lumps[1] ** 2
    return _Transfer(embedding, first, second)
