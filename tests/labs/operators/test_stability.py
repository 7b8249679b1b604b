"""Kernels as operators, equations as fields, and how long their steps may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refusals import refuses

import neuralflow as nf
from neuralflow.labs import operators as op

LAPLACE = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
SOBEL = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
GAUSS = np.outer([1, 2, 1], [1, 2, 1]) / 16
DX = 0.1


def equation(*values, dimension=1, **options):
    """A DifferentialOperator on one channel."""
    coefficients = np.asarray(values, float)[:, None, None]
    options = {"spacing": DX, "boundary": "periodic", "param_dtype": jnp.float64} | options
    return op.DifferentialOperator(1, 1, dimension=dimension, coefficients=coefficients, **options)


def slope(errors, ratio=2.0):
    return np.diff(np.log(errors)) / -np.log(ratio)


# Float64, times the condition number of the moments of so many points.
@pytest.mark.parametrize(("size", "bound"), [(1, 0), (3, 1e-14), (5, 3e-14), (7, 3e-13)])
def test_kernel_and_operator_round_trip(size, bound):
    for shape, spacing in (((size, size, 2, 3), (1.0, 0.1)), ((size,), 0.5)):
        kernel = jax.random.normal(jax.random.key(size), shape)
        there = op.to_operator(kernel, spacing)
        back = op.to_kernel(there, spacing)
        again = op.to_operator(back, spacing)
        assert float(jnp.abs(back - kernel).max()) <= bound * float(jnp.abs(kernel).max())
        assert float(jnp.abs(again - there).max()) <= max(bound, 1e-15) * float(
            jnp.abs(there).max()
        )


def test_an_operator_does_to_polynomials_what_its_kernel_does():
    h = 0.3
    kernel = np.asarray(jax.random.normal(jax.random.key(0), (5, 3)))
    c = np.asarray(op.to_operator(kernel, h))
    y, x = np.meshgrid(h * np.arange(-2, 3), h * np.arange(-1, 2), indexing="ij")
    for q in range(5):
        for p in range(3):
            # At the origin only the derivative d^q/dy^q d^p/dx^p of y^q x^p is not zero.
            expected = c[q, p] * np.prod(np.arange(1, q + 1)) * np.prod(np.arange(1, p + 1))
            assert abs(np.sum(kernel * y**q * x**p) - expected) < 1e-12


@pytest.mark.parametrize("derivative", [1, 2])
def test_stencils_are_of_order_two_on_the_sine(derivative):
    exact = (np.sin(1.0), np.cos(1.0), -np.sin(1.0))[derivative]
    steps = 0.1 / 2.0 ** np.arange(4)
    errors = [
        abs(op.stencil(derivative) @ np.sin(1 + h * np.arange(-1, 2)) / h**derivative - exact)
        for h in steps
    ]
    np.testing.assert_allclose(slope(errors), 2.0, atol=0.05)
    fourth = [
        abs(op.stencil(derivative, 5) @ np.sin(1 + h * np.arange(-2, 3)) / h**derivative - exact)
        for h in steps
    ]
    np.testing.assert_allclose(slope(fourth), 4.0, atol=0.05)


def test_formulas_of_known_kernels():
    def written(kernel, h=1.0):
        return op.formula(op.to_operator(kernel, h))

    assert written(LAPLACE) == "∂xx + ∂yy"
    assert written(SOBEL) == "8 ∂x + 2 ∂xyy"
    assert written(np.transpose(SOBEL)) == "8 ∂y + 2 ∂xxy"
    assert written(GAUSS) == "1 + 0.25 ∂xx + 0.25 ∂yy + 0.0625 ∂xxyy"
    assert written(GAUSS, 2.0) == "1 + ∂xx + ∂yy + ∂xxyy"
    assert written([0.5, 0, -0.5]) == "-∂x"
    assert written([[-2.0]]) == "-2"
    assert written(np.zeros((3, 3))) == "0"
    assert written(np.float32(0.1) * np.asarray(LAPLACE, np.float32)) == "0.1 ∂xx + 0.1 ∂yy"


def test_shares_add_up_and_tell_the_orders_apart():
    assert op.shares(op.to_operator(LAPLACE)) == (0, 0, 1, 0)
    assert op.shares(np.zeros(3)) == (0, 0, 0, 0)
    assert op.shares(op.to_operator(SOBEL)) == pytest.approx((0, 64 / 68, 0, 4 / 68))
    # Sums of i^2p j^2q / (p! q!)^2 over the offsets: 9, 2 * 6, 2 * 1.5 + 4 and 2 * 1 + 0.25.
    noise = op.shares(op.to_operator(jax.random.normal(jax.random.key(0), (3, 3, 100, 100))))
    assert noise == pytest.approx((9 / 30.25, 12 / 30.25, 7 / 30.25, 2.25 / 30.25), abs=0.01)
    assert sum(noise) == pytest.approx(1)


def test_a_differential_operator_is_its_equation():
    """Waves on a periodic grid are multiplied by the symbol; on smooth functions the operator is of order two."""
    errors = []
    for n in (16, 32, 64):
        h = 2 * np.pi / n
        field = equation(0.3, -1.0, 0.7, 0.1, 0.4, 0.2, dimension=2, spacing=h)
        y, x = np.meshgrid(h * np.arange(n), h * np.arange(n), indexing="ij")
        u, ux, uy = np.sin(x + 2 * y), np.cos(x + 2 * y), 2 * np.cos(x + 2 * y)
        exact = 0.3 * u - ux + 0.7 * uy - u * (0.1 + 0.4 * 2 + 0.2 * 4)
        errors.append(
            np.abs(np.asarray(field(jnp.asarray(u)[None, ..., None]))[0, ..., 0] - exact).max()
        )
    np.testing.assert_allclose(slope(errors), 2.0, atol=0.05)
    assert (
        equation(0.0, 0.3, 0.1, spacing=1 / 256, param_dtype=jnp.float32).formula()
        == "0.3 ∂x + 0.1 ∂xx"
    )
    assert field.formula() == "0.3 - ∂x + 0.7 ∂y + 0.1 ∂xx + 0.4 ∂xy + 0.2 ∂yy"


def test_boundaries():
    ones = jnp.ones((1, 6, 1))

    def heat(boundary):
        return equation(0.0, 0.0, DX**2, boundary=boundary)(ones)[0, :, 0]

    assert float(jnp.abs(heat("neumann")).max()) < 1e-14
    assert float(jnp.abs(heat("periodic")).max()) < 1e-14
    np.testing.assert_allclose(heat("dirichlet"), [-1, 0, 0, 0, 0, -1], atol=1e-14)
    free = op.DifferentialOperator(2, 3, rngs=nnx.Rngs(0))
    conv = nnx.Conv(2, 3, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
    conv.kernel.set_value(free.kernel)
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 2), jnp.float32)
    assert float(jnp.abs(free(x) - conv(x)).max()) < 1e-6


def test_the_operator_block_is_a_residual_branch_with_fewer_weights():
    def size(module):
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module.convs, nnx.Param)))

    block = op.block(8, rngs=nnx.Rngs(0))
    assert size(block) == 2 * 6 * 8**2
    assert size(nf.fields.ConvBlock(8, rngs=nnx.Rngs(0))) == 2 * (9 * 8**2 + 8)
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 8), jnp.float32)
    # Drawn so that white noise keeps its variance, as the convolution's own initialisation does.
    assert (
        0.5
        < float(jnp.var(op.DifferentialOperator(8, 64, rngs=nnx.Rngs(0))(x)[:, 1:-1, 1:-1]))
        < 2.0
    )
    layer = nf.NeuralODE(block, nf.FixedGrid(nf.Euler(), steps=1))
    assert float(jnp.abs(layer(x) - jax.jit(lambda x: x + block(x))(x)).max()) < 1e-6


D, V = 0.05, 1.0
LIMITS = {
    "heat on a line": (equation(0, 0, D), nf.Euler(), DX**2 / (2 * D)),
    "heat in the plane": (equation(0, 0, 0, D, 0, D, dimension=2), nf.Euler(), DX**2 / (4 * D)),
    "heat under RK4": (equation(0, 0, D), nf.RK4(), 2.785293563405282 * DX**2 / (4 * D)),
    "heat under implicit Euler": (equation(0, 0, D), nf.ImplicitEuler(), np.inf),
    "convection under RK4": (equation(0, V, 0), nf.RK4(), np.sqrt(8) * DX / V),
    "convection under Euler": (equation(0, V, 0), nf.Euler(), 0.0),
    "convection and much diffusion": (equation(0, V, 0.08), nf.Euler(), DX**2 / (2 * 0.08)),
    "decay": (equation(-4.0, 0, 0), nf.Euler(), 0.5),
    "growth": (equation(4.0, 0, 0), nf.Euler(), np.inf),
    "growth and decay": (equation(3.0, 0, 1.0, spacing=1.0), nf.Euler(), 2.0),
    "growth under implicit Euler": (equation(4.0, 0, 0), nf.ImplicitEuler(), np.inf),
    "hardly any diffusion": (equation(0, 0, 1e-13), nf.Euler(), DX**2 / 2e-13),
    "wave": (
        op.hyperbolic(2, periodic=True, dimension=1, rngs=nnx.Rngs(0)),
        nf.schemes.RevNet(),
        None,
    ),
}


@pytest.mark.parametrize("case", LIMITS)
def test_stable_steps_are_the_known_ones(case):
    field, scheme, limit = LIMITS[case]
    if limit is None:
        symbols = op.symbol(field.energy.potential.convolution.kernel[...])
        limit = 2 / np.linalg.norm(symbols, ord=2, axis=(1, 2)).max()
    assert op.stable_step(field, scheme) == pytest.approx(limit, rel=1e-6)


def test_convection_with_little_diffusion_is_bound_by_the_longest_waves():
    # h <= 2 D / v^2: the bound of waves that grow ever longer, so of a finer set of them.
    for d in (2e-2, 1e-3, 1e-4):
        assert op.stable_step(equation(0, V, d), nf.Euler(), 256) == pytest.approx(
            2 * d / V**2, rel=1e-3
        )


def test_networks_decay_below_the_limit_and_grow_above_it():
    field = LIMITS["heat in the plane"][0]
    limit = op.stable_step(field, nf.Euler())
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
    for share, grows in ((0.999, False), (1.02, True)):
        layer = nf.NeuralODE(
            field,
            nf.FixedGrid(nf.Euler(), steps=400),
            jnp.zeros(()),
            jnp.asarray(400 * share * limit),
        )
        stability = op.stability(layer)
        assert stability.stable is not grows
        assert bool(stability.growth.max() > 1 + 1e-6) is grows
        assert (float(jnp.abs(layer(x)).max()) > 100) is grows


def test_a_layer_of_unstable_steps_is_refused_with_the_remedy():
    field = nf.DepthVarying.from_modules(
        [equation(0, 0, d) for d in (0.05, 0.1)], nf.PiecewiseConstant(2)
    )
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=16))
    assert op.stability(layer).limits[[0, -1]] == pytest.approx([0.1, 0.05], rel=1e-6)
    with pytest.raises(
        ValueError,
        match=r"step 8 of 16 is 0\.0625 long where Euler allows 0\.05 .* take 20 equal steps",
    ):
        op.check(layer)
    op.check(layer.with_solve(nf.FixedGrid(nf.Euler(), steps=20)))
    assert "nearest to its limit" in str(
        op.stability(layer.with_solve(nf.FixedGrid(nf.Euler(), steps=40)))
    )
    back = op.stability(
        nf.NeuralODE(equation(0, 0, D), nf.FixedGrid(nf.Euler(), steps=4)).reverse()
    )
    assert back.stable and "Waves grow in the equation itself, at rates up to 20" in back.sentence()
    coarse = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=16), 0.0, 1.05)
    assert "take 22 equal steps" in op.stability(coarse).sentence()  # a multiple of the cells


def test_parabolic_energy_falls_and_waves_keep_theirs():
    x = jax.random.normal(jax.random.key(0), (3, 12, 4))
    heat = op.parabolic(4, dimension=1, periodic=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    step = 0.99 * op.stable_step(heat, nf.Euler())
    layer = nf.NeuralODE(
        heat, nf.FixedGrid(nf.Euler(), steps=20), jnp.zeros(()), jnp.asarray(20 * step)
    )
    op.check(layer)
    energies = jax.vmap(heat.energy)(layer.trajectory(x))
    assert (jnp.diff(energies, axis=0) < 0).all()

    wave = op.hyperbolic(4, dimension=1, periodic=True, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    h = 0.5 * op.stable_step(wave, nf.schemes.RevNet())
    layer = nf.NeuralODE(
        wave, nf.FixedGrid(nf.schemes.RevNet(), steps=20), jnp.zeros(()), jnp.asarray(20 * h)
    )
    u, p = layer.trajectory((x, jnp.cos(x)))
    pull = jax.vmap(jax.grad(lambda u: wave.energy.potential(u).sum()))
    # Leapfrog: u_2 = 2 u_1 - u_0 + h^2 u''.
    np.testing.assert_allclose(u[2:], 2 * u[1:-1] - u[:-2] - h**2 * pull(u[1:-1]), atol=1e-12)

    def drift(q, p):
        return np.ptp(jax.vmap(wave.energy)((q, p)), axis=0) / np.abs(wave.energy((x, jnp.cos(x))))

    euler = layer.with_solve(nf.FixedGrid(nf.Euler(), steps=20)).trajectory((x, jnp.cos(x)))
    assert drift(u, p).max() < 0.2 < drift(*euler).min()


def test_hamiltonian_fields_have_their_spectrum():
    """The eigenvalues of the field's own Jacobian lie in the interval that `spectrum` spans."""
    for make in (op.parabolic, op.hyperbolic, op.hamiltonian):
        field = make(2, dimension=1, periodic=True, param_dtype=jnp.float64, rngs=nnx.Rngs(3))
        width = 2 if make is op.parabolic else 4

        def flat(x, field=field, width=width):
            return field(x.reshape(1, 8, width)).ravel()

        eigenvalues = np.linalg.eigvals(
            jax.jacobian(flat)(0.1 * jax.random.normal(jax.random.key(0), (8 * width,)))
        )
        bound = np.abs(op.spectrum(field)).max()
        assert np.abs(eigenvalues).max() <= bound * (1 + 1e-9)
        assert np.abs(eigenvalues).max() > 0.5 * bound
        axis = eigenvalues.imag if make is op.parabolic else eigenvalues.real
        assert np.abs(axis).max() < 1e-7


class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        field = nf.DepthVarying(
            lambda rngs: op.block(4, rngs=rngs), nf.PiecewiseConstant(2), rngs=rngs
        )
        self.flow = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=2))
        self.rest = nnx.List(
            [nnx.Linear(4, 2, rngs=rngs), nnx.Conv(4, 4, (5,), kernel_dilation=2, rngs=rngs)]
        )


def test_every_convolution_of_a_model_is_read():
    net = Net(nnx.Rngs(0))
    operators = op.read(net)
    assert [*operators] == [
        "stem",
        *(f"flow.field.convs.{k} at {s}" for s in (0.25, 0.75) for k in (0, 1)),
        "rest.1",
    ]
    np.testing.assert_allclose(op.to_kernel(operators["stem"]), net.stem.kernel[...], atol=1e-6)
    np.testing.assert_allclose(
        op.to_kernel(operators["rest.1"], 2.0), net.rest[1].kernel[...], atol=1e-6
    )
    second = operators["flow.field.convs.1 at 0.75"]
    np.testing.assert_allclose(
        second[0, 0], net.flow.field.stack.convs[1].coefficients[...][1, 0], atol=1e-6
    )
    assert float(jnp.abs(second[2, 1]).max()) < 1e-6  # no derivatives above the second
    assert op.read(nf.fields.MLP(2, hidden=4, rngs=nnx.Rngs(0))) == {}


def test_pictures():
    pytest.importorskip("matplotlib")

    right = op.plots.operator(np.asarray(SOBEL)).axes[1]
    assert right.get_title() == "8 ∂x + 2 ∂xyy"
    assert [t.get_text() for t in right.get_yticklabels()] == [
        "1",
        r"$\partial_y$",
        r"$\partial_y^2$",
    ]
    assert op.plots.operator(np.ones(5)).axes[1].get_yticks().size == 0
    bars = (
        op.plots.shares({"net": {"a": op.Shares(0.5, 0.5, 0, 0), "b": op.Shares(0, 0, 0.25, 0.75)}})
        .axes[0]
        .patches
    )
    with pytest.raises(ValueError, match="by network and place"):
        op.plots.shares({"net": {"a": np.ones(3)}})
    assert [bar.get_height() for bar in bars] == [0.5, 0, 0.5, 0, 0, 0.25, 0, 0.75]


RGB = dict(dimension=2, rngs=nnx.Rngs(0))
REFUSED = {
    "an even kernel": (
        lambda: op.to_operator(np.ones((2, 2))),
        "even size has no point in the middle.*got size 2",
    ),
    "an even kernel in a model": (
        lambda: op.read(nnx.Conv(1, 1, (2, 2), rngs=nnx.Rngs(0))),
        "even size",
    ),
    "three dimensions": (
        lambda: op.to_operator(np.ones((3, 3, 3, 1, 1))),
        "one or two dimensions.*got shape",
    ),
    "a convolution in space": (
        lambda: op.read(nnx.List([nnx.Conv(1, 1, (3, 3, 3), rngs=nnx.Rngs(0))])),
        "'0': .*one or two dim",
    ),
    "no dimensions": (lambda: op.to_kernel(1.0), "one or two dimensions"),
    "complex numbers": (lambda: op.to_operator([1j, 0, 0]), "real numbers, got complex"),
    "a length of zero": (lambda: op.to_operator([1.0, 0, 0], 0.0), "spacing is a positive length"),
    "lengths of other axes": (
        lambda: op.to_operator(np.ones((3, 3)), (1.0, 2.0, 3.0)),
        "one for each of 2 axes",
    ),
    "a stencil of too few points": (
        lambda: op.stencil(3),
        "derivatives below 3, got 3; take size=5",
    ),
    "a formula of many channels": (
        lambda: op.formula(np.ones((3, 3, 2, 2))),
        "one pair of channels",
    ),
    "shares of what is not finite": (lambda: op.shares([np.nan, 1, 0]), "finite coefficients"),
    "a formula of what is not finite": (lambda: op.formula([np.inf, 1, 0]), "finite coefficients"),
    "too many points": (lambda: op.to_operator(np.ones(17)), "at most 15 points"),
    "no points": (lambda: op.to_operator(np.ones((3, 0))), "at least one number"),
    "a stack of kernels": (
        lambda: op.read(
            nnx.vmap(lambda key: nnx.Conv(1, 1, (3,), rngs=nnx.Rngs(key)))(
                jax.random.split(jax.random.key(0), 5)
            )
        ),
        "'Conv': it is a stack of kernels",
    ),
    "integers": (
        lambda: equation(0, 0, D)(jnp.ones((1, 4, 1), int)),
        "takes floating arrays.*got int",
    ),
    "an odd number of frequencies": (
        lambda: op.stable_step(equation(0, 0, D), nf.Euler(), 5),
        "an even number",
    ),
    "a potential with a corner": (
        lambda: op.spectrum(op.parabolic(2, potential=jax.nn.relu, rngs=nnx.Rngs(0))),
        "no bound between -30 and 30",
    ),
    "a seed for keys": (lambda: op.parabolic(2, rngs=0), "rngs must be nnx.Rngs"),
    "numbers that are not finite": (
        lambda: op.stable_step(equation(0, 0, np.nan), nf.Euler()),
        "finite kernel",
    ),
    "coefficients of another shape": (
        lambda: op.DifferentialOperator(1, 1, coefficients=np.ones(6)),
        r"have shape \(6, 1, 1\)",
    ),
    "neither coefficients nor keys": (
        lambda: op.DifferentialOperator(1, 1),
        "takes its coefficients, or rngs.*got rngs=None",
    ),
    "another boundary": (
        lambda: op.DifferentialOperator(1, 1, boundary="zero", **RGB),
        "boundary must be one of",
    ),
    "channels that are not there": (
        lambda: op.DifferentialOperator(2, 2, **RGB)(jnp.ones((1, 4, 4, 3))),
        "2 channels behind them, got float64 of shape",
    ),
    "a spectrum of something else": (
        lambda: op.spectrum(nf.fields.MLP(2, hidden=2, rngs=nnx.Rngs(0))),
        "waves of a MLP",
    ),
    "a spectrum that is no field's": (
        lambda: op.spectrum(op.DifferentialOperator(2, 3, **RGB)),
        "from 2 to 3 channels",
    ),
    "a potential without bound": (
        lambda: op.spectrum(op.parabolic(2, potential=lambda x: x**4, rngs=nnx.Rngs(0))),
        "no bound",
    ),
    "an adaptive layer": (
        lambda: op.check(nf.NeuralODE(equation(0, 0, D), nf.Adaptive(nf.Tsit5(), 1e-3, 1e-3))),
        "chooses stable steps by itself",
    ),
    "Euler on pure convection": (
        lambda: op.check(nf.NeuralODE(equation(0, V, 0), nf.FixedGrid(nf.Euler(), steps=1000))),
        "Euler has no stable step",
    ),
}


test_bad_input_is_refused_in_one_sentence = refuses(REFUSED)
