"""The certificate: networks of which it is known whether they are an ODE."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.wrong import wrong

import neuralflow as nf
from neuralflow.depth.basis import Basis
from neuralflow.labs import deep_limit as D


class Classifier(nnx.Module):
    """A stem, a flow and a head, as a user writes them."""

    def __init__(self, flow):
        self.stem = nnx.Linear(3, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(8))
        self.flow = flow
        self.head = nnx.Linear(2, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(9))

    def __call__(self, x):
        return self.head(self.flow(self.stem(x)))


def stack(n, init, seed=0, basis: Callable[[int], Basis] = nf.PiecewiseConstant):
    def make(rngs):
        return nf.fields.MLP(2, hidden=4, param_dtype=jnp.float64, rngs=rngs)

    return nf.DepthVarying(make, basis(n), rngs=nnx.Rngs(seed), init=init)


class Symmetric(nnx.Module):
    """K^T tanh(K x), whose mean over layers is not the layer of mean weights."""

    def __init__(self, rngs):
        self.K = nnx.Param(1.5 * jax.random.normal(rngs.params(), (4, 2), float))

    def __call__(self, x):
        return jnp.tanh(x @ self.K[...].T) @ self.K[...] / 4


def points(count=20):
    return jax.random.normal(jax.random.key(0), (count, 3))


def test_a_smooth_network_is_an_ode_and_its_errors_fall_as_they_must():
    model = Classifier(nf.NeuralODE(stack(16, nf.smooth(0.5)), nf.FixedGrid(nf.Euler(), steps=16)))
    before = jax.tree.map(np.asarray, nnx.state(model))
    labels = jnp.argmax(model(points()), axis=-1)
    certificate = D.certify(
        model, points(), score=lambda logits: jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    )
    assert (
        certificate.is_ode
        and certificate.failures == []
        and certificate.sentence().startswith("ODE: no change")
    )
    one, two, three = certificate.halving
    assert abs(one / two - 2) < 0.2 and abs(two / three - 2) < 0.1
    euler, heun = certificate.gradients["Euler"], certificate.gradients["Heun"]
    assert euler[1] == certificate.gradients["as trained"][1]
    assert abs(np.log2(euler[2] / euler[4]) - 1) < 0.1
    # The weights stand still in each cell, so the field is smooth in every step.
    # Heun keeps its order.
    assert abs(np.log2(heun[2] / heun[4]) - 2) < 0.1
    assert certificate.changes["weights of neighbouring layers averaged"] < 0.01
    hoelder = certificate.smoothness["flow"].hoelder
    assert hoelder is not None and hoelder > 0.9
    assert certificate.scores["as trained"] == 1.0
    after = nnx.state(model)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, np.asarray(b)), before, after))
    grid = model.flow.discretisation
    assert isinstance(grid, nf.FixedGrid) and grid.steps == 16
    assert certificate.record()["is_ode"] and all(len(row) == 3 for row in certificate.rows())
    assert len(D.plots.certificates({"smooth": certificate}).axes) == 3


def test_layers_drawn_each_on_its_own_are_no_ode_though_the_solver_does_not_matter():
    field = nf.DepthVarying(Symmetric, nf.PiecewiseConstant(64), rngs=nnx.Rngs(0))
    certificate = D.certify(
        Classifier(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=64))), points()
    )
    assert not certificate.is_ode
    # The layers are scaled by 1/n, so finer steps see nothing.
    assert certificate.changes["the exact flow"] < 0.1
    assert certificate.changes["weights of neighbouring layers averaged"] > 0.1
    assert certificate.sentence().startswith(
        "not an ODE: weights of neighbouring layers averaged: outputs change by"
    )
    hoelder = certificate.smoothness["flow"].hoelder
    assert hoelder is not None and abs(hoelder) < 0.1


def test_the_verdict_does_not_depend_on_where_weights_stand():
    flow = nf.NeuralODE(
        stack(8, nf.smooth(0.5), basis=nf.PiecewiseLinear), nf.FixedGrid(nf.Euler(), steps=8)
    )
    on_nodes(D.certify(flow, points()[:, :2]))


def on_nodes(certificate):
    assert certificate.gradients["as trained"][1] < 0.2
    assert (
        abs(np.log2(certificate.gradients["Euler"][2] / certificate.gradients["Euler"][4]) - 1)
        < 0.15
    )


def test_modes_and_layers_around_the_flow():
    class Noisy(Classifier):
        def __init__(self, flow):
            super().__init__(flow)
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return super().__call__(self.dropout(self.norm(x)))

    model = Noisy(
        nf.NeuralODE(stack(8, nf.tied, basis=nf.PiecewiseLinear), nf.FixedGrid(nf.Heun(), steps=8))
    )
    model.train()
    certificate = D.certify(model, points())
    assert certificate.is_ode
    assert not model.dropout.deterministic
    on_nodes(certificate)


def test_an_ordinary_resnet_is_no_ode():
    branches = [
        nf.fields.MLP(2, hidden=4, param_dtype=jnp.float64, rngs=nnx.Rngs(k)) for k in range(8)
    ]
    certificate = D.certify(Classifier(nf.from_branches(branches)), points())
    said = " ".join(certificate.failures)
    assert (
        not certificate.is_ode and "a scheme of higher order" in said and "the gradient is" in said
    )


def test_adaptive_layers_and_weights_without_depth():
    field = nf.fields.MLP(2, hidden=4, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    fine = D.certify(Classifier(nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-5, 1e-5))), points())
    assert (
        fine.is_ode
        and fine.halving == ()
        and fine.smoothness == {}
        and set(fine.gradients) == {"as trained"}
    )
    assert max(fine.changes.values()) < 1e-3
    still = nf.NeuralODE(
        nf.from_function(lambda p, x: p * x, jnp.zeros(())), nf.FixedGrid(nf.Euler(), steps=2)
    )
    with pytest.raises(ValueError, match="nothing to certify"):
        D.certify(still, points())
    backward = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), times=[0.0, 0.3, 1.0])).reverse()
    assert D.certify(backward, points()[:, :2]).is_ode


@pytest.mark.parametrize(
    ("steps", "want"), [("none", None), ("line", 1.0), ("walk", 0.5), ("noise", 0.0)]
)
def test_hoelder_exponents_of_known_curves(steps, want):
    n, rng = 256, np.random.default_rng(0)
    curves = {
        "none": np.ones((n, 40)),
        "line": np.arange(n)[:, None] * rng.standard_normal(40),
        "walk": np.cumsum(rng.standard_normal((n, 40)), axis=0),
        "noise": rng.standard_normal((n, 40)),
    }
    held = nnx.Dict(w=nnx.Param(jnp.asarray(curves[steps])))
    smoothness = D.smoothness(nf.DepthVarying.from_stack(held, nf.PiecewiseConstant(n)))
    if want is None:
        assert smoothness.hoelder is None
    else:
        assert smoothness.hoelder is not None and abs(smoothness.hoelder - want) < 0.05
    if steps == "line":
        size = np.sqrt(np.mean((curves["line"] ** 2).sum(axis=1)))
        rise = np.linalg.norm(curves["line"][1]) / size
        assert np.isclose(smoothness.lipschitz, n * rise) and np.isclose(
            smoothness.variation, (n - 1) * rise
        )


def test_bad_calls_are_refused():
    with pytest.raises(
        ValueError,
        match="no NeuralODE in this model, a Linear; "
        "the branches of a ResNet become one by nf.from_branches",
    ):
        D.certify(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), points())
    model = Classifier(nf.NeuralODE(stack(4, nf.tied), nf.FixedGrid(nf.Euler(), steps=4)))
    with pytest.raises(ValueError, match="needs several samples"):
        D.certify(model, jnp.ones((1, 3)))
    decay = nf.NeuralODE(
        nf.from_function(lambda p, x: p * x, jnp.ones(())), nf.FixedGrid(nf.Euler(), steps=2)
    )
    with pytest.raises(ValueError, match="one finite number, such as an accuracy, got nan"):
        D.certify(decay, points(), score=lambda y: jnp.nan)
    with pytest.raises(TypeError, match="score"):
        D.certify(model, points(), score=wrong(0.9))
    with pytest.raises(TypeError, match="one array with an axis of samples"):
        D.certify(nnx.Sequential(model, lambda y: {"y": y}), points())
    with pytest.raises(ValueError, match="one set of weights for all depths"):
        D.smoothness(stack(1, nf.tied))
    with pytest.raises(TypeError, match="model"):
        D.certify(wrong("a path"), points())
    with pytest.raises(TypeError, match="a DepthVarying"):
        D.smoothness(wrong(model))
