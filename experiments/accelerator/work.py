"""Operations of a program, counted in its jaxpr before any compiler changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the operations of products and convolutions, two for every multiply-add.

    A scan counts once for every step. A while loop counts once, since nobody knows its length.
    """
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name = equation.primitive.name
    out: Any = equation.outvars[0].aval if equation.outvars else None
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * out.size * prod(equation.invars[0].aval.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, layout = equation.invars[1].aval, equation.params["dimension_numbers"].rhs_spec
        return 2 * out.size * kernel.size // kernel.shape[layout[0]]
    times = equation.params.get("length", 1) if name == "scan" else 1
    return times * sum(_of(part) for part in _parts(equation.params))


def _parts(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the programs inside an equation: the body of a loop, branches, a jitted function."""
    for value in params.values():
        for part in value if isinstance(value, list | tuple) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part
