"""Weights of a layer that are fitted to the states of another layer, without labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, PyTree

from neuralflow.depth import DepthVarying
from neuralflow.layers import NeuralODE
from neuralflow.solve import FixedGrid

_BATCH = 256
_JUDGED = 4096  # The errors are those of so many inputs at most, evenly spaced.
_SHARE = 0.12  # The longest steps of a weight are this share of its error in the projection.
_PIECES = 10  # The progress is told so many times.
_LAST = 3  # What follows the blocks sees the last state alone, so it counts more than all states.


def fitted(
    layer: NeuralODE[DepthVarying],
    original: NeuralODE[DepthVarying],
    errors: PyTree,
    x: PyTree,
    context: PyTree,
    steps: int,
    progress: bool,
) -> NeuralODE[DepthVarying]:
    """Return a layer whose states after all steps are near those of another layer.

    Adam minimises `misfit` over the parameters, in evaluation mode. The learning rate of an array
    is proportional to its entry in `errors`. It rises for a fifth of the steps, and falls to zero
    as a half-wave of the cosine.

    Args:
        layer: The layer. It is not changed.
        original: The layer whose states are wanted, on the same fixed grid.
        errors: How far off the parameters may be: one number for every array of parameters of the
            stack of the field.
        x: Inputs `(samples, ...)`. Each step takes a part of the samples, drawn anew.
        context: The context of both layers. With a context, each step takes all samples.
        steps: The number of steps. 0 returns the layer.
        progress: Whether to show the progress.
    """
    if not steps:
        return layer
    from neuralflow import console  # The core is imported without it.

    wanted, quiet = _in_evaluation(original), _in_evaluation(layer)
    graphdef, start, rest = nnx.split(quiet.field.stack, nnx.Param, ...)
    other, target = nnx.split(wanted)
    basis, optimiser = layer.field.basis, _descent(errors, steps)

    @jax.jit
    def run(
        carry: PyTree, keys: Array, rest: PyTree, target: PyTree, x: PyTree, context: PyTree
    ) -> tuple[PyTree, Array]:
        """Return the parameters and the moments after more steps, and the last error."""
        reference = nnx.merge(other, target, copy=True)

        def loss(params: PyTree, x: PyTree) -> Array:
            stack = nnx.merge(graphdef, params, rest, copy=True)
            moved = quiet.with_field(DepthVarying.from_stack(stack, basis))
            states, aims = (each.trajectory(x, context=context) for each in (moved, reference))
            return misfit(_off(states, aims, 1), _off(states, aims, -1))

        def step(carry: Any, key: Array) -> tuple[Any, Array]:
            params, state = carry
            batch = x if context is not None else _drawn(x, key)
            off, gradient = jax.value_and_grad(loss)(params, batch)
            # The gradient of JAX in a complex number is the conjugate of the steepest ascent.
            gradient = jax.tree.map(jnp.conj, gradient)
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(params, updates), state), off

        carry, off = lax.scan(step, carry, keys)
        return carry, jnp.sqrt(off[-1] / misfit(jnp.ones(()), jnp.ones(())))

    # Pieces of one length are compiled once.
    pieces = next(n for n in range(_PIECES, 0, -1) if steps % n == 0)
    carry = start, optimiser.init(start)
    with console.progress(pieces) if progress else console.silence() as done:
        for keys in jax.random.split(jax.random.key(0), steps).reshape(pieces, -1):
            carry, off = run(carry, keys, rest, target, x, context)
            done(f"fit to states, {len(keys)} steps: {float(off):.2e} off")
    stack = nnx.clone(layer.field.stack)
    nnx.update(stack, carry[0])
    return layer.with_field(DepthVarying.from_stack(stack, basis))


def _descent(errors: PyTree, steps: int) -> optax.GradientTransformation:
    """Return Adam with learning rates that are proportional to errors."""
    rate = optax.warmup_cosine_decay_schedule(_SHARE / 25, _SHARE, steps // 5, steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b2=0.99),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, errors)),
        optax.scale_by_learning_rate(rate),
    )


def _drawn(x: PyTree, key: Array) -> PyTree:
    """Return samples that are drawn anew, or all where they are few."""
    samples = len(jax.tree.leaves(x)[0])
    if samples <= _BATCH:
        return x
    chosen = jax.random.randint(key, (_BATCH,), 0, samples)
    return jax.tree.map(lambda leaf: leaf[chosen], x)


def misfit(states: Array, output: Array) -> Array:
    """Return what a fit makes small, from squared relative errors.

    Args:
        states: The squared error of the states after all steps.
        output: The squared error of the last state.
    """
    return states + _LAST * output


def state_errors(
    layer: NeuralODE, original: NeuralODE, x: PyTree, context: PyTree
) -> tuple[float, float]:
    """Return the relative errors of the states after all steps, and of the last state.

    An error is NaN or infinite where the solve of the layer fails.

    Args:
        layer: The layer.
        original: The layer whose states are wanted, on the same fixed grid.
        x: Inputs `(samples, ...)`.
        context: The context of both layers.
    """
    if context is None:
        samples = len(jax.tree.leaves(x)[0])
        chosen = np.linspace(0, samples - 1, min(samples, _JUDGED)).round().astype(int)
        x = jax.tree.map(lambda leaf: leaf[chosen], x)
    states, aims = (_states(_in_evaluation(each), x, context) for each in (layer, original))
    every, last = (float(jnp.sqrt(_off(states, aims, first))) for first in (1, -1))
    return every, last


@nnx.jit
def _states(layer: NeuralODE[Any], x: PyTree, context: PyTree) -> PyTree:
    """Return the states after all steps. A solve that fails raises nothing in a trace."""
    return layer.trajectory(x, context=context)


def _in_evaluation(layer: NeuralODE[Any]) -> NeuralODE[Any]:
    """Return a copy of a layer in evaluation mode, whose gradients keep all states."""
    copy = nnx.clone(layer)
    copy.eval()
    grid: Any = copy.discretisation
    return copy.with_solve(FixedGrid(grid.scheme, steps=grid.steps, memory="full"))


def _off(states: PyTree, aims: PyTree, first: int) -> Array:
    """Return the square of the relative error of the states from one state on."""
    states, aims = jax.tree.map(lambda leaf: leaf[first:], (states, aims))
    return _squares(jax.tree.map(jnp.subtract, states, aims)) / _squares(aims)


def _squares(tree: PyTree) -> Array:
    """Return the sum of the squared moduli of all numbers."""
    total = jnp.zeros(())
    for leaf in jax.tree.leaves(tree):
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        total += jnp.real(wide * jnp.conj(wide)).sum()
    return total
