"""Fixed grids: a scan over the plan in local time 0 -> h, so that a step knows its layer by an integer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from flax import nnx
from jax import lax
from jaxtyping import Array

from neuralflow import checks, grid as grids
from neuralflow.basis import Basis
from neuralflow.depth import Unfolded
from neuralflow.fields import takes_time
from neuralflow.solve.system import (
    At,
    Solution,
    Status,
    System,
    all_finite,
    check_scheme,
    column,
    time_dtype,
    used_stages,
    where_ok,
)

Memory = Literal["full", "remat", "two_level"]

# Steps between two-level checkpoints, unrolled: the least time, at a tenth of the memory.
_CHUNK = 4


def _walk(step: Callable[..., Any], carry: Any, xs: Any, length: int, memory: str, chunk: int) -> tuple[Any, Any]:
    """lax.scan with a named choice of what is kept for the backward pass."""
    if memory == "full":
        return lax.scan(step, carry, xs, length)
    if memory == "remat" or length <= chunk:
        return lax.scan(jax.checkpoint(step, prevent_cse=False), carry, xs, length)
    whole = length // chunk * chunk

    def inner(carry, xs):
        return lax.scan(step, carry, xs, chunk, unroll=chunk)

    head = jax.tree.map(lambda a: a[:whole].reshape(whole // chunk, chunk, *a.shape[1:]), xs)
    carry, ys = lax.scan(jax.checkpoint(inner, prevent_cse=False), carry, head)
    ys = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys)
    if whole == length:
        return carry, ys
    tail = jax.tree.map(lambda a: a[whole:], xs)
    carry, rest = lax.scan(jax.checkpoint(step, prevent_cse=False), carry, tail)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, rest)


class FixedGrid(eqx.Module):
    """Fixed steps: the discretisation is the network. Euler's k-th step is the residual block x + h f_k(x), exactly.

    `scheme`: a diffrax solver instance. Give `steps`, a number of equal steps, or `times`, normalised depths that
    increase from 0 to 1. `memory` names what the backward pass keeps: "full" (every activation), "remat" (the
    states; activations are computed again), "two_level" (every fourth state). Gradients are exact and open to every
    transformation: jvp, vjp, second derivatives, vmap.
    """

    scheme: diffrax.AbstractSolver
    steps: int | None = eqx.field(static=True)
    times: tuple[float, ...] | None = eqx.field(static=True)
    memory: Memory = eqx.field(static=True)

    def __init__(
        self,
        scheme: Any,
        steps: int | None = None,
        *,
        times: Any = None,
        memory: Any = "remat",
    ):
        check_scheme(scheme)
        checks.choice("memory", memory, ("full", "remat", "two_level"))
        if (steps is None) == (times is None):
            raise ValueError("a fixed grid takes either steps=... or times=..., exactly one of them")
        grid = grids.uniform(steps) if times is None else grids.given(times)
        self.scheme = scheme
        self.steps = int(grid.total) if times is None else None
        self.times = None if times is None else tuple(grid.edges.tolist())
        self.memory = memory

    @property
    def grid(self) -> grids.Grid:
        """The edges of the steps."""
        return grids.uniform(self.steps) if self.times is None else grids.given(self.times)

    def check(self, field: nnx.Module) -> None:
        """Raises where this grid cannot carry the field: a step across a knot, or an unknown form of field."""
        takes_time(field)
        grids.plan(self.grid, Unfolded(field).bases)

    def integrate(self, field: nnx.Module, x: Any, t0: Any, t1: Any, *, depths: Any = None, backward: bool = False) -> Solution:
        """Carries x through the interval. `depths`: depth times to return states at, the ends and all steps if "steps"."""
        run = _Run(self, field, x, t0, t1, backward)
        every_step = depths is not None
        final, states, failed = run.walk(every_step)
        status = jnp.where(all_finite(final), Status.SUCCESSFUL, Status.NOT_FINITE)
        if failed is not None:
            status = jnp.where(failed, Status.IMPLICIT_FAILED, status)
            final, states = where_ok(status, final), where_ok(status, states)
        if depths is None:
            out, at = final, run.end
        elif isinstance(depths, str):
            out, at = states, jnp.append(run.starts, run.end)
        else:
            out, at = run.partial_steps(states, depths), depths
            low, high = jnp.minimum(run.starts[0], run.end), jnp.maximum(run.starts[0], run.end)
            reached = (depths >= low) & (depths <= high)
            status = jnp.where((status == 0) & ~reached.all(), Status.BAD_DEPTHS, status)
            out = jax.tree.map(lambda a: jnp.where(column(reached, a), a, jnp.nan), out)
        count = run.evaluations()
        return Solution(out, at, status, *(jnp.asarray(n) for n in (count, run.plan.steps, 0)))

    def invert(self, field: nnx.Module, y: Any, t0: Any, t1: Any) -> Solution:
        """Solves every step for its input, from the last to the first, by fixed-point iteration."""
        run = _Run(self, field, y, t0, t1, False)
        x, failed = run.unwalk()
        status = jnp.where(failed, Status.NOT_INVERTED, jnp.where(all_finite(x), 0, Status.NOT_FINITE))
        counts = (jnp.asarray(n) for n in (run.evaluations(), run.plan.steps, 0))
        return Solution(where_ok(status, x), jnp.asarray(t0, run.system.dtype), status, *counts)


class _Run:
    """One walk over a fixed grid: the plan turned into arrays of the state's dtype."""

    def __init__(self, solve: FixedGrid, field: nnx.Module, x: Any, t0: Any, t1: Any, backward: bool):
        dtype = time_dtype(x)
        self.x, self.memory = x, solve.memory
        self.system = System(field, solve.scheme, dtype)
        plan = grids.plan(solve.grid, self.system.parts.bases)
        self.plan = plan.reversed() if backward else plan
        # Whole numbers over the number of steps: (t1 - t0) / steps is rounded once, as a hand-written h is.
        total: Any = np.asarray(self.plan.total, dtype)
        if isinstance(t0, float) and isinstance(t1, float):
            t0, t1 = np.asarray(t0, dtype), np.asarray(t1, dtype)
        else:
            t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
            # Keeps the compiler from multiplying by a rounded reciprocal.
            total = lax.optimization_barrier(jnp.asarray(total))
        self.end = jnp.asarray(t0 if backward else t1)

        def row(values: np.ndarray) -> np.ndarray:
            """A quantity of the steps: one number where they share it, and then it is no part of the scan."""
            same = len(values) == 1 or bool((values == values[0]).all())
            return np.asarray(values[0] if same else values, dtype)

        self.starts = jnp.asarray(t0 + np.asarray(self.plan.starts, dtype) * (t1 - t0) / total)
        smooth = [basis.degree > 0 for basis in self.system.parts.bases]
        zero = np.zeros((), dtype)
        per_step: Any = (
            self.starts if self.system.timed else zero,
            row(self.plan.lengths) * (t1 - t0) / total,
            tuple(row(p.enter) if used else zero for p, used in zip(self.plan.places, smooth, strict=True)),
            tuple(row(p.leave) if used else zero for p, used in zip(self.plan.places, smooth, strict=True)),
        )
        self.at = At(*jax.tree.map(jnp.asarray, per_step))
        self.moving, self.fixed = self.system.split(Unfolded.values(field))

    def cells(self, index: np.ndarray) -> dict[Basis, np.ndarray]:
        """The cell of each of these steps, in every basis."""
        bases = self.system.parts.bases
        return {basis: place.cell[index] for basis, place in zip(bases, self.plan.places, strict=True)}

    def evaluations(self) -> int:
        """Calls of the field in a forward walk."""
        if self.system.explicit is not None:
            return used_stages(self.system.explicit) * self.plan.steps
        stages, reuses = self.system.stages()
        return (stages - reuses) * self.plan.steps + reuses * (1 + int(self.plan.jumps[1:].sum()))

    def jumps(self) -> Any:
        """Whether a scheme that hands a stage on must evaluate it again: known before the walk where possible."""
        later = self.plan.jumps[1:]
        if later.all() or not later.any():
            return bool(later.any())
        return jnp.asarray(self.plan.jumps)

    def walk(self, every_step: bool) -> tuple[Any, Any, Array | None]:
        """Final state, all states where asked for (steps + 1), and whether a step failed (None: none can)."""
        system, block, steps = self.system, self.plan.block, self.plan.steps
        jumps = self.jumps()
        scanned, shared = eqx.partition(self.at, _is_row)
        per_step = (scanned, None if isinstance(jumps, bool) else jumps)
        windows = system.windows(self.moving, self.cells(np.arange(0, steps, block)))

        def step(windows, carry, here):
            x, state, failed = carry
            at, jump = here
            args = (windows, self.fixed, eqx.combine(at, shared))
            y, state, bad = system.step(x, args, state, jumps if jump is None else jump)
            return (y, state, None if bad is None else failed | bad), (y if every_step else None)

        first = (jax.tree.map(lambda w: w[0], windows), self.fixed, self.steps_at(0))
        carry = (self.x, system.initial(self.x, first), jnp.asarray(False) if system.may_fail else None)
        if block == 1:
            carry, ys = _walk(lambda c, z: step(z[0], c, z[1]), carry, (windows, per_step), steps, self.memory, _CHUNK)
        else:
            # A cell's weights enter the outer scan once; its steps are the inner one.
            inner = "full" if self.memory == "two_level" and block <= _CHUNK else self.memory
            outer = "two_level" if inner != self.memory else "full"

            def cell(carry, z):
                return _walk(lambda c, here: step(z[0], c, here), carry, z[1], block, inner, _CHUNK)

            nested = jax.tree.map(lambda a: a.reshape(steps // block, block, *a.shape[1:]), per_step)
            carry, ys = _walk(cell, carry, (windows, nested), steps // block, outer, max(1, _CHUNK // block))
            ys = jax.tree.map(lambda a: a.reshape(steps, *a.shape[2:]), ys)
        x, _, failed = carry
        if every_step:
            ys = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), self.x, ys)
        return x, ys, failed

    def steps_at(self, k: Any) -> At:
        """The record of step k, or of the steps k."""
        return jax.tree.map(lambda a: a[k] if _is_row(a) else jnp.broadcast_to(a, jnp.shape(k)), self.at)

    def partial_steps(self, states: Any, depths: Array) -> Any:
        """States between the steps: the scheme's own step from the last one, shortened."""
        order = jnp.sign(self.end - self.starts[0])
        k = jnp.clip(jnp.searchsorted(order * self.starts, order * depths, side="right") - 1, 0, self.plan.steps - 1)
        at = self.steps_at(k)
        part = depths - self.starts[k]
        share = part / at.length
        leave = tuple(jnp.where(share == 1, b, a + share * (b - a)) for a, b in zip(at.enter, at.leave, strict=True))
        at = At(at.start, part, at.enter, leave)
        cells = {basis: jnp.asarray(cell)[k] for basis, cell in self.cells(np.arange(self.plan.steps)).items()}
        xs = (jax.tree.map(lambda a: a[k], states), self.system.windows(self.moving, cells), at)

        def step(_, z):
            return None, self.system.single(z[0], (z[1], self.fixed, z[2]))

        ends = lax.scan(jax.checkpoint(step, prevent_cse=False), None, xs)[1]
        return jax.tree.map(lambda a, b: jnp.where(column(share == 1, a), a[k + 1], b), states, ends)

    def unwalk(self) -> tuple[Any, Array]:
        """The input of the walk whose final state is `x`, and whether a step had no fixed point."""
        eps = float(jnp.finfo(self.system.dtype).eps)
        finder = optx.FixedPointIteration(rtol=16 * eps, atol=16 * eps, norm=optx.max_norm)
        # The adjoint is solved without a matrix: samples do not know of each other, a dense one would hold them all.
        adjoint = optx.ImplicitAdjoint(linear_solver=lx.GMRES(rtol=16 * eps, atol=16 * eps, stagnation_iters=100))

        scanned, shared = eqx.partition(self.at, _is_row)

        def step(carry, z):
            y, failed = carry

            def previous(x, args):
                target, rest = args
                moved = self.system.single(x, rest)
                return jax.tree.map(lambda t, m, a: t - (m - a), target, moved, x)

            args = (y, (z[0], self.fixed, eqx.combine(z[1], shared)))
            found = optx.fixed_point(previous, finder, y, args, max_steps=256, throw=False, adjoint=adjoint)
            return (found.value, failed | (found.result != optx.RESULTS.successful)), None

        windows = self.system.windows(self.moving, self.cells(np.arange(self.plan.steps)))
        (x, failed), _ = lax.scan(step, (self.x, jnp.asarray(False)), (windows, scanned), self.plan.steps, reverse=True)
        return x, failed


def _is_row(a: Array) -> bool:
    """Whether a quantity differs from step to step."""
    return a.ndim == 1
