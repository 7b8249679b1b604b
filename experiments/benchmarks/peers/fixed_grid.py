"""ResNets as a list of blocks, eager and compiled."""

from __future__ import annotations

from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.data.shared import resnet

MOST = 64
"""The blocks up to which PyTorch compiles a network. It unrolls them, which takes minutes then."""


def network(threads: int, compiled: bool, of: str, **case: Any) -> Any:
    """Build the network, with the weights of every block in parameters of their own."""
    torch.set_num_threads(threads)
    weights, states = resnet(**case)
    depth = case["depth"]
    if compiled and depth > MOST:
        raise ValueError(f"PyTorch unrolls {depth} blocks, and compiles them for minutes")
    blocks = [
        {name: torch.nn.Parameter(torch.tensor(w[k])) for name, w in weights.items()}
        for k in range(depth)
    ]
    x = torch.tensor(states).requires_grad_(of == "gradient")

    def walk(x: Any) -> Any:
        for block in blocks:
            hidden = torch.tanh(torch.addmm(block["in bias"], x, block["in"]))
            x = x + torch.addmm(block["out bias"], hidden, block["out"]) / depth
        return x

    run = torch.compile(walk) if compiled else walk

    def forward() -> Any:
        with torch.no_grad():
            return {"output": run(x)}

    def gradient() -> Any:
        x.grad = None
        for block in blocks:
            for w in block.values():
                w.grad = None
        (run(x) ** 2).sum().backward()
        return {"x": x.grad, **{n: [block[n].grad for block in blocks] for n in weights}}

    return {"forward": forward, "gradient": gradient}[of], ()


def kept(**case: Any) -> Any:
    """Build the gradient, which also tells the bytes that its forward pass keeps."""
    gradient, _ = network(1, False, **case)

    sizes: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        if not tensor.is_leaf:
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gradient()
    total = torch.tensor(float(sum(sizes.values())))
    return lambda: {**gradient(), "kept": total}, ()
