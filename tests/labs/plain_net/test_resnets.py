"""Plain nets as residual networks: exact blocks, orders, and what must not be hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.plain_net import NET, drawn, output, points, relu, tanh

import neuralflow as nf
from neuralflow.labs import plain_net


class TestResNet:
    @pytest.mark.parametrize("steps", [1, 7])
    @pytest.mark.parametrize("activation", [relu, lambda x: jax.nn.leaky_relu(x, 0.2)])
    def test_exact_blocks(self, activation, steps):
        net = drawn([5, 7, 4, 6], activation)
        x = points(5)
        np.testing.assert_allclose(
            plain_net.as_resnet(net, steps=steps)(x), output(net, x), rtol=0, atol=1e-14
        )

    def test_an_activation_that_overflows_does_not_reach_the_blocks_of_another(self):
        net = [(np.eye(1), np.zeros(1), tanh), (np.eye(1), np.zeros(1), jnp.exp)]
        resnet = plain_net.as_resnet(
            net, activation="linearised", steps=4, about=(-3.0, -1.0, 0.0, 1.0, 3.0)
        )
        for s in (0.15, 0.45):  # blocks of tanh
            assert np.isfinite(resnet.layer.field.at(s)(jnp.full((1, 1), 1000.0))).all()

    def test_relaxation_stops_short_by_its_horizon(self):
        x = points(5)

        def error(s):
            return np.abs(
                plain_net.as_resnet(NET, activation="relaxed", steps=64, horizon=s)(x)
                - output(NET, x)
            ).max()

        errors = [error(s) for s in (5.0, 10.0, 20.0)]
        # Euler's 64 steps over a horizon S leave (1 - S / 64)^64 of what has to go.
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
        """The activation is tanh on [-1, 1].

        About zero alone the error stays as steps grow. About 33 points it is a five-hundredth of
        that. The flow has no such error.
        """
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
        """Weights change little from a structure to the next at corresponding places (Li & Shi).

        From block to block they do not change little.
        """
        rng = np.random.default_rng(0)
        first, change = rng.normal(size=(2, 4, 4))
        net = [(first + 0.01 * k * change, np.zeros(4), relu) for k in range(3)]
        blocks = plain_net.as_resnet(net, linear="kept", steps=2).layer.field.stack.linear[...]
        across, along = np.abs(blocks[3] - blocks[0]).max(), np.abs(blocks[1] - blocks[0]).max()
        assert across < 0.05 < 0.5 < along
