"""Trained networks: descents against loops written by hand."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow.checks import InputError
from neuralflow.labs import deep_limit as D
from neuralflow.labs.deep_limit.trained import Residual


def by_hand(trained):
    """Holds a result against eight layers and sixty steps of descent from the same draws."""
    x, y = jax.random.normal(jax.random.fold_in(jax.random.key(0), 1), (2, 10, 3), float)
    field = nf.DepthVarying(
        lambda rngs: Residual(3, 4, jax.nn.gelu, rngs=rngs),
        nf.PiecewiseConstant(8),
        rngs=nnx.Rngs(jax.random.fold_in(jax.random.key(1), 1)),
        init=nf.tied,
    )
    weights = {"V": field.stack.V[...], "W": field.stack.W[...]}

    def loss(weights):
        h = x
        for V, W in zip(weights["V"], weights["W"], strict=True):
            h = h + jax.nn.gelu(h @ W.T / np.sqrt(3)) @ V.T / (8 * np.sqrt(4))
        return jnp.sum((h - y) ** 2) / 20

    slope = jax.jit(jax.grad(loss))
    for _ in range(60):
        weights = jax.tree.map(lambda w, g: w - 0.08 * g, weights, slope(weights))
    assert all(np.allclose(weights[name], trained.weights[name][1], atol=1e-12) for name in weights)
    assert np.isclose(loss(weights), trained.losses[1])


def test_descent_from_equal_layers_has_a_limit_and_from_unequal_ones_none():
    small: dict[str, Any] = {
        "samples": 10,
        "dimension": 3,
        "hidden": 4,
        "iterations": 60,
        "seeds": 4,
    }
    descended = {
        alike: list(D.descend((8, 16, 32), alike=alike, **small)) for alike in (True, False)
    }
    by_hand(descended[True][0])
    equal, unequal = (D.scaling(descended[alike]) for alike in (True, False))
    assert all(abs(p - 1).max() < 0.1 for p in (*equal.gaps.values(), *equal.increment.values()))
    # The root of a sum of squares falls at half the order. This is no sign of a rougher limit.
    assert all(abs(p - 0.5).max() < 0.1 for p in equal.variation.values())
    assert equal.verdict().startswith("ODE-like: the largest increment")
    assert unequal.verdict().startswith("neither") and abs(unequal.increment["W"]).max() < 0.2


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ([1.0], r"ODE-like: .* of W .* L\^-1.00 \(no interval from one case\)"),
        ([0.97, 0.96, 0.98], r"ODE.*L\^-0.97 \(mean of 3 cases, 95% interval -0.99 to -0.95\)"),
        ([0.85, 0.95, 0.9, 1.0], "ODE-like"),
        ([1.0, 1.0], r"ODE-like: .*\(no interval from cases of one p\)"),
        ([0.7, 0.97, 1.2], "undecided"),
        ([0.79, 0.8, 0.81], "neither"),
        ([0.49, 0.5, 0.51], "SDE-like"),
        ([0.4, 0.5, 0.6, 0.5], "SDE-like"),
        ([0.3, 0.5, 0.7], "undecided"),
        ([0.0, 0.5, 1.0], "undecided"),
        ([0.74, 0.75, 0.76], "neither"),
        ([-0.1, 0.0, 0.1], r"neither .*L\^-?0.00 .*-0.25 to 0.25"),
    ],
)
def test_a_verdict_rests_on_the_interval_over_cases(cases, said):
    other = np.ones(len(cases)) + 1  # It falls faster, and so it does not decide.
    increment = {"V": other, "W": np.asarray(cases)}
    assert re.match(said, D.Scaling({}, {}, increment, {}).verdict())
    backward = {"W": np.asarray(cases)[::-1], "V": other}
    assert D.Scaling({}, {}, backward, {}).verdict() == D.Scaling({}, {}, increment, {}).verdict()


def test_cases_are_trained_each_by_its_own_rule_on_its_own_batches():
    import optax

    data = {
        "x": jax.random.normal(jax.random.key(0), (12, 2)),
        "y": jax.random.normal(jax.random.key(1), (12, 2)),
    }

    def make(depth, case):
        def mlp(rngs):
            return nf.fields.MLP(2, hidden=3, param_dtype=jnp.float64, rngs=rngs)

        field = nf.DepthVarying(
            mlp,
            nf.PiecewiseLinear(2),
            rngs=nnx.Rngs(jax.random.key(case["seed"])),
            init=nf.smooth(0.5),
        )
        return nf.NeuralODE(
            field.refine(nf.PiecewiseLinear(depth)), nf.FixedGrid(nf.Euler(), steps=depth)
        )

    def loss(model, batch):
        states = model(batch["x"])
        return jnp.mean((states - batch["y"]) ** 2), states

    def batch(data, case, i):
        first = 3 * (i % 4)
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, 3), data)

    def optimiser(model, depth, case):
        return optax.chain(nf.regularisers.sobolev(model), optax.sgd(case["rate"], momentum=0.5))

    cases = {"seed": jnp.arange(3), "rate": jnp.asarray([0.1, 0.2, 0.3])}
    arguments = {
        "make": make,
        "loss": loss,
        "batch": batch,
        "optimiser": optimiser,
        "steps": 5,
        "data": data,
        "probe": data,
    }
    shallow, deep = D.train((2, 4), cases, **arguments)
    assert shallow.outputs.shape == (3, 12, 2) and deep.weights["dense.0.kernel"].shape == (
        3,
        5,
        2,
        3,
    )
    model = make(4, {"seed": 2})
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rule = optimiser(model, 4, {"rate": 0.3})
    memory = rule.init(params)

    @jax.jit
    def step(params, memory, i):
        slope = jax.grad(lambda p: loss(nnx.merge(graphdef, p, rest), batch(data, None, i))[0])(
            params
        )
        updates, memory = rule.update(slope, memory)
        return optax.apply_updates(params, updates), memory

    for i in range(5):
        params, memory = step(params, memory, i)
    value, outputs = loss(nnx.merge(graphdef, params, rest), data)
    assert np.allclose(deep.outputs[2], outputs, atol=1e-12) and np.isclose(deep.losses[2], value)
    cut = {name: w[:, :-1] for name, w in shallow.weights.items()}
    with pytest.raises(InputError, match="must have one node a layer, or one more, at both depths"):
        D.gaps(dataclasses.replace(shallow, weights=cut), deep)
    gap = D.gaps(shallow, deep)
    assert np.isclose(gap["output"][2], np.sqrt(np.mean((shallow.outputs[2] - outputs) ** 2)))
