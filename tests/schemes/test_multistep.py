"""Schemes with a memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.schemes import grid, slope, stacked

import neuralflow as nf
from neuralflow import schemes as S
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
