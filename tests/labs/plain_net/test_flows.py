"""Plain nets as flows, and flows glued one behind the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.plain_net import NET, output, points, relu, tanh

import neuralflow as nf
from neuralflow.labs import plain_net


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
        [
            tanh,
            jax.nn.sigmoid,
            jax.nn.softplus,
            lambda x: jax.nn.leaky_relu(x, 0.2),
            jnp.arcsinh,
            jax.nn.relu6,
            # Kinks at 100, 4 and -50, one of them of a thousandth of the slope.
            lambda x: x + 2 * relu(x - 100),
            lambda x: relu(x) - 0.5 * relu(x - 4),
            lambda x: x + 1e-3 * jnp.minimum(x + 50, 0),
        ],
    )
    def test_any_monotone_activation(self, activation):
        """Euler's steps are exact on the straight lines of an activation, whatever their number."""
        net = [(np.eye(2), np.zeros(2), activation)]
        x = jnp.concatenate([points(2), 100 * points(2)])
        flow = plain_net.as_flow(net, solve=nf.FixedGrid(nf.Euler(), steps=5 * 3))
        assert (np.abs(flow(x) - activation(x)) < 2e-15 * (1 + np.abs(x))).all()

    def test_formulas_that_overflow_far_out(self):
        """Points on the way to 1 and -1 start at a hundred times the end of tanh's formula."""

        def formula(x):
            return (jnp.exp(x) - jnp.exp(-x)) / (jnp.exp(x) + jnp.exp(-x))

        s = 1 - 1e-6
        y = jnp.asarray([-9.0, -2.0, 0.5, 9.0])
        x = (1 - s) * y + s * jnp.tanh(y)
        np.testing.assert_allclose(plain_net.pulled_back(formula, x, s), y, rtol=0, atol=1e-7)
        # States of a thousand, on which exp overflows, belong to another motion.
        net = [(1e-3 * np.eye(2), np.zeros(2), jnp.exp)]
        flow = plain_net.as_flow(net, solve=nf.FixedGrid(nf.Euler(), steps=5))
        np.testing.assert_allclose(flow(jnp.full((1, 2), 1e3)), np.full((1, 2), np.e), rtol=1e-14)

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
        """In the precision that users run, the flow is as good as its tolerances."""
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


class TestGlue:
    def test_flows_of_different_dimensions_one_behind_the_other(self, mlp):
        """The flows have 2, 3, 1 and 2 dimensions.

        A coordinate that ends before a wider flow is drawn to zero.
        """

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
        with pytest.raises(ValueError, match="walks backward"):
            plain_net.glue([layer.reverse()], [2])
