"""Gradients of convolutions in a loop over depth: jax's convolution against neuralflow's.

    python -m experiments.benchmarks.convolution

The loop is a scan over the layers of x + h conv(x) in float32. The gradients are those of the
weights and the input. `slower` is the time with `lax.conv_general_dilated` over the time with
`nf.fields.convolution`: the median of interleaved runs, with the quartiles in brackets.

The second table compares a `NeuralODE` on plain `nnx.Conv` with a Python list of the same blocks.
`layer` and `lax in the layer` are ratios to the gradient of the list: with the derivatives that a
solve gives to flax's convolutions, and with those of `lax.conv_general_dilated`.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

import neuralflow as nf
from experiments.benchmarks.measure import ratio, report, side_by_side

LAYOUT = ("NHWC", "HWIO", "NHWC")


def gradient(convolve: Any, layers: int, groups: int) -> Any:
    """Return the gradient of the squared norm after the last layer."""

    run = functools.partial(convolve, dimension_numbers=LAYOUT, feature_group_count=groups)

    def loss(kernels: jax.Array, x: jax.Array) -> jax.Array:
        def step(x, kernel):
            return (x + run(x, kernel, (1, 1), "SAME") / layers, None)

        return jnp.sum(lax.scan(step, x, kernels)[0] ** 2)

    return jax.grad(loss, argnums=(0, 1))


def compare(
    size: int, channels: int, batch: int, layers: int, groups: int, rounds: int
) -> dict[str, Any]:
    """Measure one case."""
    shapes = ((layers, 3, 3, channels // groups, channels), (batch, size, size, channels))
    arguments = tuple(
        0.1 * jax.random.normal(jax.random.key(k), shape) for k, shape in enumerate(shapes)
    )
    functions = {
        "lax": gradient(lax.conv_general_dilated, layers, groups),
        "ours": gradient(nf.fields.convolution, layers, groups),
    }
    measurements = side_by_side(functions, dict.fromkeys(functions, arguments), rounds)
    return {
        "image, channels, batch, layers": f"{size}x{size}, {channels}, {batch}, {layers}",
        "groups": groups,
        "slower": ratio(measurements["lax"].runs, measurements["ours"].runs),
    }


def by_name(*arguments: Any, **options: Any) -> jax.Array:
    """JAX's convolution under a name of its own, which no solve replaces."""
    return lax.conv_general_dilated(*arguments, **options)


def of_flax(depth: int, rounds: int) -> dict[str, Any]:
    """Measure layers of `nnx.Conv` against a list of blocks: 32 channels, 16x16 images, batch 8."""
    grid = nf.FixedGrid(nf.Euler(), steps=depth)

    def layer(convolve: Any) -> nf.NeuralODE:
        def make(rngs: nnx.Rngs) -> nnx.Conv:
            return nnx.Conv(32, 32, (3, 3), conv_general_dilated=convolve, rngs=rngs)

        field = nf.DepthVarying(make, nf.PiecewiseConstant(depth), rngs=nnx.Rngs(0))
        return nf.NeuralODE(field, grid)

    def squared(module: Any, run: Any) -> tuple[Any, tuple[Any, ...]]:
        graphdef, state = nnx.split(module)

        def loss(state: Any, x: jax.Array) -> jax.Array:
            return jnp.sum(run(nnx.merge(graphdef, state), x) ** 2)

        x = jax.random.normal(jax.random.key(1), (8, 16, 16, 32))
        return jax.grad(loss, argnums=(0, 1)), (state, x)

    def listed(blocks: Any, x: jax.Array) -> jax.Array:
        for block in blocks:
            x = x + block(x) / depth
        return x

    ours, plain = layer(lax.conv_general_dilated), layer(by_name)
    blocks = nnx.List([ours.field.at((k + 0.5) / depth) for k in range(depth)])
    cases = {
        "list": squared(blocks, listed),
        "layer": squared(ours, lambda layer, x: layer(x)),
        "lax in the layer": squared(plain, lambda layer, x: layer(x)),
    }
    functions = {name: gradient for name, (gradient, _) in cases.items()}
    arguments = {name: given for name, (_, given) in cases.items()}
    measured = side_by_side(functions, arguments, rounds)
    return {"blocks": depth} | {
        name: ratio(measured[name].runs, measured["list"].runs)
        for name in ("layer", "lax in the layer")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="interleaved runs of either")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("experiments/benchmarks/results"),
        help="folder for the JSON file",
    )
    options = parser.parse_args()
    cases = ((8, 16, 64, 4, 1), (7, 32, 128, 4, 1), (14, 16, 64, 8, 1), (8, 16, 64, 4, 16))
    rows = [compare(*case, options.rounds) for case in cases]
    report("Gradients of convolutions in a loop over depth", rows, options.out / "convolution.json")
    report(
        "Gradients of nnx.Conv in a layer: ratio to a list of blocks",
        [of_flax(depth, options.rounds) for depth in (8, 16)],
        options.out / "convolution_in_layers.json",
    )


if __name__ == "__main__":
    main()
