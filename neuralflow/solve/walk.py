"""One walk over a fixed grid: a scan over the steps of its plan.

Each step runs in local time from 0 to its length h. So an integer, and no rounded depth, decides
which layer a step has.

The memory modes stand here: what the backward pass keeps. `rewind` holds the walk of the mode
"reversible". `FixedGrid` describes the modes to users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from diffrax import AbstractSolver
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis
from neuralflow.depth.grid import Plan
from neuralflow.schemes.implicit import fixed_point, iterated
from neuralflow.schemes.network import PerStep, ReversibleScheme, cost, is_explicit, traits
from neuralflow.solve.base import StepMap
from neuralflow.solve.results import column
from neuralflow.solve.rewind import Departure, rewound
from neuralflow.solve.system import Step, System, check_single, time_dtype

Memory = Literal["full", "remat", "two_level", "reversible"]
"""The names of what the backward pass keeps; see `FixedGrid`.

A new memory mode is a branch of `_scan`, and of `Walk.forward`.
"""

# The number of unrolled steps between two-level checkpoints. This number takes the least time, at a
# tenth of the memory.
_CHUNK = 4


def _scan(
    step: Callable[..., Any], carry: PyTree, xs: PyTree, length: int, memory: str, chunk: int
) -> tuple[Any, Any]:
    """Scan as `lax.scan` does, with a named choice of what is kept for the backward pass."""
    if memory == "full":
        return lax.scan(step, carry, xs, length)
    # So few steps have no more states than a chunk has states and activations.
    if memory == "remat" or length <= chunk**2:
        return lax.scan(jax.checkpoint(step, prevent_cse=False), carry, xs, length)
    whole = length // chunk * chunk

    def inner(carry, xs):
        return lax.scan(step, carry, xs, chunk, unroll=chunk)

    head = jax.tree.map(lambda a: a[:whole].reshape(whole // chunk, chunk, *a.shape[1:]), xs)
    carry, ys = lax.scan(jax.checkpoint(inner, prevent_cse=False), carry, head, whole // chunk)
    ys = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)
    if whole == length:
        return carry, ys
    tail = jax.tree.map(lambda a: a[whole:], xs)
    carry, rest = lax.scan(jax.checkpoint(step, prevent_cse=False), carry, tail, length - whole)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, rest)


def check_forgets(scheme: AbstractSolver, remedy: str) -> None:
    """Refuse a scheme that carries more than the state from step to step.

    Args:
        scheme: The scheme to check.
        remedy: The end of the error's text: what follows, and what to do.

    Raises:
        InputTypeError: The scheme carries more than the state.
    """
    if traits(scheme).carries:
        raise InputTypeError(
            f"{type(scheme).__name__} carries more than the state from step to step, so {remedy}"
        )


def check_rows(scheme: AbstractSolver, coefficient: PerStep, steps: int, allowed: set[int]) -> None:
    """Refuse a coefficient per step whose number of rows does not fit the grid.

    Args:
        scheme: The scheme that owns the coefficient.
        coefficient: The coefficient, with one row per step along its first axis.
        steps: The number of steps of the grid.
        allowed: The numbers of rows that fit.

    Raises:
        InputError: The number of rows is not among those that fit.
    """
    shape, rows = np.shape(coefficient.get_value()), steps - traits(scheme).plain
    if not shape or shape[0] not in allowed:
        apart = ", all but the first, which has no state before" if rows < steps else ""
        raise InputError(
            f"a coefficient per step of {type(scheme).__name__} has shape {shape}, but its first "
            f"axis must be {rows} on a grid of {steps} steps{apart}"
        )


def check_growth(scheme: ReversibleScheme, steps: int, dtype: DTypeLike) -> None:
    """Refuse a walk back that would lose more than half of the digits.

    Args:
        scheme: The reversible scheme.
        steps: The number of steps.
        dtype: The real dtype of the state.

    Raises:
        InputError: The walk back may multiply rounding errors by too much.
    """
    growth = scheme.growth(steps)
    if not growth * np.finfo(dtype).eps ** 0.5 < 1:
        raise InputError(
            f"walking back {steps} steps of {type(scheme).__name__} multiplies rounding errors by "
            f"{growth:.0e}, too much for {np.dtype(dtype).name}; take a coefficient closer to "
            'one, fewer steps, or memory="remat"'
        )


class Walked(NamedTuple):
    """What a forward walk leaves behind.

    Attributes:
        final: The state at the end of the walk.
        states: The states at all edges of the steps, with a leading axis of length `steps + 1`.
            None where nobody asked for these states.
        failed: Whether a step failed. None means that no step can fail.
        changes: The new state of the field, by the place of each array in the field's flat list.
    """

    final: Any
    states: Any
    failed: Array | None
    changes: dict[int, Array]


class Walk:
    """One walk over a fixed grid, with the plan turned into arrays of the state's dtype.

    Args:
        plan: The method `FixedGrid.plan`, which sets the steps against the bases.
        scheme: The diffrax solver that takes the steps.
        memory: The name of what the backward pass keeps.
        field: The velocity field.
        x: The state where the walk starts; for `invert`, the state where the walk ends.
        t0: The depth time that belongs to normalised depth 0.
        t1: The depth time that belongs to normalised depth 1.
        backward: Whether the walk goes from the later end to the earlier one.
        context: The context that the field is called with, a pytree of arrays, or None.
        refusal: The reason why the field's state cannot change in this walk. None means that the
            state can change, unless the scheme prevents the change.
    """

    def __init__(
        self,
        plan: Callable[..., Plan],
        scheme: diffrax.AbstractSolver,
        memory: Memory,
        field: nnx.Module,
        x: PyTree,
        t0: Real,
        t1: Real,
        backward: bool,
        context: PyTree = None,
        refusal: str | None = None,
    ):
        dtype = time_dtype(x)
        if not is_explicit(scheme):
            check_single(x, f"the equations of a step of {type(scheme).__name__} need")
        self.x, self.memory = x, memory
        self.system = System(field, scheme, dtype, refusal, context)
        self.plan = plan(self.system.flat.bases, backward=backward)
        # The plan counts in whole numbers over the number of steps. So (t1 - t0) / steps is rounded
        # once, as in a hand-written h.
        total: Any = np.asarray(self.plan.total, dtype)
        if isinstance(t0, float) and isinstance(t1, float):
            t0, t1 = np.asarray(t0, dtype), np.asarray(t1, dtype)
        else:
            t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
            # The barrier keeps the compiler from multiplying by a rounded reciprocal.
            total = lax.optimization_barrier(jnp.asarray(total))
        self.starts = jnp.asarray(t0 + np.asarray(self.plan.starts, dtype) * (t1 - t0) / total)
        last = self.plan.starts[-1] + self.plan.lengths[-1]
        known = {0.0: t0, float(self.plan.total): t1}
        self.end = jnp.asarray(
            known.get(float(last), t0 + np.asarray(last, dtype) * (t1 - t0) / total)
        )
        self.moving, self.fixed = self.system.split(self.system.values(field, context))
        record: Any = (
            self.starts if self.system.timed else np.zeros((), dtype),
            _row(self.plan.lengths, dtype) * (t1 - t0) / total,
            self._local([p.enter for p in self.plan.places]),
            self._local([p.leave for p in self.plan.places]),
            [self._coefficient(leaf, backward) for leaf in self.system.coefficients],
            np.arange(self.plan.steps) if any(self.system.flat.streams) else None,
        )
        # The scan runs over what differs from step to step, and not over what the steps share.
        step = Step(*jax.tree.map(jnp.asarray, record))
        scanned = jax.tree.map(lambda a: a.ndim == 1, step)
        scanned = scanned._replace(
            coefficients=[isinstance(leaf, PerStep) for leaf in self.system.coefficients]
        )
        self.rows, self.shared = eqx.partition(step, scanned)

    def _local(self, ends: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return the local coordinates of steps in the cells of each basis.

        A basis of degree zero gets one zero, since its weights are constant inside a cell.
        """
        dtype, bases = self.system.dtype, self.system.flat.bases
        return tuple(
            _row(end, dtype) if b.degree > 0 else np.zeros((), dtype)
            for b, end in zip(bases, ends, strict=True)
        )

    def _coefficient(self, leaf: PyTree, backward: bool) -> Array:
        """Return a scheme's own coefficient: one row per step, or one value for all steps.

        Rows that are missing at the start of the walk are zeros.
        """
        value = leaf.get_value() if isinstance(leaf, nnx.Variable) else jnp.asarray(leaf)
        if not isinstance(leaf, PerStep):
            return value
        check_rows(
            self.system.scheme,
            leaf,
            self.plan.steps,
            {self.plan.steps - traits(self.system.scheme).plain},
        )
        value = value[::-1] if backward else value
        missing = self.plan.steps - len(value)
        return (
            jnp.concatenate([jnp.zeros((missing, *value.shape[1:]), value.dtype), value])
            if missing
            else value
        )

    def cells(self, index: np.ndarray) -> dict[Basis, np.ndarray]:
        """Look up the cells of steps.

        Args:
            index: The numbers of the steps.

        Returns:
            For every basis, the cells of these steps, in the shape of `index`.
        """
        bases = self.system.flat.bases
        return {
            basis: place.cell[index] for basis, place in zip(bases, self.plan.places, strict=True)
        }

    def evaluations(self) -> int:
        """Count the evaluations of the field in a forward walk."""
        system, steps = self.system, self.plan.steps
        if is_explicit(system.scheme):
            runs = self.plan.runs(traits(system.scheme).restart)
            return sum(cost(system.scheme, int(run), system.parts or 1) for run in runs)
        stages, reuses = system.stages()
        return (stages - reuses) * steps + reuses * (1 + int(self.plan.jumps[1:].sum()))

    def jumps(self) -> Any:
        """Say at which steps a scheme must not use what earlier steps handed on.

        A scheme that hands a stage on evaluates it again where the weights jump. A scheme that
        restarts starts anew where the weights are not smooth enough for its order.

        Returns:
            One Python boolean if all steps after the first agree. Otherwise a boolean array of
            shape `(steps,)`.
        """
        jumps = self.plan.smoothness < max(0, traits(self.system.scheme).restart)
        later = jumps[1:]
        if later.all() or not later.any():
            return bool(later.any())
        return jnp.asarray(jumps)

    def forward(self, every_step: bool) -> Walked:
        """Walk forward, and keep for the backward pass what the memory mode names.

        Args:
            every_step: Whether to return the states at all edges of the steps.

        Returns:
            What the walk leaves behind.

        Raises:
            InputError: The grid does not fit the batch statistics that the walk updates, or a walk
                back would lose too many digits.
        """
        system, block, steps = self.system, self.plan.block, self.plan.steps
        first = (self.windows(0), self.fixed, self.steps_at(0))
        memory = system.initial(self.x, first)
        if self.memory == "reversible" and not every_step:
            # The discretisation has refused every other scheme.
            assert isinstance(system.scheme, ReversibleScheme)
            check_single(self.x, 'memory="reversible" walks back over the steps and needs')
            check_growth(system.scheme, steps, system.dtype)
            cells = {
                basis: jnp.asarray(cell) for basis, cell in self.cells(np.arange(steps)).items()
            }
            start = Departure(self.x, memory, self.moving, self.fixed, self.rows, self.shared)
            x, changes = rewound(system, steps, start, cells)
            return Walked(x, None, None, self.new_state(changes))
        jumps = self.jumps()
        scanned = (self.rows, None if isinstance(jumps, bool) else jumps)
        windows = system.windows(self.moving, self.cells(np.arange(0, steps, block)))

        def step(windows, carry, here):
            x, memory, failed = carry
            row, jump = here
            args = (windows, self.fixed, eqx.combine(row, self.shared))
            y, memory, bad, changes = system.step(x, args, memory, jumps if jump is None else jump)
            return (y, memory, None if bad is None else failed | bad), (
                y if every_step else None,
                changes,
            )

        carry = (self.x, memory, jnp.asarray(False) if system.may_fail else None)
        kept = "remat" if self.memory == "reversible" else self.memory
        if block == 1:
            carry, ys = _scan(
                lambda c, z: step(z[0], c, z[1]), carry, (windows, scanned), steps, kept, _CHUNK
            )
        else:
            # The outer scan runs over the cells and takes the weights of each cell once. The inner
            # scan runs over the steps of a cell.
            inner = "full" if kept == "two_level" and block <= _CHUNK else kept
            outer = "two_level" if inner != kept else "full"

            def cell(carry, z):
                return _scan(lambda c, here: step(z[0], c, here), carry, z[1], block, inner, _CHUNK)

            nested = jax.tree.map(lambda a: a.reshape(steps // block, block, *a.shape[1:]), scanned)
            carry, ys = _scan(
                cell, carry, (windows, nested), steps // block, outer, max(1, _CHUNK // block)
            )
            ys = jax.tree.map(lambda a: a.reshape(steps, *a.shape[2:]), ys)
        (x, _, failed), (states, changes) = carry, ys
        if every_step:
            states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), self.x, states)
        return Walked(x, states, failed, self.new_state(changes))

    def new_state(self, changes: dict[int, Array]) -> dict[int, Array]:
        """Put together the field's new state from what each step left.

        A batch statistic has one value for every cell. A random stream has the count after the last
        step.

        Args:
            changes: What each step left, by the place of each array in the field's flat list, with
                a leading axis of length `steps`.

        Returns:
            The new arrays, by their places.

        Raises:
            InputError: The number of steps differs from the number of cells of a batch statistic.
        """
        flat, new = self.system.flat, {}
        for i, rows in changes.items():
            if not flat.is_statistic(i):
                new[i] = rows[-1]
                continue
            basis, steps = flat.array_bases[i], self.plan.steps
            count = 1 if basis is None else basis.count
            if count != steps:
                remedy = f"take {count} steps"
                if basis is None:
                    remedy = f"put it in a DepthVarying on PiecewiseConstant({steps})"
                raise InputError(
                    f"batch statistics ('{flat.name(i)}') belong to the cells of depth, {count} "
                    f"here, and training takes one step in each, not {steps}; {remedy}, or call "
                    "model.eval(), which any grid can"
                )
            new[i] = (
                rows[0] if basis is None else rows[np.argsort(self.cells(np.arange(steps))[basis])]
            )
        return new

    def windows(self, k: int) -> list[Any]:
        """Return the coefficients that are active in step k."""
        cells = {basis: jnp.asarray(cell) for basis, cell in self.cells(np.asarray(k)).items()}
        return self.system.windows(self.moving, cells)

    def steps_at(self, k: Any) -> Step:
        """Return the record of step k, or of an array k of steps."""
        shared = jax.tree.map(
            lambda a: jnp.broadcast_to(a, (*jnp.shape(k), *jnp.shape(a))), self.shared
        )
        return eqx.combine(jax.tree.map(lambda a: a[k], self.rows), shared)

    def partial_steps(self, states: PyTree, depths: Array) -> Any:
        """Compute states between the edges of the steps.

        The scheme takes its own step from the last edge before each depth, shortened to end there.

        Args:
            states: The states at all edges, with a leading axis of length `steps + 1`.
            depths: The depth times, shape `(m,)`.

        Returns:
            The states at the depths, with a leading axis of length m.

        Raises:
            InputTypeError: The scheme carries more than the state from step to step.
        """
        check_forgets(
            self.system.scheme,
            "it has no states between them; ask for those at the steps: trajectory(x)",
        )
        order = jnp.sign(self.end - self.starts[0])
        k = jnp.clip(
            jnp.searchsorted(order * self.starts, order * depths, side="right") - 1,
            0,
            self.plan.steps - 1,
        )
        steps = self.steps_at(k)
        part = depths - self.starts[k]
        share = part / steps.length
        leave = tuple(
            _rounded_to(b, a + share * (b - a), share == 1)
            for a, b in zip(steps.enter, steps.leave, strict=True)
        )
        steps = steps._replace(length=part, leave=leave)
        cells = {
            basis: jnp.asarray(cell)[k]
            for basis, cell in self.cells(np.arange(self.plan.steps)).items()
        }
        xs = (jax.tree.map(lambda a: a[k], states), self.system.windows(self.moving, cells), steps)

        def step(_, z):
            return None, self.system.single(z[0], (z[1], self.fixed, z[2]))

        ends = lax.scan(jax.checkpoint(step, prevent_cse=False), None, xs)[1]
        return jax.tree.map(lambda a, b: _rounded_to(a[k + 1], b, share == 1), states, ends)

    def each(self, function: Callable[[StepMap, PyTree], PyTree], states: PyTree) -> Any:
        """Compute function(block, x_k) for every step k.

        Args:
            function: The function of a step and of the state where the step starts.
            states: The states where the steps start, with a leading axis of length `steps`.

        Returns:
            The values of the function, with a leading axis of length `steps`.
        """
        windows = self.system.windows(self.moving, self.cells(np.arange(self.plan.steps)))

        def step(_, z):
            x, window, row = z
            args = (window, self.fixed, eqx.combine(row, self.shared))
            return None, function(lambda y: self.system.single(y, args), x)

        return lax.scan(step, None, (states, windows, self.rows), self.plan.steps)[1]

    def invert(self) -> tuple[Any, Array]:
        """Compute the input of the walk whose final state is `self.x`.

        A reversible scheme steps back. Other schemes solve each step by fixed-point iteration.

        Returns:
            The input, and whether the iteration of any step did not converge.
        """
        system = self.system
        check_single(self.x, "invert() walks back over the steps and needs")
        windows = system.windows(self.moving, self.cells(np.arange(self.plan.steps)))
        if isinstance(system.scheme, ReversibleScheme):
            system.initial(self.x, (self.windows(0), self.fixed, self.steps_at(0)))

            def back(y, z):
                return system.unstep(y, (z[0], self.fixed, eqx.combine(z[1], self.shared)), None)[
                    0
                ], None

            x, _ = lax.scan(back, self.x, (windows, self.rows), self.plan.steps, reverse=True)
            return x, jnp.asarray(False)
        eps = float(jnp.finfo(system.dtype).eps)

        # The iteration keeps the norm in JAX's default precision. States may have another one.
        def norm(error):
            return optx.max_norm(error).astype(float)

        finder = optx.FixedPointIteration(rtol=16 * eps, atol=16 * eps, norm=norm)
        # Samples are independent of each other, and a dense matrix would hold all pairs of samples.
        linear_solve = iterated(16 * eps)

        def previous(x, args):
            target, rest = args
            moved = system.single(x, rest)
            return jax.tree.map(lambda t, m, a: t - (m - a), target, moved, x)

        def step(carry, z):
            y, failed = carry
            args = (y, (z[0], self.fixed, eqx.combine(z[1], self.shared)))
            start, known = lax.stop_gradient((y, args))
            root = optx.fixed_point(previous, finder, start, known, max_steps=256, throw=False)
            x = fixed_point(lambda x: previous(x, args), root.value, linear_solve)
            return (x, failed | (root.result != optx.RESULTS.successful)), None

        (x, failed), _ = lax.scan(
            step, (self.x, jnp.asarray(False)), (windows, self.rows), self.plan.steps, reverse=True
        )
        return x, failed


def _rounded_to(known: Array, computed: Array, where: Array) -> Array:
    """Return computed values, with the bits of equal known values at some rows.

    The derivatives are those of the computed values everywhere.
    """
    off = jnp.where(column(where, computed), known - computed, 0)
    return computed + lax.stop_gradient(off)


def _row(values: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Return a quantity of the steps: one number if all steps share the number."""
    same = len(values) == 1 or bool((values == values[0]).all())
    return np.asarray(values[0] if same else values, dtype)
