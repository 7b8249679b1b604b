"""The deep limit: closed forms, orders, falsifiers, and what is kept on disk."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings, strategies

import neuralflow as nf
from neuralflow import data
from neuralflow.labs import deep_limit as D


class Drift(nnx.Module):
    """x' = b: the layer of the closed-form anchor."""

    def __init__(self):
        self.b = nnx.Param(jnp.zeros(1))

    def __call__(self, x):
        return x * 0 + self.b.get_value()


X0, Y, A, TAU = 0.3, 2.0, 0.7, 1.3


def states(readout, x):
    return x


def anchor():
    return D.Problem(
        x=np.asarray([[X0]]),
        y=np.asarray([[Y]]),
        layer=Drift,
        predict=states,
        loss=D.squared_error,
        weights={"b": A},
        penalty=D.Sobolev(TAU),
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
        minimum = D.minimise(D.discrete(anchor(), nf.Euler(), n), [np.ones(n + 1)])[0]
        t = np.arange(n) / n
        want, r = closed_form(t, n)
        assert np.abs(minimum.theta["b"][:-1, 0] - want).max() < 1e-10
        assert abs(minimum.energy - energy(t, want, r, n)) < 1e-10
    limit = D.minimise(D.continuum(anchor(), terms=6), [np.ones(6)])[0]
    s = np.linspace(0, 1, 33)
    assert (
        np.abs(
            limit.flat(nf.depth.basis.evaluation(limit.basis, s))[:, 0] - closed_form(s)[0]
        ).max()
        < 1e-10
    )
    assert abs(D.adaptive_energy(anchor(), limit) - limit.energy) < 1e-10


def test_closed_form_errors_have_their_known_limits():
    limit = D.minimise(D.continuum(anchor(), terms=6), [np.ones(6)])[0]
    minimum = D.minimise(D.discrete(anchor(), nf.Euler(), 256), [np.ones(257)])[0]
    gap = D.distances(minimum, limit)
    assert abs(256 * gap["sup"] - 0.20119) < 5e-5
    assert abs(256 * gap["energy"] - 0.311235) < 5e-5


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


def small(seed, **options):
    """The notes' nonlinear problem: ten points in the plane."""
    x = np.random.default_rng(seed).standard_normal((10, 2))
    return D.thorpe_van_gennip(x, (x[:, 0] * x[:, 1] + 0.5 * x[:, 0] > 0).astype(float), **options)


SCHEMES = {"euler": nf.Euler(), "heun": nf.Heun()}


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture(scope="module")
def study(kept):
    *_, (_, last) = D.study(small(2), SCHEMES, (8, 32, 64), starts=6, kept=kept)
    return last


def test_orders_on_a_small_nonlinear_problem(study):
    agreed, sentences = D.verdict(study, SCHEMES, {1: 0.1, 2: 0.1})
    assert agreed, sentences
    assert {where: len(met) for where, met in study.basins.items()} == {
        "discrete": 2,
        "continuum": 2,
    }
    assert max(row.gradient for row in study.rows) < 1e-9 and study.curvature > 0.1


def test_two_optima_that_do_not_know_of_each_other_agree_to_1e_8(study, kept):
    assert study.disagreement < 1e-8 and study.limit_error < 1e-10
    assert abs(kept["boundary"].minimum.energy - study.limit.energy) < 1e-10


def test_recovery_forward_residual_and_richardson(study):
    for name, order in (("euler", 1), ("heun", 2)):
        for what in ("recovery", "forward", "residual"):
            assert abs(study.orders()[name][what] - order) < 0.1
        ((n, plain, better),) = study.extrapolated(name, order)
        assert n == 32 and better < 0.1 * plain
        ((_, apart),) = study.collapse(name, order)
        assert apart < 0.05


def test_the_weak_form_of_the_residuals_is_the_gradient(study):
    """A point that is no minimum leaves residuals of the size of what the equations ask for."""
    right = study.weights["heun", 64]
    moved = replace(right, theta={name: value + 0.3 for name, value in right.theta.items()})
    assert np.abs(D.residuals(small(2), right).weights).max() < 1e-4
    left = D.residuals(small(2), moved)
    assert np.abs(left.weights).max() > 0.05 and np.abs(left.start).max() > 0.1


def test_a_wrong_limit_is_noticed(study):
    moved = {name: 1.02 * value for name, value in study.limit.theta.items()}
    shifted = replace(study.limit, energy=1.02 * study.limit.energy, theta=moved)
    rows = [
        replace(row, distances=D.distances(study.weights[row.scheme, row.depth], shifted))
        for row in study.rows
    ]
    agreed, sentences = D.verdict(replace(study, limit=shifted, rows=rows), SCHEMES)
    assert agreed is False and any("instead of" in s for s in sentences)


def test_a_study_goes_on_from_what_is_on_disk(study, kept, tmp_path, monkeypatch):
    folder = D.Folder(tmp_path)
    folder.update(kept)
    assert set(folder) == set(kept) and len(folder) == 9
    whole = (tmp_path / "heun-64.npz").read_bytes()
    for cut in (b"cut off", whole[:100], whole[: len(whole) // 2]):
        (tmp_path / "heun-64.npz").write_bytes(cut)
        assert "heun-64" not in folder
    known = dict(folder.items())
    assert "heun-64" not in known and "heun-32" in known
    missing = []
    monkeypatch.setattr(
        "neuralflow.labs.deep_limit.sweep.minimise",
        lambda objective, starts: missing.append(objective) or [study.weights["heun", 64]],
    )
    *_, (_, again) = D.study(small(2), SCHEMES, (8, 32, 64), starts=6, kept=folder)
    assert len(missing) == 1 and missing[0].basis.count == 64
    assert json.dumps(again.record(SCHEMES)) == json.dumps(study.record(SCHEMES))


def test_falsifiers_do_not_converge(study):
    panels = list(D.falsify(small(2), study.limit, (32, 64)))
    assert [panel.converges for panel in panels] == [True] + [False] * 6, [
        panel.sentence() for panel in panels
    ]
    assert "order 0.9" in panels[0].sentence() and "apart" in panels[1].sentence()


def test_relu_comes_to_the_limit_of_its_own_problem(study):
    panel = D.kinked(small(2), study.limit, (32, 64))
    assert panel.name.startswith("ReLU") and abs(panel.order - 1) < 0.1


def test_newton_and_curvature_where_they_are_known():
    """The anchor's energy is quadratic: one Newton step ends at the minimum, and the Hessian is known."""
    objective = D.continuum(anchor(), terms=4, steps=16)
    rough = D.minimise(objective, [np.ones(4)])[0]
    off = replace(rough, theta={"b": rough.theta["b"] + 0.1})
    polished = D.newton(objective, off)
    assert (
        np.abs(polished.theta["b"] - rough.theta["b"]).max() < 1e-12 and polished.gradient < 1e-13
    )
    hessian = np.stack([objective.bend(np.zeros(4), v) for v in np.eye(4)])
    assert np.isclose(D.curvature(objective, rough), np.linalg.eigvalsh(hessian)[0]) and np.isclose(
        D.curvature(objective, rough), 2.0
    )


def test_basins():
    def minimum(energy):
        return D.Minimum(energy, nf.PiecewiseLinear(1), {}, {}, np.zeros(1), 0.0, 1)

    assert D.basins([minimum(e) for e in (1.0, 2.0, 1.0 + 1e-9, 2.0)]) == [(1.0, 2), (2.0, 2)]


@given(seed=strategies.integers(0, 1000), odd=strategies.booleans())
@settings(deadline=None, max_examples=25)
def test_hidden_units_are_aligned(seed, odd):
    rng = np.random.default_rng(seed)
    basis = nf.PiecewiseLinear(3)
    theta = {
        "in.kernel": rng.standard_normal((4, 2, 6)),
        "in.bias": rng.standard_normal((4, 6)),
        "out": rng.standard_normal((4, 6, 2)),
    }
    axes = {"in.kernel": 1, "in.bias": 0, "out": 0}
    order, signs = rng.permutation(6), rng.choice([-1, 1], 6) if odd else np.ones(6)
    mixed = {
        "in.kernel": theta["in.kernel"][:, :, order] * signs,
        "in.bias": theta["in.bias"][:, order] * signs,
        "out": theta["out"][:, order] * signs[:, None],
    }
    one = D.Minimum(0.0, basis, theta, {}, np.zeros(1), 0.0, 0)
    back = D.aligned(replace(one, theta=mixed), one, axes, odd=odd)
    assert all(np.allclose(back.theta[name], theta[name]) for name in theta)


def by_hand(trained):
    """Eight layers and sixty steps of gradient descent, from the same draws."""
    x, y = jax.random.normal(jax.random.fold_in(jax.random.key(0), 1), (2, 10, 3), float)
    field = nf.DepthVarying(
        lambda rngs: D.trained.Residual(3, 4, jax.nn.gelu, rngs=rngs),
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
    small = {"samples": 10, "dimension": 3, "hidden": 4, "iterations": 60, "seeds": 2}
    descended = {
        alike: list(D.descend((8, 16, 32), alike=alike, **small)) for alike in (True, False)
    }
    by_hand(descended[True][0])
    equal, unequal = (D.scaling(descended[alike]) for alike in (True, False))
    assert all(abs(p - 1).max() < 0.1 for p in (*equal.gaps.values(), *equal.increment.values()))
    # The root of the sum of squares falls at half the order: no sign of a rougher limit.
    assert all(abs(p - 0.5).max() < 0.1 for p in equal.variation.values())
    assert equal.verdict().startswith("ODE-like: the largest increment")
    assert unequal.verdict().startswith("no limit") and abs(unequal.increment["W"]).max() < 0.2


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
    gap = D.gaps(shallow, deep)
    assert np.isclose(gap["output"][2], np.sqrt(np.mean((shallow.outputs[2] - outputs) ** 2)))


def test_a_layer_of_another_form_on_real_data_has_the_same_orders():
    pair = data.digits_pair()
    paper = D.thorpe_van_gennip(pair["x"], pair["y"])
    problem = replace(
        paper, layer=lambda: nf.fields.MLP(4, hidden=3, rngs=nnx.Rngs(0)), weights=0.025
    )
    whole = D.continuum(problem, terms=12, steps=24)
    limit = D.minimise(whole, D.random_starts(whole, 2, seed=0))[0]
    for scheme, order in ((nf.Euler(), 1), (nf.Heun(), 2)):
        errors, last = [], limit
        for depth in (32, 64):
            objective = D.discrete(problem, scheme, depth)
            last = D.minimise(objective, [D.restarted(objective, last)])[0]
            errors.append(D.distances(last, limit))
        for distance in ("energy", "sup", "l2", "prediction"):
            assert abs(np.log2(errors[0][distance] / errors[1][distance]) - order) < 0.1, (
                scheme,
                distance,
            )
        assert abs(np.log2(errors[0]["h1"] / errors[1]["h1"]) - 1) < 0.05


def test_distances_of_known_functions():
    n = 16
    line = nf.PiecewiseLinear(n)

    def point(energy, basis, b):
        return D.Minimum(energy, basis, {"b": np.asarray(b)[:, None]}, {}, np.zeros(1), 0.0, 0)

    # theta_n(t) = t against theta(t) = t + 1/2 (both exact), then against t^2.
    one = point(1.0, line, np.arange(n + 1) / n)
    shifted = point(1.5, nf.Legendre(3), [1.0, 0.5, 0.0])
    gap = D.distances(one, shifted)
    assert np.allclose(
        [gap["energy"], gap["sup"], gap["l2"], gap["h1"]], [0.5, 0.5, 0.5, 0.0], atol=1e-12
    )
    assert np.allclose(
        [gap[k] for k in ("sup constant", "sup linear", "centred")],
        [0.5 + 1 / n, 0.5, 0.5 + 0.5 / n],
    )
    assert (
        np.isclose(gap["l2 constant"] ** 2, 0.25 + 1 / (2 * n) + 1 / (3 * n**2))
        and gap["prediction"] == 0
    )
    held = (
        1 / (3 * n**2) + 0.25 + 1 / (2 * n) + 1 / (3 * n**2)
    )  # time part, then the mean of (1/2 + r)^2, 0 <= r < 1/n
    assert np.isclose(gap["tl2"] ** 2, held)
    square = point(1.0, nf.Legendre(3), [1 / 3, 1 / 2, 1 / 6])
    gap = D.distances(one, square)
    assert np.isclose(gap["l2"], np.sqrt(1 / 30)) and np.isclose(gap["h1"], np.sqrt(1 / 3))


def test_a_study_is_plain_data_and_pictures(study):
    assert json.loads(json.dumps(study.record(SCHEMES)))["rows"][0]["depth"] == 8
    for picture in (D.plots.convergence(study), D.plots.further(study, SCHEMES)):
        assert len(picture.axes) == 6 and all(axis.lines for axis in picture.axes)
    assert D.verdict(replace(study, rows=study.rows[:1]), SCHEMES)[0] is None


def test_digits_are_whitened_and_the_same_everywhere():
    pair = data.digits_pair()
    assert pair["x"].shape == (357, 4) and pair["y"].sum() == 174
    assert np.allclose(pair["x"].mean(0), 0, atol=1e-12) and np.allclose(
        np.cov(pair["x"].T, bias=True), np.eye(4), atol=1e-10
    )


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="shapes"):
        D.thorpe_van_gennip(np.ones((3, 2)), np.ones(4))
    with pytest.raises(ValueError, match="must be positive"):
        D.thorpe_van_gennip(np.ones((3, 2)), np.asarray([0, 1, 1]), tau=0.0)
    with pytest.raises(ValueError, match="layer has parameters"):
        D.discrete(replace(small(0), weights={"K": 1.0}), nf.Euler(), 4)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        next(D.descend((1, 2)))
    arguments = {**dict.fromkeys(("loss", "batch", "optimiser"), print), "steps": 1}
    with pytest.raises(ValueError, match="one leading axis of one length"):
        next(
            D.train(
                (2,), {"a": jnp.ones(2), "b": jnp.ones(3)}, make=lambda n, case: None, **arguments
            )
        )
    with pytest.raises(TypeError, match="must be an nnx.Module, got"):
        next(D.train((2,), jnp.arange(2), make=lambda n, case: None, **arguments))
    with pytest.raises(ValueError, match="returns varies with depth"):
        next(
            D.train(
                (2,),
                jnp.arange(2),
                make=lambda n, case: nnx.Linear(1, 1, rngs=nnx.Rngs(0)),
                **arguments,
            )
        )
    with pytest.raises(ValueError, match="three different depths or more"):
        D.scaling([])
    with pytest.raises(ValueError, match="tau must be positive"):
        D.Sobolev(0.0)
    with pytest.raises(ValueError, match="whole numbers >= 2"):
        next(D.study(small(0), SCHEMES, (1, 4)))
    with pytest.raises(ValueError, match="two depths of 32"):
        next(D.falsify(small(0), None, (8, 32)))
    with pytest.raises(TypeError, match="a study's .limit"):
        next(D.falsify(small(0), None, (32, 64)))
    with pytest.raises(ValueError, match="names and schemes, such as"):
        next(D.study(small(0), {}, (2, 4)))
    shallow, deep = (
        D.Trained(n, {"V": np.zeros((1, n, 2))}, np.zeros((1, 3)), np.zeros(1)) for n in (4, 8)
    )
    with pytest.raises(ValueError, match="the reference is the deeper network"):
        D.gaps(deep, shallow)
    with pytest.raises(ValueError, match="three different depths"):
        D.scaling([shallow, shallow, deep])
    with pytest.raises(ValueError, match="those of the penalty Sobolev"):
        D.residuals(replace(small(0), penalty=D.square), None)
    with pytest.raises(ValueError, match="finite"):
        D.thorpe_van_gennip(np.full((3, 2), np.nan), np.ones(3))
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
