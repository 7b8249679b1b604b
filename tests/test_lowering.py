"""Programs for accelerators, lowered on any machine: what is in them, and what is not."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import export
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import neuralflow as nf
from neuralflow import data, schemes as S
from neuralflow.checks import InputError
from neuralflow.labs import stochastic as st
from neuralflow.solve.walk import Memory
from neuralflow.training.loop import Run

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
STEPS = 6


@pytest.fixture(autouse=True)
def single():
    """Everything here is in single precision, as on accelerators."""
    with jax.enable_x64(False):
        yield


class Crossed(nnx.Module):
    """X' = a tanh(Y) + b, Y' = c tanh(X) + d, for an array of two halves or their pair."""

    def __init__(self, rngs):
        self.weights = nnx.Param(jax.random.normal(rngs.params(), (4,), jnp.float32))

    def __call__(self, x):
        a, b, c, d = self.weights[...]
        first, second = x if isinstance(x, tuple) else jnp.split(x, 2, axis=-1)
        velocity = (a * jnp.tanh(second) + b, c * jnp.tanh(first) + d)
        return velocity if isinstance(x, tuple) else jnp.concatenate(velocity, axis=-1)


class Gaussian:
    """A standard normal distribution, up to a constant."""

    def log_prob(self, x):
        return -jnp.sum(x**2, -1) / 2

    def sample(self, key, shape=()):
        return jax.random.normal(key, (*shape, 2))


def states(batch: Any = 3, dtype: Any = jnp.float32):
    return jax.ShapeDtypeStruct((batch, 2), dtype)


def crossed():
    return nf.DepthVarying(Crossed, nf.PiecewiseConstant(STEPS), rngs=nnx.Rngs(0))


def network(basis, dtype=jnp.float32):
    def make(rngs):
        return nf.fields.MLP(2, hidden=4, time=True, param_dtype=dtype, rngs=rngs)

    return nf.DepthVarying(make, basis, rngs=nnx.Rngs(0))


def in_parts():
    def make(rngs):
        # A norm of two entries divides by their difference, which magnifies rounding.
        attention = nf.fields.Attention(2, heads=1, norm=False, rngs=rngs)
        return nf.fields.Split(attention, nf.fields.MLP(2, hidden=4, rngs=rngs))

    return nf.DepthVarying(make, nf.PiecewiseConstant(STEPS), rngs=nnx.Rngs(0))


def grid(scheme, field=None, memory: Memory = "remat"):
    steps = 3 * STEPS if memory == "two_level" else STEPS
    solve = nf.FixedGrid(scheme, steps=steps, memory=memory)
    return nf.NeuralODE(crossed() if field is None else field, solve)


def adaptive(scheme=None, **options):
    scheme = nf.Tsit5() if scheme is None else scheme
    solve = nf.Adaptive(scheme, 1e-3, 1e-3, max_steps=64, **options)
    return nf.NeuralODE(network(nf.PiecewiseConstant(2)), solve)


def differentiated(model, result: Callable[[Any, Any], Any] = lambda model, x: model(x)):
    """A function of weights and states that returns results and gradients, and the weights."""
    graphdef, weights = nnx.split(model)

    def function(weights, x):
        def loss(weights, x):
            y = result(nnx.merge(graphdef, weights), x)
            return jnp.sum(y**2), y

        options: Any = {"argnums": (0, 1), "has_aux": True, "allow_int": True}
        (_, y), slopes = jax.value_and_grad(loss, **options)(weights, x)
        leaves = jax.tree.leaves(slopes)
        return y, [slope for slope in leaves if jnp.issubdtype(slope.dtype, jnp.floating)]

    return function, weights


def noisy(make):
    field = st.StochasticDepth(nf.fields.MLP(2, hidden=4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
    return differentiated(make(field, 4), lambda model, x: model.sample(x, jax.random.key(0)))


def training(model=None):
    """The compiled training step, its state and its other arguments."""

    def loss(model, batch):
        return jnp.mean((model(batch["x"])[:, 0] - batch["y"]) ** 2)

    points = {name: values.astype(np.float32) for name, values in data.moons(32).items()}
    model = grid(nf.Heun()) if model is None else model
    run = Run(model, loss, optax.adam(1e-2), points, 8, None, None, 0, None)
    state = run.start()
    return run, state, next(iter(run.source.chunks(0, 0)))[0]


SCHEMES = {
    "Euler": nf.Euler,
    "Heun": nf.Heun,
    "Midpoint": nf.Midpoint,
    "Ralston": nf.Ralston,
    "Bosh3": nf.Bosh3,
    "RK4": nf.RK4,
    "ThreeEighths": nf.ThreeEighths,
    "Tsit5": nf.Tsit5,
    "Dopri5": nf.Dopri5,
    "Dopri8": nf.Dopri8,
    "AB5": lambda: S.adams_bashforth(5),
    "leapfrog": S.leapfrog,
    "momentum": lambda: S.momentum(0.5),
    "ConsistentLM": lambda: S.ConsistentLM(-0.3),
    "LMResNet": lambda: S.LMResNet(S.PerStep(jnp.full(STEPS - 1, 0.05))),
    "LinearMultistep": lambda: S.LinearMultistep([1.0, 0.0], [1.5, -0.5]),
    "PolyNet": lambda: S.PolyNet(2),
    "FixedPointEuler": lambda: S.FixedPointEuler(3),
    "FractalNet": lambda: S.FractalNet.learned(STEPS),
    "ConsistentFractalNet": lambda: S.ConsistentFractalNet(0.0, 0.5),
    "FractalExpansion": lambda: S.FractalExpansion([0.5, 2.0]),
    "Reversible": lambda: S.Reversible(nf.Heun()),
    "RevNet": S.RevNet,
}
IMPLICIT = {
    "ImplicitEuler": nf.ImplicitEuler,
    "ImplicitTrapezoid": S.ImplicitTrapezoid,
    "Kvaerno3": nf.Kvaerno3,
}
BASES = {
    "PiecewiseConstant": lambda: nf.PiecewiseConstant(STEPS),
    "PiecewiseLinear": lambda: nf.PiecewiseLinear(STEPS),
    "CubicSpline": lambda: nf.CubicSpline(STEPS),
    "Legendre": lambda: nf.Legendre(3),
}
DEPTHS = np.linspace(0.1, 0.9, 3, dtype=np.float32)


def basis(name):
    return grid(nf.Heun(), network(BASES[name]()))


# Fixed grids, each one loop forward and one backward. With weights on a single cell, that is a loop
# inside of a loop over cells.
SCANS: dict[str, Callable[[], Any]] = {
    **{f"scheme {name}": lambda make=make: grid(make()) for name, make in SCHEMES.items()},
    **{f"basis {name}": lambda name=name: basis(name) for name in BASES if name != "Legendre"},
    "scheme LieTrotter": lambda: grid(S.LieTrotter(), in_parts()),
    "scheme Strang": lambda: grid(S.Strang(), in_parts()),
    "memory full": lambda: grid(nf.Heun(), memory="full"),
    "memory reversible": lambda: grid(S.RevNet(), memory="reversible"),
}
CELLS: dict[str, Callable[[], Any]] = {
    **{name: lambda make=make: differentiated(make()) for name, make in SCANS.items()},
    **{
        f"scheme {k}": lambda make=make: differentiated(grid(make()))
        for k, make in IMPLICIT.items()
    },
    "basis Legendre": lambda: differentiated(basis("Legendre")),
    "memory two_level": lambda: differentiated(grid(nf.Heun(), memory="two_level")),
    "states in bfloat16": lambda: differentiated(
        grid(nf.Heun(), network(BASES["PiecewiseLinear"](), jnp.bfloat16))
    ),
    "adaptive steps": lambda: differentiated(adaptive()),
    "adaptive direct": lambda: differentiated(adaptive(gradient="direct")),
    "adaptive continuous": lambda: differentiated(adaptive(gradient="continuous")),
    "alone steps": lambda: differentiated(adaptive(per_sample=True)),
    "alone direct": lambda: differentiated(adaptive(per_sample=True, gradient="direct")),
    "alone continuous": lambda: differentiated(adaptive(per_sample=True, gradient="continuous")),
    "adaptive implicit steps": lambda: differentiated(adaptive(nf.ImplicitEuler())),
    "adaptive implicit direct": lambda: differentiated(
        adaptive(nf.ImplicitEuler(), gradient="direct")
    ),
    "depths of a grid": lambda: differentiated(
        grid(nf.Heun()), lambda model, x: model.trajectory(x, DEPTHS)
    ),
    "depths of an adaptive solve": lambda: differentiated(
        adaptive(), lambda model, x: model.trajectory(x, jnp.asarray(DEPTHS))
    ),
    "inverse": lambda: differentiated(grid(nf.Heun()), lambda model, y: model.invert(y)),
    "normalising flow": lambda: differentiated(
        nf.transport.NormalisingFlow(grid(nf.RK4()), Gaussian()),
        lambda model, x: model.log_prob(x),
    ),
    "random network": lambda: noisy(st.RandomNetwork),
    "SDE": lambda: noisy(st.NeuralSDE),
}
# Cells whose batch has any size; the others differ from these in nothing that sees the batch.
SYMBOLIC = [
    "memory two_level",
    "memory reversible",
    "scheme ImplicitEuler",
    "adaptive steps",
    "alone steps",
    "states in bfloat16",
    "depths of a grid",
    "inverse",
    "normalising flow",
    "random network",
    "SDE",
]


def lowered(function, *arguments, platforms=PLATFORMS):
    return export.export(jax.jit(function), platforms=platforms)(*arguments)


def check_text(text):
    assert "callback" not in text, "the program calls the host"
    assert not re.search(r"[<x]f64\b", text), "the program holds numbers in double precision"


def flat(function, *arguments):
    """The function of the arrays among the arguments, which files of programs can hold."""
    leaves, form = jax.tree.flatten(arguments)
    return lambda *leaves: jax.tree.leaves(function(*form.unflatten(leaves))), leaves


def dtype(name):
    return jnp.bfloat16 if name == "states in bfloat16" else jnp.float32


@functools.cache
def exported(name, batch="3"):
    """The function of a cell, its arrays, and its program for a batch: "batch" has any size."""
    (size,) = export.symbolic_shape(batch)
    function, weights = CELLS[name]()
    inner, leaves = flat(function, weights, states(size, dtype(name)))
    return inner, leaves, lowered(inner, *leaves)


def test_the_number_of_cells():
    assert len(CELLS) == 50


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_are_lowered_for_every_platform(name):
    """A program that is written, read and run computes what the layer computes."""
    pytest.importorskip("flatbuffers", reason="JAX writes exported programs with it")
    inner, leaves, program = exported(name)
    assert program.platforms == PLATFORMS
    text = program.mlir_module()
    check_text(text)
    if name in SCANS:
        assert text.count("stablehlo.while") == 2
    *leaves, x = leaves
    leaves.append(jax.random.normal(jax.random.key(1), x.shape, x.dtype))
    close = 0.05 if dtype(name) == jnp.bfloat16 else 1e-5
    there = export.deserialize(program.serialize()).call(*leaves)
    for here, other in zip(jax.jit(inner)(*leaves), there, strict=True):
        assert here.dtype == other.dtype
        a, b = np.asarray(here, float), np.asarray(other, float)
        np.testing.assert_allclose(a, b, close, close)


@pytest.mark.parametrize("name", SYMBOLIC)
def test_batches_of_any_size_are_lowered(name):
    check_text(exported(name, "batch")[2].mlir_module())


def test_a_batch_of_any_size_is_refused_where_it_cannot_be_lowered():
    function, weights = CELLS["depths of an adaptive solve"]()
    (batch,) = export.symbolic_shape("batch")
    with pytest.raises(InputError, match="for x of known sizes, got the shape"):
        lowered(function, weights, states(batch))


def test_a_program_for_any_batch_computes_the_same():
    pytest.importorskip("flatbuffers", reason="JAX writes exported programs with it")
    inner, leaves, program = exported("alone steps", "batch")
    there = export.deserialize(program.serialize())
    x = jax.random.normal(jax.random.key(1), (5, 2), jnp.float32)
    *leaves, _ = leaves
    for here, other in zip(jax.jit(inner)(*leaves, x), there.call(*leaves, x), strict=True):
        # Entries are sums that cancel: rounding is relative to the largest one.
        np.testing.assert_allclose(here, other, rtol=0, atol=1e-6 * float(jnp.abs(here).max()))


def test_programs_do_not_grow_with_depth():
    def operations(steps):
        solve = nf.FixedGrid(nf.RK4(), steps=steps, memory="two_level")
        function, weights = differentiated(nf.NeuralODE(network(nf.PiecewiseLinear(steps)), solve))
        return lowered(function, weights, states()).mlir_module().count(" stablehlo.")

    assert operations(64) == operations(32)


def test_the_training_step_is_lowered_for_every_platform():
    """One loop over steps of the training, and in it one forward and one backward."""
    run, state, read = training()
    inner, leaves = flat(run._advance, state, read, *map(jnp.asarray, (0, 0, 2)))
    check_text(lowered(inner, *leaves).mlir_module())
    # Random keys have a loop of their own on CPUs alone.
    text = lowered(inner, *leaves, platforms=("cuda",)).mlir_module()
    assert text.count("stablehlo.while") == 3


def test_a_training_overwrites_the_moments_of_its_optimiser():
    """The weights before the steps under way are kept: they are the last good ones."""
    run, state, read = training()
    numbers: Any = [jnp.asarray(number) for number in (0, 0, 2)]
    moved = run.advance(state, read, *numbers)
    with jax.transfer_guard("disallow"):
        moved = run.advance(moved, read, *numbers)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.optimiser))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.rest, moved)))


def test_a_training_holds_no_third_copy_of_its_weights():

    def make(rngs):
        return nf.fields.MLP(2, hidden=512, rngs=rngs)

    field = nf.DepthVarying(make, nf.PiecewiseConstant(STEPS), rngs=nnx.Rngs(0))
    run, state, read = training(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=STEPS)))
    used: Any = jax.jit(run._advance).lower(state, read, 0, 0, 2).compile().memory_analysis()
    weights, moments = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(part))
        for part in (state.params, state.optimiser)
    )
    assert used.output_size_in_bytes > weights + moments > 2.9 * weights
    assert used.temp_size_in_bytes < 2 * weights


def test_compiled_layers_transfer_nothing():
    for layer in (grid(nf.Heun()), adaptive()):
        graphdef, weights = nnx.split(layer)
        call = jax.jit(lambda weights, x, graphdef=graphdef: nnx.merge(graphdef, weights)(x))
        x = jnp.ones((3, 2), jnp.float32)
        jax.block_until_ready(call(weights, x))
        with jax.transfer_guard("disallow"):
            jax.block_until_ready(call(weights, x))


def products(text):
    """The products of matrices in a program that add numbers up."""
    lines = re.findall(r"stablehlo.dot_general.*", text)
    return [line for line in lines if "contracting_dims = [] x []" not in line]


@pytest.mark.parametrize(
    "name", ["adaptive steps", "alone continuous", "depths of an adaptive solve"]
)
def test_products_keep_all_digits_where_they_decide(name):
    check_digits(exported(name)[2].mlir_module())


def test_products_keep_all_digits_in_implicit_steps():
    layer = grid(nf.ImplicitEuler(), network(nf.PiecewiseConstant(STEPS)))
    function, weights = differentiated(layer)
    check_digits(lowered(function, weights, states()).mlir_module())


def check_digits(text):
    lines = products(text)
    assert lines and all("precision = [HIGHEST, HIGHEST]" in line for line in lines)


def test_a_chosen_precision_stays():
    function, weights = differentiated(adaptive())
    with jax.default_matmul_precision("high"):
        text = lowered(function, weights, states()).mlir_module()
    assert any("[HIGH, HIGH]" in line for line in products(text))


def test_fixed_grids_multiply_as_the_platform_does():
    text = exported("basis PiecewiseConstant")[2].mlir_module()
    assert not any("HIGHEST" in line for line in products(text))


@pytest.mark.parametrize("judge", [nf.check_gradient, nf.labs.deep_limit.certify])
def test_judgements_multiply_in_all_digits(judge):
    """A layer on a fixed grid is compared with itself to more digits than accelerators multiply."""
    seen = []

    def velocity(a, x):
        seen.append(jax.config.jax_default_matmul_precision)  # pyright: ignore
        return a * x

    field = nf.from_function(velocity, jnp.asarray(-1.0, jnp.float32))
    judge(nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=8)), jnp.ones((2, 1), jnp.float32))
    assert set(seen) == {"highest"}


def test_trained_networks_are_compared_in_all_digits():
    seen = []

    def activation(x):
        seen.append(jax.config.jax_default_matmul_precision)  # pyright: ignore
        return jnp.tanh(x)

    next(nf.labs.deep_limit.descend([2], activation=activation, seeds=1, samples=2, iterations=1))
    assert set(seen) == {"highest"}


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
@pytest.mark.parametrize("name", ["memory two_level", "scheme ImplicitEuler", "alone steps"])
def test_programs_for_a_mesh_need_no_devices(name, kind):
    mesh = AbstractMesh((8,), ("data",), axis_types=(kind,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((16, 2), jnp.float32, sharding=spread)
    function, weights = CELLS[name]()
    program = lowered(function, weights, x)
    assert program.nr_devices == 8
    check_text(program.mlir_module())


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_weights_that_are_spread_over_depth_are_lowered(kind):
    mesh = AbstractMesh((STEPS,), ("depth",), axis_types=(kind,))
    function, weights = CELLS["basis PiecewiseConstant"]()

    def spread(leaf):
        along = NamedSharding(mesh, PartitionSpec("depth", *[None] * (leaf.ndim - 1)))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=along)

    whole = NamedSharding(mesh, PartitionSpec(None, None))
    x = jax.ShapeDtypeStruct((3, 2), jnp.float32, sharding=whole)
    program = lowered(function, jax.tree.map(spread, weights), x)
    assert program.nr_devices == STEPS
    check_text(program.mlir_module())
