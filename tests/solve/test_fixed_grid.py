"""Fixed grids against hand-written networks, derivatives, inverses and refinement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.solve import Several, differentiated, gradients

import neuralflow as nf

pytestmark = pytest.mark.device


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
        # The weights of step k at a share of it are those inside its own cell, also at knots.
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


def test_backward_in_depth_and_inverse(mlp, x, worst):
    field = mlp(nf.PiecewiseConstant(4))
    euler = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=20), 0.5, 1.5)
    assert worst(euler.invert(euler(x)), x) < 1e-14
    # Forward and backward Euler are different schemes.
    assert worst(euler.reverse()(euler(x)), x) > 1e-4
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
    few, many = small.memory_analysis(), large.memory_analysis()
    assert few is not None and many is not None
    assert many.temp_size_in_bytes < 12 * few.temp_size_in_bytes


def test_a_step_across_a_knot_is_refused(mlp):
    with pytest.raises(ValueError, match="multiple of 4 steps"):
        nf.NeuralODE(mlp(nf.PiecewiseConstant(4)), nf.FixedGrid(nf.Euler(), steps=6))


def test_a_refined_walk_is_the_same_walk_finer():
    uneven = nf.FixedGrid(nf.Euler(), times=[0.0, 0.25, 1.0], memory="full").refined(3, nf.Heun())
    assert uneven.times is not None and uneven.memory == "full"
    assert np.allclose(uneven.times, [0, 1 / 12, 1 / 6, 0.25, 0.5, 0.75, 1])
    assert uneven.scheme == nf.Heun() and nf.FixedGrid(nf.Euler(), steps=4).refined(
        2
    ) == nf.FixedGrid(nf.Euler(), steps=8)
    tighter = nf.Adaptive(nf.Tsit5(), 1e-3, 1e-4).refined(3)
    assert (
        np.allclose((tighter.rtol, tighter.atol), (1e-5, 1e-6))
        and nf.Adaptive(nf.Tsit5(), 1e-15, 1e-3).refined(1).rtol > 1e-15
    )


@pytest.mark.parametrize(
    "options", [{"steps": 4}, {"times": [0, 0.25, 0.5, 0.8, 1]}], ids=["uniform", "uneven"]
)
def test_a_refined_part_is_a_part(options, mlp, x):
    part = nf.NeuralODE(mlp(nf.PiecewiseConstant(2)), nf.FixedGrid(nf.RK4(), **options)).between(
        0.0, 0.5
    )
    finer = part.with_solve(part.discretisation.refined(64))
    assert finer.ends == (0.0, 0.5)
    exact = part.with_solve(nf.Adaptive(nf.Dopri8(), 1e-12, 1e-12))(x)
    assert np.abs(finer(x) - exact).max() < 1e-9 < np.abs(part(x) - exact).max()


@pytest.mark.parametrize("steps", [3, 8, 13])
def test_memory_modes_agree_for_a_field_that_is_the_same_at_every_depth(steps):
    field = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    x = jnp.ones((3, 2), jnp.float32)

    def pair(memory):
        layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=steps, memory=memory))
        return jax.value_and_grad(lambda x: jnp.sum(layer(x) ** 2))(x)

    value, slope = pair("full")
    for memory in ("remat", "two_level"):
        other, other_slope = pair(memory)
        assert other == value and np.allclose(other_slope, slope, rtol=1e-6)
