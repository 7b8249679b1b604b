"""Import of trained residual branches: their weights as functions of depth on any basis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.branches.alignment import (
    Weights,
    aligned,
    balanced,
    multiply,
    reorder,
    size_of,
    wide,
)
from neuralflow.branches.residual import from_branches
from neuralflow.branches.states import fitted, misfit, state_errors
from neuralflow.branches.units import HiddenUnits, hidden_units
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis, DepthVarying, PiecewiseConstant, raw
from neuralflow.depth.basis import evaluation
from neuralflow.depth.grid import locate_steps, uniform
from neuralflow.depth.varying import dotted, flatten
from neuralflow.fields import evaluate
from neuralflow.layers import NeuralODE
from neuralflow.solve.system import velocity_of

_PROBE = 8  # Inputs on which the units are checked.


@dataclass(frozen=True)
class FitReport:
    """How well a layer reproduces residual branches. Printing the report shows the numbers.

    All errors are relative: norms of differences, divided by norms of what is reproduced. The
    weights that count are the parameters.

    Attributes:
        basis: The basis of the layer.
        branches: The number of branches.
        units: The number of hidden units of all branches.
        moved: How many of the units have another place than before.
        flipped: How many of the units have another sign than before.
        raw: The error of the weights of a projection without alignment. Where scales are balanced,
            they are balanced first, so that `raw` and `aligned` measure the same weights.
        aligned: The error of the weights of the projection of the aligned branches.
        states: The errors of the states after all branches, before and after the fit to the states.
            None without inputs.
        output: The errors of the state after the last branch, before and after the fit. None
            without inputs.
    """

    basis: Basis
    branches: int
    units: int
    moved: int
    flipped: int
    raw: float
    aligned: float
    states: tuple[float, float] | None = None
    output: tuple[float, float] | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.branches} branches on {self.basis}, {self.basis.size} coefficients",
            f"units    {self.moved} of {self.units} moved, {self.flipped} with another sign",
            f"weights  {self.raw:.2e} off as they were, {self.aligned:.2e} aligned",
        ]
        if self.states is not None and self.output is not None:
            for name, (before, after) in (("states", self.states), ("output", self.output)):
                lines.append(f"{name:8} {before:.2e} off projected, {after:.2e} fitted")
        return "\n".join(lines)


def fit_branches(
    branches: Sequence[nnx.Module],
    basis: Basis,
    *,
    units: Sequence[HiddenUnits] | None = None,
    x: PyTree = None,
    context: PyTree = None,
    steps: int = 1500,
    progress: bool = True,
) -> tuple[NeuralODE[DepthVarying], FitReport]:
    """Return a layer on a basis of depth that reproduces trained residual branches.

    The layer takes Euler steps of length one over [0, N], as `from_branches` does. N is the number
    of branches. Three steps lead to its weights.

    1. The hidden units of the branches are aligned, which changes no function. Units that a
       positive factor does not change, as with ReLU, get incoming and outgoing weights of equal
       norms. Then the units are renumbered, and change their sign where the activation is odd, such
       that the weights vary as little as possible beyond what the basis holds.
    2. The weights are projected on the basis: least squares at the depths k / N where the steps
       read the weights.
    3. With inputs, the coefficients are fitted to the states of the original network after every
       branch, without labels. Adam minimises the squared error of all states, and three times that
       of the last state, in evaluation mode. The projection is kept where the fit is not nearer.

    On `PiecewiseConstant(N)` the branches are reproduced to the last bit, up to the order, signs
    and scales of their units. `units=()` leaves the units as they are.

    Args:
        branches: The residual branches, as for `from_branches`.
        basis: The basis of the functions of depth. It has at most N coefficients, and no step
            crosses a knot.
        units: The hidden units of a branch. None takes those that
            `neuralflow.branches.hidden_units` finds, in `nnx.Sequential`, `neuralflow.fields.MLP`,
            `neuralflow.fields.ConvBlock` and attention. The units of another module have to be
            named.
        x: Inputs `(samples, ...)` of the first branch, in the distribution of later use. None
            leaves out the fit to states.
        context: The context of the branches at the inputs, or None.
        steps: The number of steps of Adam. Each step walks both networks on at most 256 inputs. 0
            leaves out the fit to states.
        progress: Whether to show the progress of the fit to states.

    Returns:
        The layer, and a report of the errors. The layer has the mode of the branches.

    Raises:
        InputError: The branches cannot be stacked, as `from_branches` says.
        InputError: `basis` has more coefficients than the steps determine, or a step crosses a
            knot. Or it reaches across cells, and the branches hold batch statistics.
        InputError: `units` is None and no hidden units are known. Or a unit names what is no
            parameter or no axis, or changes the function of the branch.
        InputError: `units` are given without `x`, or a branch cannot be evaluated on `x`.
        InputError: A weight of a branch is not finite.
        InputTypeError: An argument is of the wrong kind, or is traced.
        SolveError: `x` is not finite, or the branches lead out of the range of floating point.

    Example:
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> branches = [nf.fields.MLP(2, hidden=8, rngs=nnx.Rngs(seed)) for seed in range(8)]
        >>> layer, report = nf.fit_branches(branches, nf.PiecewiseLinear(2))
        >>> layer.field.stack.dense[0].kernel.shape
        (3, 2, 8)
        >>> report.aligned < report.raw
        True

    Source:
        Ainsworth et al., arXiv 2209.04836, match the units of two networks by their weights, as
        recalled. Matching the blocks of one network, and the target that belongs to a basis, are
        our formulation.
    """
    original = from_branches(branches)
    checks.instance("basis", basis, Basis, "a depth basis such as nf.PiecewiseLinear(8)")
    checks.whole("steps", steps, least=0)
    checks.flag("progress", progress)
    stack = original.field.stack
    _refuse_traced(nnx.state(stack))
    matrix = _reading(basis, len(branches), stack)
    inverse = np.linalg.pinv(matrix)
    before = _weights(stack)
    for name, array in before.items():
        if not np.isfinite(wide(array)).all():
            raise InputError(
                f"branches must hold finite weights, got others in '{name}'; give branches that "
                "were trained without a failure"
            )
    if x is not None:
        x = _inputs(original, branches[0], x, context)
    groups = _units(branches[0], before, units)
    if x is not None:
        _check_functions(branches[0], before, groups, x, context)
    elif units:
        raise InputError("units are checked on inputs; give x, or let hidden_units find the units")

    names = {dotted(path) for path in flatten(nnx.state(stack, nnx.Param))[0]}
    even = balanced(before, groups)
    after = aligned(even, groups, names, matrix @ inverse)
    coefficients = {name: _times(inverse, array) for name, array in after.weights.items()}
    layer = original.with_field(DepthVarying.from_stack(_with(stack, coefficients), basis))
    report = FitReport(
        basis,
        len(branches),
        units=len(branches) * sum(size_of(before, group) for group in groups),
        moved=after.moved,
        flipped=after.flipped,
        raw=_misfit(even, matrix @ inverse, names),
        aligned=_misfit(after.weights, matrix @ inverse, names),
    )
    if x is None:
        return layer, report
    fit = fitted(layer, original, _rates(layer, after.weights, matrix), x, context, steps, progress)
    off, nearer = (state_errors(each, original, x, context) for each in (layer, fit))
    if not misfit(*np.square(nearer)) <= misfit(*np.square(off)):
        fit, nearer = layer, off
    states, output = zip(off, nearer, strict=True)
    return fit, replace(report, states=states, output=output)


def _rates(layer: NeuralODE[DepthVarying], weights: Weights, matrix: np.ndarray) -> PyTree:
    """Return how far the weights of a layer are from given weights, for each array of parameters.

    The distance is the root mean square over the array.
    """
    stack = layer.field.stack
    off = {
        name: np.sqrt((np.abs(wide(weights[name]) - _times(matrix, wide(array))) ** 2).mean())
        for name, array in _weights(stack).items()
    }
    sizes = {name: size.astype(weights[name].dtype) for name, size in off.items()}
    return nnx.state(_with(stack, sizes), nnx.Param)


def _reading(basis: Basis, count: int, stack: nnx.Module) -> np.ndarray:
    """Return the matrix from coefficients to the weights that the steps read, checked."""
    statistics = flatten(nnx.state(stack, nnx.BatchStat))[0]
    if statistics and not isinstance(basis, PiecewiseConstant):
        raise InputError(
            f"{basis} reaches across cells, and the branches hold batch statistics "
            f"('{dotted(statistics[0])}'); give [nf.frozen(branch) for branch in branches]"
        )
    matrix = evaluation(basis, np.arange(count) / count)
    rank = int(np.linalg.matrix_rank(matrix))
    if rank < basis.size:
        raise InputError(
            f"{basis} has {basis.size} coefficients, and {count} branches determine only {rank} "
            "of them; take a coarser basis"
        )
    try:
        locate_steps(uniform(count), basis.cells)
    except InputError:
        raise InputError(
            f"{basis} has a knot inside one of {count} steps; let the number of cells divide the "
            "number of branches, or give knots at whole steps"
        ) from None
    return matrix


def _units(
    branch: nnx.Module, weights: Weights, units: Sequence[HiddenUnits] | None
) -> list[HiddenUnits]:
    """Return the hidden units of a branch, with axes that count from the front."""
    shapes = {name: array.shape[1:] for name, array in weights.items()}
    if units is None:
        found = hidden_units(branch)
        if not found:
            raise InputError(
                f"no hidden units are known of a {type(branch).__name__}; put its layers into an "
                "nnx.Sequential, or name the axes of its units with units=[nf.HiddenUnits(...)], "
                'such as nf.HiddenUnits({"first.kernel": 1, "first.bias": 0, "last.kernel": 0}) '
                f"(the branch has {shapes}), or give units=() to align nothing"
            )
        return found
    given = checks.sequence("units", units, "a sequence of nf.HiddenUnits")
    for group in given:
        checks.instance("each of units", group, HiddenUnits, "an nf.HiddenUnits")
        for name, axis in group.axes.items():
            if name not in shapes or not -len(shapes[name]) <= axis < len(shapes[name]):
                raise InputError(
                    f"units have {name!r} axis {axis}, which the branch has not; it has {shapes}"
                )
        sizes = {shapes[name][axis] for name, axis in group.axes.items()}
        if len(sizes) > 1 or sizes.pop() % group.groups:
            raise InputError(
                f"units ({group}) must have axes of one length, a multiple of groups "
                f"({group.groups}), got shapes { {name: shapes[name] for name in group.axes} }"
            )
    return [
        replace(group, axes={n: axis % len(shapes[n]) for n, axis in group.axes.items()})
        for group in given
    ]


def _inputs(layer: NeuralODE, branch: nnx.Module, x: PyTree, context: PyTree) -> PyTree:
    """Return inputs as arrays, and refuse what the branches cannot be evaluated on."""
    checks.states("x", x)
    _refuse_traced((x, context))
    x = jax.tree.map(jnp.asarray, x)
    counts = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if len(counts) > 1 or counts & {(), (0,)}:
        raise InputError(
            f"x must be inputs (samples, ...), at least one, got shapes {sorted(counts)} in front"
        )
    # In training, a call would change batch statistics.
    first, quiet = nnx.clone(branch), nnx.clone(layer)
    first.eval()
    quiet.eval()
    jax.eval_shape(lambda: velocity_of(type(branch).__name__, first, x, None, context))
    quiet(_first(1, x, context), context=context)
    return x


def _refuse_traced(arrays: PyTree) -> None:
    """Refuse arrays that are not known while a function is traced."""
    if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(arrays)):
        raise InputTypeError(
            "branches and x must be known, got traced ones; call fit_branches outside of jax.jit"
        )


def _first(count: int, x: PyTree, context: PyTree) -> PyTree:
    """Return the first inputs, or all where a context belongs to them."""
    return x if context is not None else jax.tree.map(lambda leaf: leaf[:count], x)


def _check_functions(
    branch: nnx.Module, weights: Weights, units: Sequence[HiddenUnits], x: PyTree, context: PyTree
) -> None:
    """Refuse units that cannot be renumbered, flipped or scaled without a change of the branch."""
    quiet = nnx.clone(branch)
    quiet.eval()
    probe = _first(_PROBE, x, context)
    velocity = evaluate(quiet, probe, None, context)
    for group in units:
        for done, change in _gauges(group, size_of(weights, group)).items():
            changed = {name: array[:1].copy() for name, array in weights.items()}
            change(changed)
            first = {name: array[0] for name, array in changed.items()}
            other = evaluate(_with(quiet, first), probe, None, context)
            off = _largest(jax.tree.map(jnp.subtract, other, velocity))
            if not off <= _tolerance(velocity) * _largest(velocity):
                raise InputError(
                    f"units ({group}) cannot be {done}: the first branch changes by {off:.1e} at "
                    f"most, and its values are {_largest(velocity):.1e} at most; name every "
                    "parameter and axis that the units index, and no other"
                )


def _gauges(group: HiddenUnits, size: int) -> dict[str, Callable[[Weights], None]]:
    """Return what may be done to units, each as a change of weights in place."""
    numbers = np.arange(size)
    gauges: dict[str, Callable[[Weights], None]] = {
        "renumbered": lambda weights: reorder(weights, group, numbers[::-1])
    }
    if group.odd:
        gauges["flipped"] = lambda weights: multiply(weights, group, (-1.0) ** (1 + numbers))
    if group.homogeneous:
        gauges["scaled"] = lambda weights: multiply(weights, group, 2.0 ** (1 + numbers % 3))
    return gauges


def _largest(tree: PyTree) -> float:
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def _tolerance(tree: PyTree) -> float:
    """Return the rounding that a sum in another order may make."""
    return max(float(jnp.finfo(leaf.dtype).eps) ** 0.5 for leaf in jax.tree.leaves(tree))


def _weights(stack: nnx.Module) -> Weights:
    """Return the arrays of a module by name, without random streams."""
    paths, leaves = flatten(nnx.state(stack, nnx.Not(nnx.RngState)))
    arrays = [np.asarray(raw(leaf)) for leaf in leaves]
    return dict(zip(map(dotted, paths), arrays, strict=True))


def _with(module: nnx.Module, weights: Weights) -> Any:
    """Return a copy of a module with other arrays, by name."""
    copy = nnx.clone(module)
    paths, leaves = flatten(nnx.state(copy, nnx.Not(nnx.RngState)))
    given = [jnp.asarray(weights[dotted(path)]) for path in paths]
    state = [
        (path, leaf.replace(value) if isinstance(leaf, nnx.Variable) else value)
        for path, leaf, value in zip(paths, leaves, given, strict=True)
    ]
    nnx.update(copy, nnx.from_flat_state(state))
    return copy


def _times(matrix: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Return matrix @ array along the first axis, in the dtype of the array."""
    if np.array_equal(matrix, np.eye(len(matrix))):
        return array
    return np.tensordot(matrix, wide(array), 1).astype(array.dtype)


def _misfit(weights: Weights, projector: np.ndarray, names: set[str]) -> float:
    """Return the relative error of the projection of weights."""
    given = {name: wide(weights[name]) for name in names}
    off = sum((np.abs(array - _times(projector, array)) ** 2).sum() for array in given.values())
    whole = sum((np.abs(array) ** 2).sum() for array in given.values())
    return float(np.sqrt(off / whole)) if whole else 0.0
