"""Schemes with a memory."""

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.schemes import grid, slope, stacked

import neuralflow as nf
from neuralflow import schemes as S
from neuralflow.depth import field_at
from neuralflow.schemes import analysis


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

    def learned():
        scheme = layer.discretisation.scheme
        assert isinstance(scheme, S.LMResNet)
        return scheme.k[...]

    k = learned()
    assert k.shape == (n - 1, 4)
    assert (k < 0).all()
    assert (k > -0.1).all()
    x = jax.random.normal(jax.random.key(3), (5, 4))
    graphdef, params = nnx.split(layer, nnx.Param)
    gradient = jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p)(x) ** 2))(params)
    (slope,) = jax.tree.leaves(gradient["solve_data"])
    nnx.update(layer, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient))
    assert jnp.allclose(learned(), k - 0.1 * slope)
    assert (jnp.abs(slope).max(1) > 0).all()


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.5])
def test_lm_follows_its_modified_equation(k):
    """The equation is (1 + k) u' + (1 - k)(h/2) u'' = f.

    The network's states are put in, and what is left is O(h^2).
    """

    def f(x):
        return jnp.stack([x[1], -jnp.sin(x[0])])

    hs = 2.0 / np.array([2048, 4096, 8192, 16384])

    def rest(h):
        # The states are those of a network that has left its start behind.
        # Their differences are of fourth order.
        count = round(4.0 / h)
        field = nf.from_function(lambda p, x: f(x))
        layer = nf.NeuralODE(field, grid(S.LMResNet(float(k)), count), 0.0, 4.0)
        u = layer.trajectory(jnp.asarray([1.0, 0.5]))[count // 2 - 2 : count // 2 + 3]
        first = (u[0] - 8 * u[1] + 8 * u[3] - u[4]) / (12 * h)
        second = (-u[0] + 16 * u[1] - 30 * u[2] + 16 * u[3] - u[4]) / (12 * h**2)
        return float(jnp.linalg.norm((1 + k) * first + (1 - k) * h / 2 * second - f(u[2])))

    assert abs(slope([rest(h) for h in hs], hs) - 2) < 0.05
    # The same equation is solved for u' = g0 + h g1 + ...
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
    # The network itself has the same limit.
    for share, grows in ((0.999, False), (1.001, True)):
        field = nf.from_function(lambda g, x: -g * x, jnp.asarray(share * limit))
        layer = nf.NeuralODE(field, grid(S.LMResNet(k), 40000), 0.0, 40000.0)
        end = abs(float(layer.solve(jnp.ones(1)).states[0]))
        assert (not end <= 1) == grows


def test_linear_multistep_coefficients_tell_their_order():
    # A start of order two leaves an order of one more.
    assert S.adams_bashforth(5, nf.Heun()).order(None) == 3
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


class Rate(nnx.Module):
    """X' = k x."""

    def __init__(self, rngs, k=None):
        draw = jax.random.normal(rngs.params(), (), jnp.float64) if k is None else jnp.asarray(k)
        self.k = nnx.Param(draw)

    def __call__(self, x):
        return self.k[...] * x


class Beside(nnx.Module):
    """Two fields, each on one number of the state."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __call__(self, x):
        return jnp.stack([self.first(x[..., 0]), self.second(x[..., 1])], axis=-1)


def rates(basis, *values):
    return nf.DepthVarying.from_modules([Rate(nnx.Rngs(0), k) for k in values], basis)


MULTISTEP: dict[str, Any] = {
    f"AB{p}": lambda p=p, **options: S.adams_bashforth(p, **options) for p in range(2, 6)
}
MULTISTEP["leapfrog"] = S.leapfrog
JUMPS, KINKS = nf.PiecewiseConstant(4), nf.PiecewiseLinear(4)


@pytest.mark.parametrize("name", MULTISTEP)
def test_order_on_weights_that_jump_and_on_weights_that_kink(name):
    jumps, kinks = (1.1, -1.8, -3.7, -3.9), (1.8, -3.3, -1.2, 0.2, -0.6)
    field = Beside(rates(JUMPS, *jumps), rates(KINKS, *kinks))
    exact = np.exp([np.mean(jumps), np.trapezoid(kinks, dx=0.25)])
    own = S.adams_bashforth(int(name[2])).order(None) if name[:2] == "AB" else 2
    for restart, expected in ((False, (1, 2)), (True, (own, own))):
        scheme = MULTISTEP[name](restart=restart)
        assert tuple(scheme.order(None, basis) for basis in (JUMPS, KINKS)) == expected
        assert scheme.order(None) == scheme.order(None, nf.PiecewiseConstant(1)) == own
        coarse, fine = (
            np.abs(nf.NeuralODE(field, grid(scheme, n))(jnp.ones(2)) - exact) for n in (160, 320)
        )
        assert (np.abs(np.log2(coarse / fine) - expected) < 0.1).all()


def by_hand(scheme, anew, field, x, h, back=False):
    """Walk over [0, 1] in 24 steps, and forget the earlier steps at some of their edges."""
    before = [field_at(field, (k + 1) / 24, "left") for k in range(24)]
    after = [field_at(field, k / 24) for k in range(24)]
    steps = list(zip(range(24), after, before, strict=True))
    if back:
        steps = list(zip(range(24, 0, -1), before[::-1], after[::-1], strict=True))
    states, velocities = [], []
    for edge, start, end in steps:
        if edge in anew:
            states, velocities = [], []
        states, velocities = [x, *states], [start(x), *velocities]
        if len(states) > scheme.traits.past:
            x = sum(a * u for a, u in zip(scheme.alpha, states, strict=False)) + h * sum(
                b * v for b, v in zip(scheme.beta, velocities, strict=False)
            )
        else:
            x = states[0] + h * velocities[0]
            if not isinstance(scheme.starter, nf.Euler):
                x = states[0] + h / 2 * (velocities[0] + end(x))
    return x


@pytest.mark.parametrize(
    ("scheme", "anew", "memory"),
    [
        (S.adams_bashforth(3, nf.Heun(), restart=True), (6, 12), "remat"),
        (S.leapfrog(restart=True), (12,), "two_level"),
    ],
    ids=["AB3", "leapfrog"],
)
def test_a_walk_that_restarts_is_its_formula(scheme, anew, memory):
    """The weights kink at a quarter and jump in the middle."""
    first = nf.DepthVarying(Rate, nf.PiecewiseConstant((0, 0.5, 1)), rngs=nnx.Rngs(1))
    second = nf.DepthVarying(Rate, nf.PiecewiseLinear((0, 0.25, 1)), rngs=nnx.Rngs(2))
    graphdef, params = nnx.split(Beside(first, second))
    x, h = jax.random.normal(jax.random.key(0), (3, 2)), 1.5 / 24

    def layer(field, memory="remat"):
        return nf.NeuralODE(field, grid(scheme, 24, memory=memory), 0.5, 2.0)

    def slopes(walk):
        def loss(params, x):
            y = walk(nnx.merge(graphdef, params), x)
            return jnp.sum(y**2), y

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    wanted = slopes(lambda field, x: by_hand(scheme, anew, field, x, h))
    found = slopes(lambda field, x: jax.vmap(layer(field, memory))(x))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert jnp.allclose(a, b, rtol=1e-12, atol=1e-13)
    field = nnx.merge(graphdef, params)
    back = by_hand(scheme, anew, field, x, -h, back=True)
    assert jnp.allclose(layer(field).reverse()(x), back, rtol=1e-13)
    solution = layer(field).solve(x)
    assert jnp.allclose(solution.states, wanted[0][1], rtol=1e-13)
    runs = np.diff([0, *anew, 24]).tolist()
    assert solution.evaluations == sum(map(scheme.evaluations, runs))


@pytest.mark.parametrize(
    ("order", "basis", "n"),
    [
        (1, nf.PiecewiseConstant(5), 5),
        (2, nf.PiecewiseLinear(5), 5),
        (4, nf.CubicSpline(5), 5),
    ],
)
def test_where_no_order_is_lost_the_option_changes_no_bit(order, basis, n):
    field = nf.DepthVarying(Rate, basis, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(field)

    def values(params, scheme):
        solution = nf.NeuralODE(nnx.merge(graphdef, params), grid(scheme, n)).solve(jnp.ones(3))
        return jnp.sum(solution.states**2), solution

    plain, anew = (
        jax.value_and_grad(values, has_aux=True)(params, S.adams_bashforth(order, restart=restart))
        for restart in (False, True)
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(anew), strict=True):
        assert (a == b).all()


def test_the_order_decides_which_knots_restart():
    # A spline has two derivatives, and the fifth order needs three.
    five = S.adams_bashforth(5, restart=True)
    assert S.adams_bashforth(5).order(None, nf.CubicSpline(5)) == 4
    assert grid(five, 25).plan([nf.CubicSpline(5)]).runs(five.traits.restart).tolist() == [5] * 5
    # A start of order two leaves the order three, which needs one.
    assert S.adams_bashforth(5, nf.Heun(), restart=True).traits.restart == 1
    # Without inner knots there is no restart, even in a walk of the starter alone.
    assert grid(five, 2).plan([nf.PiecewiseConstant(1), nf.Legendre(3)]).runs(3).tolist() == [2]
    # With as many steps in a cell as the scheme needs, it walks; with fewer, it does not.
    assert len(grid(five, 10).plan([nf.PiecewiseLinear(2)]).runs(five.traits.restart)) == 2
    with pytest.raises(ValueError, match="got 4; take more steps"):
        grid(five, 8).plan([nf.PiecewiseLinear(2)])


def test_a_scheme_that_restarts_is_another_value():
    plain, anew = S.adams_bashforth(2), S.adams_bashforth(2, restart=True)
    assert anew != plain and hash(anew) != hash(plain)
    assert "restart=True" in repr(grid(anew, 4))
    assert jax.tree.structure(anew) != jax.tree.structure(plain)
    assert pickle.loads(pickle.dumps(anew)) == copy.deepcopy(anew) == anew
    assert grid(anew, 4).refined(2) == grid(anew, 8)
    z = -np.linspace(0, 1, 5)
    assert (analysis.growth(anew, z) == analysis.growth(plain, z)).all()
    assert analysis.order_conditions(anew, 3) == analysis.order_conditions(plain, 3)
    assert np.allclose(
        analysis.growth(S.leapfrog(restart=True), 1j * z), analysis.growth(S.leapfrog(), 1j * z)
    )
