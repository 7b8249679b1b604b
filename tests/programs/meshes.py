"""Walks and differentiates layers on meshes of eight devices, and prints how far each is off.

The reference is the same layer on one device. A line is "AXES NAME DIFFERENCE SPEC".
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import neuralflow as nf

jax.config.update("jax_enable_x64", True)


class Attending(nnx.Module):
    """A field with a mask for each sample."""

    def __init__(self):
        self.net = nf.fields.MLP(2, hidden=3, param_dtype=float, rngs=nnx.Rngs(0))

    def __call__(self, x, context):
        return jnp.where(context, self.net(x), 0)


def varying(basis=None):
    def make(rngs):
        return nf.fields.MLP(2, hidden=3, param_dtype=float, rngs=rngs)

    return nf.DepthVarying(make, basis or nf.PiecewiseConstant(2), rngs=nnx.Rngs(0))


def loss(layer, x, context):
    y = layer(x, context=context)
    return jnp.sum(y**2), y


def whole(layer, x, context):
    (_, y), slopes = nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(layer, x, context)
    return y, slopes


points = jax.random.normal(jax.random.key(0), (8, 2))
pictures = jax.random.normal(jax.random.key(0), (8, 4, 4, 4))
mask = jnp.arange(8)[:, None] % 3 > 0


def layers():
    conv = nf.fields.ConvBlock(4, groups=2, param_dtype=float, rngs=nnx.Rngs(0))
    step = nf.FixedGrid(nf.Euler(), steps=2)
    return {
        "fixed": (nf.NeuralODE(varying(), step), points, None),
        "tied": (nf.NeuralODE(Attending(), step), points, mask),
        "convolution": (nf.NeuralODE(conv, step), pictures, None),
        "implicit": (
            nf.NeuralODE(varying(), nf.FixedGrid(nf.ImplicitEuler(), steps=2)),
            points,
            None,
        ),
        "adaptive": (nf.NeuralODE(varying(), nf.Adaptive(nf.Tsit5(), 1e-5, 1e-5)), points, None),
        "density": (Density(nf.FixedGrid(nf.RK4(), steps=2)), points, None),
        "adaptive-density": (Density(nf.Adaptive(nf.Tsit5(), 1e-5, 1e-5)), points, None),
        "alone": (
            nf.NeuralODE(Attending(), nf.Adaptive(nf.Tsit5(), 1e-5, 1e-5, per_sample=True)),
            points,
            mask,
        ),
    }


class Gaussian(nnx.Module):
    """A standard normal base, up to a constant."""

    def log_prob(self, x):
        return -jnp.sum(x**2, -1) / 2

    def sample(self, key, shape):
        return jax.random.normal(key, (*shape, 2))


class Density(nnx.Module):
    """The log-densities of a normalising flow, in the place of a layer."""

    def __init__(self, solve):
        base: Any = Gaussian()
        self.flow = nf.transport.NormalisingFlow(nf.NeuralODE(varying(), solve), base)

    def __call__(self, x, context):
        return self.flow.log_prob(x)


WANTED = {name: nnx.jit(whole)(*given) for name, given in layers().items()}
for kind in (AxisType.Explicit, AxisType.Auto):
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(kind,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    # A call leaves the weights on its mesh.
    for name, (layer, x, context) in layers().items():
        held = None if context is None else jax.device_put(context, spread)
        got = nnx.jit(whole)(layer, jax.device_put(x, spread), held)
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(WANTED[name]), strict=True)
        off = max(np.abs(np.asarray(a) - b).max() / max(1, np.abs(b).max()) for a, b in pairs)
        print(kind.name, name, off, got[0].sharding.spec[0], flush=True)
    grid = nf.NeuralODE(varying(), nf.FixedGrid(nf.Euler(), steps=2))
    y = grid(points)
    y = jax.device_put(y, spread)
    print(kind.name, "inverse", np.abs(np.asarray(grid.invert(y)) - points).max(), "data")
    # Eight knots are spread, one on each device, and fifteen are whole on each of them.
    deep = nf.NeuralODE(varying(nf.PiecewiseLinear(7)), nf.FixedGrid(nf.RK4(), steps=7))
    wanted = nf.refined(deep, 2)(points)
    for leaf in jax.tree.leaves(nnx.state(deep), is_leaf=lambda leaf: isinstance(leaf, nnx.Param)):
        leaf.set_value(jax.device_put(leaf.get_value(), spread))
    finer = nf.refined(deep, 2, points)
    print(kind.name, "refined", np.abs(np.asarray(finer(points)) - wanted).max(), "data")
    moved = grid.per_step(jax.device_put(points, spread), lambda block, x: block(x))
    print(kind.name, "steps", np.abs(np.asarray(moved)[-1] - np.asarray(y)).max(), "data")
