"""Reverse mode through the accepted steps of an adaptive solve: the exact gradient of what was computed."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from neuralflow.depth.basis import Basis, locate_traced
from neuralflow.solve.system import Step, System


class Record(NamedTuple):
    """What the forward solve leaves behind.

    `edges` (max_steps + 1,): normalised depths between the accepted steps, of which there are `count`; `kept`: the
    state after every `every`-th step; `stops` (m,) or None: the depths at which states were asked for.
    """

    values: list[Array]
    x: Any
    interval: tuple[Array, Array]
    stops: Array | None
    edges: Array
    kept: Any
    count: Array


class Cotangents(NamedTuple):
    """Cotangents of depth-varying coefficients, of the other weights and of the interval; None: not wanted."""

    moving: Any
    fixed: Any
    interval: Any


def step_at(
    system: System, interval: Any, start: Array, stop: Array
) -> tuple[dict[Basis, Array], Step]:
    """The cells and the record of a step between two normalised depths."""
    span = interval[1] - interval[0]
    cells, enter, leave = {}, [], []
    for basis in system.flat.bases:
        knots = jnp.asarray(basis.knots, start.dtype)
        cell = locate_traced(basis, (start + stop) / 2, knots)[0]
        low, width = knots[cell], knots[cell + 1] - knots[cell]
        cells[basis] = cell
        enter.append((start - low) / width)
        leave.append((stop - low) / width)
    return cells, Step(
        interval[0] + start * span,
        (stop - start) * span,
        tuple(enter),
        tuple(leave),
        system.coefficients,
    )


class Replay:
    """Walks the steps of a record backward, `every` steps at a time: each segment's states are computed again first."""

    def __init__(self, system: System, record: Record, every: int):
        self.system, self.record, self.every = system, record, every
        self.moving, self.fixed = system.split(record.values)

    def cotangents(self, cotangent: Any, weights: bool, interval: bool) -> tuple[Any, Any, Any]:
        """Cotangents of the weights, of x and of the interval from those of the states; None where not wanted."""
        x, stops = self.record.x, self.record.stops

        def zeros(tree):
            return jax.tree.map(jnp.zeros_like, tree)

        gradient = Cotangents(
            zeros(self.moving) if weights else None,
            zeros(self.fixed) if weights else None,
            zeros(self.record.interval) if interval else None,
        )
        if stops is None:
            asked, adjoint = None, cotangent
        else:
            asked, adjoint = _Asked(self.record, cotangent), zeros(x)
        pending = None if asked is None else jnp.asarray(len(asked.edges))

        def segment(carry: Any) -> Any:
            j, pending, adjoint, gradient, states = carry
            first = j * self.every
            length = jnp.minimum(self.every, self.record.count - first)
            states = self._again(j, first, length, states)

            def back(k: Array, carry: Any) -> Any:
                pending, adjoint, gradient = carry
                i = length - 1 - k
                if asked is not None:
                    pending, adjoint = asked.add(first + i + 1, pending, adjoint)
                return pending, *self._pull(
                    first + i, jax.tree.map(lambda b: b[i], states), adjoint, gradient
                )

            return j - 1, *lax.fori_loop(0, length, back, (pending, adjoint, gradient)), states

        buffer = jax.tree.map(lambda a: jnp.zeros((self.every, *a.shape), a.dtype), x)
        last = (self.record.count - 1) // self.every
        _, pending, adjoint, gradient, _ = lax.while_loop(
            lambda carry: carry[0] >= 0, segment, (last, pending, adjoint, gradient, buffer)
        )
        if asked is not None:
            _, adjoint = asked.add(0, pending, adjoint)
        d_values = self._values(gradient) if weights else [None] * len(self.record.values)
        return d_values, adjoint, gradient.interval if interval else (None, None)

    def _step(self, i: Array) -> tuple[Array, Array]:
        return self.record.edges[i], self.record.edges[i + 1]

    def _again(self, j: Array, first: Array, length: Array, states: Any) -> Any:
        """The states before each step of segment j, computed again from the one that was kept."""
        kept = self.record.kept
        start = jax.tree.map(
            lambda a, b: jnp.where(j == 0, a, b[jnp.maximum(j - 1, 0)]), self.record.x, kept
        )

        def step(i: Array, carry: Any) -> Any:
            y, states = carry
            cells, here = step_at(self.system, self.record.interval, *self._step(first + i))
            put = jax.tree.map(lambda b, a: b.at[i].set(a), states, y)
            return self.system.again(
                y, (self.system.windows(self.moving, cells), self.fixed, here)
            ), put

        y, states = lax.fori_loop(0, length - 1, step, (start, states))
        return jax.tree.map(lambda b, a: b.at[length - 1].set(a), states, y)

    def _pull(self, i: Array, y: Any, adjoint: Any, gradient: Cotangents) -> tuple[Any, Cotangents]:
        """The adjoint before step i, which started at y, and the gradient with that step's share."""
        system = self.system
        cells, _ = step_at(system, self.record.interval, *self._step(i))
        weights = (system.windows(self.moving, cells), self.fixed)
        interval = self.record.interval

        def step(y: Any, wanted_weights: Any, wanted_interval: Any) -> Any:
            windows, fixed = weights if wanted_weights is None else wanted_weights
            here = step_at(
                system, interval if wanted_interval is None else wanted_interval, *self._step(i)
            )[1]
            return system.single(y, (windows, fixed, here))

        wanted = (
            None if gradient.fixed is None else weights,
            None if gradient.interval is None else interval,
        )
        adjoint, d_weights, d_interval = jax.vjp(step, y, *wanted)[1](adjoint)
        moving, fixed = gradient.moving, gradient.fixed
        if d_weights is not None:
            moving = system.scattered(moving, cells, d_weights[0])
            fixed = jax.tree.map(_plus, fixed, d_weights[1])
        return adjoint, Cotangents(
            moving, fixed, jax.tree.map(_plus, gradient.interval, d_interval)
        )

    def _values(self, gradient: Cotangents) -> list[Any]:
        """The cotangents of the weights in the order of the field's arrays, None for integers."""
        left, right = iter(gradient.moving), iter(gradient.fixed)
        ordered = [next(left if windowed else right) for windowed in self.system.windowed]
        return [g if jnp.issubdtype(g.dtype, jnp.inexact) else None for g in ordered]


class _Asked:
    """The states that were asked for along the way: which edge each is, and its cotangent."""

    def __init__(self, record: Record, cotangent: Any):
        self.cotangent = cotangent
        edges, stops = record.edges, record.stops
        assert stops is not None
        taken = jnp.arange(len(edges)) <= record.count
        sign = jnp.where(edges[record.count] > edges[0], 1, -1)
        reach = 8 * jnp.finfo(edges.dtype).eps
        passed = jnp.where(taken, sign * edges, jnp.inf)
        self.edges = jnp.minimum(jnp.searchsorted(passed, sign * stops - reach), record.count)

    def add(self, i: Array | int, pending: Array, adjoint: Any) -> tuple[Array, Any]:
        """Adds the cotangents of the states at edge i; `pending` of them have not been added yet."""

        def more(carry: Any) -> Array:
            return (carry[0] > 0) & (self.edges[jnp.maximum(carry[0] - 1, 0)] == i)

        def take(carry: Any) -> Any:
            return carry[0] - 1, jax.tree.map(
                lambda a, b: a + b[carry[0] - 1], carry[1], self.cotangent
            )

        return lax.while_loop(more, take, (pending, adjoint))


def _plus(total: Array, part: Any) -> Array:
    """The sum; integer weights have parts of no dtype."""
    return total if part.dtype == jax.dtypes.float0 else total + part
