"""Reverse mode through the accepted steps of an adaptive solve.

The result is the exact gradient of what the solve computed. `adaptive` holds the forward solve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from neuralflow.depth.basis import Basis, locate_traced
from neuralflow.solve.system import Step, System


class Record(NamedTuple):
    """What the forward solve leaves behind for the backward pass.

    Attributes:
        values: The arrays of the field.
        interval: The depth times t0 and t1.
        stops: The normalised depths at which states were asked for, shape `(m,)`. None means that
            the final state alone was asked for.
        edges: The normalised depths where accepted steps start and end, shape `(max_steps + 1,)`.
            The first `accepted + 1` entries are in use.
        bounds: For every step, the last normalised depth whose state it gave, shape `(max_steps,)`.
        states: The states before accepted steps, as `Kept` keeps them.
        accepted: The number of accepted steps.
    """

    values: list[Array]
    interval: tuple[Array, Array]
    stops: Array | None
    edges: Array
    bounds: Array
    states: Any
    accepted: Array


class Cotangents(NamedTuple):
    """The cotangents that the backward pass adds up.

    None stands for cotangents that nobody wants.

    Attributes:
        moving: The cotangents of the coefficients that vary with depth.
        fixed: The cotangents of the other weights.
        interval: The cotangents of the depth times t0 and t1.
        stops: The cotangents of the normalised depths at which states were asked for.
    """

    moving: Any
    fixed: Any
    interval: Any
    stops: Any


class _Asked(NamedTuple):
    """The states that were asked for at the stops.

    Attributes:
        places: The number of the step that gave each state, shape `(m,)`.
        cotangent: The cotangents of the states.
    """

    places: Array
    cotangent: Any


def step_at(
    system: System, interval: Any, start: Array, stop: Array
) -> tuple[dict[Basis, Array], Step]:
    """Describe a step between two normalised depths.

    Args:
        system: The field as the solver sees the field.
        interval: The depth times t0 and t1.
        start: The normalised depth where the step starts.
        stop: The normalised depth where the step ends.

    Returns:
        The cell of the step in every basis, and the record of the step. The middle of the step
        decides the cell.
    """
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


@dataclass(frozen=True)
class Kept:
    """Which of the states before accepted steps are kept, and where.

    State n is the state before step n. Step 0 is the first step. While there is room, every state
    is kept. Whenever the room is full, the distance between the states that are kept doubles. So a
    state is kept if its number is a multiple of the distance. A solve of few steps keeps all its
    states, and the memory does not grow with the number of steps.

    Args:
        max_steps: The largest number of steps.

    Source:
        Our formulation of checkpointing online, where the number of steps is not known before.
    """

    max_steps: int

    @property
    def digits(self) -> int:
        """The number of binary digits of a place.

        So many digits make the room between sqrt(max_steps) and 3 sqrt(max_steps). There are at
        most as many states between two states that are kept.
        """
        return (self.max_steps - 1).bit_length() // 2 + 1

    @property
    def room(self) -> int:
        """The largest number of states that are kept."""
        return 1 << self.digits

    @property
    def longest(self) -> int:
        """The largest distance between states that are kept."""
        return 1 << ((self.max_steps - 1) >> self.digits).bit_length()

    def distance(self, n: Array) -> Array:
        """Return the distance between the states that are kept when state n is reached.

        The distance is the least power of two whose multiples up to n have room.
        """
        return 1 << (32 - lax.clz((n >> self.digits).astype(jnp.int32)))

    def place(self, n: Array) -> Array:
        """Return the place of state n among the states that are kept.

        Write n = a room + b. At a multiple of the distance, a is smaller than the distance, and b
        is a multiple of the distance. So a + b tells a and b, and no two multiples of the distance
        have one place.
        """
        return (n >> self.digits) + (n & (self.room - 1))

    def empty(self, x: PyTree) -> Any:
        """Return the places for states like x. A state that is not kept goes to the last place."""
        return jax.tree.map(lambda a: jnp.zeros((self.room + 1, *a.shape), a.dtype), x)

    def put(self, states: PyTree, n: Array, x: PyTree) -> Any:
        """Put x, which is state n, among the states."""
        kept = n & (self.distance(n) - 1) == 0
        place = jnp.where(kept, self.place(n), self.room)
        return jax.tree.map(lambda a, b: b.at[place].set(a), x, states)


class Replay:
    """A backward walk over the steps of a record.

    The walk goes back in segments. A segment starts at a state that was kept, and the walk first
    computes the other states in the segment again. Where every state was kept, nothing is computed
    again.

    Args:
        system: The field as the solver sees the field.
        record: What the forward solve left behind.
        kept: Which states were kept.
    """

    def __init__(self, system: System, record: Record, kept: Kept):
        self.system, self.record, self.kept = system, record, kept
        self.moving, self.fixed = system.split(record.values)

    def cotangents(
        self, cotangent: PyTree, weights: bool, interval: bool, stops: bool
    ) -> tuple[Any, Any, Any, Any]:
        """Compute the cotangents of the solve's inputs from the cotangents of its states.

        Args:
            cotangent: The cotangent of the final state, or of the states at the stops.
            weights: Whether the cotangents of the weights are wanted.
            interval: Whether the cotangents of the interval are wanted.
            stops: Whether the cotangents of the stops are wanted.

        Returns:
            The cotangents of the field's arrays, of x, of the interval and of the stops. None
            stands for cotangents that are not wanted.
        """

        def zeros(tree):
            return jax.tree.map(jnp.zeros_like, tree)

        gradient = Cotangents(
            zeros(self.moving) if weights else None,
            zeros(self.fixed) if weights else None,
            zeros(self.record.interval) if interval else None,
            zeros(self.record.stops) if stops else None,
        )
        if self.record.stops is None:
            asked, pending, adjoint = None, None, cotangent
        else:
            asked = _Asked(self._places(), cotangent)
            adjoint = jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), cotangent)
            pending = jnp.asarray(len(asked.places))

        last = jnp.maximum(self.record.accepted - 1, 0)
        distance = self.kept.distance(last)

        def segment(carry: PyTree) -> Any:
            first, pending, adjoint, gradient, states = carry
            length = jnp.minimum(distance, self.record.accepted - first)
            states = self._again(first, length, states)

            def back(k: Array, carry: PyTree) -> Any:
                pending, adjoint, gradient = carry
                i = jnp.maximum(length - 1 - k, 0)
                y = jax.tree.map(lambda b: b[i], states)
                return self._pull(first + i, y, adjoint, gradient, asked, pending)

            carry = lax.fori_loop(0, length, back, (pending, adjoint, gradient))
            return first - distance, *carry, states

        states = jax.tree.map(
            lambda a: jnp.zeros((self.kept.longest, *a.shape[1:]), a.dtype), self.record.states
        )
        _, _, adjoint, gradient, _ = lax.while_loop(
            lambda carry: carry[0] >= 0,
            segment,
            (last & -distance, pending, adjoint, gradient, states),
        )
        d_values = self._values(gradient) if weights else [None] * len(self.record.values)
        d_interval = gradient.interval if interval else (None, None)
        return d_values, adjoint, d_interval, gradient.stops

    def _places(self) -> Array:
        """Return the number of the step that gave the state at each stop."""
        edges, bounds, stops = self.record.edges, self.record.bounds, self.record.stops
        assert stops is not None
        taken = jnp.arange(len(bounds)) < self.record.accepted
        sign = jnp.where(edges[self.record.accepted] > edges[0], 1, -1)
        last = jnp.where(taken, sign * bounds, jnp.inf)
        return jnp.minimum(jnp.searchsorted(last, sign * stops), self.record.accepted - 1)

    def _step(self, i: Array) -> tuple[Array, Array]:
        """Return the normalised depths where step i starts and ends.

        Under vmap, solves that are done go on with the others, and what they compute is dropped.
        They repeat one of their steps, since an implicit scheme refuses numbers that are not
        finite.
        """
        i = jnp.clip(i, 0, jnp.maximum(self.record.accepted - 1, 0))
        return self.record.edges[i], self.record.edges[i + 1]

    def _again(self, first: Array, length: Array, states: PyTree) -> Any:
        """Return the states before the steps of a segment, from the state that was kept.

        The segment starts with step `first` and has `length` steps. `states` is the buffer for the
        states.
        """
        place = self.kept.place(jnp.maximum(first, 0))
        start = jax.tree.map(lambda a: a[place], self.record.states)

        def step(i: Array, carry: PyTree) -> Any:
            y, states = carry
            cells, here = step_at(self.system, self.record.interval, *self._step(first + i))
            put = jax.tree.map(lambda b, a: b.at[i].set(a), states, y)
            return self.system.again(
                y, (self.system.windows(self.moving, cells), self.fixed, here)
            ), put

        y, states = lax.fori_loop(0, length - 1, step, (start, states))
        return jax.tree.map(lambda b, a: b.at[length - 1].set(a), states, y)

    def _pull(
        self,
        i: Array,
        y: PyTree,
        adjoint: PyTree,
        gradient: Cotangents,
        asked: _Asked | None,
        pending: Array | None,
    ) -> tuple[Array | None, Any, Cotangents]:
        """Pull the adjoint back through step i, which started at the state y.

        `pending` counts the stops whose cotangents have not been added yet. The result is the new
        number, the adjoint before the step, and the gradient with the step's contribution added.
        """
        system = self.system
        cells, _ = step_at(system, self.record.interval, *self._step(i))
        weights = (system.windows(self.moving, cells), self.fixed)
        interval = self.record.interval

        def step(y: PyTree, wanted_weights: PyTree, wanted_interval: PyTree) -> Any:
            windows, fixed = weights if wanted_weights is None else wanted_weights
            here = step_at(
                system, interval if wanted_interval is None else wanted_interval, *self._step(i)
            )[1]
            advance = system.single if asked is None else system.dense
            return advance(y, (windows, fixed, here))

        wanted = (
            None if gradient.fixed is None else weights,
            None if gradient.interval is None else interval,
        )
        out, pull = jax.vjp(step, y, *wanted)
        stops = gradient.stops
        if asked is not None:
            pending, d_info, stops = self._interpolated(i, out[1], asked, pending, stops)
            adjoint = (adjoint, d_info)
        adjoint, d_weights, d_interval = pull(adjoint)
        moving, fixed = gradient.moving, gradient.fixed
        if d_weights is not None:
            moving = system.scattered(moving, cells, d_weights[0])
            fixed = jax.tree.map(_plus, fixed, d_weights[1])
        d_interval = jax.tree.map(_plus, gradient.interval, d_interval)
        return pending, adjoint, Cotangents(moving, fixed, d_interval, stops)

    def _interpolated(
        self,
        i: Array,
        info: PyTree,
        asked: _Asked,
        pending: Array | None,
        d_stops: Array | None,
    ) -> tuple[Array, Any, Array | None]:
        """Add up the cotangents of what the interpolant of step i got, and of the stops inside."""
        start, end = self._step(i)
        stops = self.record.stops
        assert stops is not None

        def state(info: PyTree, stop: Array) -> Any:
            return self.system.scheme.interpolation_cls(t0=start, t1=end, **info).evaluate(stop)

        def more(carry: PyTree) -> Array:
            return (carry[0] > 0) & (asked.places[jnp.maximum(carry[0] - 1, 0)] == i)

        def take(carry: PyTree) -> Any:
            pending, d_info, d_stops = carry
            j = pending - 1
            d_state = jax.tree.map(lambda a: a[j], asked.cotangent)
            if d_stops is None:
                (d_part,) = jax.vjp(lambda info: state(info, stops[j]), info)[1](d_state)
            else:
                d_part, d_stop = jax.vjp(state, info, stops[j])[1](d_state)
                d_stops = d_stops.at[j].set(d_stop)
            return j, jax.tree.map(jnp.add, d_info, d_part), d_stops

        return lax.while_loop(more, take, (pending, jax.tree.map(jnp.zeros_like, info), d_stops))

    def _values(self, gradient: Cotangents) -> list[Any]:
        """Return the cotangents of the weights in the order of the field's arrays.

        None stands for an array of integers.
        """
        left, right = iter(gradient.moving), iter(gradient.fixed)
        ordered = [next(left if windowed else right) for windowed in self.system.windowed]
        return [g if jnp.issubdtype(g.dtype, jnp.inexact) else None for g in ordered]


def _plus(total: Array, part: Any) -> Array:
    """Return the sum of a total and a part.

    The part of an integer weight has the dtype float0. Such a part leaves the total as it is.
    """
    return total if part.dtype == jax.dtypes.float0 else total + part
