"""Gradients of convolutions over depth: a NeuralODE, loops by hand, and PyTorch.

The first cases have a network of N blocks x + conv_k(x) / N, with 3 x 3 kernels and biases. The
routes compute the gradient of the sum of squares after the last block, in the weights and the
images. All keep the states of all blocks. JAX has the channels last, and PyTorch has the channels
first. The same blocks of `nnx.Conv` stand in the NeuralODE, in a Python list under jit, and in a
hand-written scan. A last route is the NeuralODE without the derivatives that a solve gives to
`nnx.Conv`.

The other cases are scans without biases over `nf.fields.convolution` and over
`lax.conv_general_dilated`. Their values are the same, and their derivatives are written
differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

import neuralflow as nf
from experiments.benchmarks import measure
from experiments.benchmarks.compare import Route, Workload, torch_routes
from experiments.benchmarks.data.images import convolutions
from experiments.benchmarks.plan import Plan
from experiments.stages.stage import Case

NETWORKS = ((32, 16, 8, 4), (32, 16, 8, 16), (64, 8, 64, 4))
"""Channels, size of the images, batch, depth."""
LOOPS = ((16, 8, 64, 4, 1), (32, 7, 128, 4, 1), (16, 14, 64, 8, 1), (16, 8, 64, 4, 16))
"""Channels, size of the images, batch, depth, groups."""


def by_name(*arguments: Any, **options: Any) -> jax.Array:
    """JAX's convolution under a name of its own, which no solve replaces."""
    return lax.conv_general_dilated(*arguments, **options)


def layer(convolve: Callable[..., Any] = lax.conv_general_dilated, **case: Any) -> Any:
    """Build a NeuralODE on `nnx.Conv`."""
    channels, depth = case["channels"], case["depth"]
    field = nf.DepthVarying(
        lambda rngs: nnx.Conv(channels, channels, (3, 3), conv_general_dilated=convolve, rngs=rngs),
        nf.PiecewiseConstant(depth),
        rngs=nnx.Rngs(0),
    )
    grid = nf.FixedGrid(nf.Euler(), steps=depth, memory="full")
    graphdef, state = nnx.split(field)

    def network(weights: Any, x: Any) -> Any:
        return nf.NeuralODE(nnx.merge(graphdef, _state(state, weights)), grid)(x)

    return _gradient(network, *convolutions(**case))


def plain(**case: Any) -> Any:
    """Build a NeuralODE whose convolutions keep the derivatives of JAX."""
    return layer(by_name, **case)


def listed(**case: Any) -> Any:
    """Build a list of blocks, which jit unrolls."""
    block, depth = _block(case["channels"]), case["depth"]

    def network(weights: Any, x: Any) -> Any:
        for k in range(depth):
            x = x + block({name: w[k] for name, w in weights.items()}, x) / depth
        return x

    return _gradient(network, *convolutions(**case))


def scan(**case: Any) -> Any:
    """Build a hand-written scan over the blocks."""
    block, depth = _block(case["channels"]), case["depth"]

    def network(weights: Any, x: Any) -> Any:
        return lax.scan(lambda x, w: (x + block(w, x) / depth, None), x, weights)[0]

    return _gradient(network, *convolutions(**case))


def loop(convolve: Callable[..., Any], **case: Any) -> Any:
    """Build a hand-written scan over the kernels of a convolution."""
    depth, groups = case["depth"], case["groups"]
    layout = {
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "feature_group_count": groups,
    }

    def network(weights: Any, x: Any) -> Any:
        def step(x: Any, kernel: Any) -> Any:
            return x + convolve(x, kernel, (1, 1), "SAME", **layout) / depth, None

        return lax.scan(step, x, weights["kernel"])[0]

    weights, x = convolutions(**case)
    return _gradient(network, {"kernel": weights["kernel"]}, x)


def ours_in_a_loop(**case: Any) -> Any:
    return loop(nf.fields.convolution, **case)


def lax_in_a_loop(**case: Any) -> Any:
    return loop(lax.conv_general_dilated, **case)


def _block(channels: int) -> Callable[..., Any]:
    """Return `nnx.Conv` as a function of its weights and its input."""
    graphdef, state = nnx.split(nnx.Conv(channels, channels, (3, 3), rngs=nnx.Rngs(0)))
    return lambda weights, x: nnx.merge(graphdef, _state(state, weights))(x)


def _state(state: Any, weights: Any) -> Any:
    """Return a state of `nnx.Conv`, or of a stack of them, with other weights."""
    return jax.tree.unflatten(jax.tree.structure(state), [weights["bias"], weights["kernel"]])


def _gradient(network: Callable[..., Any], weights: Any, x: Any) -> Any:
    """Return the compiled gradient of a network, and its arguments."""

    def gradient(weights: Any, x: Any) -> Any:
        d_weights, d_x = measure.gradient(network)(weights, x)
        return {**d_weights, "x": d_x}

    arguments = {name: jnp.asarray(w) for name, w in weights.items()}, jnp.asarray(x)
    return jax.jit(gradient), arguments


HERE = "workloads.convolution"
TORCH = (
    *torch_routes("peers.convolution:network", compiled=False),
    *torch_routes("peers.convolution:network", "PyTorch, compiled", compiled=True),
)
SAME: dict[str, float] = dict.fromkeys(("x", "kernel", "bias"), 2e-4)
NETWORK = Workload(
    routes=(
        Route("NeuralODE", f"{HERE}:layer"),
        Route("NeuralODE with JAX's derivatives", f"{HERE}:plain"),
        Route("list of blocks", f"{HERE}:listed"),
        Route("scan by hand", f"{HERE}:scan"),
        *TORCH,
    ),
    pairs=tuple(
        ("NeuralODE", other)
        for other in (
            "list of blocks",
            "scan by hand",
            "NeuralODE with JAX's derivatives",
            *(route.name for route in TORCH),
        )
    ),
    same=SAME,
)
LOOP = Workload(
    routes=(
        Route("nf.fields.convolution", f"{HERE}:ours_in_a_loop"),
        Route("lax.conv_general_dilated", f"{HERE}:lax_in_a_loop"),
    ),
    pairs=(("nf.fields.convolution", "lax.conv_general_dilated"),),
    same=SAME,
)


def cases(plan: Plan) -> Iterator[Case]:
    for channels, size, batch, depth in ((4, 4, 2, 2),) if plan.quick else NETWORKS:
        yield NETWORK.case(
            f"network, {channels} channels, {size} x {size}, batch {batch}, depth {depth}",
            {"channels": channels, "size": size, "batch": batch, "depth": depth},
            plan,
        )
    for channels, size, batch, depth, groups in ((4, 4, 2, 2, 1),) if plan.quick else LOOPS:
        yield LOOP.case(
            f"scan, {channels} channels, {size} x {size}, batch {batch}, depth {depth}, "
            f"groups {groups}",
            {"channels": channels, "size": size, "batch": batch, "depth": depth, "groups": groups},
            plan,
            seconds=4.0,
        )
