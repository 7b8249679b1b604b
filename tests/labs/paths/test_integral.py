"""Sums over paths against the networks they expand, and path integrals against the solutions of their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refusals import refuses
from scipy.linalg import expm

import neuralflow as nf
from neuralflow.labs import paths

KEY = jax.random.key(0)


def network(depth, d=4):
    scale = 0.4 / depth**0.5
    matrices, offsets = jax.random.split(jax.random.key(depth))
    return paths.Branches.of(
        scale * jax.random.normal(matrices, (depth, d, d)),
        scale * jax.random.normal(offsets, (depth, d)),
    )


X = jnp.asarray([0.5, -1.0, 2.0, 0.3])


def apart(a, b):
    return float(jnp.abs(a - b).max())


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
def test_all_subpaths_add_up_to_the_output(depth):
    net = network(depth)
    lengths, parts = paths.subpaths(net, X)
    assert np.bincount(lengths).tolist() == paths.counts(depth)
    assert apart(parts.sum(0), net(X)) < 1e-12
    by_length = paths.contributions(net, X)
    for k in range(depth + 1):
        assert apart(parts[lengths == k].sum(0), by_length[k]) < 1e-12


@pytest.mark.parametrize("depth", [12, 1024])
def test_contributions_by_length(depth):
    """c_k are the coefficients of s^k in the output of the network whose branches are multiplied by s."""
    net = network(depth)
    parts = paths.contributions(net, X)
    for s in (0.5, 1.0, -1.0):
        scaled = paths.Branches.of(s * net.matrices, s * net.offsets)
        assert apart(jnp.tensordot(s ** jnp.arange(depth + 1.0), parts, 1), scaled(X)) < 1e-12
    shares = paths.length_shares(parts)
    assert float(shares.sum()) == pytest.approx(1)


@pytest.mark.parametrize("depth", [12, 1024])
def test_gradients_by_length_add_up_to_the_gradient(depth):
    net = network(depth)
    g = jnp.cos(X)
    exact = jax.vjp(net, X)[1](g)[0]
    parts = paths.gradients(net, g)
    assert apart(parts.sum(0), exact) < 1e-12
    assert apart(parts[0], g) == 0  # the path of skips alone: its Jacobian is the identity
    along = paths.adjoints(net, g)
    assert along.shape == (depth + 1, 4)
    assert apart(along[0], exact) < 1e-12
    plain = paths.adjoints(net, g, skip=False)
    assert apart(plain[-2], net.matrices[-1].T @ g) < 1e-12
    assert (
        apart(plain[0], parts[depth]) < 1e-12
    )  # without skips there is one path, through all branches


def test_a_relu_network_is_its_gated_linear_network_at_every_input():
    def make(rngs):
        return nf.fields.MLP(
            3, hidden=16, layers=2, activation=jax.nn.relu, param_dtype=jnp.float64, rngs=rngs
        )

    field = nf.DepthVarying(make, nf.PiecewiseConstant(6), rngs=nnx.Rngs(0))
    # Biases, which a new module has zero.
    nnx.update(
        field,
        jax.tree.map(
            lambda p: p + 0.3 * jax.random.normal(KEY, p.shape), nnx.state(field, nnx.Param)
        ),
    )
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=6))
    x = 2 * jax.random.normal(KEY, (100, 3))
    gated = paths.linearised(layer, x)
    parts = paths.contributions(gated, x)
    assert apart(parts.sum(0), layer(x)) < 1e-12
    # It is the network itself, not only its value: equal in a neighbourhood, where no gate switches.
    near = x + 1e-9 * jnp.sin(x)
    assert apart(gated(near), layer(near)) < 1e-12
    g = jnp.ones_like(x)
    assert apart(paths.gradients(gated, g).sum(0), jax.vjp(layer, x)[1](g)[0]) < 1e-12


def test_paths_over_coordinates():
    net = network(5, 2)
    kernels, state = net.kernels(), jnp.asarray([0.5, -1.0, 1.0])
    weights = paths.amplitudes(kernels, state)
    assert weights.shape == (3,) * 6
    assert apart(weights.sum((0, 1, 2, 3, 4))[:2], net(state[:2])) < 1e-14
    drawn = paths.sample(kernels, state, KEY, 20_000)
    estimate = paths.estimate(drawn.weights)
    assert (jnp.abs(estimate.mean[:2] - net(state[:2])) < 4 * estimate.error[:2]).all()
    assert float(estimate.error.max()) < 0.02
    # A path's weight is its amplitude over the probability that it was drawn with.
    nodes, weight = np.asarray(drawn.nodes[0, 1]), float(drawn.weights[0, 1])
    assert nodes[-1] == 1
    chances = np.abs(kernels) / np.abs(kernels).sum(-1, keepdims=True)
    chance = np.prod([chances[n, nodes[n + 1], nodes[n]] for n in range(5)])
    assert weight == pytest.approx(float(weights[tuple(nodes)]) / chance)


PERIOD = 2 * np.pi
GRID = PERIOD * np.arange(64) / 64
START = np.exp(np.sin(GRID))
CONSTANT = paths.Equation(0.3, [0.7], 0.2)
VARYING = paths.Equation(0.3, lambda x: 1 + 0.5 * jnp.sin(x), lambda x: 0.3 * jnp.cos(x[..., 0]))


def solved(conservative=False):
    """The solution of VARYING at time one, by a Fourier method and the exponential of its matrix."""
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


def start(x):
    return jnp.exp(jnp.sin(x[..., 0]))


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
    """V = k |x|^2 / 2: x'' = w^2 x with w^2 = 2 D k, between two points of the plane."""
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
    """The continuous limit of a one-channel operator network: order two in the distance of its points."""
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
    # exp(a T) multiplies all: du/da = T u; the drift moves the start: du/db = T E u_0' exp(a T).
    assert float(slopes[0]) == pytest.approx(float(value(operator)), rel=1e-12)

    def bent(x):
        return jnp.cos(x[..., 0]) * start(x)

    assert float(slopes[1]) == pytest.approx(float(value(operator, bent)), rel=1e-12)


def test_the_classical_path_over_a_barrier():
    """V = 5 (x^2 - 1)^2, D = 0.1, from one well to the other in a long time: the instanton's action is 4/3 sqrt(V_0 / D)."""
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
    assert len(set(map(float, run(KEY)))) == 3  # every point draws its own


NET = network(4)


def flat(*values, **options):
    """A one-channel operator on a line."""
    return nf.labs.operators.DifferentialOperator(
        1, 1, dimension=1, coefficients=np.asarray(values)[:, None, None], **options
    )


def test_a_picture_of_the_gradient():
    pytest.importorskip("matplotlib")

    net = network(12)
    lengths, through = paths.plots.gradient_paths({"net": (net, X)}).axes
    drawn, number = (line.get_ydata() for line in lengths.lines)
    np.testing.assert_allclose(drawn, paths.length_shares(paths.gradients(net, X)))
    np.testing.assert_allclose(number, np.asarray(paths.counts(12)) / 2**12)
    with_skips, without = (line.get_ydata() for line in through.lines)
    assert with_skips[-1] == without[-1] == 1
    assert without[0] < 1e-2 < with_skips[0]


ADAPTIVE = nf.NeuralODE(
    nf.fields.MLP(2, hidden=2, rngs=nnx.Rngs(0)), nf.Adaptive(nf.Tsit5(), 1e-3, 1e-3)
)
REFUSED = {
    "no diffusion": (
        lambda: paths.Equation(0.0),
        "only where the diffusion is positive.*nf.transport",
    ),
    "a block without diffusion": (
        lambda: paths.Equation.of(flat(0.0, 1.0, 0.0).coefficients[...]),
        "only where the diffusion is positive",
    ),
    "diffusion backward": (lambda: paths.Equation([[1.0, 2.0], [2.0, 1.0]]), "positive"),
    "a drift of another dimension": (
        lambda: paths.Equation(np.eye(2), [1.0, 2.0, 3.0]),
        "got shapes",
    ),
    "an operator of two channels": (
        lambda: paths.Equation.of(
            nf.labs.operators.DifferentialOperator(2, 2, rngs=nnx.Rngs(0)).coefficients[...]
        ),
        "one channel, got an operator from 2 to 2",
    ),
    "an operator in the place of its coefficients": (
        lambda: paths.Equation.of(nf.labs.operators.DifferentialOperator(1, 1, rngs=nnx.Rngs(0))),
        r"give operator\.coefficients",
    ),
    "coefficients of another order": (
        lambda: paths.Equation.of(np.ones(4)),
        "3 coefficients .* or 6",
    ),
    "diffusion that is not symmetric": (
        lambda: paths.Equation([[1.0, 0.5], [0.0, 1.0]]),
        "finite symmetric matrix",
    ),
    "no drift": (lambda: paths.Equation(1.0, None), "finite numbers or functions"),
    "points of another dimension": (
        lambda: paths.feynman_kac(CONSTANT, start, jnp.zeros(2), 1.0, steps=1, count=2, key=KEY),
        "have 1 coordinates",
    ),
    "time backward": (
        lambda: paths.feynman_kac(CONSTANT, start, jnp.zeros(1), -1.0, steps=1, count=2, key=KEY),
        "a number from zero on",
    ),
    "a start of many numbers": (
        lambda: paths.feynman_kac(CONSTANT, jnp.sin, jnp.zeros(1), 1.0, steps=1, count=2, key=KEY),
        r"one number each.*of two points it made \(2, 1\)",
    ),
    "a potential of points": (
        lambda: paths.Equation(0.3, 0.0, lambda x: x**2).action(np.zeros((3, 1)), 1.0),
        r"the potential maps points of shape \(2, 1\) to \(2,\), got \(2, 1\)",
    ),
    "a path of one point": (lambda: CONSTANT.action(np.zeros((1, 1)), 1.0), "at least two points"),
    "complex values": (
        lambda: paths.spectral(CONSTANT, 1j * START, PERIOD, 1.0),
        "real numbers, got complex",
    ),
    "no equation": (
        lambda: paths.composed(0.3, START, PERIOD, 1.0, 5),
        "equation must be a nf.labs.paths.Equation",
    ),
    "no branches": (
        lambda: paths.contributions(np.ones((3, 2, 2)), X),
        "branches must be nf.labs.paths.Branches",
    ),
    "a guess of one point": (
        lambda: paths.classical(CONSTANT, [0.0], [1.0], 1.0, guess=[[0.0]]),
        "at least two",
    ),
    "one value": (lambda: paths.estimate(jnp.ones(1)), "two values or more"),
    "a grid of other axes": (
        lambda: paths.composed(CONSTANT, np.ones((4, 4)), 1.0, 1.0, 1),
        "grid of 1 axes",
    ),
    "a grid far too coarse": (
        lambda: paths.composed(paths.Equation(1e-4, dimension=2), np.ones((8, 8)), 6.3, 0.1, 1),
        "take both fewer steps and more points",
    ),
    "a grid too coarse": (
        lambda: paths.composed(CONSTANT, START, PERIOD, 1.0, 1000),
        "does not resolve a step.*take 62 steps or fewer or 257 points",
    ),
    "a time of zero": (
        lambda: paths.composed(CONSTANT, START, PERIOD, 0.0, 5),
        "time is a positive number",
    ),
    "another convention": (
        lambda: paths.composed(CONSTANT, START, PERIOD, 1.0, 5, "left"),
        "at must be one of",
    ),
    "a series of varying coefficients": (
        lambda: paths.spectral(VARYING, START, PERIOD, 1.0),
        "constant drift",
    ),
    "ends of another dimension": (
        lambda: paths.classical(CONSTANT, [0.0, 1.0], [1.0], 1.0),
        "joins two points",
    ),
    "branches that are not square": (
        lambda: paths.Branches.of(np.ones((3, 2, 4))),
        "square matrices",
    ),
    "offsets of another shape": (
        lambda: paths.Branches.of(np.ones((3, 2, 2)), np.ones(2)),
        "take offsets of shape",
    ),
    "a state of another width": (
        lambda: paths.contributions(NET, jnp.ones(3)),
        r"takes states \(\.\.\., 4\)",
    ),
    "too many sub-paths": (
        lambda: paths.subpaths(network(30), X),
        "2\\^30 sub-paths.*sums them by length",
    ),
    "too many paths": (
        lambda: paths.amplitudes(network(30).kernels(), jnp.ones(5)),
        "5\\^31 paths",
    ),
    "kernels of many networks": (
        lambda: paths.sample(np.ones((2, 3, 2, 2)), jnp.ones(2), KEY, 5),
        "of one network",
    ),
    "an adaptive layer": (
        lambda: paths.linearised(ADAPTIVE, jnp.ones((1, 2))),
        "no steps of its own",
    ),
    "a scheme with a memory": (
        lambda: paths.linearised(
            ADAPTIVE.with_solve(nf.FixedGrid(nf.schemes.leapfrog(), steps=4)), jnp.ones((1, 2))
        ),
        "carries more than the state",
    ),
}


test_bad_input_is_refused_in_one_sentence = refuses(REFUSED)


def test_a_path_that_is_not_found_is_an_error():
    # Downhill V = -x^2 x^2: the path runs away in finite time.
    wild = paths.Equation(0.5, 0.0, lambda x: -50 * x[..., 0] ** 4)
    with pytest.raises(nf.SolveError, match="no classical path"):
        paths.classical(wild, [1.0], [1.0], 40.0)
