"""The certificate: networks of which it is known whether they are an ODE."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.wrong import wrong

import neuralflow as nf
from neuralflow.depth.basis import Basis
from neuralflow.labs import deep_limit as D
from neuralflow.labs.deep_limit import evidence
from neuralflow.schemes.limits import LimitFlow, limit_velocity, step_velocity

S = nf.schemes
STEPS = 16
GRID = nf.FixedGrid(nf.Euler(), steps=32)


def stack(n: int, init: Any, seed: int = 3, basis: Callable[[int], Basis] = nf.PiecewiseConstant):
    def make(rngs):
        return nf.fields.MLP(2, hidden=6, param_dtype=jnp.float64, rngs=rngs)

    return nf.DepthVarying(make, basis(n), rngs=nnx.Rngs(seed), init=init)


def network(n: int, init: Any, seed: int = 3, scheme: Any = None):
    return nf.NeuralODE(stack(n, init, seed), nf.FixedGrid(scheme or nf.Euler(), steps=n))


def points(count: int = 100, seed: int = 0):
    return jax.random.normal(jax.random.key(seed), (count, 2))


def numbers(certificate: D.Certificate) -> np.ndarray:
    return np.asarray([[m.value, m.error] for m in certificate.measures.values()])


def same(one: nnx.Module, other: nnx.Module, x: Any, within: float) -> None:
    """Check that two ways to write one network have the same certificate."""
    first, second = D.certify(one, x), D.certify(other, x)
    np.testing.assert_allclose(numbers(first), numbers(second), rtol=0, atol=within)
    assert first.verdict == second.verdict
    changed = np.subtract(
        [r.variation for r in first.regularity.values()],
        [r.variation for r in second.regularity.values()],
    )
    assert abs(changed).max() <= within


def modules(layer):
    count = layer.field.basis.count
    return [layer.field.at((k + 0.5) / count) for k in range(count)]


def shrink(dense: Any, share: float) -> None:
    for weight in (dense.kernel, dense.bias):
        weight.set_value(share * weight[...])


def of_modules(layers):
    field = nf.DepthVarying.from_modules(layers, nf.PiecewiseConstant(len(layers)))
    return nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=len(layers)))


@pytest.mark.parametrize("init", [nf.smooth(0.5), nf.independent], ids=["smooth", "independent"])
def test_the_certificate_belongs_to_the_network_and_not_to_how_it_is_written(init):
    layer, x = network(STEPS, init), points()
    # Hidden units in another order in every layer, and with other signs: tanh is odd.
    shuffled = nf.NeuralODE(nnx.clone(layer.field), layer.discretisation)
    first, second = cast(Any, shuffled.field.stack).dense
    rng = np.random.default_rng(0)
    order = np.stack([rng.permutation(6) for _ in range(STEPS)])
    sign = rng.choice([-1.0, 1.0], (STEPS, 6))
    row = np.arange(STEPS)[:, None]
    kernel = first.kernel[...].transpose(0, 2, 1)[row, order] * sign[..., None]
    first.kernel.set_value(kernel.transpose(0, 2, 1))
    first.bias.set_value(first.bias[...][row, order] * sign)
    second.kernel.set_value(second.kernel[...][row, order] * sign[..., None])
    np.testing.assert_allclose(layer(x), shuffled(x), atol=1e-12)
    same(layer, shuffled, x, 1e-6)
    # Another order of the samples.
    assert np.allclose(numbers(D.certify(layer, x)), numbers(D.certify(layer, x[::-1])), atol=1e-9)


def test_a_finer_basis_on_the_same_steps_changes_no_number():
    field = stack(8, nf.independent, basis=nf.PiecewiseLinear)
    grid = nf.FixedGrid(nf.Euler(), steps=STEPS)
    finer = field.refine(nf.PiecewiseLinear(STEPS))
    same(nf.NeuralODE(field, grid), nf.NeuralODE(finer, grid), points(), 1e-9)


@pytest.mark.parametrize("init", [nf.smooth(0.5), nf.independent], ids=["smooth", "independent"])
def test_layers_that_are_written_twice_count_once(init):
    layer = network(STEPS, init)
    once, twice = (
        D.certify(net, points())
        for net in (layer, of_modules([m for m in modules(layer) for _ in range(2)]))
    )
    for what in ("rho", "nugget"):
        assert abs(once.measures[what].value - twice.measures[what].value) < 0.02
    assert once.is_ode == twice.is_ode == (init is not nf.independent)


def test_smooth_and_independent_layers_are_told_apart_on_every_seed():
    x = points()
    for n, seeds in ((16, 20), (32, 5)):
        for seed in range(seeds):
            assert D.certify(network(n, nf.smooth(0.5), seed), x).is_ode, (n, seed)
            rough = D.certify(network(n, nf.independent, seed), x)
            assert rough.verdict == "not an ODE", (n, seed)
            assert rough.measures["rho"].value > 1 and rough.measures["nugget"].value > 0.5
            # The layers are divided by n: the flow of the piecewise equation cannot tell.
            assert rough.measures["path"].verdict == "pass"


@pytest.mark.parametrize(("steps", "passes"), [(32, True), (8, False)])
def test_a_decay_needs_steps_that_resolve_it(steps, passes):
    decay = nf.from_function(lambda p, x: -8.0 * x)
    layer = nf.NeuralODE(decay, nf.FixedGrid(nf.Euler(), steps=steps))
    certificate = D.certify(layer, points())
    assert certificate.is_ode == passes
    # The path in closed form: (1 - 8/n)^k against exp(-8 k/n).
    k = np.arange(steps + 1)
    own, flow = (1 - 8 / steps) ** k, np.exp(-8 * k / steps)
    want = np.sqrt(np.mean((own - flow) ** 2) / np.mean((1 - flow) ** 2))
    assert np.isclose(certificate.measures["path"].value, want, rtol=1e-4)
    # The adjoint too: h (1 - 8/n)^(n-1-k) against the integral of exp(-8 (1 - t)) over a step.
    jump, rest = (1 - 8 / steps) ** (steps - k[1:]), np.exp(-8 * (1 - k[1:] / steps))
    rest = rest * (1 - np.exp(-8 / steps)) * steps / 8
    want = np.sqrt(np.sum((jump - rest) ** 2) / np.sum(rest**2))
    assert np.isclose(certificate.measures["adjoint"].value, want, rtol=1e-3)
    # So many steps bring the path to 10%, within what one power of n can tell.
    enough = certificate.resolution["layer"].enough
    assert enough is not None
    more = D.certify(layer.with_solve(nf.FixedGrid(nf.Euler(), steps=enough)), points())
    assert 0.05 < more.measures["path"].value < 0.11
    assert certificate.measures["rho"].value == 0


def test_tied_layers_get_one_verdict_on_every_draw_of_data():
    layer = network(32, nf.tied)
    certificates = [D.certify(layer, points(seed=k)) for k in range(5)]
    assert {c.verdict for c in certificates} == {"ODE"}
    assert {c.measures["rho"].value for c in certificates} == {0.0}


def test_the_size_of_a_branch_does_not_matter():
    for init, ode in ((nf.independent, False), (nf.smooth(0.5), True)):
        layer = network(STEPS, init)
        shrink(layer.field.stack.dense[-1], 1e-6)
        assert D.certify(layer, points()).is_ode == ode


@pytest.mark.parametrize("jumps", [1, 3])
def test_velocities_that_jump_are_an_ode_in_pieces(jumps):
    each = 32 // (jumps + 1)
    pieces = [modules(network(each, nf.smooth(2.0), seed)) for seed in range(jumps + 1)]
    certificate = D.certify(of_modules([m for piece in pieces for m in piece]), points())
    assert certificate.is_ode
    found = certificate.knots["layer"]
    assert np.allclose(found, np.arange(1, jumps + 1) / (jumps + 1))
    assert all(f"{knot:.3g}" in certificate.sentence() for knot in found)
    assert certificate.sentence().startswith("ODE in pieces")
    # The layers must not be merged into their pieces.
    assert certificate.regularity["layer"].hoelder is not None
    assert 0 < certificate.measures["rho"].value < 0.5


def test_a_dominant_jump_does_not_hide_layers_drawn_on_their_own():
    rough = modules(network(16, nf.independent, 1))
    for module in rough:
        shrink(module.dense[-1], 0.5)
    certificate = D.certify(of_modules([*modules(network(16, nf.tied, 2)), *rough]), points())
    assert certificate.verdict == "not an ODE"
    assert certificate.measures["nugget"].value > 0.2


def test_a_stretched_axis_weighs_more():
    field = nf.from_function(lambda p, x, t: jnp.stack([x[:, 1], jnp.sin(40 * t) * x[:, 0]], 1))

    def stretched(scale):
        by = jnp.asarray([1.0, scale])
        inner = nf.from_function(lambda p, x, t: field(x / by, t) * by)
        return nf.NeuralODE(inner, nf.FixedGrid(nf.Euler(), steps=32))

    plain, wide = (
        D.certify(stretched(s), points() * jnp.asarray([1.0, s])).measures["rho"].value
        for s in (1.0, 10.0)
    )
    assert abs(plain - wide) > 0.02  # as the docstring of Regularity says


SCHEMES = {
    "implicit Euler": nf.ImplicitEuler(),
    "LM": S.LMResNet(-0.3),
    "learned LM": S.LMResNet.learned(STEPS, rngs=nnx.Rngs(0)),
    "PolyNet": S.PolyNet(2),
    "Reversible": S.Reversible(nf.Heun()),
}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_every_scheme_is_held_against_its_own_limit(scheme):
    # Few samples: the matrices of an implicit step have a row for every number of the batch.
    certificate = D.certify(network(STEPS, nf.smooth(0.5), scheme=scheme), points(30))
    assert certificate.is_ode, certificate.sentence()


def test_a_deep_lm_resnet_passes_though_it_is_far_from_the_flow_of_its_field():
    layer, x = network(128, nf.smooth(0.5), scheme=S.LMResNet(-0.5)), points()
    assert D.certify(layer, x).is_ode
    # x' = f / (1 + k) is twice as fast as x' = f.
    far = layer.with_solve(nf.FixedGrid(nf.RK4(), steps=128))(x) - layer(x)
    assert float(jnp.linalg.norm(far) / jnp.linalg.norm(layer(x) - x)) > 0.2


def test_limits_of_schemes_in_closed_form():
    x = jnp.asarray([[0.3, -0.7]])

    def f(y):
        return jnp.cos(y)

    for scheme, want in (
        (nf.RK4(), f(x)),
        (nf.ImplicitEuler(), f(x)),
        (S.LMResNet(-0.5), 2 * f(x)),
        (S.ConsistentLM(0.7), f(x)),
        (S.leapfrog(), f(x)),
        (S.PolyNet(3), f(x) + 2 * f(jnp.zeros_like(x))),
        (S.FixedPointEuler(3), f(x)),
        (S.FractalExpansion([0.3, 0.8]), f(x)),
        (S.Reversible(S.PolyNet(2)), f(x) + f(jnp.zeros_like(x))),
    ):
        np.testing.assert_allclose(limit_velocity(scheme, f, x), want, rtol=1e-12)
    # Weights that move inside the step count with the weights of the tableau.
    for scheme, want in (
        (nf.Euler(), 0.0),
        (nf.Midpoint(), 0.5),
        (nf.Heun(), 0.5),
        (nf.RK4(), 0.5),
        (S.Kvaerno3(), 0.5),
        (nf.ImplicitEuler(), 1.0),
        (S.PolyNet(1), 1.0),
    ):
        got = step_velocity(scheme, lambda c, y: c + 0 * y, x)
        np.testing.assert_allclose(got, jnp.full_like(x, want), atol=1e-12)


def test_the_flow_of_a_limit_is_exact():
    field = nf.from_function(lambda p, x, t: -2.0 * t * x)
    layer = nf.NeuralODE(field, nf.FixedGrid(LimitFlow(S.LMResNet(-0.5)), steps=4))
    got = layer(jnp.ones((1, 1)))
    assert np.isclose(float(got[0, 0]), np.exp(-2.0), rtol=1e-5)


class Classifier(nnx.Module):
    """A stem, flows and a head, as a user writes them."""

    def __init__(self, *flows):
        self.stem = nnx.Linear(3, 2, param_dtype=jnp.float64, rngs=nnx.Rngs(8))
        self.flows = nnx.List(flows)
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))
        self.head = nnx.Linear(2, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(9))

    def __call__(self, x):
        @nnx.jit  # The states of a layer are found inside a compiled function, too.
        def flowed(flows, x):
            for flow in flows:
                x = flow(x)
            return x

        return self.head(flowed(self.flows, self.stem(self.dropout(self.norm(x)))))


def test_the_worst_layer_of_a_model_decides():
    good, bad = network(STEPS, nf.smooth(0.5)), network(STEPS, nf.independent)
    x = jax.random.normal(jax.random.key(0), (100, 3))
    model = Classifier(good, bad)
    model.train()
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param, nnx.BatchStat))
    certificate = D.certify(model, x, score=lambda logits: jnp.mean(jnp.argmax(logits, 1) == 0))
    assert not model.dropout.deterministic
    after = nnx.state(model, nnx.Param, nnx.BatchStat)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, np.asarray(b)), before, after))
    assert certificate.verdict == "not an ODE"
    assert [reason.split(":")[0] for reason in certificate.failures] == ["flows.1", "flows.1"]
    assert certificate.measures["rho"] == certificate.regularity["flows.1"].rho
    # Each layer is judged on the states that it gets.
    model.eval()
    states = model.stem(model.norm(x))
    alone = D.certify(network(STEPS, nf.smooth(0.5)), states)
    held = certificate.resolution["flows.0"], certificate.regularity["flows.0"]
    assert np.isclose(alone.measures["path"].value, held[0].path.value, rtol=1e-9)
    assert np.isclose(alone.measures["rho"].value, held[1].rho.value, rtol=1e-9)
    assert set(certificate.scores) == {"as trained", "the exact flow"}
    assert not D.certify(Classifier(good, good), x).knots


def test_a_layer_that_is_called_twice_is_judged_twice():
    class Twice(nnx.Module):
        def __init__(self, flow):
            self.flow = flow

        def __call__(self, x):
            return self.flow(self.flow(x))

    certificate = D.certify(Twice(network(STEPS, nf.smooth(0.5))), points())
    assert list(certificate.resolution) == ["flow", "flow, call 2"]


def test_parts_reverses_and_stacks_of_layers_are_judged_as_they_are_called():
    def decays(rates):
        make = nnx.vmap(lambda rate: nf.NeuralODE(nf.from_function(lambda a, x: a * x, rate), GRID))
        return make(jnp.asarray(rates))

    class Model(nnx.Module):
        def __init__(self):
            self.flow = nf.NeuralODE(nf.from_function(lambda p, x: -2 * x), GRID)
            self.stack = decays([-1.0, -60.0])

        def __call__(self, x):
            @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            def loop(layer, x):
                return layer(x)

            ahead = self.flow.between(0.0, 0.5)(self.flow.reverse()(x))
            return self.flow.invert(loop(self.stack, ahead))

    found = D.certify(Model(), points())
    names = ["flow", "flow, call 2", "stack", "stack, call 2"]
    assert list(found.resolution) == names
    # The factors of the exact flows tell which layer was judged, as called.
    size = np.sqrt(np.mean(np.sum(np.asarray(points()) ** 2, axis=1)))
    own = 1.0
    for name, rate, walk in zip(
        names,
        (2, -1, -1, -60),
        ((1 + 2 / 32) ** 32, (1 - 2 / 32) ** 16, (1 - 1 / 32) ** 32, 1),
        strict=True,
    ):
        want = size * own * abs(np.expm1(rate))
        assert np.isclose(found.resolution[name].distance, want, rtol=1e-4), name
        own *= walk
    assert found.resolution["stack, call 2"].path.verdict == "fail"


def test_adaptive_layers():
    x, solve = points(), nf.Adaptive(S.Bosh3(), 1e-5, 1e-5)
    fine = D.certify(nf.NeuralODE(stack(4, nf.tied), solve), x)
    assert fine.is_ode and fine.resolution["layer"].steps is None
    assert max(fine.measures[what].value for what in ("outputs", "path")) < 1e-3
    rough = D.certify(nf.NeuralODE(stack(16, nf.independent), solve), x)
    assert rough.failures[0].startswith("change of the velocity")
    # The depths follow the cells, so a finer basis has the same ones.
    finer = nf.NeuralODE(stack(4, nf.independent).refine(nf.PiecewiseConstant(16)), solve)
    coarse = nf.NeuralODE(stack(4, nf.independent), solve)
    first, second = (D.certify(layer, x).measures["rho"] for layer in (coarse, finer))
    assert np.isclose(first.value, second.value, atol=1e-5)


def test_tolerances_are_held_against_the_size_of_the_states():
    turning = nf.from_function(lambda p, x: 6 * jnp.stack([x[:, 1], -x[:, 0]], 1))
    for tolerance, scale, passes in ((1.0, 1.0, False), (1e-5, 1.0, True), (1e-5, 1e-7, False)):
        solve = nf.Adaptive(S.Bosh3(), tolerance, tolerance, per_sample=True)
        layer = nf.NeuralODE(turning, solve).reverse()
        assert D.certify(layer, scale * points(20)).is_ode == passes


class Scaled(nnx.Module):
    """A field times a number."""

    def __init__(self, field, by):
        self.field, self.by = field, by

    def __call__(self, x):
        return self.by * self.field(x)


def test_parts_reverses_and_uneven_steps():
    layer, x = network(STEPS, nf.smooth(0.5)), points()
    forward, backward = D.certify(layer, x), D.certify(layer.reverse(), layer(x))
    assert backward.is_ode
    # The same map, ahead: the reverse of a layer has the numbers of the layer of its velocities.
    turned = of_modules([Scaled(module, -1.0) for module in reversed(modules(layer))])
    found, want = D.certify(turned, layer(x)), backward
    assert np.allclose(numbers(found), numbers(want), atol=1e-9)
    depths = (forward.regularity["layer"].depths, backward.regularity["layer"].depths)
    assert np.array_equal(*depths)
    there, back = (c.regularity["layer"].changes for c in (forward, backward))
    assert np.corrcoef(there, back)[0, 1] > 0.9
    part = D.certify(layer.between(0.125, 0.75), x)
    whole = D.certify(of_modules([Scaled(m, 0.625) for m in modules(layer)[2:12]]), x)
    assert np.allclose(numbers(part), numbers(whole), atol=1e-9)
    assert D.certify(layer.between(0.1, 0.77), x).is_ode
    edges = np.union1d(np.arange(STEPS + 1) / STEPS, [0.03, 0.99])
    uneven = layer.with_solve(nf.FixedGrid(nf.Euler(), times=edges))
    found = D.certify(uneven, x)
    assert found.is_ode
    assert np.isclose(found.measures["rho"].value, forward.measures["rho"].value, atol=0.02)


def test_states_of_every_form():
    pair = nf.NeuralODE(
        nf.fields.Coupled(stack(8, nf.smooth(0.5), 1), stack(8, nf.smooth(0.5), 2)),
        nf.FixedGrid(S.RevNet(), steps=8, memory="reversible"),
    )

    class Joined(nnx.Module):
        def __init__(self, flow):
            self.flow = flow

        def __call__(self, x):
            return jnp.concatenate(self.flow((x[:, :2], x[:, 2:])), axis=1)

    x = jax.random.normal(jax.random.key(0), (50, 4))
    assert np.allclose(numbers(D.certify(pair, x)), numbers(D.certify(Joined(pair), x)), atol=1e-9)
    # x' = i x turns real and imaginary part. The path is known.
    grid = nf.FixedGrid(nf.Euler(), steps=32)
    turning = nf.NeuralODE(nf.from_function(lambda p, z: 1j * z), grid)
    k = np.arange(33)
    own, flow = (1 + 1j / 32) ** k, np.exp(1j * k / 32)
    want = np.sqrt(np.mean(abs(own - flow) ** 2) / np.mean(abs(1 - flow) ** 2))
    found = D.certify(turning, x[:, :1] + 1j * x[:, 1:2]).measures
    assert np.isclose(found["path"].value, want, rtol=1e-6)
    assert np.isclose(found["outputs"].value, abs(own - flow)[-1] / abs(1 - flow)[-1], rtol=1e-6)


def test_large_states_are_looked_at_in_parts(monkeypatch):
    layer, x = network(STEPS, nf.smooth(0.5)), points(40)
    whole = D.certify(layer, x)
    monkeypatch.setattr(evidence, "_MOST_NUMBERS", 8 * STEPS * 2 * 9)  # nine samples at a time
    np.testing.assert_allclose(numbers(D.certify(layer, x)), numbers(whole), atol=1e-12)
    monkeypatch.setattr(evidence, "_MOST_ADJOINTS", 2 * 20)
    few = D.certify(layer, x).measures["adjoint"]
    assert abs(few.value - whole.measures["adjoint"].value) < 0.2 * whole.measures["adjoint"].value
    assert D.certify(layer, x[::-1]).measures["adjoint"] == few


def test_standard_errors_and_verdicts():
    layer = network(STEPS, nf.smooth(0.5))
    draws = [D.certify(layer, points(64, seed)).measures for seed in range(24)]
    for what in ("outputs", "path", "adjoint", "rho"):
        values = np.asarray([draw[what].value for draw in draws])
        told = np.mean([draw[what].error for draw in draws])
        assert 0.5 < told / values.std(ddof=1) < 2, what
    assert D.Measure(0.09, 0.01, 0.1).verdict == "undecided"
    assert D.Measure(0.09, 0.004, 0.1).verdict == "pass"
    assert D.Measure(0.11, 0.004, 0.1).verdict == "fail"
    assert D.Measure(0.1, 0.0, 0.1).verdict == "pass"
    assert D.Measure(np.inf, 0.0, 0.1).verdict == "fail"


@pytest.mark.parametrize(
    ("steps", "want"), [("none", None), ("line", 1.0), ("walk", 0.5), ("noise", 0.0)]
)
def test_hoelder_exponents_and_nuggets_of_known_velocities(steps, want):
    n, rng = 256, np.random.default_rng(0)
    curves = {
        "none": np.ones((n, 40)),
        "line": np.arange(n)[:, None] * rng.standard_normal(40),
        "walk": np.cumsum(rng.standard_normal((n, 40)), axis=0),
        "noise": rng.standard_normal((n, 40)),
    }

    class Constant(nnx.Module):
        def __init__(self, value):
            self.w = nnx.Param(jnp.asarray(value))

        def __call__(self, x):
            return jnp.broadcast_to(self.w[...], x.shape)

    field = nf.DepthVarying.from_stack(Constant(curves[steps]), nf.PiecewiseConstant(n))
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=n))
    certificate = D.certify(layer, jnp.zeros((3, 40)))
    known = certificate.regularity["layer"]
    speed = np.sqrt(np.mean(np.sum(curves[steps] ** 2, axis=1)))
    changes = np.linalg.norm(np.diff(curves[steps], axis=0), axis=1) / speed
    np.testing.assert_allclose(known.changes, changes, rtol=1e-9, atol=1e-12)
    assert np.isclose(known.variation, changes.sum())
    if want is None:
        assert known.hoelder is None and known.rho.value == 0
    else:
        assert known.hoelder is not None and abs(known.hoelder - want) < 0.05
        assert np.isclose(known.rho.value, (changes**2).sum() / changes.sum())
        assert abs(known.nugget.value - (steps == "noise")) < 0.1
    assert known.rho.error < 1e-9  # every sample sees the same


def test_an_ordinary_resnet_is_no_ode():
    branches = [
        nf.fields.MLP(2, hidden=4, param_dtype=jnp.float64, rngs=nnx.Rngs(k)) for k in range(8)
    ]
    certificate = D.certify(nf.from_branches(branches), points())
    said = certificate.sentence()
    assert said.startswith("not an ODE: outputs off the exact flow") and "(rho)" in said
    assert "steps instead of 8 would" in said
    resolution = certificate.resolution["layer"]
    close = evidence.Measure(0.09, 0.02, 0.1)
    unsure = dataclasses.replace(resolution, outputs=close, path=close, enough=8)
    told = dataclasses.replace(certificate, resolution={"layer": unsure}).sentence()
    assert "0.09" not in said and "steps instead of" not in told


def test_the_evidence_as_table_record_and_picture():
    certificate = D.certify(network(STEPS, nf.smooth(0.5)), points())
    assert all(len(row) == 3 for row in certificate.rows())
    assert str(certificate).endswith(certificate.sentence())
    record = certificate.record()
    assert record["verdict"] == "ODE" and record["layers"]["layer"]["rho"]["verdict"] == "pass"
    picture = D.plots.certificates({"smooth": certificate, "again": certificate})
    decisive, changes = picture.axes
    assert [label.get_text() for label in decisive.get_yticklabels()] == list(certificate.measures)
    drawn = np.asarray(changes.get_lines()[0].get_ydata())
    np.testing.assert_allclose(drawn, certificate.regularity["layer"].changes)


def test_bad_calls_are_refused():
    class Around(nnx.Module):
        def __init__(self, flow, call):
            self.flow, self.call = flow, call

        def __call__(self, x):
            return self.call(self.flow, x)

    with pytest.raises(
        ValueError,
        match="no NeuralODE in this model, a Linear; "
        "the branches of a ResNet become one by nf.from_branches",
    ):
        D.certify(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), points())
    model = network(4, nf.tied)
    with pytest.raises(ValueError, match="needs several samples"):
        D.certify(model, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="one finite number, such as an accuracy, got nan"):
        D.certify(model, points(), score=lambda y: jnp.nan)
    with pytest.raises(TypeError, match="score"):
        D.certify(model, points(), score=wrong(0.9))
    with pytest.raises(TypeError, match="one array with an axis of samples"):
        D.certify(nnx.Sequential(model, lambda y: {"y": y}), points())
    with pytest.raises(TypeError, match="model"):
        D.certify(wrong("a path"), points())
    still = nf.NeuralODE(
        nf.from_function(lambda p, x: p * x, jnp.zeros(())), nf.FixedGrid(nf.Euler(), steps=2)
    )
    with pytest.raises(ValueError, match="nothing to certify"):
        D.certify(still, points())
    readout = nnx.Sequential(model, nnx.Linear(3, 1, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match="model Sequential cannot be evaluated on x of shape"):
        D.certify(readout, points())
    with pytest.raises(ValueError, match="model Around cannot be evaluated .*ValueError: invalid"):
        D.certify(Around(model, lambda flow, x: int("entry 'x'")), points())
    growing = nf.NeuralODE(
        nf.from_function(lambda p, x: 1e200 * x), nf.FixedGrid(nf.Euler(), steps=4)
    )
    with pytest.raises(ValueError, match="outputs are not finite"):
        D.certify(growing, points())

    with pytest.raises(TypeError, match="flow is called under jax.vmap"):
        D.certify(Around(model, lambda flow, x: jax.vmap(flow)(x)), points())
    with pytest.raises(ValueError, match="this NeuralODE gets one"):
        D.certify(Around(model, lambda flow, x: flow(x.mean(0)[None]) + x), points())
    with pytest.raises(ValueError, match="an array of shape"):
        D.certify(model, points(), score=lambda y: y)
    with pytest.raises(ValueError, match="calls none of its NeuralODEs ahead"):
        D.certify(Around(model, lambda flow, x: 2 * x), points())
    mixing = nf.from_function(lambda p, x: jnp.tanh(x - x.mean(0)))
    with pytest.raises(ValueError, match="couples the entries of axis 0"):
        D.certify(nf.NeuralODE(mixing, nf.FixedGrid(nf.Euler(), steps=2)), points())
    pair = nf.NeuralODE(nf.from_function(lambda p, s: s), nf.FixedGrid(nf.Euler(), steps=2))
    with pytest.raises(TypeError, match="one leading axis of samples"):
        D.certify(Around(pair, lambda flow, x: x + flow((x, x[0]))[0]), points())


def test_a_splitting_is_held_against_the_flow_of_the_sum_of_its_parts():
    parts = (nf.from_function(lambda rate, x: -rate * x, rate) for rate in (3.0, 5.0))
    n = 24
    layer = nf.NeuralODE(nf.fields.Split(*parts), nf.FixedGrid(S.LieTrotter(), steps=n))
    certificate = D.certify(layer, points())
    assert certificate.is_ode
    k, factor = np.arange(n + 1), (1 - 3 / n) * (1 - 5 / n)
    own, flow = factor**k, np.exp(-8 * k / n)
    want = np.sqrt(np.mean((own - flow) ** 2) / np.mean((1 - flow) ** 2))
    assert np.isclose(certificate.measures["path"].value, want, rtol=1e-4)
    # A velocity on top is a part behind the others, which moves the state where a step ends.
    jump, rest = factor ** (n - k[1:]), np.exp(-8 * (1 - k[1:] / n))
    rest = rest * (1 - np.exp(-8 / n)) * n / 8
    want = np.sqrt(np.sum((jump - rest) ** 2) / np.sum(rest**2))
    assert np.isclose(certificate.measures["adjoint"].value, want, rtol=1e-3)
