"""Refusals that many places share, each one sentence: what was given, what was expected."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class InputError(ValueError):
    """Input that a caller can mend: the message says what was given, what was expected, and the remedy."""


class InputTypeError(InputError, TypeError):
    """Input of the wrong kind."""


class ExtraMissing(ImportError):
    """A package that an extra brings is not installed: the message names the extra."""


def whole(name: str, value: Any, least: int = 1) -> None:
    """TypeError for anything but a whole number, ValueError below `least`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise InputTypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")


def positive(name: str, value: Any, remedy: str) -> None:
    """ValueError for anything but a positive finite number."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.floating)
        or not 0 < value < np.inf
    ):
        raise InputError(f"{name} is a positive number, got {value!r}; {remedy}")


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """ValueError for a named choice that does not exist."""
    if not any(value is known or (isinstance(value, str) and value == known) for known in choices):
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def instance(name: str, value: Any, kind: Any, example: str) -> None:
    """TypeError for anything but an instance of `kind`."""
    if not isinstance(value, kind):
        raise InputTypeError(f"{name} must be {example}, got {_shown(value)}")


def key(value: Any) -> None:
    """TypeError for anything but one random key."""
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


def forward(what: str, t0: Any, t1: Any) -> None:
    """ValueError unless t0 and t1 are finite numbers, the second the greater."""
    numbers = all(
        isinstance(t, int | float | np.number) and not isinstance(t, bool) and np.isfinite(t)
        for t in (t0, t1)
    )
    if not numbers or not t0 < t1:
        raise InputError(
            f"{what} runs forward, from a number t0 to a greater t1, got t0={t0!r}, t1={t1!r}"
        )


def function(name: str, value: Any) -> None:
    """TypeError for what cannot be called."""
    if not callable(value):
        raise InputTypeError(f"{name} must be a function, got {_shown(value)}")


def _shown(value: Any) -> str:
    """The value where it is short, its type where it is not."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"
