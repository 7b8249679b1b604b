"""Reverse mode for schemes that step back exactly.

The forward pass keeps the last state, and the scheme's memory there. The backward pass computes the
earlier states again by stepping back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from neuralflow.solve.modes import reverse_only
from neuralflow.solve.system import Step, System

_REFUSAL = 'forward-mode derivatives do not pass through memory="reversible"; take memory="remat"'


class Departure(NamedTuple):
    """Everything that a walk starts from.

    Attributes:
        x: The state where the walk starts.
        memory: The scheme's memory before the first step.
        moving: The coefficients that vary with depth.
        fixed: The other arrays of the field.
        rows: The parts of the step record that differ from step to step, with a leading axis of
            length `steps`.
        shared: The parts of the step record that all steps share.
    """

    x: Any
    memory: Any
    moving: Any
    fixed: Any
    rows: Step
    shared: Step


def rewound(
    system: System, steps: int, start: Departure, cells: dict[Any, Array]
) -> tuple[Any, dict[int, Array]]:
    """Walk over all steps, with a backward pass that walks back over the steps.

    Args:
        system: The field as the solver sees the field, with a reversible scheme.
        steps: The number of steps.
        start: Everything that the walk starts from.
        cells: For every basis, the cell of every step, shape `(steps,)`.

    Returns:
        The state after all steps, and what each step left in the field's state. The latter maps
        the place of an array in the field's flat list to its values, with a leading axis of length
        `steps`.
    """

    def record(row: Step, shared: Step) -> Step:
        return eqx.combine(row, shared)

    def forward(start: Departure, cells: PyTree) -> tuple[Any, Any, dict[int, Array]]:
        def step(carry: PyTree, here: PyTree) -> Any:
            cell, row = here
            args = (system.windows(start.moving, cell), start.fixed, record(row, start.shared))
            stepped = system.step(carry[0], args, carry[1], False)
            return (stepped.x, stepped.memory), stepped.changes

        (x, memory), changes = lax.scan(step, (start.x, start.memory), (cells, start.rows), steps)
        return x, memory, changes

    @eqx.filter_custom_vjp
    def walk(start: Departure, cells: PyTree) -> Any:
        x, _, changes = forward(start, cells)
        return x, changes

    @walk.def_fwd
    def walk_forward(perturbed, start, cells):
        x, memory, changes = forward(start, cells)
        return (x, changes), (x, memory)

    @walk.def_bwd
    def walk_back(last, cotangents, perturbed, start, cells):
        active, held = eqx.partition(start, eqx.is_inexact_array)

        def zeros(tree):
            return jax.tree.map(jnp.zeros_like, tree)

        def filled(like, ct):
            return jnp.zeros_like(like) if ct is None else ct

        ct_x = jax.tree.map(filled, start.x, cotangents[0], is_leaf=lambda leaf: leaf is None)

        def back(carry: PyTree, here: PyTree) -> Any:
            (y, after), (ct_y, ct_after), (g_moving, g_fixed, g_shared) = carry
            k, cell, row = here
            windows = system.windows(start.moving, cell)
            x, memory = system.unstep(y, (windows, start.fixed, record(row, start.shared)), after)

            def first(known, walked):
                return jnp.where(k == 0, known, walked)

            x, memory = jax.tree.map(first, (start.x, start.memory), (x, memory))
            memory, flags = eqx.partition(memory, eqx.is_inexact_array)
            row, counts = eqx.partition(row, eqx.is_inexact_array)

            def step(
                x: PyTree,
                memory: PyTree,
                windows: PyTree,
                fixed: PyTree,
                shared: PyTree,
                row: PyTree,
            ) -> Any:
                here = record(eqx.combine(row, counts), eqx.combine(shared, held.shared))
                args = (windows, eqx.combine(fixed, held.fixed), here)
                stepped = system.step(x, args, eqx.combine(memory, flags), False)
                return stepped.x, eqx.filter(stepped.memory, eqx.is_inexact_array)

            pull = jax.vjp(step, x, memory, windows, active.fixed, active.shared, row)[1]
            d_x, d_memory, d_windows, d_fixed, d_shared, d_row = pull((ct_y, ct_after))
            g_moving = system.scattered(g_moving, cell, d_windows)
            sums = jax.tree.map(jnp.add, (g_fixed, g_shared), (d_fixed, d_shared))
            return ((x, eqx.combine(memory, flags)), (d_x, d_memory), (g_moving, *sums)), d_row

        ct_memory = zeros(eqx.filter(last[1], eqx.is_inexact_array))
        grown = (zeros(start.moving), zeros(active.fixed), zeros(active.shared))
        carry, d_rows = lax.scan(
            back,
            (last, (ct_x, ct_memory), grown),
            (jnp.arange(steps), cells, start.rows),
            steps,
            reverse=True,
        )
        _, (d_x, d_memory), (d_moving, d_fixed, d_shared) = carry
        return Departure(d_x, d_memory, d_moving, d_fixed, d_rows, d_shared)

    return walk(reverse_only(start, _REFUSAL), cells)
