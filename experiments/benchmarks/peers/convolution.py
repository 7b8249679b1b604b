"""A list of residual convolutions with the channels first, eager and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data.images import convolutions


def network(threads: int, compiled: bool, **case: Any) -> Any:
    """Build the gradient, with the weights of every block in parameters of their own."""
    torch.set_num_threads(threads)
    weights, images = convolutions(**case)
    depth = case["depth"]
    kernels = [_parameter(np.moveaxis(kernel, (3, 2), (0, 1))) for kernel in weights["kernel"]]
    biases = [_parameter(bias) for bias in weights["bias"]]
    x = _parameter(np.moveaxis(images, -1, 1))

    def walk(x: Any) -> Any:
        for kernel, bias in zip(kernels, biases, strict=True):
            x = x + torch.nn.functional.conv2d(x, kernel, bias, padding="same") / depth
        return x

    run = torch.compile(walk) if compiled else walk

    def gradient() -> Any:
        for parameter in (x, *kernels, *biases):
            parameter.grad = None
        (run(x) ** 2).sum().backward()
        return {
            "x": x.grad.movedim(1, -1),
            "kernel": [kernel.grad.permute(2, 3, 1, 0) for kernel in kernels],
            "bias": [bias.grad for bias in biases],
        }

    return gradient, ()


def _parameter(array: np.ndarray) -> Any:
    return torch.nn.Parameter(torch.tensor(np.ascontiguousarray(array)))
