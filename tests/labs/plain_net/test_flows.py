"""Plain nets as flows and as residual networks: decompositions, orders, and what must not be hidden."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from scipy.linalg import expm, logm

import neuralflow as nf
from neuralflow.labs import plain_net

relu, tanh = jax.nn.relu, jax.nn.tanh


def drawn(widths, activation, seed=0):
    """A random net of these widths, its last layer linear."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(widths))
    kinds = [activation] * (len(pairs) - 1) + [plain_net.identity]
    scaled = [rng.normal(size=(b, a)) / np.sqrt(a) for a, b in pairs]
    return [(w, 0.3 * rng.normal(size=len(w)), kind) for w, kind in zip(scaled, kinds, strict=True)]


def output(net, x):
    for weight, bias, activation in net:
        x = activation(x @ weight.T + bias)
    return x


def points(width, count=50):
    return jax.random.normal(jax.random.key(2), (count, width))


def put_together(row):
    return expm(row.left) @ np.diag(row.scale) @ expm(row.right)


def padded(weight, size):
    return np.pad(weight, [(0, size - n) for n in weight.shape])


NET = drawn([5, 7, 4, 6], relu)


class TestDecomposition:
    @pytest.mark.parametrize("seed", range(20))
    def test_of_random_nets(self, seed):
        """Six layers of widths 1 to 64: W = exp(A_U) S exp(A_V) with skew real generators."""
        widths = np.random.default_rng(seed).integers(1, 65, 7)
        layers = plain_net.read(drawn(widths, relu, seed))
        size = plain_net.dimension(layers)
        for layer in layers:
            row = plain_net.decompose(layer.weight, size)
            assert np.abs(put_together(row) - padded(layer.weight, size)).max() < 1e-13
            for generator in (row.right, row.left):
                assert np.abs(generator + generator.T).max() < 1e-13
            assert row.rank == min(layer.weight.shape)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**32 - 1))
    def test_of_any_rank_in_any_dimension(self, out, inputs, lost, seed):
        rng = np.random.default_rng(seed)
        rank = max(0, min(out, inputs) - lost)
        weight = rng.normal(size=(out, rank)) @ rng.normal(size=(rank, inputs))
        layer = plain_net.read([(weight, np.zeros(out), relu)])
        row = plain_net.decompose(weight, plain_net.dimension(layer))
        assert np.abs(put_together(row) - padded(weight, len(row.scale))).max() < 1e-12
        assert row.rank == rank

    @pytest.mark.parametrize(
        "weight, size, flipped",
        [
            (
                np.diag([2.0, -3.0]),
                3,
                "null vectors",
            ),  # a reflection of full rank: one dimension more
            (np.array([[0.0, 1.0], [1.0, 0.0]]), 3, "null vectors"),
            (-np.eye(2), 2, "nothing"),  # a rotation by pi
            (-np.eye(3), 4, "null vectors"),
            (np.diag([-1.0, -1.0, 5.0]), 3, None),
            (np.zeros((3, 3)), 3, None),
            (np.array([[-2.0]]), 2, "null vectors"),
            (np.array([[3.0]]), 1, None),
            (np.array([[0.0]]), 1, None),
            (np.outer([1.0, -2.0, 0.5], [1.0, 1.0]), 3, None),
        ],
    )
    def test_of_special_weights(self, weight, size, flipped):
        layers = plain_net.read([(weight, np.zeros(len(weight)), relu)])
        assert plain_net.dimension(layers) == size
        row = plain_net.decompose(weight, size)
        assert np.abs(put_together(row) - padded(weight, size)).max() < 1e-13
        assert flipped is None or row.flipped == flipped
        x = points(weight.shape[1])
        flow = plain_net.as_flow([(weight, 0.1 * np.ones(len(weight)), relu)])
        np.testing.assert_allclose(flow(x), relu(x @ weight.T + 0.1), rtol=0, atol=1e-5)

    def test_a_matched_pair_is_flipped_where_both_factors_are_reflections(self):
        flipped = set()
        for seed in range(20):
            weight = np.random.default_rng(seed).normal(size=(4, 4))
            if np.linalg.det(weight) > 0:
                row = plain_net.decompose(weight, 4)
                assert np.abs(put_together(row) - weight).max() < 1e-13
                flipped.add(row.flipped)
        assert flipped == {"nothing", "a matched pair"}

    def test_a_reflection_that_is_left_alone_fails(self):
        """No real logarithm: the general one is complex, and its real part is wrong by a number of order one."""
        mirror = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
        mirror[:, 0] *= -np.sign(np.linalg.det(mirror))
        with pytest.raises(ValueError, match="is a reflection"):
            plain_net.rotation_logarithm(mirror)
        with pytest.raises(ValueError, match="no flow in 2 dimensions; give 3"):
            plain_net.decompose(np.diag([2.0, -3.0]), 2)
        general = logm(mirror)
        assert np.abs(general.imag).max() > 1
        assert np.abs(expm(general.real) - mirror).max() > 0.3

    def test_rotations_by_pi_are_real(self):
        for rotation in (-np.eye(4), np.diag([-1.0, 1.0, -1.0, 1.0, 1.0])):
            generator = plain_net.rotation_logarithm(rotation)
            np.testing.assert_allclose(expm(generator), rotation, rtol=0, atol=1e-14)
            assert abs(np.linalg.norm(generator, 2) - np.pi) < 1e-12


class TestFlow:
    def test_the_error_is_proportional_to_the_cutoff(self):
        x = points(5)
        errors = []
        for cutoff in (1e-4, 1e-6, 1e-8):
            flow = plain_net.as_flow(
                NET, cutoff=cutoff, solve=nf.Adaptive(nf.Tsit5(), 1e-11, 1e-11)
            )
            errors.append(float(np.abs(flow(x) - output(NET, x)).max()))
        np.testing.assert_allclose(np.diff(np.log10(errors)), -2, atol=0.1)
        assert errors[0] < 1e-3

    @pytest.mark.parametrize(
        "activation",
        [tanh, jax.nn.sigmoid, jax.nn.softplus, lambda x: jax.nn.leaky_relu(x, 0.2), jnp.arcsinh],
    )
    def test_any_monotone_activation(self, activation):
        """Euler's steps are exact on the straight lines of an activation, whatever their number."""
        net = [(np.eye(2), np.zeros(2), activation)]
        x = points(2)
        flow = plain_net.as_flow(net, solve=nf.FixedGrid(nf.Euler(), steps=5 * 3))
        np.testing.assert_allclose(flow(x), activation(x), rtol=0, atol=1e-13)

    def test_points_are_taken_back_to_their_start(self):
        y, s = np.meshgrid(np.linspace(-8, 8, 41), np.linspace(0, 0.999, 21))
        for activation in (tanh, relu, jax.nn.softplus):
            x = (1 - s) * y + s * activation(y)
            start = jax.jit(plain_net.pulled_back, static_argnums=0)(activation, x, jnp.asarray(s))
            np.testing.assert_allclose(start, y, rtol=0, atol=1e-11)

    def test_several_activations_and_gradients(self):
        """A net of relu, tanh and no activation; the gradient in x is that of the net."""
        net = [(*NET[0][:2], relu), (*NET[1][:2], tanh), NET[2]]
        flow = plain_net.as_flow(net, cutoff=1e-7)
        x = points(5)
        np.testing.assert_allclose(flow(x), output(net, x), rtol=0, atol=1e-5)

        def slope(f):
            return jax.jit(jax.grad(lambda x: jnp.sum(f(x) ** 2)))(x)

        np.testing.assert_allclose(slope(flow), slope(lambda x: output(net, x)), rtol=0, atol=1e-4)

    def test_nnx_modules_are_read(self):
        rngs = nnx.Rngs(0)
        inner = nnx.Linear(3, 4, param_dtype=jnp.float64, rngs=rngs)
        outer = nnx.Linear(4, 2, use_bias=False, param_dtype=jnp.float64, rngs=rngs)
        net = nnx.Sequential(inner, nnx.relu, outer)
        flow = plain_net.as_flow(net)
        x = points(3)
        np.testing.assert_allclose(flow(x), net(x), rtol=0, atol=1e-5)
        assert flow.inputs == 3 and flow.outputs == 2 and flow.size == 4
        assert [row.rank for row in flow.report] == [3, 2]
        assert flow.table().count("\n") == 1 and "rank 3 of 4" in flow.table()

    def test_float32(self):
        """What users run: the flow is as good as its tolerances."""
        net = [(w.astype(np.float32), b.astype(np.float32), s) for w, b, s in NET]
        with jax.enable_x64(False):
            x = points(5).astype(np.float32)
            flow = plain_net.as_flow(net)
            assert flow(x).dtype == np.float32
            np.testing.assert_allclose(flow(x), output(net, x), rtol=0, atol=1e-3)
            bounded = [
                (np.eye(3), np.zeros(3), relu),
                (-np.eye(3), np.ones(3), tanh),
                (np.ones((2, 3)), np.zeros(2), jax.nn.sigmoid),
            ]
            np.testing.assert_allclose(
                plain_net.as_flow(bounded)(x[:, :3]), output(bounded, x[:, :3]), rtol=0, atol=1e-3
            )


class TestResNet:
    @pytest.mark.parametrize("steps", [1, 7])
    @pytest.mark.parametrize("activation", [relu, lambda x: jax.nn.leaky_relu(x, 0.2)])
    def test_exact_blocks(self, activation, steps):
        net = drawn([5, 7, 4, 6], activation)
        x = points(5)
        np.testing.assert_allclose(
            plain_net.as_resnet(net, steps=steps)(x), output(net, x), rtol=0, atol=1e-14
        )

    def test_relaxation_stops_short_by_its_horizon(self):
        x = points(5)

        def error(s):
            return np.abs(
                plain_net.as_resnet(NET, activation="relaxed", steps=64, horizon=s)(x)
                - output(NET, x)
            ).max()

        errors = [error(s) for s in (5.0, 10.0, 20.0)]
        # Euler's steps leave (1 - S / 64)^64 of what has to go.
        left = [(1 - s / 64) ** 64 for s in (5.0, 10.0, 20.0)]
        np.testing.assert_allclose(np.diff(np.log(errors)), np.diff(np.log(left)), atol=0.5)
        assert errors[2] < 1e-8

    @pytest.mark.parametrize(
        "linear, order, steps", [("euler", 1, (256, 512, 1024)), ("cayley", 2, (16, 32, 64))]
    )
    def test_orders_of_the_rotations(self, linear, order, steps):
        x = points(5)
        errors = [
            np.abs(plain_net.as_resnet(NET, linear=linear, steps=n)(x) - output(NET, x)).max()
            for n in steps
        ]
        assert abs(np.polyfit(np.log(steps), np.log(errors), 1)[0] + order) < 0.1

    def test_the_error_of_one_linearisation_does_not_vanish(self):
        """tanh on [-1, 1]: about zero it stays as steps grow; about 33 points it is a five-hundredth; the flow has none."""
        net = [(np.eye(3), np.zeros(3), tanh)]
        x = jax.random.uniform(jax.random.key(0), (300, 3), minval=-1, maxval=1)

        def error(steps, about):
            resnet = plain_net.as_resnet(net, activation="linearised", steps=steps, about=about)
            return float(np.abs(resnet(x) - tanh(x)).max())

        alone = [error(steps, (0.0,)) for steps in (16, 64, 256)]
        assert min(alone) > 0.04 and alone[2] > 0.95 * alone[1]
        assert error(256, np.linspace(-1, 1, 33)) < 2e-4
        # Between the points the error is of second order in their distance.
        coarse, fine = error(64, np.linspace(-1, 1, 17)), error(64, np.linspace(-1, 1, 65))
        assert abs(np.log(coarse / fine) / np.log(4) - 2) < 0.3

    def test_its_blocks_are_plain_residual_blocks_and_train(self):
        resnet = plain_net.as_resnet(NET, steps=2)
        x = points(5)
        y = resnet.embed(x)
        for block in nf.to_branches(resnet.layer):
            y = y + block(y)
        np.testing.assert_array_equal(y[:, : resnet.outputs], resnet(x))

        def loss(net):
            return jnp.sum(net(x) ** 2)

        gradient = nnx.grad(loss)(resnet)
        names = {str(path[-1]) for path, _ in nnx.to_flat_state(gradient)}
        assert names == {"linear", "inner", "outer", "shift", "bias"}
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    def test_corresponding_blocks_of_a_slowly_varying_net_vary_slowly(self):
        """Li & Shi: weights change little from a structure to the next at corresponding places, not from block to block."""
        rng = np.random.default_rng(0)
        first, change = rng.normal(size=(2, 4, 4))
        net = [(first + 0.01 * k * change, np.zeros(4), relu) for k in range(3)]
        blocks = plain_net.as_resnet(net, linear="kept", steps=2).layer.field.stack.linear[...]
        across, along = np.abs(blocks[3] - blocks[0]).max(), np.abs(blocks[1] - blocks[0]).max()
        assert across < 0.05 < 0.5 < along


class TestGlue:
    def test_flows_of_different_dimensions_one_behind_the_other(self, mlp):
        """2, 3, 1 and 2 dimensions: what ends before a wider flow is drawn to zero."""

        def make(d, seed, cells):
            return nf.DepthVarying(
                lambda rngs: nf.fields.MLP(
                    d, hidden=5, time=True, param_dtype=jnp.float64, rngs=rngs
                ),
                nf.PiecewiseConstant(cells),
                rngs=nnx.Rngs(seed),
            )

        solve = nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9)
        widths = (2, 3, 1, 2)
        flows = [
            nf.NeuralODE(make(d, k, 1 + k % 2), solve, 0.0, 1.0 + k) for k, d in enumerate(widths)
        ]
        glued = plain_net.glue(flows, widths, cutoff=1e-9, solve=solve)
        x = y = points(2, 5)
        for flow, width in zip(flows, widths, strict=True):
            fine = flow.with_solve(nf.FixedGrid(nf.RK4(), steps=200))
            y = fine(jnp.pad(y, [(0, 0), (0, max(0, width - y.shape[1]))])[:, :width])
        np.testing.assert_allclose(glued(x), y, rtol=0, atol=1e-6)
        assert glued.size == 3 and float(glued.layer.t1) == 5

    def test_refusals(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseLinear(2)), nf.Adaptive(nf.Tsit5()))
        with pytest.raises(ValueError, match="cannot be glued; bring them to nf.PiecewiseConstant"):
            plain_net.glue([layer], [2])
        with pytest.raises(ValueError, match="as many widths"):
            plain_net.glue([layer], [2, 3])
        with pytest.raises(ValueError, match="walks backward"):
            plain_net.glue([layer.reverse()], [2])


@pytest.mark.parametrize(
    "net, sentence",
    [
        ([(np.eye(2), np.zeros(2), jax.nn.silu)], "falls near"),
        ([(np.eye(2), np.zeros(2), jnp.sin)], "falls near"),
        ([(np.eye(2), np.zeros(2), jax.nn.softmax)], "no function of single numbers"),
        ([(np.eye(2), np.zeros(2), "relu")], "must be a function"),
        ([(np.eye(2) * 1j, np.zeros(2), relu)], "must be real numbers, got complex128"),
        ([(np.full((2, 2), np.nan), np.zeros(2), relu)], "4 values that are not finite"),
        ([(np.eye(2), np.array([0, np.inf]), relu)], "1 values that are not finite"),
        (
            [(np.eye(2), np.zeros(2), relu), (np.eye(3), np.zeros(3), relu)],
            "gives 2 numbers, but the next one takes 3",
        ),
        ([(np.eye(2), np.zeros(3), relu)], "b of layer 0 holds 3 numbers, but W gives 2"),
        ([(np.zeros(2), np.zeros(2), relu)], r"W of layer 0 must have shape \(out, in\)"),
        ([relu], "layer 0 of a plain net is an nnx.Linear"),
        ([], "a plain net is an nnx.Sequential or a sequence"),
        (3, "give its layers in their order"),
    ],
)
def test_bad_nets(net, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        plain_net.as_flow(net)


def test_bad_options(x):
    for call, sentence in (
        (lambda: plain_net.as_flow(NET, cutoff=0), "cutoff is a small positive part"),
        (lambda: plain_net.as_flow(NET)(x), "takes 5 numbers a sample"),
        (lambda: plain_net.as_resnet(NET, linear="exact"), "linear must be one of"),
        (lambda: plain_net.as_resnet(NET, steps=0), "steps must be at least 1"),
        (
            lambda: plain_net.as_resnet(NET, horizon=-1.0, activation="relaxed"),
            "horizon is a positive length",
        ),
        (
            lambda: plain_net.as_resnet(NET, activation="relaxed", steps=2),
            "takes at least as many steps, got 2",
        ),
        (lambda: plain_net.as_resnet(NET, about=()), "about is a sequence of finite numbers"),
        (
            lambda: plain_net.as_resnet(drawn([2, 2, 2], tanh)),
            'exact blocks are for relu and leaky_relu, got tanh; take activation="lin',
        ),
        (
            lambda: plain_net.as_resnet(drawn([2, 2, 2], tanh), activation="relaxed", steps=20),
            "for relu alone, got tanh",
        ),
        (lambda: plain_net.decompose(np.eye(3), 2), "does not fit into 2 dimensions"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_pictures():
    """A panel a depth, a frame a motion, a row a set; frames stand where the flow has taken the points."""
    from neuralflow import plots
    from neuralflow.transport import Transport

    data = nf.data.moons(20)
    field = nf.fields.MLP(2, hidden=4, rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))
    u = Transport(layer, lambda x: x[:, 0])
    assert len(plots.transported(u, data["x"], data["y"], [0.0, 0.5, 1.0], size=5).axes) == 3
    assert len(plots.characteristics(layer, data["x"], data["y"], steps=3).axes) == 2
    drawn = plots.densities({"moons": (data["x"], np.ones((4, 4)), data["x"])}, (-2.0, 2.0))
    assert [axis.get_title() for axis in drawn.axes] == ["moons", "density", "samples"]
    net = [(np.array([[0.0, -2.0], [1.0, 0.0]]), np.array([0.5, 0.0]), relu)]
    flow = plain_net.as_flow(net, solve=nf.FixedGrid(nf.Euler(), steps=5 * 400))
    frames = plain_net.plots.motions(flow, points(2, 8)).axes
    assert [axis.get_title() for axis in frames] == ["before", *plain_net.MOTIONS]
    np.testing.assert_allclose(
        frames[-1].collections[0].get_offsets(), output(net, points(2, 8)), atol=0.1
    )
