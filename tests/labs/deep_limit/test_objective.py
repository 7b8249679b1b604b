"""The objective."""

import numpy as np

import neuralflow as nf
from neuralflow.labs import deep_limit as D


def test_the_energy_is_the_papers():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 2)), rng.integers(0, 2, 10).astype(float)
    problem, n = D.thorpe_van_gennip(x, y), 5
    objective = D.discrete(problem, nf.Euler(), n)
    xi = rng.standard_normal(objective.size)
    theta, readout = objective.parameters(xi)
    assert np.allclose(objective.coordinates(theta, readout), xi)
    state = x
    for i in range(n):
        state = state + np.tanh(state @ theta["K"][i].T + theta["b"][i]) / n
    prediction = 1 / (1 + np.exp(-(state @ readout["W"] + readout["c"])))
    rough = {p: n * np.sum(np.diff(v, axis=0) ** 2) + np.sum(v[0] ** 2) for p, v in theta.items()}
    want = (
        np.mean((prediction - y) ** 2)
        + 0.025 * (rough["K"] + rough["b"])
        + 0.01 * (readout["W"] @ readout["W"] + readout["c"] ** 2)
    )
    value, gradient, predicted = objective(xi)
    assert np.isclose(value, want, rtol=1e-12) and np.allclose(predicted, prediction, rtol=1e-12)
    step = 1e-6 * rng.standard_normal(objective.size)
    assert np.isclose(
        objective(xi + step)[0] - objective(xi - step)[0], 2 * gradient @ step, rtol=1e-6
    )
