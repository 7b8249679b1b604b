"""A training step of an LM-ResNet (Lu et al.): neuralflow, JAX by hand, and PyTorch.

The network is the one of `experiments/lm_resnet/model.py`: three stages of pre-activation blocks
with batch norm in training, and a learned k in every step. The routes compute the mean cross
entropy of a batch and its gradient in all weights, and update the statistics. All keep the states
of all blocks. All start from the same weights. PyTorch has the channels first, and pads a
convolution of stride 2 as JAX does. Its running variances are those of samples and the others those
of the batch, so the statistics are not compared.

neuralflow walks every stage on a fixed grid with `nf.schemes.LMResNet`, and its convolutions are
`nf.fields.convolution`. By hand, the blocks are a list that jit unrolls, or a scan in every stage,
with `lax.conv_general_dilated`.

In float64, the gradients by hand and of PyTorch agree to 2e-13 of their largest entry. In float32
they differ from those by 4e-3 (neuralflow, by hand) and 4e-2 (PyTorch, the small slope in a k).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from experiments.benchmarks.compare import Route, Workload, torch_routes
from experiments.benchmarks.data.images import labelled, lm_resnet
from experiments.benchmarks.plan import Plan
from experiments.lm_resnet.model import Network
from experiments.stages.stage import Case

NETWORKS = ((3, 16, 32, 32),)
"""Blocks a stage, channels of the first stage, size of the images, batch."""


def grid(blocks: int, width: int, **case: Any) -> Any:
    """Build the network of neuralflow."""
    network = Network(20, "lm", blocks=blocks, width=width, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    paths: dict[Any, str] = {_path(name): name for name in lm_resnet(blocks, width)}
    names = [paths[path] for path, _ in nnx.to_flat_state(params)]

    def logits(weights: Any, x: Any) -> Any:
        leaves = [weights[name] for name in names]
        given = jax.tree.unflatten(jax.tree.structure(params), leaves)
        # A copy of the statistics belongs to this trace, which may change them.
        network = nnx.merge(graphdef, given, jax.tree.map(lambda array: array, rest))
        return network(x), nnx.state(network, nnx.BatchStat)

    return _step(logits, blocks, width, **case)


def listed(blocks: int, width: int, **case: Any) -> Any:
    """Build the network by hand with a list of blocks, which jit unrolls."""

    def walk(step: Callable[..., Any], carry: Any, rows: Any) -> Any:
        every = []
        for i in range(len(rows[0])):
            carry, statistics = step(carry, jax.tree.map(lambda row, i=i: row[i], rows))
            every.append(statistics)
        return carry, every

    return _by_hand(walk, blocks, width, **case)


def scan(blocks: int, width: int, **case: Any) -> Any:
    """Build the network by hand with a scan in every stage."""
    return _by_hand(lax.scan, blocks, width, **case)


def _by_hand(walk: Callable[..., Any], blocks: int, width: int, **case: Any) -> Any:
    """Build the network, with a way to walk over blocks of equal shape."""

    def step(carry: Any, row: Any) -> Any:
        (before, x), (k, block) = carry, row
        y, statistics = branch(block, x)
        return (x, (1 - k) * x + k * before + y), statistics

    def logits(weights: Any, x: Any) -> Any:
        every = []
        x = _convolution(x, weights["stem.kernel"], 1)
        for i in range(3):
            stage = part(weights, f"stages.{i}")
            stack = part(stage, "block")
            if i == 0:
                head, stack = (
                    jax.tree.map(lambda w, s=s: w[s], stack) for s in (0, slice(1, None))
                )
                before, (y, statistics) = x, branch(head, x)
            else:
                before, other = branch(part(stage, "shortcut"), x, 2)
                y, statistics = branch(part(stage, "first"), x, 2)
                every.append(other)
            (_, x), others = walk(step, (before, before + y), (stage["k"], stack))
            every += [statistics, others]
        x, statistics = _norm(x, weights["norm.scale"], weights["norm.bias"])
        mean = jnp.mean(jax.nn.relu(x), axis=(1, 2))
        return mean @ weights["head.kernel"] + weights["head.bias"], [*every, statistics]

    return _step(logits, blocks, width, **case)


def branch(weights: Any, x: Any, stride: int = 1) -> Any:
    """Return a branch of (norm, ReLU, convolution) twice or once, and the statistics."""
    every = []
    for i in range(len(weights) // 3):
        x, statistics = _norm(x, weights[f"norms.{i}.scale"], weights[f"norms.{i}.bias"])
        x = _convolution(jax.nn.relu(x), weights[f"convs.{i}.kernel"], stride if i == 0 else 1)
        every.append(statistics)
    return x, every


def part(weights: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the weights of a part of the network."""
    return {
        key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")
    }


def _norm(x: Any, scale: Any, bias: Any) -> Any:
    """Return a batch norm in training, and the new statistics of a new network."""
    axes = (0, 1, 2)
    mean = jnp.mean(x, axes)
    var = jnp.mean(x**2, axes) - mean**2
    y = (x - mean) * (lax.rsqrt(var + 1e-5) * scale) + bias
    return y, (0.1 * mean, 0.9 + 0.1 * var)


def _convolution(x: Any, kernel: Any, stride: int) -> Any:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)


def _step(logits: Callable[..., Any], blocks: int, width: int, batch: int, size: int) -> Any:
    """Return the compiled loss, gradient and statistics of a network, and their arguments."""

    def loss(weights: Any, x: Any, labels: Any) -> Any:
        out, statistics = logits(weights, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(out, labels)
        return jnp.mean(losses), statistics

    def step(*arguments: Any) -> Any:
        (value, statistics), slope = jax.value_and_grad(loss, has_aux=True)(*arguments)
        leaves = jax.tree.leaves(statistics)
        return {"loss": value, **slope} | {f"statistics {i}": s for i, s in enumerate(leaves)}

    arguments = lm_resnet(blocks, width), *labelled(batch, size)
    return jax.jit(step), jax.tree.map(jnp.asarray, arguments)


def _path(name: str) -> tuple[str | int, ...]:
    """Return where a network of neuralflow has the weight of a name."""
    name = name.replace(".block.", ".flow.field.stack.")
    if name.endswith(".k"):
        name = name.removesuffix("k") + "flow.solve_data.0"
    return tuple(int(key) if key.isdigit() else key for key in name.split("."))


HERE = "workloads.lm_resnet"
TORCH = (
    *torch_routes("peers.lm_resnet:step", compiled=False),
    *torch_routes("peers.lm_resnet:step", "PyTorch, compiled", compiled=True),
)
WORKLOAD = Workload(
    routes=(
        Route("LMResNet", f"{HERE}:grid"),
        Route("list of blocks", f"{HERE}:listed"),
        Route("scan by hand", f"{HERE}:scan"),
        *TORCH,
    ),
    pairs=tuple(
        ("LMResNet", other)
        for other in ("list of blocks", "scan by hand", *(route.name for route in TORCH))
    ),
    same={"loss": 1e-4, **dict.fromkeys(lm_resnet(2, 1), 1e-1)},
)


def cases(plan: Plan) -> Iterator[Case]:
    for blocks, width, size, batch in ((2, 2, 8, 4),) if plan.quick else NETWORKS:
        yield WORKLOAD.case(
            f"{6 * blocks + 2} layers, {width} channels, {size} x {size}, batch {batch}",
            {"blocks": blocks, "width": width, "size": size, "batch": batch},
            plan,
        )
