"""A process that prepares routes and runs them on request, with the clock inside.

Requests and answers are pickles on standard input and output. The process ends with its input.
`Bench` does the same work inside another process.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Started(NamedTuple):
    """What the first call of a route has shown.

    Attributes:
        first: The seconds of the first call, with tracing and compilation.
        memory: The bytes of temporary memory of a compiled program, or None.
        values: The arrays that the route has computed, by name.
    """

    first: float
    memory: int | None
    values: dict[str, np.ndarray]


class Failed(NamedTuple):
    """What went wrong, in words."""

    why: str


class Bench:
    """Routes that are ready to run in this process."""

    def __init__(self) -> None:
        self.runs: dict[str, Callable[[], Any]] = {}

    def clear(self) -> None:
        """Forget all routes, and what JAX and PyTorch have traced and compiled for them."""
        self.runs.clear()
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        if "torch._dynamo" in sys.modules:
            sys.modules["torch._dynamo"].reset()

    def missing(self, packages: tuple[str, ...]) -> list[str]:
        """Return the packages that this Python does not have."""
        return [name for name in packages if importlib.util.find_spec(name) is None]

    def start(self, name: str, where: str, case: Mapping[str, Any]) -> Started:
        """Prepare a route and call it once.

        Args:
            name: The name under which the route runs later.
            where: The function `module:name` that builds the route. It returns a function, and the
                arguments of that function. A function with a method `lower` is compiled ahead.
            case: The arguments of the builder.
        """
        module, _, attribute = where.partition(":")
        function, arguments = getattr(importlib.import_module(module), attribute)(**case)
        _warm_up()
        memory, began = None, time.perf_counter()
        if hasattr(function, "lower"):
            function = function.lower(*arguments).compile()
            analysis = function.memory_analysis()
            memory = int(analysis.temp_size_in_bytes) if analysis is not None else None
        out = _waited(function(*arguments))
        first = time.perf_counter() - began
        self.runs[name] = lambda: function(*arguments)
        return Started(first, memory, {key: _array(value) for key, value in out.items()})

    def run(self, name: str) -> float:
        """Run a route once more, and return the seconds."""
        began = time.perf_counter()
        _waited(self.runs[name]())
        return time.perf_counter() - began


def _warm_up() -> None:
    """Start what runs programs, so that no route pays for it."""
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        jax.jit(lambda x: x + 1)(0.0).block_until_ready()
    if torch := sys.modules.get("torch"):
        a = torch.ones(256, 256, requires_grad=True)
        (a @ a).sum().backward()


def _waited(out: Any) -> Any:
    """Wait for the arrays of JAX. Those of PyTorch on a CPU are there already."""
    if jax := sys.modules.get("jax"):
        jax.block_until_ready(out)
    return out


def _array(value: Any) -> np.ndarray:
    """Return the numbers of an array, or of a list of arrays of one shape."""
    if isinstance(value, list):
        return np.stack([_array(part) for part in value])
    return np.asarray(value.detach() if hasattr(value, "detach") else value)


def main() -> None:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open() as empty:
        os.dup2(empty.fileno(), 0)
    os.dup2(2, 1)  # What packages print is no answer.
    bench = Bench()
    while True:
        try:
            name, *arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = getattr(bench, name)(*arguments)
        except Exception as error:
            traceback.print_exc()
            answer = Failed(f"{type(error).__name__}: {str(error)[:300]}")
        pickle.dump(answer, answers)
        answers.flush()
