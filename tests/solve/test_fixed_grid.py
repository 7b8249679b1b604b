"""Fixed grids against hand-written networks, orders, gradients, adaptive solves, and what they refuse."""

import copy

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refusals import refuses

import neuralflow as nf
from neuralflow.depth.basis import evaluation
from neuralflow.solve.collocation import by_columns
from neuralflow.solve.form import split

UNKIND = (1, 3, 25, 29, 41, 49, 61, 98, 100, 103, 129, 196, 255, 500, 1000)


class Nested(nnx.Module):
    """A user's module with depth-varying weights inside."""

    def __init__(self, inner, dtype):
        self.inner = inner
        self.scale = nnx.Param(jnp.asarray(0.7, dtype))

    def __call__(self, x):
        return self.scale.get_value() * self.inner(x)


class Several(nnx.Module):
    """A field whose weights stand on several bases: the sum of its parts."""

    def __init__(self, parts):
        self.parts = nnx.List(parts)

    def __call__(self, x, t):
        return sum(part(x, t) for part in self.parts)


def both(field, graphdef, steps, t0, t1, dtype, nested, differentiated):
    """Value and gradients of the layer and of the hand-written scan, in one compiled function each."""
    h = jnp.asarray((t1 - t0) / steps, dtype)
    whole, state = nnx.split(field)

    def hand(state, x):
        stack = state["inner"]["stack"] if nested else state["stack"]

        def block(x, params):
            f = nnx.merge(graphdef, params)(x)
            if nested:
                f = state["scale"].get_value() * f
            return x + h * f, None

        return jax.lax.scan(block, x, stack)[0]

    def layer(state, x):
        return nf.NeuralODE(
            nnx.merge(whole, state), nf.FixedGrid(nf.Euler(), steps=steps, memory="full"), t0, t1
        )(x)

    def run(f):
        gradient = jax.grad(lambda s, x: jnp.sum(f(s, x) ** 2), argnums=(0, 1))
        return jax.jit(lambda s, x: (f(s, x), gradient(s, x) if differentiated else ()))

    return run(hand), run(layer), state


def check_bitwise(steps, dtype, t0, t1, nested, differentiated=False):
    def make(rngs):
        return nf.fields.MLP(2, hidden=4, param_dtype=dtype, rngs=rngs)

    varying = nf.DepthVarying(make, nf.PiecewiseConstant(steps), rngs=nnx.Rngs(0))
    field = Nested(varying, dtype) if nested else varying
    hand, layer, state = both(
        field, nnx.split(varying.stack)[0], steps, t0, t1, dtype, nested, differentiated
    )
    x = jax.random.normal(jax.random.key(1), (3, 2), dtype)
    (y, want), (z, got) = hand(state, x), layer(state, x)
    assert (y == z).all()
    eps = jnp.finfo(dtype).eps
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        assert jnp.abs(a - b).max() <= eps * jnp.abs(a).max()
    return nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=steps), t0, t1), x, y


AS_USERS = [
    pytest.param(n, marks=pytest.mark.optimised) if n in (3, 49, 103, 1000) else n for n in UNKIND
]


@pytest.mark.parametrize("steps", AS_USERS)
def test_euler_is_the_resnet_bitwise(steps):
    # Every number of steps in one precision and on one interval, each combination for some; gradients for three of them.
    k = UNKIND.index(steps)
    interval = ((0.0, 1.0), (0.5, 3.0))[k // 2 % 2]
    check_bitwise(
        steps,
        (jnp.float32, jnp.float64)[k % 2],
        *interval,
        nested=k % 3 == 0,
        differentiated=steps in (3, 49, 1000),
    )


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("dtype", "interval"),
    [(jnp.float32, (0.5, 3.0)), (jnp.float64, (0.0, 1.0)), (jnp.float32, (0.0, 1.0))],
)
def test_called_outside_a_trace_the_bits_are_the_same(dtype, interval):
    layer, x, y = check_bitwise(49, dtype, *interval, nested=False)
    assert (layer(x) == y).all()
    traced = jax.jit(lambda t0, t1: nf.NeuralODE(layer.field, layer.discretisation, t0, t1)(x))
    assert (traced(*(jnp.asarray(t, dtype) for t in interval)) == y).all()


def test_one_wrong_layer_is_noticed(mlp, x):
    field = mlp(nf.PiecewiseConstant(49), time=False)
    y = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=49))(x)
    hand = x
    looked_up = np.floor(
        np.cumsum(np.full(49, np.float32(1 / 49)), dtype=np.float32) * 49 - 1
    ).astype(int)
    assert (looked_up != np.arange(49)).any()  # the obvious lookup by depth reads wrong layers
    for k in looked_up:
        hand = hand + field.at((k + 0.5) / 49)(hand) / 49
    assert jnp.abs(hand - y).max() > 1e-4


def test_uneven_steps_are_their_blocks(mlp, x):
    times = np.concatenate([[0], np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 29))])
    times /= times[-1]
    field = mlp(nf.PiecewiseConstant(tuple(times)), time=False)
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), times=times))
    y = x
    for k in range(29):
        y = y + (times[k + 1] - times[k]) * field.at((times[k] + times[k + 1]) / 2)(y)
    assert jnp.abs(layer(x) - y).max() < 1e-14


def test_heun_and_rk4_are_their_stages_on_every_basis(mlp, x):
    bases = (nf.PiecewiseConstant(7), nf.PiecewiseLinear(7), nf.Legendre(4), nf.CubicSpline(7))
    field, steps = Several([mlp(basis, seed=k) for k, basis in enumerate(bases)]), 21
    h = 1 / steps

    def at(k, share):
        # The weights of step k at a share of it: inside its own cell, whatever the knots do.
        side = "left" if share == 1 else "right"
        modules = [part.at((k + share) / steps, side) for part in field.parts]
        return lambda y: velocity(modules, y, (k + share) / steps)

    velocity = jax.jit(lambda modules, y, t: sum(module(y, t) for module in modules))
    heun, rk4 = x, x
    for k in range(steps):
        start, middle, end = at(k, 0), at(k, 0.5), at(k, 1)
        k1 = start(heun)
        heun = heun + h * (k1 / 2 + end(heun + h * k1) / 2)
        k1 = start(rk4)
        k2 = middle(rk4 + h * k1 / 2)
        k3 = middle(rk4 + h * k2 / 2)
        k4 = end(rk4 + h * k3)
        rk4 = rk4 + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
    for scheme, hand in ((nf.Heun(), heun), (nf.RK4(), rk4)):
        assert (
            jnp.abs(nf.NeuralODE(field, nf.FixedGrid(scheme, steps=steps))(x) - hand).max() < 1e-13
        )


def _logistic(p, x, t):
    return x * (1 - x) * (1 + jnp.sin(t))


def _turn(p, x):
    return jnp.stack([x[..., 1], -x[..., 0]], axis=-1)


def _growth(x, factor):
    return x * factor / (1 + x * (factor - 1))


START = jnp.asarray([[0.1, 0.3, 2.0]])
# Field, start, end of the interval, exact state there.
LOGISTIC = (_logistic, START, 4.0, _growth(START, np.exp(5 - np.cos(4.0))))
TURN = (_turn, jnp.asarray([[1.0, 0.0]]), 20.0, jnp.asarray([[np.cos(20.0), -np.sin(20.0)]]))
SWING = (lambda p, x, t: x * jnp.cos(t), START, 2.0, START * np.exp(np.sin(2.0)))
# Step numbers where the error is past its first terms and above rounding.
SCHEMES = [
    (nf.Euler(), 1, LOGISTIC, (64, 128)),
    (nf.Heun(), 2, LOGISTIC, (64, 128)),
    (nf.Midpoint(), 2, LOGISTIC, (64, 128)),
    (nf.Ralston(), 2, LOGISTIC, (64, 128)),
    (nf.Bosh3(), 3, LOGISTIC, (64, 128)),
    (nf.RK4(), 4, LOGISTIC, (64, 128)),
    (nf.ThreeEighths(), 4, LOGISTIC, (64, 128)),
    (nf.Tsit5(), 5, TURN, (256, 512)),
    (nf.Dopri5(), 5, TURN, (256, 512)),
    (nf.Dopri8(), 8, SWING, (8, 16)),
    (nf.ImplicitEuler(), 1, LOGISTIC, (64, 128)),
    (nf.Kvaerno3(), 3, LOGISTIC, (128, 256)),
]


def order_of(scheme, field, x, t1, exact, steps):
    errors = [
        float(jnp.abs(nf.NeuralODE(field, nf.FixedGrid(scheme, steps=n), 0.0, t1)(x) - exact).max())
        for n in steps
    ]
    return np.log(errors[0] / errors[1]) / np.log(steps[1] / steps[0])


@pytest.mark.parametrize(
    ("scheme", "order", "problem", "steps"), SCHEMES, ids=[type(row[0]).__name__ for row in SCHEMES]
)
def test_observed_order_on_a_closed_form(scheme, order, problem, steps):
    field, x, t1, exact = problem
    assert abs(order_of(scheme, nf.from_function(field), x, t1, exact, steps) - order) < 0.1


class Rate(nnx.Module):
    def __init__(self):
        self.rate = nnx.Param(jnp.asarray(0.0))

    def __call__(self, x):
        return self.rate.get_value() * x * (1 - x)


@pytest.mark.parametrize(
    "basis", [nf.Legendre(4), nf.PiecewiseLinear(2), nf.PiecewiseConstant(2)], ids=str
)
@pytest.mark.parametrize(
    ("scheme", "order"), [(nf.Euler(), 1), (nf.Heun(), 2), (nf.Bosh3(), 3), (nf.RK4(), 4)]
)
def test_observed_order_with_weights_on_a_basis(basis, scheme, order):
    # x' = rate(s) x (1 - x): the logistic curve in the integral of the rate.
    field = nf.DepthVarying(lambda rngs: Rate(), basis, rngs=nnx.Rngs(0))
    values = 1 + np.random.default_rng(3).standard_normal(basis.size)
    field.stack.rate.set_value(jnp.asarray(values))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    mean = sum(
        weights @ (evaluation(basis, (cell + (nodes + 1) / 2) / 2) @ values) / 4
        for cell in range(2)
    )
    assert (
        abs(
            order_of(scheme, field, START, 4.0, _growth(START, np.exp(4 * mean)), (256, 512))
            - order
        )
        < 0.1
    )


def test_ever_finer_steps_meet_the_adaptive_solve_at_order_one(mlp, x):
    field = Several([mlp(nf.PiecewiseConstant(4), seed=0), mlp(nf.PiecewiseLinear(4), seed=1)])
    before = jax.tree.map(jnp.copy, nnx.state(field))
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))
    limit = layer.with_solve(nf.Adaptive(nf.Tsit5(), 1e-10, 1e-10))(x)
    steps = np.asarray([256, 512, 1024])
    errors = [
        float(jnp.abs(layer.with_solve(nf.FixedGrid(nf.Euler(), steps=int(n)))(x) - limit).max())
        for n in steps
    ]
    assert abs(np.polyfit(np.log(steps), np.log(errors), 1)[0] + 1) < 0.05
    assert all(
        (a == b).all()
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(nnx.state(field)), strict=True)
    )


def differentiated(layer):
    """x and an interval to a number, and its gradients with respect to the weights, x and the interval."""
    graphdef, state = nnx.split(layer.field)

    def loss(state, x, t0, t1):
        return jnp.sum(
            nf.NeuralODE(nnx.merge(graphdef, state), layer.discretisation, t0, t1)(x) ** 2
        )

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    return lambda x, t0=0.1, t1=1.3: compiled(state, x, jnp.asarray(t0), jnp.asarray(t1))


def gradients(layer, x):
    return differentiated(layer)(x)[1]


def test_every_derivative_of_a_fixed_grid(mlp, x):
    layer = nf.NeuralODE(mlp(nf.PiecewiseLinear(3)), nf.FixedGrid(nf.Heun(), steps=6), 0.1, 1.3)
    v = jax.random.normal(jax.random.key(5), x.shape)

    def f(x):
        return jnp.sum(jnp.sin(layer(x)))

    step = 1e-5
    central = (f(x + step * v) - f(x - step * v)) / (2 * step)
    jvp = jax.jit(lambda x: jax.jvp(f, (x,), (v,))[1])(x)
    vjp = jax.jit(jax.grad(f))
    assert np.allclose(jvp, central, rtol=1e-8) and np.allclose(
        jnp.vdot(vjp(x), v), jvp, rtol=1e-12
    )
    second = jax.jit(lambda x: jax.jvp(jax.grad(f), (x,), (v,))[1])(x)
    assert np.allclose(
        second, (vjp(x + step * v) - vjp(x - step * v)) / (2 * step), rtol=1e-6, atol=1e-9
    )
    reverse = jax.jit(jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v)))(x)
    assert np.allclose(reverse, second, atol=1e-12)
    rows = jax.vmap(lambda row: layer(row[None])[0])(x)
    assert np.allclose(rows, layer(x), atol=1e-14)


def test_gradient_of_interval_and_weights_by_finite_differences(mlp, x):
    for solve in (nf.FixedGrid(nf.RK4(), steps=6), nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9)):
        both = differentiated(nf.NeuralODE(mlp(nf.PiecewiseLinear(3)), solve))
        _, _, d0, d1 = both(x)[1]

        def loss(t0, t1, both=both):
            return float(both(x, t0, t1)[0])

        e = 1e-4
        assert np.allclose(d0, (loss(0.1 + e, 1.3) - loss(0.1 - e, 1.3)) / (2 * e), rtol=1e-4)
        assert np.allclose(d1, (loss(0.1, 1.3 + e) - loss(0.1, 1.3 - e)) / (2 * e), rtol=1e-4)


@pytest.mark.parametrize("steps", [12, 26])
def test_memory_modes_agree(steps, mlp, x, worst):
    bases = {12: nf.PiecewiseConstant(3), 26: nf.PiecewiseConstant(26)}
    field = mlp(bases[steps])
    slopes = [
        gradients(nf.NeuralODE(field, nf.FixedGrid(nf.Heun(), steps=steps, memory=memory)), x)
        for memory in ("full", "remat", "two_level")
    ]
    assert worst(slopes[0], slopes[1]) < 1e-13 and worst(slopes[0], slopes[2]) < 1e-13


def on_every_basis(mlp, tolerance):
    bases = (nf.PiecewiseConstant(4), nf.PiecewiseLinear(4), nf.Legendre(4))
    field = Several([mlp(basis, seed=k) for k, basis in enumerate(bases)])
    return nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), tolerance, tolerance))


@pytest.mark.optimised
def test_adaptive_gradients_are_those_of_the_accepted_steps(mlp, x, worst):
    """Beside diffrax differentiating through its own loop."""
    layer = on_every_basis(mlp, 1e-7)
    direct = layer.with_solve(nf.Adaptive(nf.Tsit5(), 1e-7, 1e-7, gradient="direct", max_steps=64))
    assert worst(gradients(layer, x)[:2], gradients(direct, x)[:2]) < 1e-12


def test_adaptive_gradients_on_every_basis(mlp, x, worst):
    layer = on_every_basis(mlp, 1e-9)
    fine = gradients(layer.with_solve(nf.FixedGrid(nf.RK4(), steps=200)), x)
    assert worst(gradients(layer, x), fine) < 1e-6
    continuous = gradients(
        layer.with_solve(nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9, gradient="continuous")), x
    )
    assert worst(continuous, fine) < 1e-6


def test_adaptive_gradient_is_diffraxs_where_both_apply(x, worst):
    field = nf.fields.MLP(2, hidden=8, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(field)

    def plain(state, x):
        term = diffrax.ODETerm(lambda t, x, state: 3.0 * nnx.merge(graphdef, state)(x))
        controller = diffrax.PIDController(rtol=1e-7, atol=1e-7)
        return jnp.sum(
            diffrax.diffeqsolve(
                term, diffrax.Tsit5(), 0.0, 1.0, None, x, state, stepsize_controller=controller
            ).ys
            ** 2
        )

    def ours(state, x):
        return jnp.sum(
            nf.NeuralODE(nnx.merge(graphdef, state), nf.Adaptive(nf.Tsit5(), 1e-7, 1e-7), 0.0, 3.0)(
                x
            )
            ** 2
        )

    want = jax.jit(jax.grad(plain, argnums=(0, 1)))(state, x)
    assert worst(want, jax.jit(jax.grad(ours, argnums=(0, 1)))(state, x)) < 1e-12


def test_more_steps_than_one_checkpoint_segment(x, worst):
    field = nf.from_function(lambda p, x, t: jnp.cos(p * t) * x, jnp.asarray(40.0))
    few = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-8, 1e-8, max_steps=400))
    assert few.solve(x).accepted > 3 * 20  # segments of 20 = sqrt(400) steps
    assert (
        worst(gradients(few, x), gradients(few.with_solve(nf.FixedGrid(nf.RK4(), steps=2000)), x))
        < 1e-5
    )


def test_states_at_asked_depths(mlp, x, worst):
    depths = jnp.asarray([0.0, 0.1, 0.25, 0.33, 0.9, 1.0])
    field = mlp(nf.PiecewiseConstant(4))
    adaptive = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9))
    fixed = adaptive.with_solve(nf.FixedGrid(nf.RK4(), steps=200))
    assert worst(adaptive.trajectory(x, depths), fixed.trajectory(x, depths)) < 1e-8
    every = fixed.trajectory(x)
    assert (
        every.shape == (201, *x.shape) and (every[0] == x).all() and (every[-1] == fixed(x)).all()
    )
    assert (fixed.trajectory(x, depths)[2] == every[50]).all()
    for layer in (adaptive, fixed):
        jacobian = jax.jit(jax.jacrev(lambda d, layer=layer: layer.trajectory(x, d).sum((1, 2))))(
            depths
        )
        inside = np.asarray([1, 3, 4])
        velocity = []
        for i in inside:
            module = field.at(float(depths[i]))
            velocity.append(float(module(layer.trajectory(x, depths)[i], depths[i]).sum()))
        assert np.allclose(jacobian[inside, inside], velocity, rtol=1e-6)
        assert np.abs(jacobian - np.diag(np.diag(jacobian))).max() < 1e-12


def test_backward_in_depth_and_inverse(mlp, x, worst):
    field = mlp(nf.PiecewiseConstant(4))
    euler = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=20), 0.5, 1.5)
    assert worst(euler.invert(euler(x)), x) < 1e-14
    assert (
        worst(euler.reverse()(euler(x)), x) > 1e-4
    )  # forward and backward Euler are different schemes
    for solve, small in (
        (nf.FixedGrid(nf.RK4(), steps=80), 1e-7),
        (nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9), 1e-8),
    ):
        layer = euler.with_solve(solve)
        assert worst(layer.reverse()(layer(x)), x) < small
        assert worst(layer.reverse().reverse()(x), layer(x)) == 0
        there = layer.trajectory(x, jnp.asarray([0.5, 0.7, 1.5]))
        back = layer.reverse().trajectory(layer(x), jnp.asarray([1.5, 0.7, 0.5]))
        assert worst(there, back[::-1]) < small
    with pytest.raises(TypeError, match="an adaptive layer has reverse"):
        layer.invert(x)


def test_gradient_of_the_inverse_is_exact_at_a_memory_linear_in_the_batch(mlp, worst):
    layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(4)), nf.FixedGrid(nf.Euler(), steps=8))
    x = jax.random.normal(jax.random.key(1), (20, 2))
    program = jax.jit(jax.grad(lambda y: jnp.sum(layer.invert(y) ** 2)))
    small, large = (program.lower(jnp.ones((n, 2))).compile() for n in (20, 200))
    y, jacobian = jax.jit(lambda x: (layer(x), jax.jacobian(layer)(x).reshape(x.size, x.size)))(x)
    assert worst(small(y).ravel(), jnp.linalg.solve(jacobian.T, 2 * x.ravel())) < 1e-12
    assert (
        large.memory_analysis().temp_size_in_bytes < 12 * small.memory_analysis().temp_size_in_bytes
    )


@pytest.mark.parametrize(
    "solve", [nf.FixedGrid(nf.Heun(), steps=4), nf.Adaptive(nf.Tsit5())], ids=["fixed", "adaptive"]
)
def test_depths_that_a_trace_cannot_refuse_are_nan(mlp, x, solve):
    layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(4)), solve)
    traced = jax.jit(lambda depths: layer.solve(x, depths))
    for depths, bad in (([0.2, 2.0], 1), ([np.nan, 0.7], 0), ([-0.1, 1.0], 0)):
        solution = traced(jnp.asarray(depths))
        assert solution.status == nf.Status.BAD_DEPTHS
        assert (
            jnp.isnan(solution.states[bad]).all() and jnp.isfinite(solution.states[1 - bad]).all()
        )
        with pytest.raises(ValueError, match="in the direction of the walk"):
            layer.solve(x, jnp.asarray(depths))
    assert traced(jnp.asarray([0.2, 0.7])).status == nf.Status.SUCCESSFUL


def test_a_velocity_that_is_not_finite_is_called_so():
    layer = nf.NeuralODE(
        nf.from_function(lambda params, x: x / (0 * x)), nf.Adaptive(nf.Tsit5(), max_steps=20)
    )
    with pytest.raises(nf.SolveError, match="is not finite where the solve begins"):
        layer(jnp.ones((2, 1)))


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


def test_implicit_schemes_take_stiff_steps(worst):
    field = nf.from_function(lambda p, x: -1000.0 * (x - 1))
    x = jnp.asarray([[3.0]])
    for scheme in (nf.ImplicitEuler(), nf.Kvaerno3()):
        assert (
            worst(nf.NeuralODE(field, nf.FixedGrid(scheme, steps=10))(x), jnp.ones_like(x)) < 1e-2
        )
    stiff = nf.NeuralODE(field, nf.Adaptive(nf.Kvaerno3(), 1e-6, 1e-6))
    assert worst(stiff(x), jnp.ones_like(x)) < 1e-5
    graph = jax.jit(jax.grad(lambda x: jnp.sum(stiff(x))))(x)
    assert abs(float(graph[0, 0])) < 1e-5


@pytest.mark.parametrize(
    "scheme", [nf.Heun(), nf.Tsit5(), nf.Bosh3()], ids=lambda s: type(s).__name__
)
def test_evaluations_are_counted(scheme):
    calls = []
    field = nf.from_function(lambda p, x: (jax.debug.callback(lambda: calls.append(1)), -x)[1])
    x = jnp.ones((1, 1))
    for solve in (nf.FixedGrid(scheme, steps=7), nf.Adaptive(scheme, 1e-3, 1e-3)):
        calls.clear()
        solution = jax.block_until_ready(nf.NeuralODE(field, solve).solve(x))
        jax.effects_barrier()
        assert len(calls) == int(solution.evaluations)


def test_pytree_states_and_complex_ones(worst):
    field = nf.from_function(lambda p, z: {"q": z["p"], "p": -z["q"]})
    z = {"q": jnp.ones((2, 1)), "p": jnp.zeros((2, 1))}
    for solve in (nf.FixedGrid(nf.RK4(), steps=100), nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9)):
        state = nf.NeuralODE(field, solve, 0.0, 1.0)(z)
        assert (
            worst(state, {"q": jnp.full((2, 1), np.cos(1)), "p": jnp.full((2, 1), -np.sin(1))})
            < 1e-7
        )
    turned = nf.NeuralODE(nf.from_function(lambda p, x: 1j * x), nf.FixedGrid(nf.RK4(), steps=100))(
        jnp.ones((1, 1), complex)
    )
    assert abs(complex(turned[0, 0]) - np.exp(1j)) < 1e-9


def _field(f):
    return nf.from_function(lambda p, x: f(x))


X = jnp.ones((2, 3))
EULER = nf.FixedGrid(nf.Euler(), steps=4)
REFUSED = {
    "structure": (lambda: nf.NeuralODE(_field(lambda x: (x, x)), EULER)(X), "structure of x"),
    "shape": (
        lambda: nf.NeuralODE(_field(lambda x: x[:1]), EULER)(X),
        r"shape of x, \(2, 3\), got \(1, 3\)",
    ),
    "dtype": (
        lambda: nf.NeuralODE(_field(lambda x: x.astype(jnp.float32)), EULER)(X),
        "dtype of x, float64, got float32",
    ),
    "adaptive shape": (
        lambda: nf.NeuralODE(_field(lambda x: x[:1]), nf.Adaptive(nf.Tsit5()))(X),
        "shape of x",
    ),
    "not a module": (lambda: nf.NeuralODE(jnp.tanh, EULER), "wrap it: nf.from_function"),
    "not callable": (lambda: nf.NeuralODE(nnx.Module(), EULER), "must be callable"),
    "args": (lambda: nf.NeuralODE(nnx.Sequential(nnx.tanh), EULER), r"\*args.*wrap it"),
    "no steps": (lambda: nf.FixedGrid(nf.Euler(), steps=0), "at least 1"),
    "half a step": (lambda: nf.FixedGrid(nf.Euler(), steps=1.5), "whole number"),
    "steps and times": (lambda: nf.FixedGrid(nf.Euler(), steps=2, times=(0, 1)), "exactly one"),
    "neither": (lambda: nf.FixedGrid(nf.Euler()), "exactly one"),
    "times fall": (lambda: nf.FixedGrid(nf.Euler(), times=(0, 0.7, 0.5, 1)), "strictly increasing"),
    "times beyond one": (lambda: nf.FixedGrid(nf.Euler(), times=(0, 1, 2)), "from 0 to 1"),
    "memory": (
        lambda: nf.FixedGrid(nf.Euler(), steps=2, memory="tiny"),
        "'full', 'remat', 'two_level'",
    ),
    "scheme class": (lambda: nf.FixedGrid(nf.Euler, steps=2), r"write Euler\(\)"),
    "scheme name": (lambda: nf.FixedGrid("euler", steps=2), "diffrax solver"),
    "no error estimate": (lambda: nf.Adaptive(nf.RK4()), "no error estimate"),
    "euler adaptive": (lambda: nf.Adaptive(nf.Euler()), "no error estimate"),
    "tolerance": (lambda: nf.Adaptive(nf.Tsit5(), rtol=-1.0), "rtol must be"),
    "both zero": (lambda: nf.Adaptive(nf.Tsit5(), rtol=0.0, atol=0.0), "both zero"),
    "max_steps": (lambda: nf.Adaptive(nf.Tsit5(), max_steps=0), "max_steps must be at least 1"),
    "gradient": (
        lambda: nf.Adaptive(nf.Tsit5(), gradient="adjoint"),
        "'steps', 'direct', 'continuous'",
    ),
    "tolerance in words": (lambda: nf.Adaptive(nf.Tsit5(), rtol="1e-3"), "one finite number >= 0"),
    "tolerances": (lambda: nf.Adaptive(nf.Tsit5(), rtol=jnp.ones(3)), "one finite number >= 0"),
    "per_sample": (lambda: nf.Adaptive(nf.Tsit5(), per_sample="yes"), "one of True, False"),
    "interval in words": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER, 0.0, "1"),
        "one finite number",
    ),
    "intervals": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER, 0.0, jnp.ones(3)),
        "one finite number",
    ),
    "list": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER)([[0.1, 0.2]]),
        r"write jnp.asarray\(x\)",
    ),
    "no depths": (lambda: nf.NeuralODE(_field(jnp.tanh), EULER).trajectory(X, []), "at least one"),
    "depths in words": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER).trajectory(X, "all"),
        "one-dimensional",
    ),
    "no samples": (
        lambda: nf.NeuralODE(_field(jnp.tanh), nf.Adaptive(nf.Tsit5(), per_sample=True))(
            jnp.ones(())
        ),
        "x has no axis",
    ),
    "branches of what": (lambda: nf.to_branches(_field(jnp.tanh)), "must be a NeuralODE"),
    "a function as branch": (lambda: nf.from_branches([lambda x: x]), "wrap functions"),
    "one branch": (lambda: nf.from_branches(_field(jnp.tanh)), "sequence of at least one"),
    "empty interval": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER, 1.0, 1.0),
        "interval is empty",
    ),
    "infinite interval": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER, 0.0, np.inf),
        "one finite number",
    ),
    "solve": (lambda: nf.NeuralODE(_field(jnp.tanh), nf.Euler()), "FixedGrid or an Adaptive"),
    "integers": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER)(jnp.ones((2, 3), int)),
        "float32 or float64",
    ),
    "bfloat16": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER)(X.astype(jnp.bfloat16)),
        "float32 or float64",
    ),
    "depths outside": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER).trajectory(X, [0.0, 2.0]),
        "direction of the walk",
    ),
    "depths fall": (
        lambda: nf.NeuralODE(_field(jnp.tanh), EULER).trajectory(X, [0.5, 0.2]),
        "direction of the walk",
    ),
    "adaptive trajectory": (
        lambda: nf.NeuralODE(_field(jnp.tanh), nf.Adaptive(nf.Tsit5())).trajectory(X),
        "ask for depths",
    ),
}


test_static_mistakes_are_refused_in_one_sentence = refuses(REFUSED)


def test_a_step_across_a_knot_is_refused(mlp):
    with pytest.raises(ValueError, match="multiple of 4 steps"):
        nf.NeuralODE(mlp(nf.PiecewiseConstant(4)), nf.FixedGrid(nf.Euler(), steps=6))


def test_state_changed_inside_a_field_is_refused():
    class Counts(nnx.Module):
        def __init__(self):
            self.count = nnx.Variable(jnp.zeros(()))

        def __call__(self, x):
            self.count.set_value(self.count.get_value() + 1)
            return -x

    for solve in (EULER, nf.Adaptive(nf.Tsit5())):
        with pytest.raises(ValueError, match="changed its own state .'count'."):
            nf.NeuralODE(Counts(), solve)(X)


FAILURES = {
    "nan in x": (nf.NeuralODE(_field(jnp.tanh), EULER), X.at[0, 0].set(jnp.nan), "x held 1 values"),
    "nan in x, adaptive": (nf.NeuralODE(_field(jnp.tanh), nf.Adaptive(nf.Tsit5(), max_steps=50)), X.at[0, 0].set(jnp.nan), "x held 1 values"),
    "nan in weights": (nf.NeuralODE(nf.from_function(lambda p, x: p * x, jnp.asarray(jnp.nan)), EULER), X, "weights of the field held 1"),
    "max_steps": (nf.NeuralODE(_field(jnp.tanh), nf.Adaptive(nf.Tsit5(), 1e-12, 1e-12, max_steps=3)), X, r"max_steps=3 .*implicit"),
    "stiff, adaptive": (nf.NeuralODE(_field(lambda x: -1e6 * (x - 2)), nf.Adaptive(nf.Tsit5(), max_steps=100)), X, "if the field is stiff"),
    "stiff, fixed": (nf.NeuralODE(_field(lambda x: -1e4 * (x - 2)), nf.FixedGrid(nf.Heun(), steps=100)), X, "implicit scheme"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_numerical_failure_raises_once_outside_a_trace_and_is_nan_inside(case):
    layer, x, said = FAILURES[case]
    with pytest.raises(nf.SolveError, match=said) as caught:
        layer(x)
    assert caught.value.status != nf.Status.SUCCESSFUL
    inside = jax.jit(layer.solve)(x)
    assert inside.status != 0
    assert not jnp.isfinite(jax.jit(layer.__call__)(x)).all()


def test_a_block_that_does_not_contract_cannot_be_inverted():
    layer = nf.NeuralODE(_field(lambda x: -3.0 * jnp.sin(9 * x)), nf.FixedGrid(nf.Euler(), steps=2))
    with pytest.raises(nf.SolveError, match="Lipschitz"):
        layer.invert(X)


def test_a_refined_walk_is_the_same_walk_finer():
    uneven = nf.FixedGrid(nf.Euler(), times=[0.0, 0.25, 1.0], memory="full").refined(3, nf.Heun())
    assert (
        np.allclose(uneven.times, [0, 1 / 12, 1 / 6, 0.25, 0.5, 0.75, 1])
        and uneven.memory == "full"
    )
    assert uneven.scheme == nf.Heun() and nf.FixedGrid(nf.Euler(), steps=4).refined(
        2
    ) == nf.FixedGrid(nf.Euler(), steps=8)
    tighter = nf.Adaptive(nf.Tsit5(), 1e-3, 1e-4).refined(3)
    assert (
        np.allclose((tighter.rtol, tighter.atol), (1e-5, 1e-6))
        and nf.Adaptive(nf.Tsit5(), 1e-15, 1e-3).refined(1).rtol > 1e-15
    )


def test_a_discretisation_is_its_form_and_its_arrays():
    scheme = nf.schemes.LMResNet.learned(4, rngs=nnx.Rngs(0))
    form, arrays = split(nf.FixedGrid(scheme, steps=4))
    assert arrays == [scheme.k] and form.join(arrays) == nf.FixedGrid(scheme, steps=4)
    assert (
        hash(form) == hash(split(nf.FixedGrid(scheme, steps=4))[0]) and copy.deepcopy(form) is form
    )
    assert split(nf.FixedGrid(scheme, steps=4, memory="full"))[0] != form


def test_compiled_functions_serve_ever_other_numbers_of_columns():
    shapes = []

    @jax.jit
    def motion(t, rows):
        shapes.append(rows.shape)
        return rows * t[:, None]

    for count in (3, 4, 5, 7, 8):
        t, columns = np.arange(count) + 1.0, np.arange(2.0 * count).reshape(2, count)
        np.testing.assert_allclose(by_columns(motion, t, columns), columns * t, rtol=1e-15)
    assert shapes == [(4, 2), (8, 2)]
