"""Path integrals against the solutions of their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.linalg import expm
from support.paths import CONSTANT, GRID, KEY, PERIOD, START, VARYING, apart, flat, start

import neuralflow as nf
from neuralflow.labs import paths


def solved(conservative=False):
    """The solution of VARYING at time one, by the exponential of a Fourier method's matrix."""
    waves = 1j * np.fft.fftfreq(64, 1 / 64)[:, None]

    def apply(factor):
        return np.real(np.fft.ifft(factor * np.fft.fft(np.eye(64), axis=0), axis=0))

    v = np.diag(1 + 0.5 * np.sin(GRID))
    drift = apply(waves) @ v if conservative else v @ apply(waves)
    return expm(-drift + 0.3 * apply(waves**2) - np.diag(0.3 * np.cos(GRID))) @ START


@pytest.mark.parametrize("steps", [5, 20])
def test_composed_steps_are_the_spectral_solution_where_coefficients_are_constant(steps):
    exact = paths.spectral(CONSTANT, START, PERIOD, 1.0)
    assert apart(paths.composed(CONSTANT, START, PERIOD, 1.0, steps), exact) < 1e-12
    if steps == 5:
        plane = paths.Equation([[0.3, 0.1], [0.1, 0.4]], [0.7, -0.3], 0.2)
        values = START[::4, None] * np.cos(GRID[::4])
        with pytest.raises(ValueError, match="does not resolve a step"):
            paths.composed(plane, values, PERIOD, 1.0, steps)
        values = START[::2, None] * np.cos(GRID[::2])
        assert (
            apart(
                paths.composed(plane, values, PERIOD, 1.0, 2),
                paths.spectral(plane, values, PERIOD, 1.0),
            )
            < 1e-12
        )


def test_a_varying_drift_is_of_order_one_with_its_convention_and_wrong_without():
    exact, other = solved(), solved(conservative=True)

    def error(at, reference):
        return [
            apart(paths.composed(VARYING, START, PERIOD, 1.0, n, at), reference)
            for n in (10, 20, 40)
        ]

    np.testing.assert_allclose(np.diff(np.log2(error("new", exact))), -1.0, atol=0.1)
    np.testing.assert_allclose(np.diff(np.log2(error("old", other))), -1.0, atol=0.1)
    assert min(error("old", exact)) > 0.5
    assert min(error("midpoint", exact)) > 0.4


def test_random_paths_converge_with_the_root_of_their_number():
    exact = float(paths.spectral(CONSTANT, START, PERIOD, 1.0)[37])
    counts = [10**k for k in range(2, 7)]
    points = jnp.full((32, 1), GRID[37], jnp.float32)
    errors = []
    for count in counts:
        estimate = paths.feynman_kac(CONSTANT, start, points, 1.0, steps=1, count=count, key=KEY)
        errors.append(float(jnp.sqrt(jnp.mean((estimate.mean - exact) ** 2))))
        assert 0.7 < errors[-1] / float(estimate.error.mean()) < 1.4
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-0.5, abs=0.05)


def test_random_paths_run_against_the_drift():
    exact = solved()[[5, 37]]
    points = jnp.asarray(GRID[[5, 37], None])
    estimate = paths.feynman_kac(VARYING, start, points, 1.0, steps=64, count=40_000, key=KEY)
    assert (jnp.abs(estimate.mean - exact) < 4 * estimate.error + 0.01).all()
    wrong = paths.Equation(0.3, lambda x: -1 - 0.5 * jnp.sin(x), VARYING.potential)
    estimate = paths.feynman_kac(wrong, start, points, 1.0, steps=64, count=40_000, key=KEY)
    assert (jnp.abs(estimate.mean - exact) > 0.2).all()


@pytest.mark.parametrize("at", ["new", "midpoint", "old"])
def test_the_weight_of_a_path_is_the_product_of_its_steps(at):
    plane = paths.Equation(
        [[0.3, 0.1], [0.1, 0.4]], lambda x: jnp.sin(x), lambda x: jnp.sum(x**2, -1)
    )
    path = jax.random.normal(KEY, (6, 2))
    steps = plane.kernel(path[1:], path[:-1], 0.2, at)
    scale = (4 * np.pi * 0.2) ** -1 * np.linalg.det(np.asarray(plane.diffusion)) ** -0.5
    assert float(jnp.prod(steps)) == pytest.approx(
        scale**5 * float(jnp.exp(-plane.action(path, 1.0, at))), rel=1e-10
    )


def test_the_classical_path_in_a_quadratic_potential():
    """The potential V = k |x|^2 / 2 gives x'' = w^2 x with w^2 = 2 D k.

    The path joins two points of the plane.
    """
    d, k, time = 0.5, 4.0, 1.5
    w = np.sqrt(2 * d * k)
    a, b = np.asarray([1.0, 0.3]), np.asarray([-0.5, 0.8])
    classical = paths.classical(
        paths.Equation(d, 0.0, lambda x: k / 2 * jnp.sum(x**2, -1), dimension=2), a, b, time
    )
    t = classical.times[:, None]
    exact = (a * np.sinh(w * (time - t)) + b * np.sinh(w * t)) / np.sinh(w * time)
    assert np.abs(classical.points - exact).max() < 1e-9
    action = w / (4 * d * np.sinh(w * time)) * ((a @ a + b @ b) * np.cosh(w * time) - 2 * a @ b)
    assert classical.action == pytest.approx(action, rel=1e-9)


def test_the_classical_path_has_the_least_action_of_its_neighbours():
    classical = paths.classical(VARYING, [0.0], [2.0], 1.0)
    line = jnp.asarray(classical.points)

    def action(path):
        return VARYING.action(path, 1.0, "midpoint")

    assert float(action(line)) == pytest.approx(classical.action, rel=1e-4)
    bumps = 0.1 * jnp.sin(
        np.pi * jnp.arange(1, 6)[:, None, None] * jnp.linspace(0, 1, len(line))[:, None]
    )
    assert (jax.vmap(action)(line + bumps) > action(line)).all()
    assert (jax.vmap(action)(line - bumps) > action(line)).all()


def test_a_block_has_the_path_integral_of_its_operator():
    """It is the continuous limit of a one-channel operator network.

    The error is of order two in the distance of the points.
    """
    errors = []
    for n in (16, 32):
        h = PERIOD / n
        operator = nf.labs.operators.DifferentialOperator(
            1,
            1,
            spacing=h,
            boundary="periodic",
            coefficients=np.asarray([-0.2, -0.7, 0.3, 0.4, 0.2, 0.3])[:, None, None],
            param_dtype=jnp.float64,
        )
        equation = paths.Equation.of(operator.coefficients[...])
        values = np.exp(np.sin(h * np.arange(n)))[:, None] * np.cos(h * np.arange(n))
        layer = nf.NeuralODE(operator, nf.FixedGrid(nf.RK4(), steps=64))
        errors.append(
            apart(
                layer(jnp.asarray(values)[None, ..., None])[0, ..., 0],
                paths.spectral(equation, values, PERIOD, 1.0),
            )
        )
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)
    line = paths.Equation.of(
        nf.labs.operators.DifferentialOperator(
            1, 1, dimension=1, coefficients=np.asarray([0.5, 0.25, 2.0])[:, None, None]
        ).coefficients[...]
    )
    assert (float(line.drift[0]), float(line.diffusion[0, 0]), float(line.potential)) == (
        -0.25,
        2.0,
        -0.5,
    )


def test_no_time_leaves_the_start_and_gradients_reach_the_equation():
    at = jnp.asarray([[0.3], [1.0]])
    none = paths.feynman_kac(CONSTANT, start, at, 0.0, steps=2, count=10, key=KEY)
    assert apart(none.mean, start(at)) < 1e-14

    def value(operator, initial=start):
        return paths.feynman_kac(
            paths.Equation.of(operator.coefficients[...]),
            initial,
            at,
            1.0,
            steps=1,
            count=1000,
            key=KEY,
        ).mean[0]

    operator = flat(-0.2, -0.7, 0.3, param_dtype=jnp.float64)
    slopes = nnx.grad(value)(operator).coefficients[...].ravel()
    # The factor exp(a T) multiplies all, so du/da = T u.
    # The drift moves the start, so du/db = T E u_0' exp(a T).
    assert float(slopes[0]) == pytest.approx(float(value(operator)), rel=1e-12)

    def bent(x):
        return jnp.cos(x[..., 0]) * start(x)

    assert float(slopes[1]) == pytest.approx(float(value(operator, bent)), rel=1e-12)


def test_the_classical_path_over_a_barrier():
    """The path goes from one well of V = V_0 (x^2 - 1)^2 to the other in a long time.

    With V_0 = 5 and D = 0.1 the instanton's action is 4/3 sqrt(V_0 / D).
    """
    well = paths.Equation(0.1, 0.0, lambda x: 5 * jnp.sum((x**2 - 1) ** 2, -1))
    classical = paths.classical(well, [-1.0], [1.0], 10.0)
    assert classical.action == pytest.approx(4 / 3 * np.sqrt(5 / 0.1), rel=1e-6)


def test_same_keys_same_paths():
    def run(key):
        return paths.feynman_kac(
            CONSTANT, start, jnp.zeros((3, 1)), 1.0, steps=2, count=100, key=key
        ).mean

    assert apart(run(KEY), run(KEY)) == 0
    assert apart(run(KEY), run(jax.random.key(1))) > 0
    # Every point draws paths of its own.
    assert len(set(map(float, run(KEY)))) == 3


def test_a_path_that_is_not_found_is_an_error():
    # Downhill in V = -50 x^4 the path runs away in finite time.
    wild = paths.Equation(0.5, 0.0, lambda x: -50 * x[..., 0] ** 4)
    with pytest.raises(nf.SolveError, match="no classical path"):
        paths.classical(wild, [1.0], [1.0], 40.0)
