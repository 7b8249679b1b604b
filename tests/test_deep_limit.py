import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow import data, deep_limit as D, plots


class Drift(nnx.Module):
    """x' = b: the layer of the closed-form anchor."""

    def __init__(self):
        self.b = nnx.Param(jnp.zeros(1))

    def __call__(self, x):
        return x * 0 + self.b.get_value()


X0, Y, A, TAU = 0.3, 2.0, 0.7, 1.3


def anchor():
    return D.Problem(
        x=np.asarray([[X0]]), layer=Drift, weights={"b": A}, tau=TAU, loss=lambda readout, x: jnp.mean((x[:, 0] - Y) ** 2)
    )


def closed_form(t, n=None):
    """Minimiser and residual of the paper's objective with sigma = id, K = 0: continuum (n=None) or n Euler layers."""
    tail = 1 / (3 * A) if n is None else (n - 1) * (2 * n - 1) / (6 * n**2 * A)
    r = (X0 - Y) / (1 + 1 / (A * TAU) + tail)
    shift = 0 if n is None else t / (2 * n)
    return -r / (A * TAU) + (r / A) * (t**2 / 2 - t + shift), r


def energy(t, b, r, n=None):
    rough = np.trapezoid(np.gradient(b, t) ** 2, t) if n is None else n * np.sum(np.diff(b) ** 2)
    return r**2 + A * (rough + TAU * b[0] ** 2)


def test_minimisers_are_the_closed_form_to_1e_10():
    for n in (4, 32):
        found = D.minimise(D.discrete(anchor(), nf.Euler(), n), [np.ones(n + 1)])[0]
        t = np.arange(n) / n
        want, r = closed_form(t, n)
        assert np.abs(found.theta["b"][:-1, 0] - want).max() < 1e-10
        assert abs(found.energy - energy(t, want, r, n)) < 1e-10
    limit = D.minimise(D.continuum(anchor(), terms=6), [np.ones(6)])[0]
    s = np.linspace(0, 1, 33)
    assert np.abs(limit.flat(nf.basis.evaluation(limit.basis, s))[:, 0] - closed_form(s)[0]).max() < 1e-10
    assert abs(D.adaptive_energy(anchor(), limit) - limit.energy) < 1e-10


def test_closed_form_errors_have_their_known_limits():
    limit = D.minimise(D.continuum(anchor(), terms=6), [np.ones(6)])[0]
    found = D.minimise(D.discrete(anchor(), nf.Euler(), 256), [np.ones(257)])[0]
    gap = D.distances(found, limit)
    assert abs(256 * gap["sup"] - 0.20119) < 5e-5
    assert abs(256 * gap["energy"] - 0.311235) < 5e-5


def test_the_energy_is_the_papers():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 2)), rng.integers(0, 2, 10).astype(float)
    problem, n = D.classification(x, y), 5
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
    assert np.isclose(objective(jnp.asarray(xi)), want, rtol=1e-12)


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((10, 2))
    problem = D.classification(x, (x[:, 0] * x[:, 1] + 0.5 * x[:, 0] > 0).astype(float))
    schemes = {"euler": nf.Euler(), "heun": nf.Heun()}
    *_, (_, study) = D.study(problem, schemes, (8, 32, 64), starts=2)
    return study, schemes


def test_orders_on_a_small_nonlinear_problem(found):
    study, schemes = found
    agreed, sentences = D.verdict(study, schemes)
    assert agreed, sentences
    assert max(row.gradient for row in study.rows) < 1e-9


def test_a_wrong_limit_is_noticed(found):
    study, schemes = found
    wrong = D.Study(limit=study.limit)
    moved = {name: 1.02 * value for name, value in study.limit.theta.items()}
    shifted = D.Minimum(1.02 * study.limit.energy, study.limit.basis, moved, study.limit.readout, 0.0, 0)
    for row in study.rows:
        distances = D.distances(study.weights[row.scheme, row.depth], shifted)
        wrong.rows.append(D.Row(row.scheme, row.depth, row.energy, row.gradient, row.iterations, distances))
    agreed, sentences = D.verdict(wrong, schemes)
    assert agreed is False and any("instead of" in s for s in sentences)


def test_distances_of_known_functions():
    n = 16
    line = nf.PiecewiseLinear(n)
    none = {"W": np.zeros(1)}
    # theta_n(t) = t against theta(t) = t + 1/2 (both exact), then against t^2.
    one = D.Minimum(1.0, line, {"b": (np.arange(n + 1) / n)[:, None]}, none, 0.0, 0)
    shifted = D.Minimum(1.5, nf.Legendre(3), {"b": np.asarray([[1.0], [0.5], [0.0]])}, none, 0.0, 0)
    gap = D.distances(one, shifted)
    assert np.allclose([gap["energy"], gap["sup"], gap["l2"], gap["h1"]], [0.5, 0.5, 0.5, 0.0], atol=1e-12)
    held = 1 / (3 * n**2) + 0.25 + 1 / (2 * n) + 1 / (3 * n**2)  # time part, then the mean of (1/2 + r)^2, 0 <= r < 1/n
    assert np.isclose(gap["tl2"] ** 2, held)
    square = D.Minimum(1.0, nf.Legendre(3), {"b": np.asarray([[1 / 3], [1 / 2], [1 / 6]])}, none, 0.0, 0)
    gap = D.distances(one, square)
    assert np.isclose(gap["l2"], np.sqrt(1 / 30)) and np.isclose(gap["h1"], np.sqrt(1 / 3))


def test_fitted_orders():
    assert D.fitted_order([4, 8], [1, 0.5]) is None
    assert np.isclose(D.fitted_order([4, 32, 64, 128], [9.0, 4.0, 1.0, 0.25]), 2.0)


def test_a_study_is_plain_data_and_a_picture(found):
    study, schemes = found
    assert json.loads(json.dumps(study.record()))["rows"][0]["depth"] == 8
    picture = plots.deep_limit(study)
    assert len(picture.axes) == 6 and all(axis.lines for axis in picture.axes)
    shallow = D.Study(limit=study.limit, rows=study.rows[:1])
    assert D.verdict(shallow, schemes)[0] is None


def test_digits_are_whitened_and_the_same_everywhere():
    pair = data.digits_pair()
    assert pair["x"].shape == (357, 4) and pair["y"].sum() == 174
    assert np.allclose(pair["x"].mean(0), 0, atol=1e-12) and np.allclose(np.cov(pair["x"].T, bias=True), np.eye(4), atol=1e-10)


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="only 0 and 1"):
        D.classification(np.ones((3, 2)), np.asarray([0, 1, 2]))
    with pytest.raises(ValueError, match="shapes"):
        D.classification(np.ones((3, 2)), np.ones(4))
    with pytest.raises(ValueError, match="must be positive"):
        D.classification(np.ones((3, 2)), np.asarray([0, 1, 1]), tau=0.0)
    with pytest.raises(ValueError, match="both classes, got only 1"):
        D.classification(np.ones((3, 2)), np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        D.classification(np.full((3, 2), np.nan), np.ones(3))
    with pytest.raises(ValueError, match="no file"):
        data.from_file(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match="write one with np.savez"):
        data.from_file(tmp_path / "one.npy")
    (tmp_path / "bad.npz").write_text("nothing of the kind")
    with pytest.raises(ValueError, match="not an .npz file"):
        data.from_file(tmp_path / "bad.npz")
    np.savez(tmp_path / "half.npz", x=np.ones((2, 2)))
    with pytest.raises(ValueError, match="must hold arrays x"):
        data.from_file(tmp_path / "half.npz")
    with pytest.raises(ValueError, match="components must lie"):
        data.digits_pair(components=100)
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="float64"):
        D.discrete(anchor(), nf.Euler(), 4)
