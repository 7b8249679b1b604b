"""Whole models on finer or coarser depth: `refined` and `projected`.

Depth is a dial of a model. `refined` cuts the cells and the steps of every layer into parts, and
keeps the weights as functions of depth. `projected` moves these functions to another basis. What
becomes of one module stands in `depth.varying`, of one basis in `depth.basis`. Trainings that
refine a model on their way stand in `training.levels`.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis, DepthVarying, PiecewiseConstant, raw
from neuralflow.depth.basis import projection, refinement
from neuralflow.depth.flattened import array_bases
from neuralflow.depth.varying import check_statistics, dotted, on_rows
from neuralflow.layers import NeuralODE
from neuralflow.schemes.network import step_coefficients, traits
from neuralflow.solve import FixedGrid
from neuralflow.solve.system import MISFITS, misfit

ModelT = TypeVar("ModelT", bound=nnx.Module)
Path = tuple[Any, ...]

_NOTICED = 0.01  # a change of the outputs, relative to their size, that `refined` warns of


class HoldsSteps(nnx.Module, abc.ABC):
    """A module that knows the number or the length of the steps of a layer itself.

    `refined` tells these modules of finer steps, before it changes the `NeuralODE` layers of the
    model. `inference.Candidate` tells the modules that are the field of a layer.
    """

    @abc.abstractmethod
    def _change_steps(self, factor: Fraction | None) -> None:
        """Change the module in place, for another number of equal steps.

        Args:
            factor: The number of new steps for each old one. None stands for steps that are not of
                one length, or that evaluate the field more than once.

        Raises:
            InputError: The module does not exist on these steps.
        """


class Rows(NamedTuple):
    """Where the rows of an array lie in depth.

    Attributes:
        basis: The basis whose coefficients the rows are. The rows of a `PerStep` are values on the
            steps of a grid.
        first: The number of the coefficient in row 0. The coefficients before are zero, and have no
            row: the first steps of a two-step scheme are plain ones.
    """

    basis: Basis
    first: int = 0

    def part(self, matrix: np.ndarray, old: Rows) -> np.ndarray:
        """Return the part of a matrix that belongs to rows.

        Args:
            matrix: A matrix from the coefficients of `old.basis` to the coefficients of `basis`.
            old: The rows that the matrix is applied to.
        """
        return matrix[self.first :, old.first :]


def rows_of(model: nnx.Module) -> dict[Path, Rows]:
    """Return where the arrays of a model lie in depth, by their paths in its state.

    Arrays that do not vary with depth have no entry.

    Args:
        model: The model, with `NeuralODE` layers and `DepthVarying` modules anywhere inside.
    """
    rows = {path: Rows(basis) for path, basis in array_bases(model).items()}
    paths = {id(node): path for path, node in nnx.iter_graph(model)}
    for _, layer in nnx.iter_graph(model):
        grid = layer.discretisation if isinstance(layer, NeuralODE) else None
        if isinstance(grid, FixedGrid):
            cells: Any = grid.steps if grid.times is None else grid.times
            for row in step_coefficients(grid.scheme):
                first = grid.grid.steps - len(raw(row))
                rows[paths[id(row)]] = Rows(PiecewiseConstant(cells), first)
    return rows


def refined(model: ModelT, factor: int, x: PyTree = None) -> ModelT:
    """Return a model on finer depth, with the same weights as functions of depth.

    Every cell of every `DepthVarying`, and every step of the fixed grid of every `NeuralODE`, is
    cut into `factor` equal parts. The interval of depth time stays the same, so steps get shorter.
    The new model therefore is closer to the ODE that the weights define. Its outputs are nearly the
    outputs of the model where the model is close to this ODE already. An adaptive layer gets finer
    cells alone, and keeps its outputs up to its tolerances. `neuralflow.regularisers.depth_energy`
    keeps its value on a `PiecewiseLinear` basis. On cells it sums squares of jumps, and grows by
    the factor.

    The new model shares nothing with the model. What the model shares inside, the new model shares
    too. Batch statistics of a cell are repeated in its parts. Rows of a
    `neuralflow.schemes.PerStep` are repeated in the parts of their steps; a plain first step of a
    two-step scheme stays plain in all its parts, with coefficients of zero. Random streams and
    sharding stay as they are. A network of `neuralflow.labs.stochastic` keeps its limit, the SDE.

    Args:
        model: The model, with `NeuralODE` layers anywhere inside.
        factor: The number of parts of every cell and of every step, at least 2.
        x: An input of the model, or None. With an input, a `UserWarning` tells how much the outputs
            of the model in evaluation mode change, if this is more than 1 % of their norm.

    Returns:
        The new model.

    Raises:
        InputError: `factor` is below 2. Or the model has no depth to refine, or a scheme cannot
            take finer steps: a two-step scheme that goes on from a state before x, or a reversible
            one whose walk back would lose its digits. Or a new step would cross a knot: steps of
            unlike lengths within one cell do not end at the knots of its parts.
        InputError: The model cannot be evaluated on `x`. Or coefficients stand in two
            `DepthVarying` with different bases.
        InputTypeError: `model` is not an `nnx.Module`, `factor` is not a whole number, or `x` is
            traced.
        SolveError: A solve on `x` failed.

    Example:
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> make = lambda rngs: nnx.Linear(2, 2, rngs=rngs)
        >>> field = nf.DepthVarying(make, nf.PiecewiseLinear(4), rngs=nnx.Rngs(0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=4))
        >>> finer = nf.refined(layer, 2)
        >>> finer.discretisation, finer.field.basis
        (FixedGrid(RK4(), steps=8), PiecewiseLinear(cells=8))
        >>> bool((finer.field.at(0.25).kernel == field.at(0.25).kernel).all())
        True
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    checks.whole("factor", factor, least=2)
    layers, rows = nodes(model, NeuralODE), rows_of(model)
    stepped = any(layer.discretisation.planned for layer in layers) or nodes(model, HoldsSteps)
    if not rows and not stepped:
        raise InputError(
            "model must have depth to refine, a NeuralODE with fixed steps or a DepthVarying, got "
            f"a {type(model).__name__} without"
        )
    for layer in layers:
        if traits(layer.discretisation.scheme).continued:
            raise InputError(
                f"model has a {type(layer.discretisation.scheme).__name__} that goes on from the "
                "state one step before x, and a finer step has another one before it; refine the "
                "model before after(...)"
            )
    finer = {path: row._replace(basis=row.basis.refined(factor)) for path, row in rows.items()}
    new = _moved(model, rows, finer, refinement)
    for node in nodes(new, HoldsSteps):
        node._change_steps(Fraction(int(factor)))
    for node in nodes(new, DepthVarying):
        node.basis = node.basis.refined(factor)
    for layer in nodes(new, NeuralODE):
        solve = layer.discretisation
        layer._take(solve.refined(factor) if solve.planned else solve)
    if x is not None:
        _tell(model, new, x, "refining", "the steps of the model are not small")
    return new


def projected(model: ModelT, basis: Basis, x: PyTree = None) -> ModelT:
    """Return a model whose weights are functions of depth on another basis.

    The functions of every `DepthVarying` become the functions of the basis that are nearest in
    L2 over normalised depth. They stay the same where the basis contains their own. The
    discretisations stay as they are: a model of many steps keeps its steps, with weights that have
    fewer coefficients.

    Args:
        model: The model, with `DepthVarying` anywhere inside.
        basis: The new basis of all weights that vary with depth.
        x: An input of the model, or None. With an input, a `UserWarning` tells how much the outputs
            of the model in evaluation mode change, if this is more than 1 % of their norm.

    Returns:
        The new model, which shares nothing with the model.

    Raises:
        InputError: No weight of the model varies with depth. Or a step of a layer would cross a
            knot of the basis, or the model holds batch statistics and the basis is not
            `PiecewiseConstant`.
        InputError: The model cannot be evaluated on `x`.
        InputTypeError: `model` is not an `nnx.Module`, `basis` is not a basis, or `x` is traced.
        SolveError: A solve on `x` failed.

    Example:
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> make = lambda rngs: nnx.Linear(2, 2, rngs=rngs)
        >>> line = nf.PiecewiseLinear(32)
        >>> field = nf.DepthVarying(make, line, rngs=nnx.Rngs(0), init=nf.smooth(0.3))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=32))
        >>> smaller = nf.projected(layer, nf.PiecewiseLinear(8))
        >>> smaller.field.stack.kernel.shape, smaller.discretisation.steps
        ((9, 2, 2), 32)
    """
    checks.instance("model", model, nnx.Module, "an nnx.Module")
    checks.instance("basis", basis, Basis, "a depth basis such as nf.PiecewiseLinear(8)")
    new = on_basis(model, basis)
    for layer in nodes(new, NeuralODE):
        layer.discretisation.check(layer.field)
    if x is not None:
        _tell(model, new, x, "projecting", f"the weights are not near functions on {basis}")
    return new


def on_basis(model: ModelT, basis: Basis) -> ModelT:
    """Return a model with its weights projected on a basis, whatever steps its layers take.

    Args:
        model: The model.
        basis: The new basis.

    Raises:
        InputError: No weight of the model varies with depth. Or the model holds batch statistics
            and the basis is not `PiecewiseConstant`.
    """
    rows = {path: Rows(own) for path, own in array_bases(model).items()}
    if not rows:
        raise InputError(
            f"no weight of the model, a {type(model).__name__}, varies with depth, so that none "
            f"can be projected on {basis}; give a model with a nf.DepthVarying inside"
        )
    for node in nodes(model, DepthVarying):
        check_statistics(basis, node.stack)
    new = _moved(model, rows, dict.fromkeys(rows, Rows(basis)), projection)
    for node in nodes(new, DepthVarying):
        node.basis = basis
    return new


def nodes(model: nnx.Module, kind: type[Any]) -> list[Any]:
    """Return the modules of a class inside a model, each once.

    Args:
        model: The model.
        kind: The class.
    """
    return [node for _, node in nnx.iter_graph(model) if isinstance(node, kind)]


def _moved(
    model: ModelT,
    old: Mapping[Path, Rows],
    new: Mapping[Path, Rows],
    matrix_of: Callable[[Basis, Basis], np.ndarray],
) -> ModelT:
    """Return a copy of a model with other coefficients, and nothing else that is new."""
    matrices = {
        (a, b): b.part(matrix_of(a.basis, b.basis), a) for a, b in {(old[p], new[p]) for p in old}
    }

    def moved(path: Path, leaf: Any) -> Any:
        if path not in old:
            return leaf
        value, rows = raw(leaf), old[path]
        if not rows.first:
            rows.basis.check(value, f"the coefficients '{dotted(path)}'")
        value = spread_rows(matrices[rows, new[path]], value)
        return leaf.replace(value) if isinstance(leaf, nnx.Variable) else value

    graphdef, state = nnx.split(model)
    flat = [(path, moved(path, leaf)) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(flat), copy=True)


def spread_rows(matrix: np.ndarray, array: Array) -> Array:
    """Return matrix @ array along the first axis, spread over devices as the array is.

    An array whose new rows do not divide by its number of devices is whole on each of them.

    Args:
        matrix: The matrix `(rows, size)`.
        array: The array `(size, ...)`.
    """
    sharding = getattr(array, "sharding", None)
    if isinstance(array, core.Tracer) or not isinstance(sharding, NamedSharding):
        return on_rows(matrix, array)
    # On a mesh with explicit axes, JAX would ask for the sharding of every result.
    held: Any = sharding.mesh
    mesh = Mesh(held.devices, held.axis_names)
    new = on_rows(matrix, jax.device_put(array, NamedSharding(mesh, sharding.spec)))
    try:
        sharding.shard_shape(new.shape)
    except ValueError:
        sharding = NamedSharding(held, PartitionSpec())
    return jax.device_put(new, sharding)


def _tell(model: nnx.Module, new: nnx.Module, x: PyTree, what: str, why: str) -> None:
    """Warn of a change of the outputs on x that people would notice."""
    change = _change(model, new, x)
    if not change <= _NOTICED:
        warnings.warn(
            f"{what} changes the outputs on x by {change:.1%} of their norm, because {why}; "
            "train on, or keep the model",
            stacklevel=3,
        )


def _change(model: nnx.Module, new: nnx.Module, x: PyTree) -> float:
    """Return the norm of the change of the outputs on x, relative to the norm of the outputs."""
    if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves((x, nnx.state(model)))):
        raise InputTypeError(
            "x must be known, and the weights with it, to tell how much outputs change, got traced "
            "ones; leave x out, or refine outside of the trace"
        )

    def wide(leaf: Any) -> Array:
        # Squares leave the range of float16 soon.
        return jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))

    def norm(arrays: list[Array]) -> float:
        return float(jnp.sqrt(sum(jnp.sum(jnp.abs(array) ** 2) for array in arrays)))

    before, after = (list(map(wide, jax.tree.leaves(evaluated(each, x)))) for each in (model, new))
    if not sum(array.size for array in before):
        raise InputError(
            f"x of shape {jax.tree.map(jnp.shape, x)} has no outputs to compare; give a sample"
        )
    return norm([a - b for a, b in zip(after, before, strict=True)]) / max(norm(before), 1e-30)


def evaluated(model: nnx.Module, x: PyTree) -> Any:
    """Return the outputs of a model in evaluation mode; the model stays as it is.

    Args:
        model: The model.
        x: An input of the model.

    Raises:
        InputError: The model raises an error on x, which is then the cause.
    """
    copy: Any = nnx.merge(*nnx.split(model), copy=True)
    copy.eval()
    try:
        return copy(x)
    except InputError:
        raise
    except MISFITS as error:
        raise misfit(f"model {type(model).__name__}", x, error) from error
