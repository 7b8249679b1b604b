"""The classes of errors of this package, and checks of arguments that many places share.

The message of a refusal is one sentence that says what was given and what was expected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core


class InputError(ValueError):
    """Input is wrong and the caller can mend it.

    The message says what was given, what was expected, and the remedy.
    """


class InputTypeError(InputError, TypeError):
    """Input has the wrong type."""


class ExtraMissing(ImportError):
    """A package that an extra of this package brings is not installed.

    The message names the extra.
    """


def whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse anything but a whole number of at least a given size.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. A bool is not a whole number.
        least: The smallest value that is allowed.

    Raises:
        InputError: `value` is less than `least`.
        InputTypeError: `value` is not a whole number.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise InputTypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")


def positive(name: str, value: Any, remedy: str) -> None:
    """Refuse anything but a positive finite number.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.
        remedy: What to do instead, for the message.

    Raises:
        InputError: `value` is not a number, not positive or not finite.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.floating)
        or not 0 < value < np.inf
    ):
        raise InputError(f"{name} is a positive number, got {value!r}; {remedy}")


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a value that is not one of the given choices.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. A string counts as a choice that equals the string. Any other
            value counts only where it is the same object as a choice.
        choices: The choices.

    Raises:
        InputError: `value` is none of the choices.
    """
    if not any(value is known or (isinstance(value, str) and value == known) for known in choices):
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def instance(name: str, value: Any, kind: Any, example: str) -> None:
    """Refuse anything but an instance of a class.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.
        kind: The class.
        example: What to give instead, for the message.

    Raises:
        InputTypeError: `value` is not an instance of `kind`.
    """
    if not isinstance(value, kind):
        raise InputTypeError(f"{name} must be {example}, got {_shown(value)}")


def key(value: Any) -> None:
    """Refuse anything but one random key.

    Args:
        value: The value to check. Typed keys and raw `uint32` keys of shape `(2,)` are allowed.

    Raises:
        InputTypeError: `value` is not a random key, or is an array of several keys.
    """
    typed = (
        isinstance(value, jax.Array)
        and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        and not value.ndim
    )
    if not typed and not (
        isinstance(value, jax.Array) and value.dtype == jnp.uint32 and value.shape == (2,)
    ):
        raise InputTypeError(
            f"key must be one random key such as jax.random.key(0), got {_shown(value)}"
        )


def known(value: Any) -> Any:
    """Return a value on the host, if it is known there.

    A concrete array stays known under `jax.jit`, where JAX's own functions of it would be traced.
    Checks and arithmetic of known numbers therefore happen in NumPy.

    Args:
        value: A number or an array, traced or not.

    Returns:
        A NumPy array in place of a concrete JAX array, and anything else as it is.
    """
    concrete = isinstance(value, jax.Array) and not isinstance(value, core.Tracer)
    return np.asarray(value) if concrete else value


def forward(what: str, t0: Any, t1: Any) -> None:
    """Refuse an interval that does not run forward between two finite numbers.

    Args:
        what: What the interval belongs to, for the message.
        t0: The start of the interval.
        t1: The end of the interval.

    Raises:
        InputError: `t0` or `t1` is not a finite number, or `t1` is not greater than `t0`.
    """
    numbers = all(
        isinstance(t, int | float | np.number) and not isinstance(t, bool) and np.isfinite(t)
        for t in (t0, t1)
    )
    if not numbers or not t0 < t1:
        raise InputError(
            f"{what} runs forward, from a number t0 to a greater t1, got t0={t0!r}, t1={t1!r}"
        )


def function(name: str, value: Any) -> None:
    """Refuse a value that cannot be called.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.

    Raises:
        InputTypeError: `value` is not callable.
    """
    if not callable(value):
        raise InputTypeError(f"{name} must be a function, got {_shown(value)}")


def plain(name: str, value: Any) -> None:
    """Refuse anything but plain data by name, which JSON gives back as it was.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. Tuples may come back as lists.

    Raises:
        InputError: `value` is no dict of strings, finite numbers, booleans, None, lists and dicts.
    """
    try:
        kept = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        kept = None
    if not isinstance(value, Mapping) or kept is None or set(kept) != set(value):
        raise InputError(
            f"{name} must be plain data by name, such as {{'width': 32}}, got {_shown(value)}"
        )


def _shown(value: Any) -> str:
    """Return the text of a value where the text is short, and the type of the value elsewhere."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"
