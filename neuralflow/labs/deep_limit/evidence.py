"""What the states and velocities of one NeuralODE say of the question whether it is an ODE.

`measure` returns both parts of the evidence. A `Resolution` compares the walk of a layer with the
flow of the equation to which its scheme converges. A `Regularity` compares the velocities of
neighbouring steps on the states that the layer itself reaches. Neither looks at weights, and
neither draws random numbers. So the numbers belong to the function that the layer computes, and not
to the way in which the function is written down.

All definitions are ours.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, PyTree

from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, FlatField
from neuralflow.depth.basis import Basis, Legendre, PiecewiseConstant
from neuralflow.fields import Split
from neuralflow.fields.split import parts_of
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.schemes.limits import LimitFlow, step_velocity
from neuralflow.schemes.network import OneStepScheme, Traits, step_coefficients, traits
from neuralflow.schemes.reversible import halves
from neuralflow.solve import Adaptive, Discretisation, FixedGrid

Verdict = Literal["pass", "fail", "undecided"]

OUTPUTS, ADJOINT, ROUGHNESS, NUGGET = 0.1, 0.25, 0.5, 0.2
"""The bounds of `outputs` and `path`, of `adjoint`, of `rho` and of `nugget`."""

_DEPTHS = 8  # depths whose states are the cloud
_SAMPLED = 64  # least number of depths at which an adaptive layer is looked at
_KNOTS, _PIECE = 3, 4  # most knots, and the least number of steps of a piece
_JUMP = 4  # A jump is so many times as large as the changes of the rest.
_MODES = 4  # polynomials in depth that are added to the velocity of an adaptive layer
_MOST_NUMBERS = 2**26  # numbers that are held at once
_MOST_ADJOINTS = 2**13  # derivatives of one output of one sample


class Measure(NamedTuple):
    """A measured number with its bound.

    Attributes:
        value: The number. Infinite where a state is not finite.
        error: The standard error of the number over the samples.
        bound: The largest number that passes.
    """

    value: float
    error: float
    bound: float

    @property
    def verdict(self) -> Verdict:
        """Whether the number passes: "undecided" where the bound is within two standard errors."""
        if 0 < abs(self.value - self.bound) <= 2 * self.error:
            return "undecided"
        return "pass" if self.value <= self.bound else "fail"

    def __str__(self) -> str:
        return f"{self.value:.3g} +- {2 * self.error:.1g}"


@dataclass(frozen=True)
class Resolution:
    """How well the steps of a layer resolve the equation to which its scheme converges.

    The exact flow stands for this equation. On a fixed grid, the exact flow takes eight steps of
    RK4 in place of each step. For an adaptive layer, it is the same solve with a thousandth of the
    tolerances, and with an absolute tolerance that is small against the states.

    Attributes:
        outputs: The root mean square of what the layer's final states are off the exact flow. The
            number is relative to the root mean square of how far the exact flow moves the states.
        path: The same over the states at all edges of the steps.
        adjoint: The relative error of the derivative of the final state with respect to a velocity
            that is added to the field. The added velocity is constant in every step, and differs
            from step to step. For an adaptive layer, it is a cubic polynomial in depth. The error
            of a sample is a root of squares summed over all entries of the final state and of the
            velocity, and integrated over depth. The number is the median over samples: means are
            decided by single samples. The derivative of leapfrog alternates from step to step, and
            does not pass.
        distance: The root mean square over samples of how far the exact flow moves a state.
        steps: The number of steps, or None for an adaptive layer.
        enough: About how many steps would bring `outputs` and `path` to 10%. The number is
            extrapolated from the layer's path with twice the steps. None for an adaptive layer.
    """

    outputs: Measure
    path: Measure
    adjoint: Measure
    distance: float
    steps: int | None
    enough: int | None


@dataclass(frozen=True)
class Regularity:
    """How much the velocity of a layer changes from step to step.

    All velocities are taken on one cloud of states: those that the layer itself reaches at eight
    depths from all given samples. The change d_k is the root mean square over the cloud of the
    velocity of step k + 1 less the velocity of step k. The change is relative to the root mean
    square of the velocity over the cloud and all steps. An axis of the state that is stretched
    tenfold weighs tenfold, and changes the numbers.

    Attributes:
        rho: The sum of d_k^2 over the sum of d_k: the size of a typical change. Steps with equal
            velocities add nothing. rho is O(1/n) for n samples of a smooth velocity, and about 1.4
            for steps that have nothing to do with each other. rho leaves out the knots.
        nugget: The size of what differs from step to step without a trend, sqrt(max(0, D_1 - D_2 /
            2)). D_r is the mean of the squared changes over r distinct steps. Neighbours with
            d_k <= min(0.001, rho / 20) are not distinct. nugget is 0 for a smooth velocity and for
            a random walk, and 1 for steps that have nothing to do with each other.
        knots: The normalised depths where the velocity jumps, if the rest passes. Up to three of
            the largest changes are knots: as many as rho needs to pass, and those above 0.5 and
            above four times rho of the rest. Each piece between knots has four steps at least. The
            network is then an ODE in pieces.
        variation: The total variation of the velocity, the sum of d_k. Informs, decides nothing.
        hoelder: The Hoelder exponent H of sqrt(D_r) ~ r^H: 1 for a smooth velocity, 1/2 for a
            random walk, 0 for independent steps. None for fewer than eight distinct steps. Informs,
            decides nothing.
        depths: The normalised depths between the steps, `(steps - 1,)`.
        changes: The changes d_k, `(steps - 1,)`.
    """

    rho: Measure
    nugget: Measure
    knots: tuple[float, ...]
    variation: float
    hoelder: float | None
    depths: np.ndarray
    changes: np.ndarray


def _pushed(field: nnx.Module, push: PyTree, basis: Basis) -> Split:
    """Return a field with a velocity of its own for every sample and function of depth on top.

    The added velocity is one more part. So a splitting takes the parts of the field as before.
    """
    leaves = tuple(nnx.Param(leaf) for leaf in jax.tree.leaves(push))
    return Split(*parts_of(field), DepthVarying.from_stack(_Constant(leaves), basis))


class _Constant(nnx.Module):
    """A constant velocity, with the leaves of a state."""

    def __init__(self, leaves: tuple[nnx.Param, ...]):
        self.leaves = nnx.List(leaves)

    def __call__(self, x: PyTree) -> Any:
        values = [leaf[...] for leaf in self.leaves]
        form = jax.tree.structure(x)
        if len(values) != form.num_leaves:  # RevNet hands on the two halves of an array.
            values = list(halves(values[0]))
        return form.unflatten(values)


class _Velocity(OneStepScheme):
    """The "step" whose result is the velocity of a step of another scheme."""

    scheme: Any

    @property
    def traits(self) -> Traits:
        """The coefficients have the rows that the scheme itself asks for."""
        return Traits(plain=traits(self.scheme).plain)

    def evaluations(self, steps: int) -> int:
        return steps

    def order(self, terms):
        return 0

    def advance(self, velocity: Callable[[Real, PyTree], PyTree], x: PyTree, h: Real) -> Any:
        return step_velocity(self.scheme, velocity, x)


def exact(layer: NeuralODE, x: PyTree) -> Discretisation:
    """Return the exact flow of the equation to which the discretisation of a layer converges.

    Args:
        layer: The layer.
        x: The states where the walk starts, concrete. The tolerances of an adaptive solve follow
            their size.
    """
    solve = layer.discretisation
    if isinstance(solve, FixedGrid):
        return _with_scheme(solve, LimitFlow(solve.scheme))
    finer: Any = solve.refined(4)
    size = float(np.sqrt(np.mean(np.square(np.asarray(_rows(x), float)))))
    # An absolute tolerance beyond the size of the states would control nothing.
    return replace(finer, atol=min(float(finer.atol), float(finer.rtol) * size) or finer.atol)


def _with_scheme(solve: FixedGrid, scheme: Any) -> FixedGrid:
    return replace(solve, scheme=scheme, memory="remat")


def _grid(layer: NeuralODE) -> FixedGrid:
    """Return the steps of a layer. An adaptive layer gets 64 or more that fit its cells."""
    solve = layer.discretisation
    if isinstance(solve, FixedGrid):
        return solve
    knots = functools.reduce(
        np.union1d, [b.knots for b in FlatField(layer.field).bases], [0.0, 1.0]
    )
    parts = np.maximum(1, np.ceil(_SAMPLED * np.diff(knots) - 1e-9)).astype(int)
    edges = [
        np.linspace(low, high, n, endpoint=False)
        for low, high, n in zip(knots[:-1], knots[1:], parts, strict=True)
    ]
    start, stop = map(float, solve.ends)
    return FixedGrid(Euler(), times=np.append(np.concatenate(edges), 1.0), ends=(start, stop))


def measure(layer: NeuralODE, x: PyTree, context: PyTree = None) -> tuple[Resolution, Regularity]:
    """Measure a layer on a batch of its own inputs.

    Args:
        layer: The layer, in evaluation mode.
        x: The states where the walk starts, two or more along axis 0 of every array.
        context: The context of the field; see `NeuralODE.__call__`.

    Returns:
        The resolution and the regularity of the layer.

    Raises:
        InputTypeError: Axis 0 of the states does not count samples.
        InputError: There are fewer than two samples, or the field couples the samples.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(x)]
    if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise InputTypeError(
            f"the states of a NeuralODE have one leading axis of samples, got shapes {shapes}"
        )
    if shapes[0][0] < 2:
        raise InputError(
            "a verdict needs several samples, some hundred, and this NeuralODE gets one; call it "
            "on a batch, whose axis 0 counts samples"
        )
    grid, flow = _grid(layer), layer.with_solve(exact(layer, x))
    walks = [_walked(layer, flow, grid, part, context) for part in _parts(grid, x, context)]
    resolution = _resolution(layer, grid, walks, _adjoint_errors(layer, flow, x, context, walks))
    return resolution, _regularity(layer, grid, [walk.cloud for walk in walks], context)


class _Walked(NamedTuple):
    """The walk of some samples, in squared distances `(samples, edges)` from edge to edge.

    Attributes:
        off: From the layer to the exact flow.
        moved: From the start to the exact flow.
        finer: From the layer with twice the steps to the exact flow. None where no step is cut.
        cloud: The states of the layer at the depths of the cloud, with these depths in front.
    """

    off: np.ndarray
    moved: np.ndarray
    finer: np.ndarray | None
    cloud: PyTree


def _parts(grid: FixedGrid, x: PyTree, context: PyTree) -> Iterator[PyTree]:
    """Cut a batch into parts whose velocities fit into memory.

    A context belongs to a whole batch.
    """
    count = len(jax.tree.leaves(x)[0])
    each = _DEPTHS * grid.grid.steps * _rows(x).shape[1]
    size = count if context is not None else max(1, _MOST_NUMBERS // each)
    for start in range(0, count, size):
        yield jax.tree.map(lambda a, start=start: a[start : start + size], x)


def _walked(
    layer: NeuralODE, flow: NeuralODE, grid: FixedGrid, x: PyTree, context: PyTree
) -> _Walked:
    """Walk some samples with the layer, with twice its steps, and with the exact flow."""
    solve = layer.discretisation
    depths = None if solve.planned else _times(layer, grid)

    own = layer.trajectory(x, depths, context=context)
    reached = _rows_of_each(flow.trajectory(x, depths, context=context))
    finer = None
    if solve.whole and _cuts(solve):  # Cut steps of a part would have other edges.
        half = layer.with_solve(solve.refined(2)).trajectory(x, context=context)
        half = jax.tree.map(lambda a: a[::2], half)
        finer = _squares(_rows_of_each(half) - reached)
    shares = grid.grid.edges / grid.grid.total
    # The depths lie symmetrically, so that a layer and its reverse have the same cloud.
    wanted = np.linspace(shares[0], shares[-1], _DEPTHS)
    places = np.unique([np.abs(shares - share).argmin() for share in wanted])
    if layer.backward:
        places = len(shares) - 1 - places
    return _Walked(
        _squares(_rows_of_each(own) - reached),
        _squares(reached - reached[0]),
        finer,
        jax.tree.map(lambda a: a[places], own),
    )


def _times(layer: NeuralODE, grid: FixedGrid) -> np.ndarray:
    """Return the depth times of the edges of a grid, in the order of the walk."""
    start, stop = map(float, layer.ends)
    shares = grid.grid.edges / grid.grid.total
    times = start + (shares - shares[0]) / (shares[-1] - shares[0]) * (stop - start)
    times[-1] = stop
    return times[::-1] if layer.backward else times


def _cuts(solve: Discretisation) -> bool:
    """Tell whether the steps can be cut: whether no coefficient belongs to one step."""
    return solve.planned and not step_coefficients(solve.scheme)


def _rows(states: PyTree) -> Array:
    """Return states as real rows `(samples, d)`."""
    leaves = [jnp.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(states)]
    parts = [
        part
        for leaf in leaves
        for part in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))
    ]
    return jnp.concatenate(parts, axis=1)


def _rows_of_each(states: PyTree) -> np.ndarray:
    """Return states with one more axis in front as real rows `(front, samples, d)`, in float64."""
    return np.asarray(jax.vmap(_rows)(states), float)


def _squares(rows: np.ndarray) -> np.ndarray:
    """Return the squared norm of rows `(front, samples, d)` as `(samples, front)`."""
    return np.sum(rows**2, axis=-1).T


def _resolution(
    layer: NeuralODE, grid: FixedGrid, walks: Sequence[_Walked], adjoints: np.ndarray
) -> Resolution:
    off, moved = (np.concatenate([getattr(w, name) for w in walks]) for name in ("off", "moved"))
    outputs = _jackknife(_root, off[:, -1], moved[:, -1], bound=OUTPUTS)
    path = _jackknife(_root, off.mean(1), moved.mean(1), bound=OUTPUTS)
    steps = grid.grid.steps if layer.discretisation.planned else None
    enough = None
    if steps is not None:
        order = 1.0
        if walks[0].finer is not None:
            finer = np.concatenate([w.finer for w in walks if w.finer is not None])
            with np.errstate(divide="ignore", invalid="ignore"):
                fall = np.log2(path.value / _root(finer.mean(), moved.mean()))
            order = float(np.clip(np.nan_to_num(fall, nan=1.0), 0.5, 8.0))
        times = (max(outputs.value, path.value) / OUTPUTS) ** (1 / order)
        enough = max(1, int(np.ceil(steps * times))) if np.isfinite(times) else None
    distance = float(np.sqrt(moved[:, -1].mean()))
    return Resolution(outputs, path, _median(adjoints, ADJOINT), distance, steps, enough)


def _root(off: Any, size: Any) -> Any:
    """Return the root of a quotient of mean squares, where nothing over nothing is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.where(np.asarray(off) == 0, 0.0, off / np.asarray(size)))


def _jackknife(statistic: Callable[..., Any], *columns: np.ndarray, bound: float) -> Measure:
    """Return a statistic of means over samples, with its standard error by the jackknife.

    Args:
        statistic: A function of the means over samples, with one more axis in front.
        *columns: Arrays `(samples, ...)`, whose means the function takes.
        bound: The bound of the measure.
    """
    count = len(columns[0])
    with np.errstate(invalid="ignore", over="ignore"):
        value = float(statistic(*(column.mean(0, keepdims=True) for column in columns))[0])
        others = statistic(*((column.sum(0) - column) / (count - 1) for column in columns))
    if not np.isfinite(value) or not np.isfinite(others).all():
        return Measure(value if np.isfinite(value) else np.inf, 0.0, bound)
    return Measure(value, float(np.sqrt((count - 1) * np.var(others))), bound)


def _median(values: np.ndarray, bound: float) -> Measure:
    """Return the median, with half of the distance of two ranks as its standard error.

    The ranks are half of sqrt(samples) below and above the middle. The jackknife of a median does
    not converge.
    """
    ordered = np.sort(np.nan_to_num(values, nan=np.inf))
    last = len(ordered) - 1
    middle, reach = last / 2, np.sqrt(len(ordered)) / 2
    ranks = int(np.floor(max(0.0, middle - reach))), int(np.ceil(min(last, middle + reach)))
    value = float(np.median(ordered))
    low, high = ordered[list(ranks)]
    return Measure(value, float((high - low) / 2) if np.isfinite(high) else 0.0, bound)


def _adjoint_errors(
    layer: NeuralODE, flow: NeuralODE, x: PyTree, context: PyTree, walks: Sequence[_Walked]
) -> np.ndarray:
    """Return the error of the derivative by an added velocity, for every sample that is looked at.

    Large states have too many derivatives. Then samples at evenly spaced ranks of how far the flow
    moves them stand for all, eight at least.
    """
    moved = np.concatenate([walk.moved[:, -1] for walk in walks])
    most = max(8, _MOST_ADJOINTS // _rows(x).shape[1])
    if len(moved) > most and context is None:
        ranks = np.linspace(0, len(moved) - 1, most).round().astype(int)
        chosen = np.argsort(moved, kind="stable")[ranks]
        x = jax.tree.map(lambda a: a[chosen], x)
    solve = layer.discretisation
    if isinstance(solve, FixedGrid):
        # One of the two is given.
        basis: Basis = PiecewiseConstant(solve.steps or solve.times or 1)
        # A step that an end cuts counts with the part that is walked, and others not at all.
        norms = np.diff(np.clip(basis.knots, *solve.ends))
        norms = np.where(norms > 0, norms, 1)
    else:
        # A velocity that jumps would make an adaptive solve stop at the jumps.
        basis = Legendre(_MODES)
        norms = 1 / (2 * np.arange(_MODES) + 1)
    off, size, leak = _adjoints(*nnx.split((layer, flow)), basis, x, context, norms)
    if float(leak) > 1e-6:
        raise InputError(
            f"a certificate needs samples that are independent, and {type(layer.field).__name__} "
            "couples the entries of axis 0; give the batch an axis of its own in front, as in "
            "x[None]"
        )
    return _root(np.asarray(off, float), np.asarray(size, float))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _adjoints(
    graphdef: Any, state: Any, basis: Basis, x: PyTree, context: PyTree, norms: Array
) -> tuple[Array, Array, Array]:
    """Return the squared errors and the squared sizes of the derivatives of all outputs.

    The third result is the largest derivative of one half of the samples by what is added to the
    other half, relative to the largest by what is added to the same half. It is zero where samples
    are independent.
    """
    layers = nnx.merge(graphdef, state)
    still = jax.tree.map(lambda a: jnp.zeros((basis.size, *a.shape), a.dtype), x)

    def pull(layer: NeuralODE) -> Callable[[Array], Array]:
        solve = layer.discretisation
        alone = isinstance(solve, Adaptive) and solve.per_sample and context is None
        if isinstance(solve, Adaptive):
            solve = replace(solve, per_sample=False)
        else:
            solve = replace(solve, memory="remat")

        def final(x: PyTree, push: PyTree) -> Array:
            pushed = layer.with_field(_pushed(layer.field, push, basis))
            return _rows(pushed.with_solve(solve)(x, context=context))

        def one(x: PyTree, push: PyTree) -> Array:
            batch = jax.tree.map(lambda a: a[None], x), jax.tree.map(lambda a: a[:, None], push)
            return final(*batch)[0]

        walk = jax.vmap(one, in_axes=(0, 1)) if alone else final
        back = jax.vjp(lambda push: walk(x, push), still)[1]
        return lambda cotangent: jax.vmap(_rows)(back(cotangent)[0])

    own, flow = map(pull, layers)
    samples, entries = jax.eval_shape(_rows, x).shape
    held = basis.size * samples * entries

    half = jnp.arange(samples) < samples // 2

    def of_entry(entry: Array) -> tuple[Array, Array, Array]:
        """Return the sums for one entry of all samples, or for all entries of half of them."""
        last = entry == entries
        chosen = (last | (jnp.arange(entries) == entry)) & (~last | half)[:, None]
        cotangent = chosen.astype(_rows(x).dtype)
        mine, its = own(cotangent), flow(cotangent)
        weights = (1 / norms)[:, None, None]
        reached = jnp.max(jnp.abs(mine), (0, 2))
        leak = jnp.max(jnp.where(half, 0, reached)) / jnp.max(jnp.where(half, reached, 0))
        off, size = (mine - its) ** 2, its**2
        return jnp.sum(weights * off, (0, 2)), jnp.sum(weights * size, (0, 2)), leak

    batch = int(np.clip(_MOST_NUMBERS // (4 * held), 1, entries))
    off, size, leak = lax.map(of_entry, jnp.arange(entries + 1), batch_size=batch)
    return off[:-1].sum(0), size[:-1].sum(0), leak[-1]


@functools.partial(jax.jit, static_argnums=0)
def _velocities(graphdef: Any, state: Any, cloud: PyTree, context: PyTree) -> Array:
    """Return the velocity of every step on a cloud, `(steps, depths, samples, d)`."""
    layer = nnx.merge(graphdef, state)
    x = jax.tree.map(lambda a: a[0], cloud)
    velocities = layer.per_step(x, lambda block, _: jax.vmap(block)(cloud), context=context)
    return jax.vmap(jax.vmap(_rows))(velocities)


def _regularity(
    layer: NeuralODE, grid: FixedGrid, clouds: Sequence[PyTree], context: PyTree
) -> Regularity:
    standing = layer.with_solve(_with_scheme(grid, _Velocity(grid.scheme)))

    @functools.lru_cache(maxsize=1)
    def velocities(part: int) -> np.ndarray:
        moved = np.asarray(_velocities(*nnx.split(standing), clouds[part], context), float)
        return np.moveaxis(moved, 2, 1).reshape(len(moved), moved.shape[2], -1)

    def changes(*pairs: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        """Return squared changes from some steps to others, `(samples, pairs)` each."""
        parts = map(velocities, range(len(clouds)))
        squares = [[_squares(v[second] - v[first]) for first, second in pairs] for v in parts]
        return [np.concatenate(columns) for columns in zip(*squares, strict=True)]

    # The steps in the order of depth, so that a layer and its reverse have the same numbers.
    order = np.arange(grid.grid.steps)[:: -1 if layer.backward else 1]
    speed = np.concatenate([_squares(velocities(k)).mean(1) for k in range(len(clouds))])
    (steps,) = changes((order[:-1], order[1:]))
    sizes = _root(steps.mean(0), speed.mean())
    knots = _knots(sizes)
    kept = np.setdiff1d(np.arange(len(sizes)), knots)

    def rho(squares: np.ndarray, speed: np.ndarray) -> np.ndarray:
        return _typical(_root(squares[:, kept], speed[:, None]))

    roughness = _jackknife(rho, steps, speed, bound=ROUGHNESS)
    distinct = np.flatnonzero(np.append(True, sizes > min(1e-3, 0.05 * roughness.value)))
    piece = np.searchsorted(np.asarray(knots) + 1, distinct, "right")
    strides = []
    for stride in (1, 2):
        together = piece[stride:] == piece[:-stride]
        strides.append((order[distinct[:-stride][together]], order[distinct[stride:][together]]))
    nugget = Measure(0.0, 0.0, NUGGET)
    if len(strides[1][0]):

        def of_strides(one: np.ndarray, two: np.ndarray, speed: np.ndarray) -> np.ndarray:
            return np.sqrt(np.clip((one - two / 2) / speed, 0, None))

        ones, twos = (squares.mean(1) for squares in changes(*strides))
        nugget = _jackknife(of_strides, ones, twos, speed, bound=NUGGET)
    shares = (grid.grid.edges / grid.grid.total)[1:-1]
    return Regularity(
        roughness,
        nugget,
        tuple(float(shares[k]) for k in knots),
        float(sizes.sum()),
        _hoelder(order[distinct], changes),
        shares,
        sizes,
    )


def _typical(changes: np.ndarray) -> np.ndarray:
    """Return sum d^2 / sum d over the last axis, zero where nothing changes."""
    total = changes.sum(-1)
    with np.errstate(invalid="ignore"):
        return np.where(total == 0, 0.0, (changes**2).sum(-1) / np.where(total == 0, 1, total))


def _knots(changes: np.ndarray) -> list[int]:
    """Return which changes are knots, in order: none where the rest does not pass without them."""
    largest: list[int] = []
    while len(largest) < _KNOTS:
        marks = [-1, *sorted(largest), len(changes)]
        free = [
            k
            for low, high in itertools.pairwise(marks)
            for k in range(low + _PIECE, high - _PIECE + 1)
        ]
        if not free:
            break
        largest.append(max(free, key=lambda k: changes[k]))
    rests = [float(_typical(np.delete(changes, largest[:k]))) for k in range(len(largest) + 1)]
    passing = [k for k, rest in enumerate(rests) if rest <= ROUGHNESS]
    if not passing:
        return []
    jumps = [k for k in largest if changes[k] > max(ROUGHNESS, _JUMP * rests[-1])]
    return sorted({*largest[: passing[0]], *jumps})


def _hoelder(distinct: np.ndarray, changes: Callable[..., list[np.ndarray]]) -> float | None:
    """Return the exponent H of the root mean square change over r distinct steps, ~ r^H."""
    if len(distinct) < 8:
        return None
    strides = np.unique(np.geomspace(1, len(distinct) // 4, 6).astype(int))
    means = [
        squares.mean() for squares in changes(*((distinct[:-r], distinct[r:]) for r in strides))
    ]
    if not np.isfinite(means).all():
        return None
    return float(np.polyfit(np.log(strides), np.log(means), 1)[0] / 2)
