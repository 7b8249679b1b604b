"""The pre-activation ResNet and the LM-ResNet of Lu et al. (arXiv 1710.10121).

A stage of blocks at one width is a NeuralODE on [0, blocks] with steps of length one and batch
statistics in every cell. Both networks have one field a stage, and differ in the scheme. A residual
step of its own kind stands between stages, and its shortcut halves the image. An LM stage goes on
from there with that shortcut as the state before, as the authors' code does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import neuralflow as nf

Model = Literal["resnet", "lm"]

BLOCKS = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18, 164: 18}
"""Blocks a stage, by depth. At depth 164, the blocks are bottlenecks."""

_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Branch(nnx.Module):
    """A pre-activation residual branch: (norm, ReLU, convolution) for every kernel in turn."""

    def __init__(
        self, widths: list[int], kernels: list[int], stride: int, dtype: Any, rngs: nnx.Rngs
    ):
        pairs = list(zip(widths[:-1], widths[1:], kernels, strict=True))
        self.norms = nnx.List(
            nnx.BatchNorm(a, momentum=0.9, dtype=dtype, rngs=rngs) for a, _, _ in pairs
        )
        # The stride stands at the first 3 x 3 convolution.
        at = kernels.index(3) if 3 in kernels else 0
        self.convs = nnx.List(
            nnx.Conv(
                a, b, (k, k), stride if i == at else 1, use_bias=False, kernel_init=_INIT,
                dtype=dtype, rngs=rngs, conv_general_dilated=nf.fields.convolution,
            )
            for i, (a, b, k) in enumerate(pairs)
        )  # fmt: skip

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(jax.nn.relu(norm(y)))
        return y.astype(x.dtype)


class Stage(nnx.Module):
    """Blocks of one width.

    `entry` says whether the first block is a residual step with a projected shortcut.
    """

    def __init__(
        self, inputs: int, outputs: int, blocks: int, stride: int, model: Model,
        branch: Callable[..., Branch], survival: Callable[[int], Any] | None, dtype: Any,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.entry = stride > 1 or inputs != outputs
        steps = blocks - self.entry
        if self.entry:
            self.shortcut = Branch([inputs, outputs], [1], stride, dtype, rngs)
            self.first = branch(inputs, outputs, stride, rngs)

        def make(rngs):
            return branch(outputs, outputs, 1, rngs)

        field: Any = nf.DepthVarying(make, nf.PiecewiseConstant(steps), rngs=rngs)
        if survival is not None:
            thinned = nf.labs.stochastic.StochasticDepth(
                field, survival(int(self.entry)), per="batch", rngs=rngs
            )
            field = nf.labs.stochastic.Stepped(thinned, 1.0)
        scheme = nf.Euler()
        if model == "lm":
            # After an entry, every step has a state before it. At the start of the network, the
            # first step has none.
            scheme = nf.schemes.LMResNet.learned(steps + self.entry, rngs=rngs)
        self.flow = nf.NeuralODE(
            field, nf.FixedGrid(scheme, steps=steps, memory="full"), 0.0, float(steps)
        )

    def __call__(self, x: Array) -> Array:
        if not self.entry:
            return self.flow(x)
        before = self.shortcut(x)
        now = before + self.first(x)
        grid: Any = self.flow.discretisation
        if isinstance(grid.scheme, nf.schemes.LMResNet):
            grid = nf.FixedGrid(grid.scheme.after(before), steps=grid.steps, memory=grid.memory)
        return self.flow.with_solve(grid)(now)


class Network(nnx.Module):
    """A network from normalised images `(batch, height, width, channels)` to logits.

    `depth` is a key of BLOCKS, and `width` is the number of channels of the first stage, 16 as
    published. `dtype` is the arithmetic of the branches, such as bfloat16; the state is float32.

    `survival` asks for stochastic depth. It is the probability that the last block of a batch is
    computed. Block l of L is computed with the probability 1 - l / L (1 - survival), and the blocks
    between stages are always computed.
    """

    def __init__(
        self,
        depth: int,
        model: Model,
        *,
        channels: int = 3,
        classes: int = 10,
        width: int = 16,
        blocks: int | None = None,
        survival: float | None = None,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        expansion = 4 if depth == 164 else 1
        count = BLOCKS[depth] if blocks is None else blocks

        def branch(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> Branch:
            if expansion == 1:
                return Branch([inputs, outputs, outputs], [3, 3], stride, dtype, rngs)
            inner = outputs // expansion
            return Branch([inputs, inner, inner, outputs], [1, 3, 1], stride, dtype, rngs)

        self.stem = nnx.Conv(
            channels, width, (3, 3), use_bias=False, kernel_init=_INIT, dtype=dtype, rngs=rngs
        )
        widths = [width, *(expansion * width * m for m in (1, 2, 4))]

        def rule(stage: int) -> Callable[[int], Any] | None:
            """Return the survival rule of a stage, or None without stochastic depth.

            The rule takes the number of entries before the stage's flow, and returns the survival
            as a function of the flow's depth time.
            """
            last = survival
            if last is None:
                return None
            return lambda entries: nf.labs.stochastic.linear(
                last, length=3.0 * count, step=stage * count + entries + 1
            )

        self.stages = nnx.List(
            Stage(
                widths[i],
                widths[i + 1],
                count,
                1 if i == 0 else 2,
                model,
                branch,
                rule(i),
                dtype,
                rngs,
            )
            for i in range(3)
        )
        self.norm = nnx.BatchNorm(widths[-1], momentum=0.9, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        x = self.stem(x).astype(jnp.float32)
        for stage in self.stages:
            x = stage(x)
        return self.head(jnp.mean(jax.nn.relu(self.norm(x)).astype(jnp.float32), axis=(1, 2)))

    def learned_k(self) -> list[list[float]]:
        """Return the k of every stage in the order of its steps, and an empty list for a ResNet."""
        schemes = [stage.flow.discretisation.scheme for stage in self.stages]
        return [
            np.asarray(s.k[...]).tolist() for s in schemes if isinstance(s, nf.schemes.LMResNet)
        ]


def parameters(model: nnx.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
