"""Adaptive solves."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.solve import gradients

import neuralflow as nf

pytestmark = pytest.mark.device


def test_per_sample_control(worst):
    field = nf.from_function(lambda p, x: -jnp.exp(x[..., :1]) * x * jnp.asarray([0.0, 1.0]))
    x = jnp.asarray([[0.0, 1.0], [1.0, 1.0], [6.0, 1.0]])
    exact = x * jnp.stack([jnp.ones(3), jnp.exp(-jnp.exp(x[:, 0]))], axis=1)
    layer = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-7, 1e-7, per_sample=True))
    solution = layer.solve(x)
    assert solution.accepted.shape == (3,) and solution.accepted[2] > 5 * solution.accepted[0]
    assert worst(solution.states, exact) < 1e-6
    short = layer.with_solve(
        nf.Adaptive(
            nf.Tsit5(), 1e-7, 1e-7, per_sample=True, max_steps=int(solution.accepted[1]) + 5
        )
    )
    partly = short.solve(x)
    assert partly.status.tolist() == [0, 0, nf.Status.MAX_STEPS]
    assert np.isnan(partly.states[2]).all() and worst(partly.states[:2], exact[:2]) < 1e-6
    joint = layer.with_solve(nf.Adaptive(nf.Tsit5(), 1e-7, 1e-7))
    assert worst(gradients(joint, x), gradients(layer, x)) < 1e-3
