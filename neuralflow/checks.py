"""The classes of errors of this package, and checks of arguments that many places share.

The message of a refusal is one sentence that says what was given and what was expected.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
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


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuse anything but a whole number in a range.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. A bool is not a whole number.
        least: The smallest value that is allowed.
        most: The largest value that is allowed, or None for no bound.

    Raises:
        InputError: `value` is less than `least` or greater than `most`.
        InputTypeError: `value` is not a whole number.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise InputTypeError(f"{name} must be a whole number, got {_shown(value)}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")
    if most is not None and value > most:
        raise InputError(f"{name} must be at most {most}, got {value}")


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


def function(name: str, value: Any, arguments: int | None = None) -> None:
    """Refuse a value that cannot be called.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.
        arguments: The number of arguments with which the value is called. None is for any number.

    Raises:
        InputTypeError: `value` is not callable, or does not take so many arguments.
    """
    if not callable(value):
        raise InputTypeError(f"{name} must be a function, got {_shown(value)}")
    if arguments is None:
        return
    if arguments and isinstance(value, type):
        raise InputTypeError(f"{name} must be a function, got the class {value.__name__}")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # Some functions of C do not tell theirs.
        return
    try:
        signature.bind(*range(arguments))
    except TypeError:
        raise InputTypeError(
            f"{name} must be a function of {arguments} argument{'s' * (arguments > 1)}, got "
            f"{_shown(value)}"
        ) from None


def number(name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf) -> None:
    """Refuse anything but one finite number in a range. A traced value is not checked.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. Numbers of NumPy and arrays of no axis are numbers. A bool is
            not a number.
        least: The smallest value that is allowed.
        above: A number that the value exceeds.

    Raises:
        InputError: `value` is not finite, or lies outside the range.
        InputTypeError: `value` is not a real number.
    """
    if isinstance(value, core.Tracer):
        return
    given = known(value)
    wanted = "a finite number" + (f" above {above:g}" if above > -math.inf else "")
    wanted += f" of at least {least:g}" if least > -math.inf else ""
    single = isinstance(given, int | float | np.number | np.ndarray) and not np.ndim(given)
    if not single or (not _real(np.asarray(given).dtype) and type(given) is not int):
        raise InputTypeError(f"{name} must be {wanted}, got {_shown(value)}")
    size = abs(given) if type(given) is int else abs(float(given))
    if not (size <= _LARGEST and given >= least and given > above):
        raise InputError(f"{name} must be {wanted}, got {_shown(value)}")


def numbers(name: str, value: Any, *, finite: bool = True) -> Any:
    """Return real numbers as an array, and refuse anything else.

    Args:
        name: The name of the argument, for the message.
        value: The value to check: an array, a number, or sequences of numbers. A bool is not a
            number.
        finite: Whether NaN and infinite numbers are refused. Numbers in a trace are not known.

    Returns:
        A JAX array as it is, and a NumPy array of anything else.

    Raises:
        InputError: A number is not finite.
        InputTypeError: `value` is not made of real numbers, or its rows differ in length.
    """
    array = value
    if not isinstance(value, jax.Array):
        traced = isinstance(value, list | tuple | nnx.Variable) and any(
            isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(value)
        )
        try:
            array = jnp.asarray(value) if traced else np.asarray(value)
        except (TypeError, ValueError, OverflowError):
            array = np.asarray(None)
    if not _real(array.dtype):
        kind = "" if array.dtype == object else f" of dtype {array.dtype}"
        raise InputTypeError(f"{name} must be made of real numbers, got {_shown(value)}{kind}")
    if finite and not isinstance(array, core.Tracer) and not np.isfinite(np.asarray(array)).all():
        raise InputError(f"{name} must be finite, got NaN or infinite numbers")
    return array


def arrays(name: str, value: Any) -> None:
    """Refuse anything but a pytree of arrays of numbers, with one array at least.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. Flags, complex numbers and random keys are allowed.

    Raises:
        InputTypeError: A leaf is no array of numbers, or there is no leaf.
    """
    leaves = [] if isinstance(value, Iterator) else jax.tree.leaves(value)
    if not leaves or not all(
        isinstance(leaf, jax.Array)
        or (isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "biufcV")
        for leaf in leaves
    ):
        raise InputTypeError(
            f"{name} must be an array or a pytree of arrays, got {_shown(value)}; write "
            f"jnp.asarray({name})"
        )


def sequence(name: str, value: Any, what: str) -> tuple[Any, ...]:
    """Return the parts of a sequence, and refuse anything else.

    Args:
        name: The name of the argument, for the message.
        value: A list, a tuple, a range or an array of one axis.
        what: What to give instead, for the message.

    Returns:
        The parts.

    Raises:
        InputTypeError: `value` is no sequence, such as a generator or a text.
    """
    row = isinstance(value, np.ndarray | jax.Array) and value.ndim == 1
    if not row and not isinstance(value, list | tuple | range):
        raise InputTypeError(f"{name} must be {what}, got {_shown(value)}")
    return tuple(np.asarray(value).tolist() if row else value)


def named(name: str, value: Any, kind: Any, example: str) -> None:
    """Refuse anything but a mapping from names to instances of a class, one at least.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.
        kind: The class of the values.
        example: What to give instead, for the message.

    Raises:
        InputTypeError: `value` is no mapping, is empty, or a key is no text or a value of another
            class.
    """
    if (
        not isinstance(value, Mapping)
        or not value
        or not all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())
    ):
        raise InputTypeError(
            f"{name} must be given by name, at least one, such as {example}, got {_shown(value)}"
        )


def flag(name: str, value: Any) -> None:
    """Refuse anything but True or False.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.

    Raises:
        InputTypeError: `value` is neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputTypeError(f"{name} must be True or False, got {_shown(value)}")


def seed(name: str, value: Any) -> None:
    """Refuse anything but a whole number of at least 0 that 63 bits hold.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.

    Raises:
        InputError: `value` is negative, or is 2^63 or more.
        InputTypeError: `value` is not a whole number.
    """
    whole(name, value, least=0, most=2**63 - 1)


def floating(name: str, value: Any) -> None:
    """Refuse anything but a dtype of floating-point numbers.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. None is not a dtype.

    Raises:
        InputTypeError: `value` is not such a dtype.
    """
    try:
        right = value is not None and jnp.issubdtype(jnp.dtype(value), jnp.floating)
    except TypeError:
        right = False
    if not right:
        raise InputTypeError(
            f"{name} must be a floating-point dtype such as jnp.float32, got {_shown(value)}"
        )


def held(what: str, count: int, remedy: str) -> None:
    """Refuse an array of more than 2^30 numbers, which are 8 GB in float64.

    Args:
        what: What holds the numbers, for the message.
        count: How many numbers there would be.
        remedy: What to do instead, for the message.

    Raises:
        InputError: There are more numbers.
    """
    if count > 2**30:
        raise InputError(f"{what} would hold more than 2^30 numbers; {remedy}")


_LARGEST = float(np.finfo(np.float64).max)


def _real(dtype: Any) -> bool:
    """Return whether a dtype is one of real numbers."""
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def _shown(value: Any) -> str:
    """Return the text of a value where the text is short, and the type of the value elsewhere."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"
