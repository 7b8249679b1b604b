"""A training step of an LM-ResNet with the channels first, eager and compiled."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data.images import labelled, lm_resnet

F = torch.nn.functional


class Branch(torch.nn.Module):
    """(norm, ReLU, convolution) twice, or once for a shortcut."""

    def __init__(self, widths: list[int], kernel: int, stride: int = 1):
        super().__init__()
        self.stride, self.padding = stride, kernel // 2
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(a) for a in widths[:-1])
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(a, b, kernel, bias=False) for a, b in itertools.pairwise(widths)
        )

    def forward(self, x: Any) -> Any:
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            stride, p = (self.stride, self.padding) if i == 0 else (1, self.padding)
            x = norm(x).relu()
            if stride == 1:
                x = F.conv2d(x, conv.weight, padding=p)
            else:
                x = F.conv2d(F.pad(x, (0, p, 0, p)), conv.weight, stride=stride)
        return x


class Stage(torch.nn.Module):
    """Blocks of one width, which walk as the LM-ResNet does."""

    def __init__(self, inputs: int, width: int, blocks: int):
        super().__init__()
        self.entry = inputs != width
        if self.entry:
            self.shortcut = Branch([inputs, width], 1, 2)
            self.first = Branch([inputs, width, width], 3, 2)
        self.block = torch.nn.ModuleList(
            Branch([width, width, width], 3) for _ in range(blocks - self.entry)
        )
        self.k = torch.nn.Parameter(torch.zeros(blocks - 1))

    def forward(self, x: Any) -> Any:
        blocks = list(self.block)
        before = self.shortcut(x) if self.entry else x
        x = before + (self.first if self.entry else blocks.pop(0))(x)
        for k, block in zip(self.k, blocks, strict=True):
            before, x = x, (1 - k) * x + k * before + block(x)
        return x


class Network(torch.nn.Module):
    """The network, with the names of the weights that `lm_resnet` has."""

    def __init__(self, blocks: int, width: int):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stages = torch.nn.Sequential(
            *(Stage(max(width, width * 2**i // 2), width * 2**i, blocks) for i in range(3))
        )
        self.norm = torch.nn.BatchNorm2d(4 * width)
        self.head = torch.nn.Linear(4 * width, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.stages(self.stem(x))).relu().mean((2, 3)))


def step(threads: int, compiled: bool, blocks: int, width: int, batch: int, size: int) -> Any:
    """Build the loss and its gradient, with parameters of its own for every block."""
    torch.set_num_threads(threads)
    network = Network(blocks, width)
    weights = lm_resnet(blocks, width)
    parameters = {name: _parameters(network, name) for name in weights}
    with torch.no_grad():
        for name, value in weights.items():
            rows = value if ".block." in name else [value]
            for parameter, row in zip(parameters[name], rows, strict=True):
                parameter.copy_(torch.tensor(_channels_first(row)))
    images, labels = labelled(batch, size)
    x, y = torch.tensor(np.moveaxis(images, -1, 1).copy()), torch.tensor(labels)
    run = torch.compile(network) if compiled else network

    def run_step() -> Any:
        network.zero_grad()
        loss = F.cross_entropy(run(x), y)
        loss.backward()
        slopes = {n: [_channels_last(p.grad) for p in ps] for n, ps in parameters.items()}
        named = {n: rows if ".block." in n else rows[0] for n, rows in slopes.items()}
        return {"loss": loss, **named}

    return run_step, ()


def _parameters(network: Any, name: str) -> list[Any]:
    """Return the parameter of a name, or that of every block of a stage."""
    name = name.replace(".kernel", ".weight").replace(".scale", ".weight")
    if ".block." not in name:
        return [network.get_parameter(name)]
    stage, rest = name.split(".block.")
    blocks = network.get_submodule(f"{stage}.block")
    return [block.get_parameter(rest) for block in blocks]


def _channels_first(array: np.ndarray) -> np.ndarray:
    """Return a kernel or a matrix of JAX in the order of PyTorch."""
    order = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim, (0,))
    return np.ascontiguousarray(array.transpose(order))


def _channels_last(array: Any) -> Any:
    """Return a kernel or a matrix of PyTorch in the order of JAX."""
    return array.permute({2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim, (0,)))
