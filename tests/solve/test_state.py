"""Batch statistics and random masks inside a field: who updates, uses and refuses them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf

S = nf.schemes
N = 5


class Normed(nnx.Module):
    """tanh of a normalised linear map."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, param_dtype=jnp.float64, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.norm(self.dense(x))).astype(x.dtype)


class Dropped(nnx.Module):
    """A linear map with half of its outputs left out."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, param_dtype=jnp.float64, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(jnp.tanh(self.dense(x)))


def layer(make, scheme=None, steps=N, cells=N, **options):
    field = nf.DepthVarying(make, nf.PiecewiseConstant(cells), rngs=nnx.Rngs(0))
    return nf.NeuralODE(
        field, nf.FixedGrid(nf.Euler() if scheme is None else scheme, steps=steps, **options)
    )


X = jax.random.normal(jax.random.key(1), (16, 4))


def statistics(layer):
    return jax.tree.map(jnp.asarray, nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat)))


def test_training_updates_each_cell_as_a_stack_of_blocks_would(worst):
    flow = layer(Normed)
    blocks = [nnx.clone(flow.field.at((k + 0.5) / N)) for k in range(N)]
    for _ in range(2):
        y = X
        for block in blocks:
            y = y + block(y) / N
        assert worst(flow(X), y) < 1e-14
    means = jnp.stack([block.norm.mean[...] for block in blocks])
    assert worst(flow.field.stack.norm.mean[...], means) < 1e-7
    # Every block's statistics have moved.
    assert (jnp.abs(means).max(1) > 0).all()
    flow.eval()
    y = X
    for block in blocks:
        block.eval()
        y = y + block(y) / N
    before = statistics(flow)
    assert worst(flow(X), y) < 1e-7
    # Evaluation uses the statistics and leaves them as they are.
    assert worst(statistics(flow), before) == 0


@pytest.mark.parametrize("memory", ["full", "remat", "two_level"])
def test_gradients_and_new_state_do_not_depend_on_the_memory(memory, worst):
    def run(memory):
        flow = layer(Normed, S.ConsistentLM(-0.3), steps=18, cells=18, memory=memory)
        value, gradient = nnx.jit(nnx.value_and_grad(lambda flow: jnp.sum(flow(X) ** 2)))(flow)
        return value, gradient, statistics(flow)

    assert worst(run(memory), run("full")) < 1e-12


def test_new_state_is_written_back_under_nnx_jit_and_returned_by_a_pure_call(worst):
    flow, same = layer(Normed), layer(Normed)
    nnx.jit(lambda flow: flow(X))(flow)
    graphdef, state = nnx.split(same)

    @jax.jit
    def pure(state):
        flow = nnx.merge(graphdef, state)
        return flow(X), nnx.state(flow)

    _, new = pure(state)
    nnx.update(same, new)
    assert worst(statistics(flow), statistics(same)) == 0
    assert worst(statistics(flow), statistics(layer(Normed))) > 1e-3


def test_evaluation_uses_the_statistics_on_any_grid(worst):
    flow = layer(Normed)
    flow(X)
    flow.eval()
    fine = [flow.with_solve(nf.FixedGrid(nf.Heun(), steps=N * m))(X) for m in (1, 4, 16)]
    adaptive = flow.with_solve(nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9))(X)
    errors = [worst(y, adaptive) for y in fine]
    assert errors[2] < errors[1] / 8 < errors[0] / 64
    assert flow.with_solve(nf.FixedGrid(nf.ImplicitEuler(), steps=N))(X).shape == X.shape


def test_each_scheme_updates_from_its_declared_evaluation(worst):
    """It is the first evaluation of a step.

    RevNet's is the second, in which both halves are what the network sees.
    """
    first = layer(Normed)
    first(X)
    for scheme in (
        nf.Heun(),
        S.adams_bashforth(3),
        S.FixedPointEuler(2),
        S.FractalExpansion([0.5]),
    ):
        flow = layer(Normed, scheme, steps=1, cells=1)
        plain = layer(Normed, steps=1, cells=1)
        flow(X)
        plain(X)
        # In a single step the first evaluation is the same.
        assert worst(statistics(flow), statistics(plain)) < 1e-12

    class Half(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(2, rngs=rngs)

        def __call__(self, x):
            return self.norm(x).astype(x.dtype)

    def make(rngs) -> Any:
        return nf.fields.Coupled(Half(rngs), Half(rngs))

    memories = []
    for memory in ("full", "reversible"):
        flow = layer(make, S.RevNet(), steps=1, cells=1, memory=memory)
        y = nnx.jit(lambda flow: flow(X))(flow)
        stack = flow.field.stack
        assert worst(stack.first.norm.mean[0], 0.01 * X[:, 2:].mean(0)) < 1e-7
        # G saw the new X.
        assert worst(stack.second.norm.mean[0], 0.01 * y[:, :2].mean(0)) < 1e-7
        memories.append(statistics(flow))
    assert worst(*memories) == 0


def test_masks_differ_by_step_and_evaluation_and_repeat_in_recomputation(worst):
    flow = layer(Dropped)
    y = flow.trajectory(X)
    # These are the places where a step left the state alone.
    dead = np.asarray(y[1:] == y[:-1])
    assert 0.4 < dead.mean() < 0.6
    assert all((dead[i] != dead[j]).mean() > 0.3 for i in range(N) for j in range(i))

    def gradient(memory):
        flow = layer(Dropped, nf.Heun(), memory=memory)
        return nnx.jit(nnx.grad(lambda flow: jnp.sum(flow(X) ** 3)))(flow)

    assert worst(gradient("remat"), gradient("full")) < 1e-12
    # Heun's two evaluations draw two masks, which leave a quarter of the states in place.
    # One mask alone would leave half of them.
    once = layer(Dropped, nf.Heun(), steps=1, cells=1)(X)
    assert 0.1 < float((once == X).mean()) < 0.4


def test_streams_of_vmapped_parts_are_folded_each():
    class Parts(nnx.Module):
        def __init__(self, rngs):
            self.parts = nnx.vmap(lambda key: Dropped(nnx.Rngs(key)))(
                jax.random.split(rngs.params(), 3)
            )

        def __call__(self, x):
            return nnx.vmap(lambda part, x: part(x), in_axes=(0, None))(self.parts, x).mean(0)

    flow = layer(Parts, steps=2, cells=2)
    assert (flow(X) != flow(X)).any()


def test_every_call_draws_anew_and_evaluation_draws_nothing(worst):
    flow = layer(Dropped)
    first, second = flow(X), flow(X)
    assert worst(first, second) > 1e-2
    # The same key gives the same masks.
    assert worst(layer(Dropped)(X), first) == 0
    assert worst(jax.jit(lambda flow, x: flow(x))(layer(Dropped), X), first) < 1e-14
    flow.eval()

    def drawn():
        stream = flow.field.stack.drop.rngs
        assert stream is not None
        return int(stream.count[...])

    assert drawn() == 2
    y = X
    for k in range(N):
        y = y + jnp.tanh(flow.field.at((k + 0.5) / N).dense(y)) / N
    assert worst(flow(X), y) < 1e-14
    assert drawn() == 2


def test_reversible_schemes_walk_back_over_the_same_masks(worst):
    class Half(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.dense(x))

    def make(rngs):
        return nf.fields.Coupled(Half(rngs), Half(rngs))

    def gradient(scheme, memory):
        flow = layer(make, scheme, steps=3, cells=3, memory=memory)
        return nnx.jit(nnx.grad(lambda flow: jnp.sum(flow(X) ** 3)))(flow)

    for scheme in (S.RevNet(), S.Reversible(nf.Euler())):
        assert worst(gradient(scheme, "reversible"), gradient(scheme, "full")) < 1e-11


def test_state_survives_a_checkpoint_and_a_change_of_cells(tmp_path, worst):
    flow = layer(Normed)
    flow(X)
    finer = flow.field.refine(nf.PiecewiseConstant(2 * N))
    assert worst(finer.stack.norm.mean[...][::2], flow.field.stack.norm.mean[...]) == 0
    other = layer(Normed)
    state = nnx.state(flow)
    nnx.update(other, jax.tree.map(np.asarray, state))
    assert worst(statistics(other), statistics(flow)) == 0


def _trained_on(solve):
    flow = layer(Normed)
    return lambda: flow.with_solve(solve)(X)


REFUSED = {
    "more steps than cells": (lambda: layer(Normed, steps=2 * N)(X), "take 5 steps"),
    "statistics of the whole depth": (
        lambda: nf.NeuralODE(Normed(nnx.Rngs(0)), nf.FixedGrid(nf.Euler(), steps=3))(X),
        r"DepthVarying on PiecewiseConstant\(3\)",
    ),
    "adaptive": (
        _trained_on(nf.Adaptive(nf.Tsit5())),
        "no cells that its steps belong to.*model.eval",
    ),
    "an implicit scheme": (
        _trained_on(nf.FixedGrid(nf.ImplicitEuler(), steps=N)),
        "explicit scheme for training",
    ),
    "masks in an adaptive solve": (
        lambda: layer(Dropped).with_solve(nf.Adaptive(nf.Tsit5()))(X),
        "drop.rngs.count.*no cells",
    ),
    "the inverse in training": (lambda: layer(Normed).invert(X), "model.eval"),
    "statistics on nodes": (
        lambda: nf.DepthVarying(Normed, nf.PiecewiseLinear(4), rngs=nnx.Rngs(0)),
        "belong to the cells of depth",
    ),
    "statistics brought to nodes": (
        lambda: layer(Normed).field.project(nf.PiecewiseLinear(4)),
        "belong to the cells",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_honour_state_refuses_in_one_sentence(case):
    call, said = REFUSED[case]
    with pytest.raises(ValueError, match=said) as caught:
        call()
    # Behind the dashes stands jax's own note on its frames.
    assert "\n" not in str(caught.value).split("\n---")[0]
