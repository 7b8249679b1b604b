"""One conformance suite over every scheme, and what each network is known for."""

import functools
import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow import plots
from neuralflow.schemes import analysis

S = nf.schemes

# name: (scheme for a number of steps, order)
SCHEMES = {
    "Euler": (lambda n: nf.Euler(), 1),
    "Heun": (lambda n: nf.Heun(), 2),
    "Midpoint": (lambda n: nf.Midpoint(), 2),
    "Ralston": (lambda n: nf.Ralston(), 2),
    "Bosh3": (lambda n: nf.Bosh3(), 3),
    "RK4": (lambda n: nf.RK4(), 4),
    "ThreeEighths": (lambda n: nf.ThreeEighths(), 4),
    "Tsit5": (lambda n: nf.Tsit5(), 5),
    "ImplicitEuler": (lambda n: nf.ImplicitEuler(), 1),
    "ImplicitTrapezoid": (lambda n: S.ImplicitTrapezoid(), 2),
    "AB2": (lambda n: S.adams_bashforth(2), 2),
    "AB3": (lambda n: S.adams_bashforth(3), 3),
    "AB4": (lambda n: S.adams_bashforth(4), 4),
    "AB5": (lambda n: S.adams_bashforth(5), 5),
    "leapfrog": (lambda n: S.leapfrog(), 2),
    "momentum": (lambda n: S.momentum(0.5), 1),
    "ConsistentLM": (lambda n: S.ConsistentLM(-0.3), 1),
    "LMResNet": (lambda n: S.LMResNet(S.PerStep(jnp.full(n - 1, 0.3 / n))), 1),
    "PolyNet": (lambda n: S.PolyNet(2), 1),
    "FixedPointEuler": (lambda n: S.FixedPointEuler(3), 1),
    "FractalNet": (lambda n: S.FractalNet.learned(n), 2),
    "ConsistentFractalNet": (lambda n: S.ConsistentFractalNet(0.0, 0.5), 2),
    "FractalExpansion": (lambda n: S.FractalExpansion([0.5, 2.0]), 1),
    "RevNet": (lambda n: S.RevNet(), 1),
    "Reversible": (lambda n: S.Reversible(nf.Heun()), 2),
}
every_scheme = pytest.mark.parametrize("name", SCHEMES)
# One of every kind of what a walk hands from step to step; the others are differentiated with the memory that is the default.
TWO_LEVEL = ("RK4", "ImplicitEuler", "AB5", "LMResNet", "PolyNet", "RevNet", "Reversible")


def pendulum(params, x, t):
    """A pendulum whose weight changes with depth; the state is a pair or an array of two halves."""
    first, second = x if isinstance(x, tuple) else jnp.split(x, 2, axis=-1)
    velocity = ((1 + t / 2) * second, -params * jnp.sin(first))
    return velocity if isinstance(x, tuple) else jnp.concatenate(velocity, axis=-1)


class Crossed(nnx.Module):
    """X' = a tanh(Y) + b, Y' = c tanh(X) + d."""

    def __init__(self, rngs):
        self.weights = nnx.Param(jax.random.normal(rngs.params(), (4,), jnp.float64))

    def __call__(self, x):
        a, b, c, d = self.weights[...]
        first, second = x if isinstance(x, tuple) else jnp.split(x, 2, axis=-1)
        velocity = (a * jnp.tanh(second) + b, c * jnp.tanh(first) + d)
        return velocity if isinstance(x, tuple) else jnp.concatenate(velocity, axis=-1)


X = jax.random.normal(jax.random.key(1), (3, 2))


@functools.cache
def exact_pendulum():
    field = nf.from_function(pendulum, jnp.asarray(1.5))
    return field, nf.NeuralODE(field, nf.Adaptive(nf.Dopri8(), 1e-14, 1e-14), 0.0, 2.0)(X)


@every_scheme
def test_order(name):
    make, order = SCHEMES[name]
    field, exact = exact_pendulum()
    counts = (64, 128) if order < 4 else (48, 96)
    errors = []
    for n in counts:
        layer = nf.NeuralODE(field, nf.FixedGrid(make(n), steps=n, memory="full"), 0.0, 2.0)
        errors.append(float(jnp.linalg.norm(layer(X) - exact)))
    slope = np.log2(errors[0] / errors[1])
    assert slope > order - 0.1
    # Tsit5's leading error is so small that the next one shows; its order conditions are checked below.
    assert slope < order + 0.1 or name == "Tsit5"


@every_scheme
def test_conformance(name, worst):
    """Constants, gradients, memory, vmap, backward in time, weights of every step: one compiled function each."""
    make = SCHEMES[name][0]
    n = 6
    scheme = make(n)
    field = nf.DepthVarying(Crossed, nf.PiecewiseConstant(n), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(field)

    def layer(params, memory):
        return nf.NeuralODE(
            nnx.merge(graphdef, params), nf.FixedGrid(scheme, steps=n, memory=memory)
        )(X)

    @jax.jit
    def values(params, dparams):
        y, dy = jax.jvp(lambda p: layer(p, "full"), (params,), (dparams,))
        memory = "two_level" if name in TWO_LEVEL else "remat"
        return y, jnp.sum(2 * y * dy), jax.grad(lambda p: jnp.sum(layer(p, memory) ** 2))(params)

    # A field that does nothing leaves every state as it is; a constant one moves it by that constant. PolyNet evaluates
    # F(F(u)), which is then F again, and the LM-ResNet as published is consistent with its field for k = 0 only.
    def end(p):
        return values(p, params)[0]

    moving = jax.tree.map(lambda a: jnp.zeros_like(a) + jnp.asarray([0.0, 0.3, 0.0, -0.7]), params)
    assert worst(end(jax.tree.map(jnp.zeros_like, params)), X) < 1e-15
    factor = {"PolyNet": 2}.get(name, 1)
    assert name == "LMResNet" or worst(end(moving), X + factor * jnp.asarray([0.3, -0.7])) < 1e-12

    keys = iter(jax.random.split(jax.random.key(2), 99))
    dparams = jax.tree.map(lambda a: jax.random.normal(next(keys), a.shape), params)
    _, slope, gradient = values(params, dparams)
    dot = sum(
        jnp.vdot(a, b)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(dparams), strict=True)
    )
    assert abs(slope - dot) < 1e-9 * abs(slope) + 1e-12  # forward and reverse mode agree
    moved = jax.tree.map(lambda a, b: a + 1e-5 * b, params, dparams)
    back = jax.tree.map(lambda a, b: a - 1e-5 * b, params, dparams)
    difference = (jnp.sum(end(moved) ** 2) - jnp.sum(end(back) ** 2)) / 2e-5
    assert abs(difference - slope) < 1e-6 * max(1, abs(slope))
    # The weights of every step matter.
    assert all(float(jnp.abs(a.reshape(n, -1)).max(1).min()) > 0 for a in jax.tree.leaves(gradient))


@every_scheme
def test_samples_are_alone_and_time_runs_both_ways(name, worst):
    make, order = SCHEMES[name]
    field = nf.from_function(pendulum, jnp.asarray(1.5))
    layer = nf.NeuralODE(field, nf.FixedGrid(make(40), steps=40, memory="full"))
    forward, alone, back = jax.jit(
        lambda: (layer(X), jax.vmap(layer)(X), layer.reverse()(layer(X)))
    )()
    assert worst(alone, forward) < 1e-12
    assert worst(back, X) < 100 / 40**order + 1e-11


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(1, rngs=rngs)

    def __call__(self, x):
        return self.norm(x).astype(x.dtype)


@every_scheme
def test_statistics_of_every_cell_or_a_refusal(name, worst):
    def make(rngs):
        return nf.fields.Coupled(Normed(rngs), Normed(rngs))

    field = nf.DepthVarying(make, nf.PiecewiseConstant(2), rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.FixedGrid(SCHEMES[name][0](2), steps=2))
    if name.startswith("Implicit"):
        with pytest.raises(ValueError, match="model.eval"):
            layer(X)
        return
    layer(X)
    for norm in (field.stack.first.norm, field.stack.second.norm):
        assert (norm.mean[...] != 0).all()
        assert (norm.var[...] != 1).all()
    assert worst(field.stack.first.norm.mean[0], 0.01 * X[:, 1:].mean(0)) < 1e-8


# The networks, by what they are known for.


def stacked(cells, seed=0, dtype=jnp.float64):
    def make(rngs):
        return nf.fields.MLP(4, hidden=5, param_dtype=dtype, rngs=rngs)

    return nf.DepthVarying(make, nf.PiecewiseConstant(cells), rngs=nnx.Rngs(seed))


def grid(scheme, n, **options):
    return nf.FixedGrid(scheme, steps=n, **options)


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("scheme", "dtype"), [(S.LMResNet, jnp.float32), (S.ConsistentLM, jnp.float64)]
)
def test_lm_without_its_k_is_the_resnet_bitwise(scheme, dtype):
    x = jax.random.normal(jax.random.key(3), (5, 4), dtype)
    n = 49
    resnet = nf.NeuralODE(stacked(n, dtype=dtype), grid(nf.Euler(), n))
    for k in (0.0, S.PerStep(jnp.zeros((n - 1, 4)))):
        assert (resnet.with_solve(grid(scheme(k), n))(x) == resnet(x)).all()


@pytest.mark.parametrize("name", ["AB3", "momentum", "PolyNet", "RevNet", "Reversible"])
def test_schemes_are_diffrax_solvers_of_their_own_right(name, worst):
    scheme = SCHEMES[name][0](16)
    field = nf.from_function(pendulum, jnp.asarray(1.5))
    terms = diffrax.ODETerm(lambda t, x, args: pendulum(args, x, t))
    solution = diffrax.diffeqsolve(terms, scheme, 0.0, 2.0, 0.125, X, jnp.asarray(1.5))
    assert worst(solution.ys[0], nf.NeuralODE(field, grid(scheme, 16), 0.0, 2.0)(X)) < 1e-13


@pytest.mark.parametrize(
    "name", ["AB3", "ConsistentLM", "PolyNet", "FractalExpansion", "Reversible"]
)
def test_evaluations_are_counted(name):
    calls = []
    field = nf.from_function(lambda p, x: (jax.debug.callback(lambda: calls.append(1)), -x)[1])
    solution = nf.NeuralODE(field, grid(SCHEMES[name][0](7), 7)).solve(jnp.ones((1, 1)))
    jax.block_until_ready(solution)
    jax.effects_barrier()
    assert len(calls) == int(solution.evaluations)


def test_a_stack_that_goes_on_from_another_takes_the_state_before(worst):
    n, x = 6, jax.random.normal(jax.random.key(3), (5, 4))
    k = jax.random.uniform(jax.random.key(4), (n - 1,), minval=-0.9, maxval=0.9)
    whole = nf.NeuralODE(stacked(n), grid(S.LMResNet(S.PerStep(k)), n), 0.0, float(n))
    path = whole.trajectory(x)
    cut = jax.tree.map(lambda a: a[2:], nnx.state(whole.field))
    rest = nf.DepthVarying.from_modules(
        [whole.field.at((i + 0.5) / n) for i in range(2, n)], nf.PiecewiseConstant(n - 2)
    )
    assert worst(nnx.state(rest), cut) == 0
    scheme = S.LMResNet(S.PerStep(k[1:])).after(path[1])
    assert (
        worst(nf.NeuralODE(rest, grid(scheme, n - 2), 0.0, float(n - 2))(path[2]), path[-1]) < 1e-13
    )
    with pytest.raises(ValueError, match="must be 4 on a grid of 4"):
        grid(S.LMResNet(S.PerStep(k[2:])).after(path[1]), n - 2)
    with pytest.raises(ValueError, match="shape of x"):
        nf.NeuralODE(rest, grid(scheme, n - 2))(x[:2])


def test_lm_is_its_formula_with_a_plain_first_step():
    n, x = 5, jax.random.normal(jax.random.key(3), (5, 4))
    field = stacked(n)
    k = jax.random.uniform(jax.random.key(4), (n - 1, 4), minval=-0.9, maxval=0.9)
    for scheme, weight in ((S.LMResNet, lambda k: 1.0), (S.ConsistentLM, lambda k: 1 + k)):
        u, before = x + field.at(0.1)(x) / n, x
        for i in range(1, n):
            step = weight(k[i - 1]) * field.at((i + 0.5) / n)(u) / n
            u, before = (1 - k[i - 1]) * u + k[i - 1] * before + step, u
        assert jnp.abs(nf.NeuralODE(field, grid(scheme(S.PerStep(k)), n))(x) - u).max() < 1e-14


def test_k_is_learned_saved_and_read():
    n = 6
    layer = nf.NeuralODE(stacked(n), grid(S.LMResNet.learned(n, channels=4, rngs=nnx.Rngs(1)), n))
    k = layer.discretisation.scheme.k[...]
    assert k.shape == (n - 1, 4)
    assert (k < 0).all()
    assert (k > -0.1).all()
    x = jax.random.normal(jax.random.key(3), (5, 4))
    graphdef, params = nnx.split(layer, nnx.Param)
    gradient = jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p)(x) ** 2))(params)
    (slope,) = jax.tree.leaves(gradient["solve_data"])
    nnx.update(layer, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient))
    assert jnp.allclose(layer.discretisation.scheme.k[...], k - 0.1 * slope)
    assert (jnp.abs(slope).max(1) > 0).all()


def test_fractalnet_with_heuns_coefficients_is_heun(worst):
    n, x = 7, jax.random.normal(jax.random.key(3), (5, 4))
    heun = nf.NeuralODE(stacked(n), grid(nf.Heun(), n))
    for scheme in (
        S.FractalNet(),
        S.ConsistentFractalNet(),
        S.FractalNet.learned(n),
        S.ConsistentFractalNet.learned(n),
    ):
        assert worst(heun.with_solve(grid(scheme, n))(x), heun(x)) < 1e-14
    midpoint = heun.with_solve(grid(nf.Midpoint(), n))(x)
    assert worst(heun.with_solve(grid(S.FractalExpansion([2.0]), n))(x), midpoint) < 1e-14
    assert worst(heun.with_solve(grid(S.ConsistentFractalNet(0.0, 0.5), n))(x), midpoint) < 1e-14


def test_fractal_coefficients_say_their_order():
    rule = {
        (0.5, 0.5, 1.0, 1.0, 0.5): 2,
        (0.5, 0.5, 1.0, 0.5, 0.75): 1,
        (0.5, 0.5, 1.1, 1.0, 0.5): 0,
        (1.0, 0.0, 1.0, 0.5, 1.0): 2,
    }

    def velocity(x):
        return jnp.stack([jnp.cos(x[0]) + x[1], jnp.sin(x[0] + x[1])])

    x = jnp.asarray([0.3, 0.7])
    for coefficients, order in rule.items():
        scheme = S.FractalNet(*coefficients)
        assert scheme.order(None) == order
        if coefficients[2] == 1:  # else a step does not start at u, and follows no equation
            g0, g1, _ = analysis.modified_equation(scheme, velocity, x)
            assert (jnp.abs(g0 - velocity(x)).max() < 1e-12) == (order > 0)
            assert (jnp.abs(g1).max() < 1e-12) == (order > 1)


def slope(errors, hs):
    return np.polyfit(np.log(hs), np.log(errors), 1)[0]


def test_poly_nears_backward_euler_for_linear_fields_only():
    # One step, against backward Euler's own: O(h^(K+1)) for a linear field.
    a = jax.random.normal(jax.random.key(5), (4, 4))
    u = jax.random.normal(jax.random.key(6), (4,))
    hs = np.array([0.02, 0.01, 0.005, 0.0025])

    def steps(scheme, f):
        return jax.jit(jax.vmap(lambda h: analysis.walk(scheme, lambda x, t: f(x), u, h, 1)))(hs)

    def rate(scheme, f, exact):
        return slope(np.linalg.norm(steps(scheme, f) - exact, axis=1), hs)

    implicit = jnp.stack([jnp.linalg.solve(jnp.eye(4) - h * a, u) for h in hs])
    for degree in (1, 2, 3):
        for scheme in (S.PolyNet(degree), S.FixedPointEuler(degree)):
            assert abs(rate(scheme, lambda x: a @ x, implicit) - (degree + 1)) < 0.05

    # Nonlinear with f(0) = 0: O(h^2) at any degree; with f(0) != 0 it is O(h), inconsistent. The cousin stays O(h^(K+1)).
    for f, want in ((lambda x: jnp.tanh(a @ x), 2), (lambda x: jnp.tanh(a @ x + 1), 1)):
        exact = steps(S.FixedPointEuler(20), f)
        assert abs(rate(S.PolyNet(3), f, exact) - want) < 0.1
        assert abs(rate(S.FixedPointEuler(3), f, exact) - 4) < 0.1

    def f(x):
        return jnp.tanh(a @ x + 1)

    g0 = analysis.modified_equation(S.PolyNet(3), f, u)[0]
    assert jnp.abs(g0 - (f(u) + 2 * f(jnp.zeros(4)))).max() < 1e-12


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.5])
def test_lm_follows_its_modified_equation(k):
    """(1 + k) u' + (1 - k)(h/2) u'' = f: what is left when the network's states are put in is O(h^2)."""

    def f(x):
        return jnp.stack([x[1], -jnp.sin(x[0])])

    hs = 2.0 / np.array([2048, 4096, 8192, 16384])

    def rest(h):
        # The states of a network that has left its start behind, and their differences, to fourth order.
        count = round(4.0 / h)
        field = nf.from_function(lambda p, x: f(x))
        layer = nf.NeuralODE(field, grid(S.LMResNet(float(k)), count), 0.0, 4.0)
        u = layer.trajectory(jnp.asarray([1.0, 0.5]))[count // 2 - 2 : count // 2 + 3]
        first = (u[0] - 8 * u[1] + 8 * u[3] - u[4]) / (12 * h)
        second = (-u[0] + 16 * u[1] - 30 * u[2] + 16 * u[3] - u[4]) / (12 * h**2)
        return float(jnp.linalg.norm((1 + k) * first + (1 - k) * h / 2 * second - f(u[2])))

    assert abs(slope([rest(h) for h in hs], hs) - 2) < 0.05
    # The same equation, solved for u' = g0 + h g1 + ...
    x = jnp.asarray([1.0, 0.5])
    g0, g1, _ = analysis.modified_equation(S.LMResNet(float(k)), f, x)
    assert jnp.abs(g0 - f(x) / (1 + k)).max() < 1e-14
    curved = jax.jvp(f, (x,), (g0,))[1] / (1 + k)
    assert jnp.abs(g1 + (1 - k) / (1 + k) / 2 * curved).max() < 1e-14


@pytest.mark.parametrize("k", [-0.9, -0.5, 0.0, 0.5, 0.9])
def test_lm_is_stable_up_to_twice_one_minus_k(k):
    limit = 2 * (1 - k)
    assert abs(analysis.stability_limit(S.LMResNet(k)) / limit - 1) < 1e-3
    assert abs(analysis.stability_limit(S.ConsistentLM(k)) * (1 + k) / limit - 1) < 1e-3
    # And so it is on the network itself.
    for share, grows in ((0.999, False), (1.001, True)):
        field = nf.from_function(lambda g, x: -g * x, jnp.asarray(share * limit))
        layer = nf.NeuralODE(field, grid(S.LMResNet(k), 40000), 0.0, 40000.0)
        end = abs(float(layer.solve(jnp.ones(1)).states[0]))
        assert (not end <= 1) == grows


def test_linear_multistep_coefficients_tell_their_order():
    assert S.adams_bashforth(5, nf.Heun()).order(None) == 3  # a start of order two leaves one more
    assert S.LMResNet(0.5).order(None) == 0
    assert S.ConsistentLM(1.0).order(None) == 2
    for order in range(1, 6):
        missing = analysis.order_conditions(S.adams_bashforth(order), order + 1)
        assert (
            max(abs(v) for name, v in missing.items() if name != f"t^{order + 1}")
            < 1e-12
            < abs(missing[f"t^{order + 1}"])
        )
        assert S.adams_bashforth(order).order(None) == order
    assert np.allclose(S.adams_bashforth(3).beta, [23 / 12, -16 / 12, 5 / 12])


def test_runge_kutta_order_conditions_and_stability_functions():
    for scheme, order in (
        (nf.Heun(), 2),
        (nf.Bosh3(), 3),
        (nf.RK4(), 4),
        (S.ThreeEighths(), 4),
        (nf.Tsit5(), 5),
        (nf.Kvaerno3(), 3),
    ):
        assert max(map(abs, analysis.order_conditions(scheme, order).values())) < 1e-13
        assert max(map(abs, analysis.order_conditions(scheme, order + 1).values())) > 1e-4
    z = np.array([-1.0 + 0.5j, 0.3j])
    truncated = sum(z**q / math.factorial(q) for q in range(5))
    assert np.allclose(analysis.stability_function(nf.RK4(), z), truncated, rtol=0, atol=1e-14)
    assert np.allclose(
        analysis.stability_function(S.ImplicitTrapezoid(), z),
        (1 + z / 2) / (1 - z / 2),
        rtol=0,
        atol=1e-14,
    )
    assert np.allclose(
        analysis.stability_function(S.PolyNet(3), z), 1 + z + z**2 + z**3, rtol=0, atol=1e-14
    )
    # A tableau's formula and the scheme's own step agree.
    assert np.allclose(
        analysis.amplification(nf.RK4(), z)[..., 0, 0], truncated, rtol=0, atol=1e-14
    )
    assert np.isinf(analysis.stability_function(S.ImplicitTrapezoid(), np.array([2.0 + 0j])))
    assert (
        max(map(abs, analysis.order_conditions(nf.ImplicitEuler(), 1).values()))
        == 0
        == analysis.order_conditions(nf.Euler(), 1)["[]"]
    )
    assert np.allclose(analysis.growth(S.RevNet(), np.array([1.99j])), 1)
    assert np.allclose(analysis.growth(S.leapfrog(), np.array([0.99j])), 1)
    assert analysis.growth(S.leapfrog(), np.array([-0.1])) > 1


def test_observed_order_needs_no_reference():
    for scheme, order in (
        (nf.Euler(), 1),
        (nf.Heun(), 2),
        (S.adams_bashforth(3), 3),
        (S.RevNet(), 1),
        (nf.ImplicitEuler(), 1),
    ):
        assert abs(analysis.observed_order(scheme, 128) - order) < 0.1


def test_pictures_of_regions_and_coefficients():
    figure = plots.stability(
        {"Euler": nf.Euler(), "leapfrog": S.leapfrog(), "trapezoid": S.ImplicitTrapezoid()},
        columns=2,
    )
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert titles == ["Euler: decay to 2", "leapfrog: hardly any decay", "trapezoid: any decay"]
    (axis,) = plots.coefficients({"stage 1": [-0.1, -0.2], "stage 2": [0.3, 0.1, 0.0]}).axes
    assert [line.get_xdata().tolist() for line in axis.lines[:2]] == [[1, 2], [1, 2, 3]]


# Walking back.

REVERSIBLE = {
    "RevNet": S.RevNet(),
    "leapfrog": S.leapfrog(),
    "momentum": S.momentum(0.99),
    "Heun": S.Reversible(nf.Heun()),
}


def coupled(cells, width=2, seed=0):
    def part(rngs):
        return nf.fields.MLP(width, hidden=3, time=True, param_dtype=jnp.float64, rngs=rngs)

    def make(rngs):
        return nf.fields.Coupled(part(rngs), part(rngs))

    return nf.DepthVarying(make, nf.PiecewiseConstant(cells), rngs=nnx.Rngs(seed))


@pytest.mark.parametrize("name", REVERSIBLE)
def test_walking_back_gives_the_gradient_of_backpropagation(name, worst):
    cells, n = 4, 12
    x = jax.random.normal(jax.random.key(3), (5, 4))
    layer = nf.NeuralODE(
        coupled(cells), grid(REVERSIBLE[name], n), jnp.asarray(0.2), jnp.asarray(1.7)
    )
    graphdef, state = nnx.split(layer)

    def gradient(memory):
        def loss(state, x):
            layer = nnx.merge(graphdef, state)
            return jnp.sum(layer.with_solve(grid(REVERSIBLE[name], n, memory=memory))(x) ** 3)

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(state, x)

    assert worst(gradient("reversible"), gradient("full")) < 1e-10


def test_revnet_inverts_and_differentiates_at_depth_1024_in_memory_that_does_not_grow(worst):
    x = jax.random.normal(jax.random.key(3), (512, 16))
    y = {}

    def compiled(n, memory):
        layer = nf.NeuralODE(coupled(n, width=8), grid(S.RevNet(), n, memory=memory))
        graphdef, state = nnx.split(layer)

        def run(state, x):
            return (nnx.merge(graphdef, state)(x) ** 2).sum()

        function = jax.jit(jax.grad(run, argnums=1)).lower(state, x).compile()
        if n == 1024:
            y[memory] = function(state, x)
            y["layer"] = layer
        return function.memory_analysis().temp_size_in_bytes

    sizes = [compiled(n, "reversible") for n in (16, 1024)]
    assert sizes[1] < 1.1 * sizes[0]
    assert compiled(1024, "remat") > 10 * sizes[1]
    assert worst(y["reversible"], y["remat"]) < 1e-10
    layer = y["layer"]
    assert worst(layer.invert(layer(x)), x) < 1e-12
    pair = (x[:, :8], x[:, 8:])
    assert worst(jnp.concatenate(layer(pair), axis=1), layer(x)) == 0


REFUSED = {
    "a scheme that cannot go back": (lambda: grid(nf.Heun(), 4, memory="reversible"), "Reversible"),
    "rounding that grows": (
        lambda: grid(S.momentum(0.5), 64, memory="reversible"),
        "multiplies rounding errors",
    ),
    "rounding that grows in single precision": (
        lambda: nf.NeuralODE(
            stacked(4, dtype=jnp.float32), grid(S.momentum(0.9), 120, memory="reversible")
        )(jnp.ones((2, 4), jnp.float32)),
        "too much for float32",
    ),
    "a learned k": (
        lambda: grid(S.LMResNet.learned(8, rngs=nnx.Rngs(0)), 8, memory="reversible"),
        "inf",
    ),
    "uneven steps": (lambda: nf.FixedGrid(S.leapfrog(), times=(0, 0.3, 1)), "equal length"),
    "rows for another grid": (
        lambda: grid(S.LMResNet.learned(8, rngs=nnx.Rngs(0)), 5),
        "must be 4 on a grid of 5",
    ),
    "inconsistent": (lambda: S.LinearMultistep((1.0,), (0.9,)), "beta to 1"),
    "not zero-stable": (lambda: S.LinearMultistep((-4.0, 5.0), (4.0, 2.0)), "zero-stable"),
    "an order without a starter": (lambda: S.adams_bashforth(6), "order 5"),
    "an implicit base": (lambda: S.Reversible(nf.ImplicitEuler()), "explicit one-step"),
    "a coefficient that is none": (lambda: S.LMResNet("small"), "must be a number"),
    "a row per step that is none": (
        lambda: nf.NeuralODE(stacked(4), grid(S.LMResNet(jnp.zeros(3)), 4))(jnp.ones((2, 4))),
        "PerStep",
    ),
    "rows for all steps but the first": (
        lambda: grid(S.FractalNet.learned(7), 8),
        "must be 8 on a grid of 8",
    ),
    "a row too many": (
        lambda: nf.NeuralODE(stacked(4), grid(S.LMResNet.learned(5, rngs=nnx.Rngs(0)), 4))(
            jnp.ones((2, 4))
        ),
        "all but the first",
    ),
    "rounding beyond all range": (
        lambda: grid(S.momentum(0.01), 2000, memory="reversible"),
        "multiplies rounding errors",
    ),
    "a past of the other end": (
        lambda: nf.NeuralODE(
            stacked(4), grid(S.LMResNet(0.3).after(jnp.ones((2, 4))), 4)
        ).reverse()(jnp.ones((2, 4))),
        "cannot be walked backward",
    ),
    "RevNet on a field of one array": (
        lambda: nf.NeuralODE(stacked(4), grid(S.RevNet(), 4))(jnp.ones((2, 4))),
        "cannot be called on the pair",
    ),
    "a k that is not a number": (lambda: S.LMResNet(math.nan), "must be finite"),
    "a certificate of coefficients of steps": (
        lambda: nf.labs.deep_limit.certify(
            nf.NeuralODE(stacked(4), grid(S.LMResNet.learned(4, rngs=nnx.Rngs(0)), 4)),
            jnp.ones((9, 4)),
        ),
        "belong to its steps",
    ),
    "an equation of no flow": (
        lambda: analysis.modified_equation(S.FractalNet(0.3, 0.3), lambda x: -x, jnp.ones(2)),
        "length zero",
    ),
    "an equation of an unstable scheme": (
        lambda: analysis.modified_equation(S.LMResNet(2.0), lambda x: -x, jnp.ones(2)),
        "not zero-stable",
    ),
    "a velocity of another shape": (
        lambda: analysis.modified_equation(nf.RK4(), lambda x: x[:1], jnp.ones(2)),
        "shape and dtype of x",
    ),
    "an order below rounding": (
        lambda: analysis.observed_order(nf.Dopri8(), 512),
        "no order can be told",
    ),
    "amplification of an implicit step": (
        lambda: analysis.amplification(nf.ImplicitEuler(), np.zeros(1)),
        "stability_function",
    ),
    "no schemes to draw": (lambda: plots.stability({}), "at least one"),
    "momentum of one": (lambda: S.momentum(1.0), "between 0 and 1"),
    "an odd state": (
        lambda: nf.NeuralODE(stacked(4), grid(S.RevNet(), 4))(jnp.ones((2, 3))),
        "last axis is even",
    ),
    "a field with no halves": (
        lambda: nf.NeuralODE(nf.from_function(lambda p, x: (x[0], x[1])), grid(S.RevNet(), 2))(
            (X, X)
        ),
        "needs the first half",
    ),
    "the inverse of a multi-step scheme": (
        lambda: nf.NeuralODE(stacked(4), grid(S.leapfrog(), 4)).invert(jnp.ones((2, 4))),
        "final state alone",
    ),
    "states between the steps of one": (
        lambda: nf.NeuralODE(stacked(4), grid(S.leapfrog(), 4)).trajectory(
            jnp.ones((2, 4)), jnp.asarray([0.3])
        ),
        "trajectory\\(x\\)",
    ),
    "one scheme's coefficients for all steps": (
        lambda: analysis.stability_limit(S.FractalNet.learned(3)),
        "numbers of one step",
    ),
    "no order conditions": (
        lambda: analysis.order_conditions(S.PolyNet(2), 2),
        "modified_equation",
    ),
    "a matrix, not a number": (
        lambda: analysis.stability_function(S.leapfrog(), np.zeros(1)),
        "amplification",
    ),
    "adaptive steps without an error estimate": (
        lambda: nf.Adaptive(S.leapfrog()),
        "no error estimate",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_apply_is_refused_in_one_sentence(case):
    call, said = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=said) as caught:
        call()
    assert "\n" not in str(caught.value).split("\n---")[0]


def test_declared_properties_of_schemes():
    traits = nf.schemes.network.traits
    assert traits(nf.Heun()) == (0, False, 0, False, 0)
    assert traits(nf.schemes.adams_bashforth(3))[:2] == (2, True)
    assert traits(nf.schemes.LMResNet(0.2)) == (1, True, 1, False, 0)
    assert traits(nf.schemes.LMResNet(0.2).after(jnp.ones(2))) == (1, True, 0, True, 0)
    assert traits(nf.schemes.RevNet()).statistics == 1


def test_the_longest_length_up_to_which_all_is_stable():
    def close(low, high):
        return high - low <= 1e-9

    def longest(stable, largest=10.0):
        return nf.schemes.analysis.longest(stable, largest, scan=100, cuts=8, enough=close)

    assert longest(lambda z: z <= 3.3) == pytest.approx(3.3, abs=1e-8)
    assert longest(lambda z: (z <= 2.05) | (z > 4)) == pytest.approx(
        2.05, abs=1e-8
    )  # what is stable again beyond does not count
    assert longest(lambda z: z > 0) == np.inf and longest(lambda z: z < 0) == pytest.approx(
        0, abs=1e-8
    )
